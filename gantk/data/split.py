"""Who is trained on and who is held out: by patient where patients are known, else in blocks of neighbouring slices."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gantk.data.blocks import hold_out_blocks
from gantk.data.duplicates import copies, without_copies
from gantk.data.records import Record
from gantk.errors import UserError

SETS = ("train", "validation", "test")
By = Literal["auto", "patient", "block", "image"]
PATIENTS = 5  # from this many on, `auto` splits by patient


class Splits(dict[str, list[Record]]):
    """The records of `train`, `validation` and `test`; `by` says what was never divided."""

    def __init__(self, sets: Mapping[str, list[Record]], by: str):
        super().__init__({name: sets.get(name, []) for name in SETS})
        self.by = by  # "patient", "block", "image", or "folders" where these decided

    def __or__(self, other: Mapping[str, list[Record]]) -> Splits:
        return Splits({**self, **other}, self.by)


def split_records(
    records: Sequence[Record],
    *,
    test: float = 0.2,  # share that training never sees
    validation: float = 0.1,  # share that is scored while training
    by: By = "auto",  # unit that is never divided; auto: patient where 5 or more are known, else block, else image
    gap: int = 2,  # by block: neighbours of a held-out slice that training does not see either
    blocks: int = 2,  # by block: runs of neighbouring slices per held-out set
    seed: int = 0,  # which units are held out
) -> tuple[Splits, str]:
    """Records shared out to train, validation and test, and how in words; a seeded function of its arguments alone.

    What the folders themselves say (`Record.split`) wins; sets that they lack are taken from their training images.
    Registered pairs are never divided. Too few units for the shares asked are a `UserError` with the numbers.
    """
    if test < 0 or validation < 0 or test + validation >= 1:
        raise UserError(
            f"test = {test:g} and validation = {validation:g} leave nothing to train on",
            where="data.split",
            allowed="shares of 0 or more whose sum is below 1",
        )
    if any(record.split for record in records):
        return _split_of_folders(records, test, validation, by, gap, blocks, seed)
    by = _resolve(records, by) if test or validation else "image"
    shares = {"test": test, "validation": validation}
    if by == "patient":
        sets, description = _by_patient(records, shares, seed)
    elif by == "block":
        sets, description = hold_out_blocks(records, shares, gap, blocks, seed)
        sets, left_out = without_copies(sets)
        description += f"; of these, {left_out} copies of held-out images left out" if left_out else ""
    else:
        sets, description = _by_image(records, shares, seed)
    _expect_all_domains(records, sets, shares)
    return Splits(sets, by), description


def _split_of_folders(records, test, validation, by, gap, blocks, seed) -> tuple[Splits, str]:
    given: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        given[record.split or "train"].append(record)
    if not given["train"]:
        raise UserError("the folders hold no training images", where="data.source", allowed="a train folder")
    # Shares are of all images, so what is taken from the training images weighs more of them.
    whole = len(records) / len(given["train"])
    rest = [_without_split(record) for record in given["train"]]
    asked_test = 0.0 if given["test"] else min(test * whole, 0.5)
    asked_validation = 0.0 if given["validation"] else min(validation * whole, 0.4)
    inner, description = split_records(
        rest, test=asked_test, validation=asked_validation, by=by, gap=gap, blocks=blocks, seed=seed
    )
    sets = {name: (given[name] or inner[name]) if name != "train" else inner["train"] for name in SETS}
    fixed = " and ".join(name for name in ("validation", "test") if given[name])
    if fixed:
        rest = f", the rest from the training folders by {inner.by}" if asked_test or asked_validation else ""
        description = f"{fixed} as the folders say{rest}: {_counts(sets)}"
    return Splits(sets, "folders" if fixed else inner.by), description


def _without_split(record: Record) -> Record:
    return Record(**{**{name: getattr(record, name) for name in record.__dataclass_fields__}, "split": None})


def _resolve(records: Sequence[Record], by: By) -> str:
    patients = {record.subject for record in records}
    known = bool(patients) and "" not in patients
    placed = all(record.position is not None for record in records)
    if by == "auto":
        return "patient" if known and len(patients) >= PATIENTS else "block" if placed else "image"
    if by == "patient" and not known:
        raise UserError(
            "the source does not know which image is of which patient",
            where="data.split.by",
            allowed="'block' or 'image' for such images",
            remedy="put each patient into a folder, or tell the source where the names say it (patient = 'regex')",
        )
    if by == "block" and not placed:
        raise UserError(
            "the source does not know the order of the images",
            where="data.split.by",
            allowed="'patient' or 'image' for such images",
        )
    return by


def _by_patient(records: Sequence[Record], shares: dict[str, float], seed: int) -> tuple[dict, str]:
    seen: dict[str, set] = defaultdict(set)
    for record in records:
        seen[record.subject].add((record.domain, record.label or ""))
    # Patients with one domain or one class only are shared out apart, so that each set gets some of each kind.
    kinds: dict[frozenset, list[str]] = defaultdict(list)
    for patient in sorted(seen):
        kinds[frozenset(seen[patient])].append(patient)
    place = _share_out_kinds([kinds[kind] for kind in sorted(kinds, key=sorted)], shares, seed, "patients")
    sets = {name: [record for record in records if place[record.subject] == name] for name in SETS}
    patients = {name: len({record.subject for record in sets[name]}) for name in SETS}
    return sets, f"by patient: {_words(patients)} patients ({_counts(sets)})"


def _by_image(records: Sequence[Record], shares: dict[str, float], seed: int) -> tuple[dict, str]:
    def unit(record: Record) -> tuple[str, str]:
        return ("pair", record.pair) if record.pair is not None else (record.domain, record.key)

    # Copies of one picture are one unit: on two sides of the split they would be trained on and scored.
    first = copies(records, unit) if any(shares.values()) else {}
    units = {unit(record): record for record in reversed(records)}
    kinds: dict[tuple[str, str], list] = defaultdict(list)
    for name in dict.fromkeys(map(unit, records)):
        if first.get(name, name) == name:
            kinds[name[0], units[name].label or ""].append(name)
    place = _share_out_kinds([kinds[kind] for kind in sorted(kinds)], shares, seed, "images")
    sets = {name: [r for r in records if place[first.get(unit(r), unit(r))] == name] for name in SETS}
    return sets, f"by image: {_counts(sets)}"


def _share_out_kinds(kinds: list[list], shares: dict[str, float], seed: int, word: str) -> dict[Any, str]:
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
        return list(records)
    order = np.random.default_rng(seed).permutation(len(both))
    gives = {both[i]: "a" if n < (len(both) + 1) // 2 else "b" for n, i in enumerate(order)}
    return [record for record in records if gives.get(record.subject, record.domain) == record.domain]


def split_json(splits: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """What split.json holds: for every record its domain, key, subject, pair, path and the SHA-256 of its file.

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

    return {"by": getattr(splits, "by", None)} | {name: [entry(record) for record in splits[name]] for name in SETS}


def _counts(sets: Mapping[str, Sequence[Record]]) -> str:
    domains = sorted({record.domain for name in SETS for record in sets.get(name, ())})
    each = {name: "+".join(str(sum(r.domain == d for r in sets.get(name, ()))) for d in domains) for name in SETS}
    return f"{_words(each)} images" + (f" of {'+'.join(domains)}" if len(domains) > 1 else "")


def _words(numbers: Mapping[str, Any]) -> str:
    return f"{numbers['train']} train, {numbers['validation']} validation, {numbers['test']} test"
