"""What a run's split.json records of its split, and the split that it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import SETS
from gantk.data.split.split import Splits, consequences
from gantk.errors import UserError, count_noun
from gantk.formats.files import files_of

RECORDED_SETS = (*SETS, "set_aside")


def split_json(
    splits: Mapping[str, Sequence[Record]],
    left_out: Sequence[Record],
    sha256: Callable[[Iterable], dict],
) -> dict[str, Any]:
    """What split.json holds: for every record its domain, key, subject, pair, path and the SHA-256
    of its file; how the split was made (`by`, `seed`), and of a k-fold its `folds` and `fold`, of a
    split file its path and SHA-256.

    A record's class and missing contrasts are listed if it has any; with the first record of a
    file, its further files (`others`) and files read beside them (`parts`: separate voxels, masks).
    The set `set_aside` holds training images that the method does not use, such as other halves of
    pairs. Of `left_out` only domain and key are listed.
    """
    sets = {name: splits.get(name, []) for name in RECORDED_SETS}
    listed = [record for records in sets.values() for record in records]
    files_of_record, hashes = _files_behind(listed, sha256)

    def file_entry(path: Path) -> dict[str, str]:
        return {"path": str(path), "sha256": hashes[path]}

    def entry(record: Record) -> dict[str, Any]:
        known: dict[str, Any] = {
            "domain": record.domain,
            "key": record.key,
            "subject": record.subject,
            "pair": record.pair,
        }
        known |= file_entry(record.path) if record.path else {"path": None}
        if record.label is not None:
            known["label"] = record.label
        if record.missing:
            known["missing"] = list(record.missing)

        for kind, paths in files_of_record.get(record.id, {}).items():
            if paths and kind != "path":
                known[kind] = [file_entry(path) for path in paths]

        return known

    content = {"by": getattr(splits, "by", None), "consequences": consequences(splits)}
    content |= getattr(splits, "made", {})
    for name, records in sets.items():
        content[name] = [entry(record) for record in records]

    return content | {"left_out": [record.id for record in left_out]}


def _files_behind(
    records: Sequence[Record], sha256: Callable[[Iterable], dict]
) -> tuple[dict, dict[Path, str]]:
    """All files that are read for an image, by the id of its file's first record; and the hashes of
    these files.
    """
    first_of_file: dict[tuple[str, Path], Record] = {}
    for record in records:
        if record.path:
            first_of_file.setdefault((record.domain, record.path), record)

    files = {}
    paths: set[Path] = set()
    for (_, path), record in first_of_file.items():
        parts: set[Path] = set()
        for file in (*record.files, *record.mask_files):
            parts |= set(files_of(file))
        parts -= set(record.files)
        files[record.id] = {"path": [path], "others": record.others, "parts": sorted(parts)}
        paths |= {path, *record.others, *parts}

    return files, sha256(paths)


def read_splits(
    content: Mapping[str, Any], records: Sequence[Record], sha256: Callable[[Iterable], dict]
) -> tuple[Splits, list[Record], list[Record]]:
    """The splits in a run's split.json, the training images that its method uses, and all records
    that it names.

    UserError names images that are gone or have changed; new images are left out.
    """
    # by a record's id: its entry, and the set that lists it
    entries = {}
    set_of = {}
    for name in RECORDED_SETS:
        for entry in content.get(name) or ():
            key = (entry["domain"], entry["key"])
            entries[key] = entry
            set_of[key] = name

    present = {record.id: record for record in records}
    _expect_unchanged(entries, present, sha256)

    known = {key: _as_recorded(present[key], entry) for key, entry in entries.items()}
    sets: dict[str, list[Record]] = {name: [] for name in RECORDED_SETS}
    for key, record in known.items():
        sets[set_of[key]].append(record)

    # in the order of the source, and with the images that are set aside
    left_out = {tuple(key) for key in content.get("left_out") or ()}
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

    made = {key: content[key] for key in ("seed", "folds", "fold", "file") if key in content}
    return Splits(sets, content["by"], made), training, named_records


def _as_recorded(record: Record, entry: Mapping[str, Any]) -> Record:
    """A record with the pair and the class of its entry, and without a patient where it has none."""
    subject = record.subject if entry["subject"] else ""
    return replace(record, pair=entry["pair"], label=entry.get("label"), subject=subject)


def _expect_unchanged(
    entries: Mapping[tuple, Any], present: Mapping[tuple, Record], sha256: Callable
) -> None:
    """UserError where images are not `present`, or their files' SHA-256 differ."""
    found = [present[key] for key in entries if key in present]
    files_of_record, hashes = _files_behind(found, sha256)
    gone = []
    changed = []
    for key, entry in entries.items():
        if key not in present:
            gone.append(key[1])
        elif entry["path"]:
            files = files_of_record.get(key, {}) | {"path": [present[key].path]}
            if _differ(entry, files, hashes):
                changed.append(key[1])

    problems = []
    if gone:
        problems.append(f"{describe_images(gone)} {'is' if len(gone) < 2 else 'are'} missing")
    if changed:
        problems.append(
            f"{describe_images(changed)} {'has' if len(changed) < 2 else 'have'} changed"
        )

    if problems:
        remedy = (
            "restore the images or, if they were moved, set data.source.path in the run's"
            " recipe.toml to their new folder"
        )
        what = f"the images differ from those of the run: {' and '.join(problems)}"
        raise UserError(what, where="split.json", remedy=remedy)


def _differ(
    entry: Mapping[str, Any], files: Mapping[str, list[Path]], hashes: Mapping[Path, str]
) -> bool:
    """Whether any file of an entry has another SHA-256 now."""
    for kind, paths in files.items():
        recorded = [entry] if kind == "path" else entry.get(kind) or ()
        before = [file.get("sha256") for file in recorded]
        if before != [hashes.get(path) for path in paths]:
            return True

    return False


def describe_images(keys: Iterable[str]) -> str:
    """`5 images ('p01/t1.nii', 'p02/t1.nii', 'p03/t1.nii', ...)`: how many, and the first files."""
    names = list(dict.fromkeys(key.partition("/plane-")[0] for key in keys))
    first = ", ".join(map(repr, names[:3]))
    if len(names) > 3:
        first += ", ..."
    return f"{count_noun(names, 'image')} ({first})"
