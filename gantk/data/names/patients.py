"""Finds the part of pictures' names that is the patient, and whether this is sure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from gantk.data.names.patient_folders import (
    Parts,
    parts_with_digits,
    patient_folders,
    patient_in,
    patient_name,
    shared_folders,
    without_visits,
)
from gantk.data.names.patterns import (
    AROUND_LAST_NUMBER,
    PERSON,
    SLICE_AT_END,
    SLICE_BEFORE_NUMBER,
)
from gantk.data.sources.reader import Item, is_volume
from gantk.data.sources.rows import FILL_IN_TABLE
from gantk.errors import UserError

# What to do with names of files that may contain patients; a list ignores them, and receives the
# UserError of "raise".
OnAmbiguous = Literal["accept", "raise", "ignore"] | list[UserError]

# Fewest stacks whose shared slice numbers are sure to be slices: two or three may be years or
# classes.
MIN_SURE_STACKS = 4
MIN_IMAGES_PER_STACK = 3
MAX_SLICE_STEP = 10  # between the numbers of neighbouring slices
# Share of the numbers of so many digits: a running number that reaches it continues in the next
# digit.
FULL_SHARE = 0.75


@dataclass(frozen=True)
class Reading:
    """The patient of each name; `sure` if the names can mean nothing else."""

    patients: list[str]
    sure: bool


def reading_of(names: Sequence[str]) -> Reading | None:
    """Find the patients in pictures' names (without folder and suffix); None where the names have
    none.

    The first of these patterns that every name has is used: a word for a person with a number
    (`sub-01_t1_30`); a number followed by a slice number (`12_slice030`, `12_030`); one number
    whose last digits count the slices, as in 20005 (patient 20, slice 5). The first is sure, and so
    is the word `slice`; the others are sure if four or more patients have stacks of slices with
    close numbers that overlap. Running numbers (`Image #61`, 0001 to 5000) are not patients: they
    form no stacks, or use all numbers of their digits.
    """
    if person := _by_person(names):
        return person

    parts = [AROUND_LAST_NUMBER.match(name) for name in names]
    if not names or not all(parts):
        return None

    before = [part[1] for part in parts if part]
    numbers = [part[2] for part in parts if part]
    if len(set(before)) > 1:
        return _by_field(names, before, numbers)

    return _by_digits(before[0], numbers)


def unsure(names: Sequence[str], found: Reading) -> UserError:
    """The error that asks whether the names mean patients, with the setting for each answer."""
    patients = list(dict.fromkeys(found.patients))
    first, other = (names[found.patients.index(patient)] for patient in patients[:2])
    what = (
        f"the file names may say patients: '{first}' of patient '{patients[0]}', '{other}' of"
        f" '{patients[1]}' ({len(patients)} in all). Without them slices of one patient may be"
        " trained on and tested"
    )
    remedy = (
        '--set data.source.patient=names if they do; --set data.split.by=block (or "image") if'
        " not; another part of the names: --set data.source.patient=REGEX."
        f" {FILL_IN_TABLE}"
    )
    return UserError(what, where="data.source.patient", remedy=remedy)


def _by_person(names: Sequence[str]) -> Reading | None:
    patients = [match[0] for match in map(PERSON.search, names) if match]
    if len(patients) < len(names) or len(set(patients)) < 2:
        return None
    return Reading(patients, True)


def _by_field(
    names: Sequence[str], before: Sequence[str], numbers: Sequence[str]
) -> Reading | None:
    """Patients by the text before the last number, if it has numbers that vary and a patient has
    several images.
    """
    patients = [SLICE_BEFORE_NUMBER.sub("", text) for text in before]
    fields = [re.findall(r"\d+", text) for text in patients]
    if len(set(patients)) == len(set(names)) or not all(fields):
        return None

    unambiguous = False
    if len({len(each) for each in fields}) == 1:
        columns = [column for column in zip(*fields, strict=True) if len(set(column)) > 1]
        if not columns:  # `yes_1` and `no_1` are classes
            return None
        unambiguous = all(_group_alike(column, patients) for column in columns)
        if not unambiguous:  # `1_2_030`, visit 2 of patient 1: the first number is the patient
            patients = list(columns[0])

    if not unambiguous:
        return Reading(patients, False)

    are_slices = all(map(SLICE_AT_END.search, names))
    sure = are_slices or _shared_stacks(_stacks(patients, numbers), MIN_SURE_STACKS)
    return Reading(patients, sure)


def _group_alike(column: Sequence[str], patients: Sequence[str]) -> bool:
    """Whether each value of a column belongs to one patient."""
    return len(set(zip(column, patients, strict=True))) == len(set(column))


def _by_digits(before: str, numbers: Sequence[str]) -> Reading | None:
    """Patients by the leading digits of one number; as many last digits as fit are the slice."""
    for digits in (4, 3, 2):
        patients = [number[:-digits] for number in numbers]
        slices = [number[-digits:] for number in numbers]
        if not all(patients) or len(set(patients)) < 2:
            continue

        stacks = _stacks(patients, slices)
        highest = max(stack[-1] for stack in stacks.values())
        if highest < FULL_SHARE * 10**digits and _shared_stacks(stacks, 2):
            names = [before + patient for patient in patients]
            return Reading(names, len(stacks) >= MIN_SURE_STACKS)

    return None


def _stacks(patients: Sequence[str], numbers: Sequence[str]) -> dict[str, list[int]]:
    """Each patient's slice numbers, sorted."""
    numbers_of = defaultdict(set)
    for patient, number in zip(patients, numbers, strict=True):
        numbers_of[patient].add(int(number))
    return {patient: sorted(each) for patient, each in numbers_of.items()}


