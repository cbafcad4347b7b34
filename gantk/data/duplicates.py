"""Copies of one picture under several names: they have to fall on one side of a split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from gantk.data.io import VOLUMES, suffix_of
from gantk.data.records import Record


def copies(records: Sequence[Record], unit: Callable[[Record], Hashable]) -> dict[Hashable, Hashable]:
    """For every unit (an image, or a pair) that shares a file's content with others, the first of these."""
    first: dict[Hashable, Hashable] = {}

    def root(name: Hashable) -> Hashable:
        while first.get(name, name) != name:
            name = first[name]
        return name

    holders: dict[Hashable, Hashable] = {}
    for record, content in zip(records, _contents(records), strict=True):
        if content is not None:
            holder, name = root(holders.setdefault(content, unit(record))), root(unit(record))
            first |= {holder: holder, name: holder}
    return {name: root(name) for name in first}


def without_copies(sets: Mapping[str, list[Record]]) -> tuple[dict[str, list[Record]], int]:
    """Sets of which none has a copy of what an earlier one holds, test first; and how many images were left out.

    The partner of an image that is left out goes with it. Where a set would lose a whole domain nothing is left out:
    such data are for `check_leakage` to refuse.
    """
    records = [record for name in sets for record in sets[name]]
    of = dict(zip(map(id, records), _contents(records), strict=True))
    seen: set = set()
    kept = dict(sets)
    for name in ("test", "validation", "train"):
        again = {id(record) for record in sets[name] if of[id(record)] in seen}
        pairs = {record.pair for record in sets[name] if id(record) in again} - {None}
        kept[name] = [r for r in sets[name] if id(r) not in again and r.pair not in pairs]
        seen |= {of[id(record)] for record in sets[name]} - {None}
    if any({r.domain for r in sets[name]} != {r.domain for r in kept[name]} for name in sets):
        return dict(sets), 0
    return kept, len(records) - sum(map(len, kept.values()))


def _contents(records: Sequence[Record]) -> list[Hashable | None]:
    """What copies share: their files' bytes, and the plane of a volume. None where no other file has the same size,
    which says as much without reading it, and for computed images."""
    sizes: dict[int, set[Path]] = defaultdict(set)
    for path in {path for record in records for path in record.files}:
        sizes[path.stat().st_size].add(path)
    digests = {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for paths in sizes.values()
        if len(paths) > 1
        for path in paths
    }
    found: list[Hashable | None] = []
    for record in records:
        parts = tuple(digests.get(path) for path in record.files)
        plane = record.position if record.files and suffix_of(record.files[0]) in VOLUMES else None
        found.append((parts, plane) if parts and None not in parts else None)
    return found
