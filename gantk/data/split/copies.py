"""Which images hold the same bytes, and how a split treats copies of one picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import SETS
from gantk.files import sha256_of


def exact_copies(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Pairs of records whose files hold the same bytes (of volumes, the same plane): the index of
    the first such record and the index of each later one.

    Files of a size that no other file has are not read.
    """
    digest_of = _digests({path for record in records for path in record.files})
    pairs: list[tuple[int, int]] = []
    firsts: dict[Hashable, int] = {}
    for number, record in enumerate(records):
        digests = tuple(map(digest_of.get, record.files))
        if not digests or None in digests:
            continue
        first = firsts.setdefault((digests, record.position if record.scan_key else None), number)
        if first != number:
            pairs.append((first, number))

    return pairs


def _digests(paths: set[Path]) -> dict[Path, str]:
    """The digest of each file that has another one's size."""
    sizes = {path: os.stat(path).st_size for path in paths}
    count = Counter(sizes.values())
    return {path: sha256_of(path) for path, size in sizes.items() if count[size] > 1}


def unit_of(record: Record) -> tuple[str, str]:
    """The unit that a split by image never divides: a registered pair, or one image."""
    return ("pair", record.pair) if record.pair is not None else record.id


def first_of_copies(
    records: Sequence[Record], pairs: Iterable[tuple[int, int]]
) -> dict[Hashable, Hashable]:
    """By unit, the unit that represents its copies, direct or through other copies."""
    first: dict[Hashable, Hashable] = {}

    def root(name: Hashable) -> Hashable:
        while first.get(name, name) != name:
            name = first[name]
        return name

    for i, j in pairs:
        one = root(unit_of(records[i]))
        other = root(unit_of(records[j]))
        first |= {one: one, other: one}

    return {name: root(name) for name in first}


def settle_copies(
    places: Sequence[str],
    records: Sequence[Record],
    pairs: Sequence[tuple[int, int]],
    *,
    drop: bool,
) -> list[str]:
    """The sets of records, which were to be in `places`: copies, and the images that are registered
    with them, move to the most held-out set that holds any of them, or with `drop` are left out of
    all others.

    Where a set would lose a whole domain, all stay: `check_leakage` refuses such data, and names the
    copies.
    """
    first = first_of_copies(records, pairs)
    groups = [first.get(unit_of(record)) for record in records]
    most: dict[Hashable, str] = {}
    for group, place in zip(groups, places, strict=True):
        if group and place:
            most[group] = max(most.get(group, place), place, key=SETS.index)

    settled = []
    for group, place in zip(groups, places, strict=True):
        target = most.get(group, place) if place else ""
        settled.append("" if drop and target != place else target)

    domains = [record.domain for record in records]
    before = {*zip(places, domains, strict=True)} - {("", domain) for domain in domains}
    return settled if before <= {*zip(settled, domains, strict=True)} else list(places)
