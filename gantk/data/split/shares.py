"""Units to sets, by seeded shares or dealt out like cards: each kind of unit apart, so that every set gets of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from gantk.data.items import Record
from gantk.data.split.duplicates import unit_of
from gantk.errors import UserError


def kinds_of_patients(records: Sequence[Record]) -> list[list[str]]:
    """Patients, those with one domain or one class only apart from the others, in an order of their own."""
    seen: dict[str, set] = defaultdict(set)
    for record in records:
        seen[record.subject].add((record.domain, record.label or ""))
    kinds: dict[frozenset, list[str]] = defaultdict(list)
    for patient in sorted(seen):
        kinds[frozenset(seen[patient])].append(patient)
    return [kinds[kind] for kind in sorted(kinds, key=sorted)]


def kinds_of_images(records: Sequence[Record], first: Mapping[Hashable, Hashable]) -> list[list]:
    """Units of images (`unit_of`): pairs, and images of each domain and class, apart; of copies only the `first`."""
    units = {unit_of(record): record for record in reversed(records)}
    kinds: dict[tuple[str, str], list] = defaultdict(list)
    for name in dict.fromkeys(map(unit_of, records)):
        if first.get(name, name) == name:
            kinds[name[0], units[name].label or ""].append(name)
    return [kinds[kind] for kind in sorted(kinds)]


def share_out_kinds(kinds: Sequence[list], shares: dict[str, float], seed: int, word: str) -> dict[Any, str]:
    """Each unit's set, shared out kind by kind; too small a kind is trained on where another is held out."""
    least = 1 + sum(share > 0 for share in shares.values())
    enough = [len(units) >= least for units in kinds]
    place: dict[Any, str] = {}
    for units, large in zip(kinds, enough, strict=True):
        place |= _share_out(units, shares, seed, word) if large or not any(enough) else dict.fromkeys(units, "train")
    return place


def _share_out(units: list, shares: dict[str, float], seed: int, word: str) -> dict[Any, str]:
    """Each unit's set: at least one for every share above 0, at least one to train on."""
    counts = {name: max(1, round(share * len(units))) if share > 0 else 0 for name, share in shares.items()}
    if sum(counts.values()) >= len(units):
        asked = " and ".join(f"{name} = {share:g}" for name, share in shares.items() if share)
        raise UserError(
            f"{len(units)} {word} are too few for {asked}",
            where="data.split",
            allowed=f"{sum(counts.values()) + 1} {word} or more of each domain",
            remedy="set one of the two to 0, choose by = 'block' or 'image', or add data",
        )
    order = np.random.default_rng(seed).permutation(len(units))
    names = [name for name, count in counts.items() for _ in range(count)]
    return {units[i]: names[n] if n < len(names) else "train" for n, i in enumerate(order)}


def deal(kinds: Sequence[list], parts: int, seed: int) -> dict[Any, int]:
    """Each unit's part, 0 to `parts` - 1: no part has two units more than another, neither in all nor of one kind."""
    rng = np.random.default_rng(seed)
    shuffled = [units[i] for units in kinds for i in rng.permutation(len(units))]
    return {unit: number % parts for number, unit in enumerate(shuffled)}