def _shared_stacks(stacks: Mapping[str, Sequence[int]], min_count: int) -> bool:
    """Whether there are at least `min_count` stacks, each of close numbers, and the ranges of all
    of them overlap.
    """
    if len(stacks) < min_count:
        return False

    for stack in stacks.values():
        if len(stack) < MIN_IMAGES_PER_STACK:
            return False
        steps = [high - low for low, high in zip(stack, stack[1:], strict=False)]
        step = median(steps)
        if step > MAX_SLICE_STEP or stack[-1] - stack[0] > 2 * step * (len(stack) + 1):
            return False

    highest_start = max(stack[0] for stack in stacks.values())
    lowest_end = min(stack[-1] for stack in stacks.values())
    return highest_start <= lowest_end


def patients_in_names(items: Sequence[Item], on_ambiguous: OnAmbiguous) -> list[str] | None:
    """The patient of each image, read from its file's name; None: cannot tell."""
    if any(is_volume(item.source) for item in items):
        return _patients_of_volumes(items)
    if any(parts_with_digits(item.place) for item in items):
        return None  # folders are named after patients

    names = [item.stem for item in items]
    reading = reading_of(names)
    if reading is None:
        return None
    if reading.sure or on_ambiguous == "accept":
        return reading.patients
    if on_ambiguous == "raise":
        raise unsure(names, reading)
    if isinstance(on_ambiguous, list):
        on_ambiguous.append(unsure(names, reading))

    return None


def patients_of_folders(places: Sequence[Parts], whole: bool = True) -> list[str]:
    """The patient of each place: its folders, or, unless `whole`, the numbered one."""
    shared = shared_folders(set(places))
    patient_of = patient_folders if whole else patient_name
    return without_visits([patient_of(place, shared) for place in places])


def _patients_of_volumes(items: Sequence[Item]) -> list[str]:
    """The patient of each volume, by its own name; none for pictures."""
    are_volumes = [is_volume(item.source) for item in items]
    names = [item.name for item, is_one in zip(items, are_volumes, strict=True) if is_one]
    patients = iter(without_visits([patient_in(name) for name in names]))
    return [next(patients) if is_one else "" for is_one in are_volumes]


def patients_of(places: Iterable[Parts], whole: bool = True) -> dict[Parts, str]:
    """The patient of each place, its folders; see `patients_of_folders`."""
    unique = list(dict.fromkeys(places))
    return dict(zip(unique, patients_of_folders(unique, whole), strict=True))
