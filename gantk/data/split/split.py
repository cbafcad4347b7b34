"""Splits records into train, validation and test: by patient, blocks of slices or image, or in k
folds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from gantk.data.preparation import Record, patients_of
from gantk.data.sources.pairing import complete_pairs
from gantk.data.split.blocks import places_in_blocks, too_few
from gantk.data.split.copies import exact_copies, groups_of_copies, leave_out_copies, unit_of
from gantk.data.split.near_duplicates import (
    SETS,
    Fingerprints,
    like_training,
    near_copies,
    read_fingerprints,
)
from gantk.data.test_size import needed_patients, needed_words
from gantk.errors import UserError, count_noun, join_first
from gantk.formats.files import natural
from gantk.recipe.tables import SplitTable

By = Literal["auto", "patient", "block", "image"]
# `auto` keeps no patient of fewer for validation, unless the share asked for rounds to at least one
MIN_PATIENTS_FOR_VALIDATION = 4
MAX_NAMED_PATIENTS = 10  # held-out patients of a set that are named
USE_BLOCKS = (
    'set data.split.by = "block" to hold out some slices of every patient (scores then hold only'
    " for these patients)"
)
NAME_PATIENTS = (
    "name the patients by one folder for each, by a table (`gantk data check SCANS --table scans.csv`),"
    r" or by a pattern: --set 'data.source.patient=(P\d+)' finds P07 in P07_slice3.png"
)
PATIENTS_UNKNOWN = "the patients are not known"


class Splits(dict[str, list[Record]]):
    """The records of `train`, `validation` and `test`; `by` is the unit that was never divided."""

    def __init__(self, sets: Mapping[str, list[Record]], by: str | None, made: Mapping = {}):
        super().__init__({name: sets.get(name, []) for name in SETS})
        self.by = by  # "patient", "block", "image", or "folders" where these or a table decided
        self.made = made  # what else is needed to repeat the split: seed, fold

    @property
    def held_out(self) -> str:
        """Who is held out, see `held_out_patients`."""
        return held_out_patients(
            {name: [record.subject for record in own] for name, own in self.items()}
        )

    def with_training(self, records: list[Record]) -> Splits:
        """The same split with other training images."""
        return Splits({**self, "train": records}, self.by, self.made)


def split_records(
    records: Sequence[Record],
    table: SplitTable,
    *,
    # of images that were read already; those that the split reads are added
    fingerprints: Fingerprints | None = None,
) -> tuple[Splits, str]:
    """Split records into train, validation and test: the sets and a description, which depend on
    the arguments only.

    `folds` have priority; then the sets that folders or a table name (`Record.split`). Where these
    name only held-out images, the others are divided, but for a test if that is named; else a set
    that they do not name is empty. Only `by = "block"` divides known patients. Of two patients, one is
    trained on and one tested, of three `auto` trains on two; neither leaves one for validation.
    Patients who lack a contrast that most have are trained on: a test could not compare their
    images. Registered pairs are never divided.
    UserError, with the numbers, where there are too few units for the shares.

    The sets for a seed must never change, of images without copies: results are compared across
    runs.
    """
    if table.test + table.validation >= 1:
        raise UserError(
            f"test = {table.test:g} and validation = {table.validation:g} leave no images for"
            " training",
            where="data.split",
            allowed="shares of 0 or more with a sum below 1",
        )

    made = {"seed": table.seed}
    known = {} if fingerprints is None else fingerprints
    named = [record for record in records if record.split]
    if not table.folds and named:
        others = [record for record in records if not record.split]
        if others and all(record.split != "train" for record in named):
            splits, how = _beside_named(named, others, table, known)
        else:
            splits, how = _as_named(records)
    else:
        splits, how = _draw(records, table, known)
        made |= {"folds": table.folds, "fold": table.fold} if table.folds else {}

    splits.made = made
    return splits, how


def _as_named(records: Sequence[Record]) -> tuple[Splits, str]:
    """The sets that folders or a table name; a set that these do not name is empty."""
    origin = "the folders or the table"
    sets = _sets_of([record.split or "train" for record in records], records)
    if not sets["train"]:
        raise UserError(
            f"the split given by {origin} has no training images",
            where="data.source",
            allowed="a folder or rows for train",
        )

    held_out = [name for name in SETS[1:] if sets[name]]
    how = f"{' and '.join(held_out or ['train'])} given by {origin}: {_counts(sets)}"
    return Splits(sets, "folders"), how


def _beside_named(
    named: Sequence[Record], others: Sequence[Record], table: SplitTable, known: Fingerprints
) -> tuple[Splits, str]:
    """The held-out sets that a table names, and the `others` divided into those that it does not."""
    sets = _sets_of([str(record.split) for record in named], named)
    lacking = {name: getattr(table, name) for name in SETS[1:] if not sets[name]}
    shares = dict.fromkeys(SETS[1:], 0.0) | lacking
    drawn, _ = _draw(others, table.model_copy(update=shares), known)
    given = " and ".join(name for name in SETS if sets[name])
    for name, own in drawn.items():
        sets[name] += own
    counts = _description([*named, *others], sets, str(drawn.by), table.gap)
    rest = f"the rest by {drawn.by}" if any(shares.values()) else "all others train"
    how = f"{given} given by the folders or the table, {rest}: {counts}"
    return Splits(sets, "folders"), how


def _draw(records: Sequence[Record], table: SplitTable, known: Fingerprints) -> tuple[Splits, str]:
    """Draw sets by shares, or one of `folds`, where `validation` is taken from the units that are
    not tested.
    """
    folds = table.folds
    shares = {"test": 1 / folds if folds else table.test, "validation": table.validation}
    if not any(shares.values()):
        sets = _sets_of(["train"] * len(records), records)
        return Splits(sets, "image"), f"by image: {_counts(sets)}"

    by = _resolve_unit(records, table)
    can_validate = True
    lacking: set[str] = set()
    copies: list[tuple[int, int]] = []
    if by == "patient":  # whose copies are an error of the data
        lacking = patients_who_lack(records)
    else:  # copies of one picture must not stand on two sides
        copies = exact_copies(records)
        if all(record.files and not record.subject for record in records):
            seen = read_fingerprints(records, known)
            copies += [(i, j) for i, j, _ in near_copies(seen)]

    if by == "block":
        places = leave_out_copies(places_in_blocks(records, shares, table), records, copies)
    else:
        # Copies of one picture are one unit: else a training image could also be scored.
        units: list[Any] = [record.subject for record in records]
        if by == "image":
            units = groups_of_copies(records, copies)
        kinds = _kinds_of_units(records, units, by, lacking)
        if by == "patient":
            if not folds and max(map(len, kinds)) < 2:  # of so few patients, kinds have no meaning
                kinds = [sorted(sum(kinds, []))]
            can_validate = _can_validate(max(map(len, kinds)), shares, table)
        if not can_validate:
            shares["validation"] = 0.0

        if folds:
            set_of_unit = _in_fold(kinds, shares, by, table)
        else:
            set_of_unit = _in_sets(kinds, shares, table.seed, by)

        places = [set_of_unit.get(unit, "train") for unit in units]

    sets = _sets_of(places, records)
    _expect_every_domain(records, sets, shares)

    how = f"by {by}: "
    if by == "block":
        how = "by block of neighbouring slices (pictures: by name): "
    if folds:
        how = f"fold {table.fold} of {folds} (counted from 0), {how}"

    how += _description(records, sets, by, table.gap, are_copies=bool(copies))
    if lacking:
        how += f"; trained on: {count_noun(lacking, 'patient')} without all contrasts"
    if not can_validate:
        how += "; there are too few patients for a validation set"

    return Splits(sets, by), how


def _sets_of(places: Sequence[str], records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by set; those without one ("") are left out."""
    sets: dict[str, list[Record]] = {name: [] for name in SETS}
    for record, place in zip(records, places, strict=True):
        if place:
            sets[place].append(record)
    return sets


