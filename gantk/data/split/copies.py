"""Which images hold the same bytes, and how a split treats copies of one picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import SETS
from gantk.files import sha256_of


def exact_copies(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Pairs of records whose files hold the same bytes (of volumes, the same plane): the index of
    the first such record and the index of each later one.

    Files of a size that no other file has are not read.
    """
    paths = {path for record in records for path in record.files}
    sizes = {path: os.stat(path).st_size for path in paths}
    count = Counter(sizes.values())
    digest_of = {path: sha256_of(path) for path, size in sizes.items() if count[size] > 1}
    pairs = []
    firsts: dict[Hashable, int] = {}
    for number, record in enumerate(records):
        digests = tuple(map(digest_of.get, record.files))
        if not digests or None in digests:
            continue
        first = firsts.setdefault((digests, record.position if record.scan_key else None), number)
        if first != number:
            pairs.append((first, number))

    return pairs


def unit_of(record: Record) -> tuple[str, str]:
    """The unit that a split by image never divides: a registered pair, or one image."""
    return ("pair", record.pair) if record.pair is not None else record.id


def groups_of_copies(records: Sequence[Record], pairs: Iterable[tuple[int, int]]) -> list[Hashable]:
    """For each record, the unit that represents the group of its unit: those with copies of each
    other, direct or through other copies.
    """
    from scipy.cluster.hierarchy import DisjointSet  # slow import

    units = [unit_of(record) for record in records]
    groups = DisjointSet(units)
    for i, j in pairs:
        groups.merge(units[i], units[j])
    return [groups[unit] for unit in units]


def leave_out_copies(
    places: Sequence[str], records: Sequence[Record], pairs: Sequence[tuple[int, int]]
) -> list[str]:
    """The sets of records, which were to be in `places`: of copies, and of the images that are
    registered with them, only those in the most held-out set that holds any of them stay.

    Where a set would lose a whole domain, all stay: `check_leakage` refuses such data, and names the
    copies.
    """
    groups = groups_of_copies(records, pairs)
    most: dict[Hashable, str] = {}
    for group, place in zip(groups, places, strict=True):
        most[group] = max(most.get(group, ""), place, key=("", *SETS).index)

    left = [
        place if place == most[group] else "" for group, place in zip(groups, places, strict=True)
    ]
    domains = [record.domain for record in records]
    before = {*zip(places, domains, strict=True)}
    after = {*zip(left, domains, strict=True)}
    return left if before <= after else list(places)
