"""Who is trained on and who is held out: by patient where patients are known, else in blocks of neighbouring slices."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gantk.data.items import Record
from gantk.data.split.blocks import hold_out_blocks
from gantk.data.split.duplicates import (
    copies,
    see_unknown,
    unit_of,
    with_near_copies,
    without_copies,
    without_near_copies,
)
from gantk.data.split.folds import expect_fold, fold_of_images, fold_of_patients
from gantk.data.split.near_duplicates import Seen
from gantk.data.split.shares import kinds_of_images, kinds_of_patients, share_out_kinds
from gantk.data.split.split_file import as_file_says
from gantk.errors import UserError

SETS = ("train", "validation", "test")
By = Literal["auto", "patient", "block", "image"]
PATIENTS = 5  # from this many on, `auto` splits by patient


class Splits(dict[str, list[Record]]):
    """The records of `train`, `validation` and `test`; `by` says what was never divided."""

    def __init__(
        self,
        sets: Mapping[str, list[Record]],
        by: str,
        made: Mapping[str, Any] | None = None,
        seen: Mapping[tuple[str, str], Seen] | None = None,
    ):
        super().__init__({name: sets.get(name, []) for name in SETS})
        self.by = by  # "patient", "block", "image", or "folders" or "file" where these decided
        self.made = dict(made or {})  # what else it takes to make the same split again: seed, fold, the file's hash
        self.seen = dict(seen or {})  # by domain and key: what images look like that had to be read for this

    def __or__(self, other: Mapping[str, list[Record]]) -> Splits:
        return Splits({**self, **other}, self.by, self.made, self.seen)


def split_records(
    records: Sequence[Record],
    *,
    test: float = 0.2,  # share that training never sees
    validation: float = 0.1,  # share that is scored while training
    by: By = "auto",  # unit that is never divided; auto: patient where 5 or more are known, else block, else image
    gap: int = 2,  # by block: neighbours of a held-out slice that training does not see either
    blocks: int = 2,  # by block: runs of neighbouring slices per held-out set
    seed: int = 0,  # which units are held out
    folds: int = 0,  # k-fold by patient: so many parts of equal size, each of them the test set once; 0 = by shares
    fold: int = 0,  # k-fold: which part is the test set, counted from 0
    file: str = "",  # CSV that says who is where, by a column patient (or path) and a column split (or fold)
) -> tuple[Splits, str]:
    """Records shared out to train, validation and test, and how in words; a seeded function of its arguments alone.

    What `file` says wins; else `folds` deal out all patients, whatever their folders are called; else what the folders
    themselves say (`Record.split`). Sets that a file or the folders lack are taken from their training images.
    Registered pairs are never divided. Too few units for the shares asked are a `UserError` with the numbers.
    """
    if test < 0 or validation < 0 or test + validation >= 1:
        raise UserError(
            f"test = {test:g} and validation = {validation:g} leave nothing to train on",
            where="data.split",
            allowed="shares of 0 or more whose sum is below 1",
        )
    made: dict[str, Any] = {"seed": seed}
    shares = {"test": test, "validation": validation}
    if file:
        records, table = as_file_says(records, file, folds, fold)
        made |= {"file": table.facts()} | ({"fold": fold} if table.says == "fold" else {})
        splits, description = _split_as_said(records, shares, by, gap, blocks, seed, f"'{table.path.name}'")
        return Splits(splits, "file", made, splits.seen), description
    if folds:
        splits, description = _fold(records, folds, fold, validation, by, seed)
        return Splits(splits, splits.by, made | {"folds": folds, "fold": fold}, splits.seen), description
    if any(record.split for record in records):
        splits, description = _split_as_said(records, shares, by, gap, blocks, seed)
    else:
        splits, description = _split_by_shares(records, shares, by, gap, blocks, seed)
    return Splits(splits, splits.by, made, splits.seen), description


def _split_by_shares(records, shares: dict[str, float], by: By, gap: int, blocks: int, seed: int) -> tuple[Splits, str]:
    by = _resolve(records, by) if any(shares.values()) else "image"
    seen = see_unknown(records) if any(shares.values()) and by != "patient" else {}
    if by == "patient":
        sets, description = _by_patient(records, shares, seed)
    elif by == "block":
        sets, description = hold_out_blocks(records, shares, gap, blocks, seed)
        sets, left_out = without_copies(sets)
        sets, left_out_too = without_near_copies(sets, seen)
        left_out += left_out_too
        description += f"; of these, {left_out} copies of held-out images left out" if left_out else ""
    else:
        sets, description = _by_image(records, shares, seed, seen)
    _expect_all_domains(records, sets, shares)
    return Splits(sets, by, None, seen), description


def _fold(records, folds: int, fold: int, validation: float, by: By, seed: int) -> tuple[Splits, str]:
    """One fold: of patients, or of images where the recipe says that these have nothing to do with each other."""
    expect_fold(folds, fold)
    if by == "block":
        raise UserError(
            f"by = 'block' holds out runs of slices, and folds = {folds} deals out patients",
            where="data.split",
            remedy="set folds = 0, or by = 'patient'",
        )
    seen = {}
    if by == "image":
        seen = see_unknown(records)
        sets, how = fold_of_images(records, folds, fold, validation, seed, seen)
        description = f"{how}: {_counts(sets)}"
    else:
        _expect_patients(records, "data.split.folds", "0 for such images; by = 'image' where no two are of one stack")
        sets, how = fold_of_patients(records, folds, fold, validation, seed)
        patients = {name: len({record.subject for record in sets[name]}) for name in SETS}
        by, description = "patient", f"{how}: {_words(patients)} patients ({_counts(sets)})"
    _expect_all_domains(records, sets, {"test": 1 / folds, "validation": validation})
    return Splits(sets, by, None, seen), description


def _split_as_said(
    records, asked: dict[str, float], by: By, gap: int, blocks: int, seed: int, file: str = ""
) -> tuple[Splits, str]:
    """The sets that a file or else the folders name; those that they do not are taken from the training images."""
    given: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        given[record.split or "train"].append(record)
    if not given["train"]:
        what = f"{file} leaves no image to train on" if file else "the folders hold no training images"
        where = "data.split.file" if file else "data.source"
        raise UserError(what, where=where, allowed="rows with train" if file else "a train folder")
    # Shares are of all images, so what is taken from the training images weighs more of them.
    whole = len(records) / len(given["train"])
    rest = [_without_split(record) for record in given["train"]]
    most = {"test": 0.5, "validation": 0.4}
    shares = {name: 0.0 if given[name] else min(share * whole, most[name]) for name, share in asked.items()}
    inner, description = _split_by_shares(rest, shares, by, gap, blocks, seed)
    sets = {name: (given[name] or inner[name]) if name != "train" else inner["train"] for name in SETS}
    fixed = " and ".join(name for name in ("validation", "test") if given[name])
    if fixed:
        whence = "its training images" if file else "the training folders"
        taken = f", the rest from {whence} by {inner.by}" if any(shares.values()) else ""
        description = f"{fixed} as {f'{file} says' if file else 'the folders say'}{taken}: {_counts(sets)}"
    return Splits(sets, "folders" if fixed else inner.by, None, inner.seen), description


def _without_split(record: Record) -> Record:
    return Record(**{**{name: getattr(record, name) for name in record.__dataclass_fields__}, "split": None})


def _resolve(records: Sequence[Record], by: By) -> str:
    patients = {record.subject for record in records}
    known = bool(patients) and "" not in patients
    placed = all(record.position is not None for record in records)
    if by == "auto":
        return "patient" if known and len(patients) >= PATIENTS else "block" if placed else "image"
    if by == "patient":
        _expect_patients(records, "data.split.by", "'block' or 'image' for such images")
    if by == "block" and not placed:
        raise UserError(
            "the source does not know the order of the images",
            where="data.split.by",
            allowed="'patient' or 'image' for such images",
        )
    return by


def _expect_patients(records: Sequence[Record], where: str, allowed: str) -> None:
    if not records or any(not record.subject for record in records):
        raise UserError(
            "the source does not know which image is of which patient",
            where=where,
            allowed=allowed,
            remedy="put each patient into a folder, or tell the source where the names say it (patient = 'regex')",
        )


def _by_patient(records: Sequence[Record], shares: dict[str, float], seed: int) -> tuple[dict, str]:
    # Patients with one domain or one class only are shared out apart, so that each set gets some of each kind.
    place = share_out_kinds(kinds_of_patients(records), shares, seed, "patients")
    sets = {name: [record for record in records if place[record.subject] == name] for name in SETS}
    patients = {name: len({record.subject for record in sets[name]}) for name in SETS}
    return sets, f"by patient: {_words(patients)} patients ({_counts(sets)})"


def _by_image(
    records: Sequence[Record], shares: dict[str, float], seed: int, seen: Mapping[tuple[str, str], Seen]
) -> tuple[dict, str]:
    # Copies of one picture are one unit: on two sides of the split they would be trained on and scored.
    first = copies(records, unit_of) if any(shares.values()) else {}
    place = share_out_kinds(kinds_of_images(records, first), shares, seed, "images")
    sets = {name: [r for r in records if place[first.get(unit_of(r), unit_of(r))] == name] for name in SETS}
    sets = with_near_copies(sets, seen)
    return sets, f"by image: {_counts(sets)}"


def _expect_all_domains(records: Sequence[Record], sets: Mapping[str, list[Record]], shares: dict[str, float]) -> None:
    domains = {record.domain for record in records}
    for name in ("train", *(name for name, share in shares.items() if share)):
        missing = domains - {record.domain for record in sets[name]}
        if missing:
            count = sum(record.domain in missing for record in records)
            raise UserError(
                f"no image of domain {', '.join(sorted(missing))} is left for {name} ({count} in all)",
                where="data.split",
                remedy="set that share to 0, lower data.split.gap, or add data",
            )


def unpair(records: Sequence[Record], seed: int = 0) -> list[Record]:
    """An unpaired study of training records: a patient seen in both domains keeps one of them, half of them each.

    Records without patients, of one patient, or of patients seen in one domain only stay as they are.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for record in records:
        seen[record.subject].add(record.domain)
    both = sorted(patient for patient, domains in seen.items() if patient and {"a", "b"} <= domains)
    if len(both) < 2:
        others = {record.domain for record in records if record.subject and record.subject not in both}
        lone = {both[0]: "a" if "b" in others else "b"} if both and others else {}
        return [record for record in records if lone.get(record.subject, record.domain) == record.domain]
    order = np.random.default_rng(seed).permutation(len(both))
    gives = {both[i]: "a" if n < (len(both) + 1) // 2 else "b" for n, i in enumerate(order)}
    return [record for record in records if gives.get(record.subject, record.domain) == record.domain]


def split_json(splits: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """What split.json holds: for every record its domain, key, subject, pair, path and the SHA-256 of its file; how the
    split was made (`by`, `seed`), and of a k-fold its `folds` and `fold`, of a split file its path and SHA-256.

    Class, missing contrasts and further files (`others`) are there where a record has them.
    """
    digests: dict[Path, str] = {}
    for path in (path for name in SETS for record in splits[name] for path in record.files):
        if path not in digests:
            digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()

    def entry(record: Record) -> dict[str, Any]:
        path = {"path": str(record.path), "sha256": digests[record.path]} if record.path else {"path": None}
        known = {"domain": record.domain, "key": record.key, "subject": record.subject, "pair": record.pair} | path
        known |= {"label": record.label} if record.label is not None else {}
        known |= {"missing": list(record.missing)} if record.missing else {}
        others = [{"path": str(other), "sha256": digests[other]} for other in record.others]
        return known | ({"others": others} if others else {})

    made = {"by": getattr(splits, "by", None)} | getattr(splits, "made", {})
    return made | {name: [entry(record) for record in splits[name]] for name in SETS}


def _counts(sets: Mapping[str, Sequence[Record]]) -> str:
    domains = sorted({record.domain for name in SETS for record in sets.get(name, ())})
    each = {name: "+".join(str(sum(r.domain == d for r in sets.get(name, ()))) for d in domains) for name in SETS}
    return f"{_words(each)} images" + (f" of {'+'.join(domains)}" if len(domains) > 1 else "")


def _words(numbers: Mapping[str, Any]) -> str:
    return f"{numbers['train']} train, {numbers['validation']} validation, {numbers['test']} test"