def _expect_every_domain(
    records: Sequence[Record],
    sets: Mapping[str, list[Record]],
    shares: Mapping[str, float],
) -> None:
    """UserError where a set that was asked for has no image of a domain."""
    domains = {record.domain for record in records}
    for name in SETS:
        missing = domains - {record.domain for record in sets[name]}
        if missing and shares.get(name, 1):
            raise UserError(
                f"no image of domain {', '.join(sorted(missing))} is left for the {name} set",
                where="data.split",
                remedy="add data, set that share to 0, lower data.split.folds or data.split.gap, or"
                f" {USE_BLOCKS}",
            )


def _description(
    records: Sequence[Record],
    sets: Mapping[str, list[Record]],
    by: str,
    gap: int,
    *,
    are_copies: bool = False,
) -> str:
    """How many patients and images are in each set, and how many images in none."""
    if by == "patient":
        counts = ", ".join(f"{len(patients_of(sets[name]))} {name}" for name in SETS)
        return f"{counts} ({', '.join(_counts_of_sets(sets))} images)"

    left_out = len(records) - sum(map(len, sets.values()))
    beside = f"; {left_out} left out: neighbours of held-out images (data.split.gap = {gap})"
    if are_copies:
        beside += " or copies"
    return _counts(sets) + (beside if left_out else "")


