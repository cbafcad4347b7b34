"""Splits by blocks: neighbouring slices of a stack are near copies of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gantk.data.preparation import Record
from gantk.errors import UserError, count_noun
from gantk.recipe.tables import SplitTable


def places_in_blocks(
    records: Sequence[Record], shares: dict[str, float], table: SplitTable
) -> list[str]:
    """The set of each record, by blocks of neighbouring slices; "" beside a block.

    Every stack (one patient, or all images of a class where patients are unknown) gives `blocks`
    runs to each held-out set, spread over its length, or fewer where these would be shorter than 3
    slices or leave no room. `gap` neighbours on each side are left out of every set. Where pairs
    are known, the blocks of domain a decide: their partners in b are held out with them, and
    neighbours of these in b's own order are left out too.
    """
    stacks = defaultdict(list)
    for record in records:
        label = "" if record.subject else record.label or ""
        stacks[record.subject, label].append(record)

    place: dict[int, str] = {}  # id(record) -> set; "" beside a block
    for _, stack in sorted(stacks.items()):
        slices = defaultdict(list)
        for record in sorted(stack, key=lambda record: (record.domain, record.position or 0.0)):
            slices[record.domain].append(record)
        place |= _blocks_of_stack(slices, shares, table)

    return [place[id(record)] for record in records]


def _blocks_of_stack(
    slices: dict[str, list[Record]], shares: dict[str, float], table: SplitTable
) -> dict[int, str]:
    """The set of each slice of one stack, by id(record); `slices` are each domain's, in order."""
    partners = {record.pair for record in slices.get("b", ())} - {None}
    paired = any(record.pair in partners for record in slices.get("a", ()))
    place: dict[int, str] = {}
    for domain, own in slices.items():
        if domain == "b" and paired:
            set_of_pair = {record.pair: place[id(record)] for record in slices["a"] if record.pair}
            names = [set_of_pair.get(record.pair or "", "train") for record in own]
        else:
            # The same seed for both domains: in unpaired stacks of one anatomy the blocks are
            # about the same.
            names = _runs(len(own), shares, table)

        _leave_gaps(names, table.gap)
        for record, name in zip(own, names, strict=True):
            place[id(record)] = name

    if paired:
        # neighbours in b's own order, whose partners in a would otherwise still be trained on
        dropped = {record.pair for record in slices["b"] if not place[id(record)]} - {None}
        for record in slices["a"]:
            if record.pair in dropped:
                place[id(record)] = ""

    return place


def _leave_gaps(names: list[str], gap: int) -> None:
    """Replace "train" by "" for the `gap` neighbours on each side of held-out slices, in place."""
    held_out = [number for number, name in enumerate(names) if name not in ("train", "")]
    for number in held_out:
        for beside in range(max(0, number - gap), min(len(names), number + gap + 1)):
            if names[beside] == "train":
                names[beside] = ""


def _runs(count: int, shares: dict[str, float], table: SplitTable) -> list[str]:
    """The set of each of `count` slices in order: the stack is cut into segments, each with a test
    run at a seeded place and a validation run beside it, `gap` slices apart.
    """
    gap = table.gap
    blocks = table.blocks
    sizes = {name: max(1, round(share * count)) for name, share in shares.items() if share > 0}
    needed = sum(sizes.values()) + gap * (len(sizes) + 1) + 1
    if needed > count:
        raise too_few(
            f"{count_noun(count, 'image')} in a row (slices, or pictures by name), with a gap of {gap}",
            shares,
            f"at least {needed} images",
        )

    rng = np.random.default_rng(table.seed)
    while True:  # a short stack has no room for all the blocks asked; one of each set always fits
        runs = {name: min(blocks, max(1, size // 3)) for name, size in sizes.items()}
        segments = max(runs.values(), default=1)
        names = ["train"] * count
        for segment in range(segments):
            start = round(count * segment / segments)
            end = round(count * (segment + 1) / segments)
            chosen = [
                (name, (sizes[name] + n - 1 - segment) // n)
                for name, n in runs.items()
                if segment < n
            ]
            if rng.random() < 0.5:
                chosen.reverse()

            room = end - start - sum(size for _, size in chosen) - gap * (len(chosen) - 1)
            if room < 2 * gap + 1:
                break

            first = start + round(room * rng.uniform(0.25, 0.75))
            for name, size in chosen:
                names[first : first + size] = [name] * size
                first += size + gap
        else:
            return names

        blocks -= 1


def too_few(what: str, shares: dict[str, float], allowed: str) -> UserError:
    """The error for too few units, or slices, for these shares."""
    asked = " and ".join(f"{name} = {share:g}" for name, share in shares.items() if share)
    return UserError(
        f"too few for {asked}: {what}",
        where="data.split",
        allowed=allowed,
        remedy="set a share to 0, change data.split.by, lower data.split.gap, or add data",
    )
