"""Copies of one picture under several names, exact or near: they have to fall on one side of a split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from gantk.data.items import Record
from gantk.data.split.near_duplicates import Seen, near_copies, see, usual_likeness
from gantk.formats.files import is_volume

Sets = dict[str, list[Record]]
HELD_OUT_FIRST = ("test", "validation", "train")


def unit_of(record: Record) -> tuple[str, str]:
    """What a split by image never divides: a registered pair, or one image."""
    return ("pair", record.pair) if record.pair is not None else (record.domain, record.key)


def copies(
    records: Sequence[Record],
    unit: Callable[[Record], Hashable],
    seen: Mapping[tuple[str, str], Seen] = MappingProxyType({}),
) -> dict[Hashable, Hashable]:
    """For every unit (an image, or a pair) that shares a file's content with others, the first of these.

    With what images look like (`seen`), near copies share it too.
    """
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
    looked = [record for record in records if (record.domain, record.key) in seen]
    for i, j, _ in near_copies([seen[record.domain, record.key] for record in looked], apart=False):
        holder, name = root(unit(looked[i])), root(unit(looked[j]))
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
    for name in HELD_OUT_FIRST:
        again = {id(record) for record in sets[name] if of[id(record)] in seen}
        pairs = {record.pair for record in sets[name] if id(record) in again} - {None}
        kept[name] = [r for r in sets[name] if id(r) not in again and r.pair not in pairs]
        seen |= {of[id(record)] for record in sets[name]} - {None}
    if _lost_a_domain(sets, kept):
        return dict(sets), 0
    return kept, len(records) - sum(map(len, kept.values()))


def see_unknown(records: Sequence[Record]) -> dict[tuple[str, str], Seen]:
    """What images of files look like, by domain and key, where nobody knows whose they are; each is read once."""
    if any(record.subject or not record.files for record in records):
        return {}
    seen = {(record.domain, record.key): see(record) for record in records}
    usual = {stack: usual_likeness(seen.values(), stack) for stack in {each.stack for each in seen.values()}}
    return {key: replace(each, usual=usual[each.stack]) for key, each in seen.items()}


def without_near_copies(sets: Mapping[str, list[Record]], seen: Mapping[tuple[str, str], Seen]) -> tuple[Sets, int]:
    """`without_copies` of near copies: those of an image that is held out leave training, and validation for test."""
    gone = {id(record) for _, record in _nearly_held_out(sets, seen)}
    kept = {}
    for name, members in sets.items():
        pairs = {record.pair for record in members if id(record) in gone} - {None}
        kept[name] = [record for record in members if id(record) not in gone and record.pair not in pairs]
    if _lost_a_domain(sets, kept):
        return dict(sets), 0
    return kept, sum(map(len, sets.values())) - sum(map(len, kept.values()))


def with_near_copies(sets: Mapping[str, list[Record]], seen: Mapping[tuple[str, str], Seen]) -> Sets:
    """Sets of which near copies of held-out images, and their partners, have gone to the side of these."""
    moved = dict(sets)
    while True:
        to: dict[int, str] = {}
        for name, record in _nearly_held_out(moved, seen):
            to.setdefault(id(record), name)
        if not to:
            break
        of_pair = {r.pair: to[id(r)] for members in moved.values() for r in members if r.pair and id(r) in to}
        place = [
            (to.get(id(r)) or of_pair.get(r.pair or "", name), r) for name, members in moved.items() for r in members
        ]
        moved = {name: [r for where, r in place if where == name] for name in moved}
    return dict(sets) if _lost_a_domain(sets, moved) else moved


def _nearly_held_out(
    sets: Mapping[str, list[Record]], seen: Mapping[tuple[str, str], Seen]
) -> Iterator[tuple[str, Record]]:
    """(set, record) for every image that is a near copy of one in a set that is more held out than its own."""
    ordered = [
        (name, record) for name in HELD_OUT_FIRST for record in sets[name] if (record.domain, record.key) in seen
    ]
    looked = [replace(seen[record.domain, record.key], group=name) for name, record in ordered]
    for i, j, _ in near_copies(looked):
        yield ordered[i][0], ordered[j][1]


def _lost_a_domain(sets: Mapping[str, list[Record]], kept: Mapping[str, list[Record]]) -> bool:
    return any({record.domain for record in sets[name]} != {record.domain for record in kept[name]} for name in sets)


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
        sliced = record.scan_key or (record.files and is_volume(record.files[0]))
        plane = record.position if sliced else None
        found.append((parts, plane) if parts and None not in parts else None)
    return found