def _counts(sets: Mapping[str, list[Record]]) -> str:
    """`8+8 train, 2+2 validation, 2+2 test images`, of the first and the second domain."""
    named = map(" ".join, zip(_counts_of_sets(sets), SETS, strict=True))
    return f"{', '.join(named)} images"


def _counts_of_sets(sets: Mapping[str, list[Record]]) -> list[str]:
    """Of each set the images of each domain: `8+8`."""
    domains = sorted({record.domain for own in sets.values() for record in own})
    trained = [[record.domain for record in sets[name] if record.for_training] for name in SETS]
    return ["+".join(str(own.count(domain)) for domain in domains) for own in trained]


def _resolve_unit(records: Sequence[Record], table: SplitTable) -> By:
    """The unit that is not divided, with `auto` resolved; UserError where the records lack the unit
    asked for, or where all are of one patient and some are tested.
    """
    by = table.by
    placed = all(record.position is not None for record in records)
    if by == "auto":
        by = "patient"
        if not table.folds and not patients_of(records):
            return "block" if placed else "image"

    if table.folds and by == "block":
        raise UserError(
            f"folds = {table.folds} needs by = 'patient' or 'image', but by is 'block'",
            where="data.split",
            remedy="set folds = 0, or by = 'patient'",
        )

    lacking = []
    if by == "patient":
        lacking = [record.key for record in records if not record.subject]
    elif by == "block":
        lacking = [record.key for record in records if record.position is None]
    if lacking:
        unit = "patient" if by == "patient" else "order"
        raise UserError(
            f"the images cannot be split by {by}, because the {unit} of {len(lacking)} of"
            f" {count_noun(records, 'image')} is not known. The first is '{lacking[0]}'",
            where="data.split.by",
            remedy=f"leave these images out, or {NAME_PATIENTS}",
        )

    if table.by == "auto" and (table.test or table.folds) and len(patients_of(records)) == 1:
        otherwise = USE_BLOCKS if placed else "add patients"
        raise UserError(
            f"all images are of one patient, '{records[0].subject}', so no patient is left for the"
            " test",
            where="data.split.by",
            allowed="two or more patients; or data.split.test = 0 and data.split.validation = 0 to train"
            " without a test",
            remedy=f"if there are more patients, {NAME_PATIENTS}. Otherwise {otherwise}",
        )
    return by


