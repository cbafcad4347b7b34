"""k-fold: every patient is tested once, and one fold is one run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from gantk.data.items import Record
from gantk.data.split.duplicates import copies, unit_of
from gantk.data.split.near_duplicates import Seen
from gantk.data.split.shares import deal, kinds_of_images, kinds_of_patients, share_out_kinds
from gantk.errors import UserError


def fold_of_patients(
    records: Sequence[Record], folds: int, fold: int, validation: float, seed: int
) -> tuple[dict[str, list[Record]], str]:
    """The sets of one fold, and how in words: patients are dealt out to `folds` parts, of which one is the test set.

    Parts are the same for every `fold`, differ in size by one patient at most, and get of every kind of patient (with
    one domain or both, of one class or another) as even a number. `validation` is a share of all patients, taken from
    those that are not tested. Fewer patients than folds, or of one domain, are a `UserError`.
    """
    expect_fold(folds, fold)
    kinds = kinds_of_patients(records)
    part = deal(kinds, folds, seed)
    if len(part) < folds:
        raise UserError(
            f"{len(part)} patients cannot be dealt out to {folds} folds",
            where="data.split.folds",
            allowed=f"2 to {len(part)}" if len(part) > 1 else "0, and by = 'block'",
        )
    _expect_every_domain(records, part, folds)
    rest = [[patient for patient in kind if part[patient] != fold] for kind in kinds]
    trained = sum(map(len, rest))
    share = min(validation * len(part) / trained, 0.5)
    place = share_out_kinds([kind for kind in rest if kind], {"validation": share}, seed, "patients")
    place |= {patient: "test" for patient, number in part.items() if number == fold}
    sets = {
        name: [record for record in records if place[record.subject] == name]
        for name in ("train", "validation", "test")
    }
    return sets, f"fold {fold} of {folds} (0 to {folds - 1}), by patient"


def fold_of_images(
    records: Sequence[Record],
    folds: int,
    fold: int,
    validation: float,
    seed: int,
    seen: Mapping[tuple[str, str], Seen],
) -> tuple[dict[str, list[Record]], str]:
    """The same for images that have nothing to do with each other: pairs, copies and near copies (`seen`) are one."""
    expect_fold(folds, fold)
    first = copies(records, unit_of, seen)
    kinds = kinds_of_images(records, first)
    part = deal(kinds, folds, seed)
    rest = [[unit for unit in kind if part[unit] != fold] for kind in kinds]
    share = {"validation": min(validation * folds / (folds - 1), 0.5)}
    place = share_out_kinds([kind for kind in rest if kind], share, seed, "images")
    place |= {unit: "test" for unit, number in part.items() if number == fold}
    sets = {
        name: [record for record in records if place[first.get(unit_of(record), unit_of(record))] == name]
        for name in ("train", "validation", "test")
    }
    return sets, f"fold {fold} of {folds} (0 to {folds - 1}), by image"


def expect_fold(folds: int, fold: int) -> None:
    """UserError where there is no such fold."""
    if folds < 2 or not 0 <= fold < folds:
        what = f"there is no fold {fold} of {folds}" if folds > 1 else f"folds = {folds} leaves nothing to train on"
        allowed = f"0 to {folds - 1}" if folds > 1 else "2 or more; 0 to split by shares"
        raise UserError(what, where="data.split.fold" if folds > 1 else "data.split.folds", allowed=allowed)


def _expect_every_domain(records: Sequence[Record], part: dict[str, int], folds: int) -> None:
    """A fold without images of a domain could not be scored: better said before the first than after the third."""
    having: dict[str, set[str]] = defaultdict(set)
    for record in records:
        having[record.domain].add(record.subject)
    for domain, patients in sorted(having.items()):
        lacking = sorted(set(range(folds)) - {part[patient] for patient in patients})
        if lacking:
            raise UserError(
                f"no image of domain {domain} falls into fold {', '.join(map(str, lacking))}: "
                f"{len(patients)} patients have one",
                where="data.split.folds",
                remedy="ask for fewer folds, or try another data.split.seed",
            )
