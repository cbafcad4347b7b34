"""What a run's split.json records of its split, and the split that it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from gantk.data.cache import digest
from gantk.data.preparation import Record
from gantk.data.split.split import Splits
from gantk.data.split_json import RECORDED_SETS, RecordedImage, RecordedSets
from gantk.errors import UserError, count_noun, join_first
from gantk.formats.files import files_of

Hash = Callable[[Iterable[Path]], dict[Path, str]]


def split_json(
    splits: Splits,
    left_out: Sequence[Record],
    sha256: Hash,
    consequences: Sequence[str],
) -> RecordedSets:
    """The `splits` of split.json.

    The set `set_aside` holds training images that the method does not use, such as other halves of
    pairs. Of `left_out` only domain, key and hash are listed.
    """
    sets = {name: splits.get(name, []) for name in RECORDED_SETS}
    known_hashes = _hashes([*chain(*sets.values()), *left_out], sha256)

    def hashes_of(record: Record) -> dict[str, Any]:
        return known_hashes.get((record.files, record.mask_files), {})

    def entry(record: Record) -> RecordedImage:
        known = RecordedImage(
            domain=record.domain,
            key=record.key,
            subject=record.subject,
            pair=record.pair,
            path=str(record.path) if record.path else None,
            **hashes_of(record),
        )
        if record.label is not None:
            known.label = record.label
        if record.missing:
            known.missing = list(record.missing)
        return known

    return RecordedSets(
        by=splits.by,
        consequences=[*consequences],
        **{name: [entry(record) for record in records] for name, records in sets.items()},
        left_out=[[*record.id, hashes_of(record).get("sha256", "")] for record in left_out],
        **splits.made,
    )


def _hashes(records: Sequence[Record], sha256: Hash) -> dict[tuple, dict[str, Any]]:
    """By the files and masks of records, `sha256`: the hash of the first file; and, where more are
    read, `all_sha256`: that of the hashes of all, with those of the other files of its series,
    contrasts and mask, of the grid it is resampled onto, and separate voxels.
    """
    parts = {}
    for files, masks in {(each.files, each.mask_files) for each in records if each.path}:
        parts[files, masks] = {part for file in (*files, *masks) for part in files_of(file)}
    hashes = sha256({part for own in parts.values() for part in own})
    found = {}
    for key, own in parts.items():
        found[key] = {"sha256": hashes[key[0][0]]}
        if len(own) > 1:
            found[key]["all_sha256"] = digest(sorted(hashes[part] for part in own))
    return found


def read_splits(
    content: RecordedSets, records: Sequence[Record], sha256: Hash
) -> tuple[Splits, list[Record], list[Record]]:
    """The splits in a run's split.json, the training images that its method uses, and all records
    that it names.

    UserError names images that are gone or have changed; new images are left out.
    """
    # by a record's id: its entry, and the set that lists it
    entries = {}
    set_of = {}
    for name, images in content.by_name().items():
        for entry in images:
            entries[entry.id] = entry
            set_of[entry.id] = name

    present = {record.id: record for record in records}
    _expect_unchanged(entries, present, sha256)

    known = {}
    for key, entry in entries.items():
        subject = entry.subject or ""
        known[key] = replace(present[key], subject=subject, pair=entry.pair, label=entry.label)
    sets: dict[str, list[Record]] = {name: [] for name in RECORDED_SETS}
    for key, record in known.items():
        sets[set_of[key]].append(record)

    # in the order of the source, and with the images that are set aside
    left_out = {(domain, key) for domain, key, *_ in content.left_out or ()}
    training = sets["train"]
    sets["train"] = []
    named_records = []
    for record in records:
        if record.id in known:
            named_records.append(known[record.id])
            if set_of[record.id] in ("train", "set_aside"):
                sets["train"].append(known[record.id])
        elif record.id in left_out:
            named_records.append(record)

    return Splits(sets, content.by, content.model_extra or {}), training, named_records


def _expect_unchanged(
    entries: Mapping[tuple, RecordedImage], present: Mapping[tuple, Record], sha256: Hash
) -> None:
    """UserError where images are not `present`, or have other hashes."""
    gone = [key[1] for key in entries if key not in present]
    records = [present[key] for key in entries if key in present]
    hashes = _hashes(records, sha256)
    changed = []
    for record in records:
        entry = entries[record.id]
        own = hashes.get((record.files, record.mask_files), {})
        # earlier runs know the hash of the first file only
        others_changed = entry.all_sha256 not in (None, own.get("all_sha256"))
        if entry.sha256 != own.get("sha256") or others_changed:
            changed.append(record.key)

    problems = []
    if gone:
        problems.append(f"{describe_images(gone)} missing")
    if changed:
        problems.append(f"{describe_images(changed)} changed")
    if problems:
        raise UserError(
            f"the images differ from those of the run: {' and '.join(problems)}",
            where="split.json",
            remedy="restore the images or, if they were moved, set data.source.path in the run's"
            " recipe.toml to their new folder",
        )


def describe_images(keys: Iterable[str]) -> str:
    """`5 images ('p01/t1.nii', 'p02/t1.nii' and 3 more)`: how many, and the first files."""
    names = list(dict.fromkeys(key.partition("/plane-")[0] for key in keys))
    return f"{count_noun(names, 'image')} ({join_first([*map(repr, names)])})"