def _can_validate(patients: int, shares: Mapping[str, float], table: SplitTable) -> bool:
    """Whether one of so many patients of the largest kind can be kept for validation."""
    share = shares["validation"]
    if not share:
        return True
    if table.folds:
        return patients - -(-patients // table.folds) > 1
    tested = shares["test"] > 0
    if patients <= 1 + tested:
        return False
    asked = table.by != "auto" or not tested
    return asked or patients >= MIN_PATIENTS_FOR_VALIDATION or round(share * patients) > 0


# --- units: patients, or images; assigned to sets kind by kind, so that every set has some of each
# kind


def patients_who_lack(records: Sequence[Record]) -> set[str]:
    """The patients without a domain, or without all contrasts of a target; none where these are half
    of all or more.
    """
    domains = {record.domain for record in records}
    complete = defaultdict(set)
    for record in records:
        if record.domain != "b" or not record.missing:
            complete[record.subject].add(record.domain)
    lacking = {each for each in patients_of(records) if complete[each] != domains}
    return lacking if 2 * len(lacking) < len(complete) else set()


def _kinds_of_units(
    records: Sequence[Record], units: Sequence[Any], by: str, lacking: set[str]
) -> list[list]:
    """The units that are never divided, grouped by kind, in a fixed order.

    Patients with the same domains and classes are one kind; those who are `lacking` images are left
    out. By image, a registered pair is a unit, and so is a group of copies; kinds are the pairs, and
    the images of each domain and class.
    """
    kinds: dict[Any, list] = defaultdict(list)
    if by == "patient":
        contents: dict[str, set] = defaultdict(set)
        for record in records:
            contents[record.subject].add((record.domain, record.label or ""))
        for patient in sorted(contents.keys() - lacking):
            kinds[tuple(sorted(contents[patient]))].append(patient)
    else:
        labels = {unit_of(record): record.label or "" for record in reversed(records)}
        for unit in dict.fromkeys(units):
            kinds[unit[0], labels[unit]].append(unit)

    return [kinds[kind] for kind in sorted(kinds)]


def _in_sets(
    kinds: Sequence[list], shares: dict[str, float], seed: int, by: str
) -> dict[Hashable, str]:
    """The set of each unit: of each kind at least one for every share above 0, and at least one to
    train on.

    A kind that is too small is trained on, if another kind is large enough.
    """
    least = 1 + sum(share > 0 for share in shares.values())
    some_large = any(len(units) >= least for units in kinds)
    place: dict[Hashable, str] = {}
    for units in kinds:
        if some_large and len(units) < least:
            place |= dict.fromkeys(units, "train")
            continue

        counts = {
            name: max(1, round(share * len(units))) if share > 0 else 0
            for name, share in shares.items()
        }
        if sum(counts.values()) >= len(units):
            needed = f"at least {sum(counts.values()) + 1} {by}s of each domain"
            raise too_few(f"{len(units)} {by}s", shares, needed)

        names = [name for name, count in counts.items() for _ in range(count)]
        names += ["train"] * (len(units) - len(names))
        order = np.random.default_rng(seed).permutation(len(units))
        place |= {units[i]: name for i, name in zip(order, names, strict=True)}

    return place


def _in_fold(
    kinds: Sequence[list], shares: dict[str, float], by: str, table: SplitTable
) -> dict[Hashable, str]:
    """The set of each unit in one fold. Every unit is tested in one fold; sizes of folds differ by
    one unit at most, in total and for each kind. (scikit-learn's StratifiedGroupKFold would give
    every seed other sets, and balances images in place of patients.)
    """
    folds = table.folds
    count = sum(map(len, kinds))
    rng = np.random.default_rng(table.seed)
    if not 2 <= folds <= count:
        raise UserError(
            f"{count} {by}s cannot be divided into {folds} folds",
            where="data.split.folds",
            allowed=f"2 to {max(2, count)}, or 0 to use shares",
        )

    if table.fold >= folds:
        raise UserError(
            f"there is no fold {table.fold} among {folds} folds",
            where="data.split.fold",
            allowed=f"0 to {folds - 1}",
        )

    shuffled = [units[i] for units in kinds for i in rng.permutation(len(units))]
    place = dict.fromkeys(shuffled[table.fold :: folds], "test")
    rest = [kept for units in kinds if (kept := [unit for unit in units if unit not in place])]
    share = shares["validation"] * (
        count / (count - len(place)) if by == "patient" else folds / (folds - 1)
    )
    return _in_sets(rest, {"validation": min(share, 0.5)}, table.seed, by) | place


# --- after a split


def unpair(records: Sequence[Record], seed: int = 0, *, by_pair: bool = False) -> list[Record]:
    """Training records as an unpaired study: each patient with both domains keeps one, half of the
    patients each; a single one the domain that others lack. `by_pair`: so does each pair of unknown
    patients.

    Records without patients, of one patient, or of patients with one domain only stay as they are.
    """

    def owner(record: Record) -> str:
        return record.subject or (by_pair and record.pair) or ""

    domains_of = defaultdict(set)
    for record in records:
        if owner(record):
            domains_of[owner(record)].add(record.domain)

    both = sorted(patient for patient, domains in domains_of.items() if {"a", "b"} <= domains)
    kept_domain = {}
    if len(both) == 1:
        others = {record.domain for record in records if owner(record) not in ("", *both)}
        if others:
            kept_domain[both[0]] = "a" if "b" in others else "b"
    else:
        order = np.random.default_rng(seed).permutation(len(both))
        for number, place in enumerate(order):
            kept_domain[both[place]] = "a" if number < (len(both) + 1) // 2 else "b"

    return [
        record
        for record in records
        if kept_domain.get(owner(record), record.domain) == record.domain
    ]


def held_out_patients(patients: Mapping[str, Iterable[str]]) -> str:
    """Who is held out, of the patients of each set: `validation: P04; test: P01, P02`; "" where
    nobody is known, or all are trained on too.
    """
    trained = {*patients.get("train", ())}
    parts = []
    for name in ("validation", "test"):
        held_out = sorted({*patients.get(name, ())} - trained - {""}, key=natural)
        if held_out:
            parts.append(f"{name}: {join_first(held_out, most=MAX_NAMED_PATIENTS)}")
    return "; ".join(parts)


def few_test_patients(splits: Mapping[str, Sequence[Record]]) -> str:
    """Sentences on a test set in which not every score can be significantly better than a
    baseline's; "" for others. Where there are pairs, images without a partner are not scored.
    """
    tested = splits.get("test", ())
    paired = [record for pair in complete_pairs(tested).values() for record in pair.values()]
    patients = patients_of(paired or tested)
    if not patients or len(patients) >= needed_patients():
        return ""
    return f"{count_noun(patients, 'test patient')}: {needed_words()}"


def consequences(
    splits: Mapping[str, Sequence[Record]],
    fingerprints: Fingerprints = {},
) -> list[str]:
    """Sentences on what a split means for its scores: nothing held out, patients on both sides,
    images without patients, or test images that look like slices of training patients.
    """
    trained, tested = ({r.subject for r in splits[name]} for name in ("train", "test"))
    both = trained & tested - {""}
    lines = []
    if not splits.get("validation") and not splits.get("test"):
        lines.append(
            "nothing is held out: all images are trained on. So there are no test scores, and"
            " samples show training images"
        )

    if both:
        count = count_noun(both, "patient")
        lines.append(f"{count} with slices in both training and test: scores hold only for them")

    alike = like_training(splits, fingerprints)
    seen = f"{len(alike)} of {count_noun(splits['test'], 'test image')} look like slices next to training images"
    if "" in tested:
        too_good = f" and {seen}: scores are" if alike else ", so scores may be"
        lines.append(f"{PATIENTS_UNKNOWN}{too_good} too good")
    elif alike:
        people = dict.fromkeys(f"'{test.subject}' like '{train.subject}'" for test, train in alike)
        lines.append(
            f"{seen} of other patients ({join_first([*people])}): if these are one person under two"
            " names, scores are too good. Give each person one name"
        )

    return lines
