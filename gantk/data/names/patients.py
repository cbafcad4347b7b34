"""Finds the part of pictures' names that is the patient, and whether this is sure or only possible."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gantk.data.names.patient_folders import (
    PERSON,
    Parts,
    numbered,
    patient_folders,
    patient_in,
    patient_name,
    shared_folders,
    without_visits,
)
from gantk.data.sources.reader import Item, is_volume
from gantk.data.sources.rows import FILL_IN_TABLE
from gantk.errors import UserError

# `slice_012` at the end
SLICE = re.compile(r"(?i)(?<![a-z])(?:slice|slc|sl|plane|frame|z)[\W_]*\d+\W*$")
# text before the last number, the number, the rest
LAST = re.compile(r"^(.*?)(\d+)(\D*)$", re.DOTALL)
# fewest stacks whose shared slice numbers are sure to be slices; two or three may be years or
# classes
SURE = 4
STACK = 3  # fewest images of a stack
STEP = 10  # largest step between the numbers of neighbouring slices
# share of the numbers of so many digits; a running number that reaches it continues in the next
# digit
FULL = 0.75


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
    parts = [LAST.match(name) for name in names]
    if not names or not all(parts):
        return None
    before = [part[1] for part in parts]
    numbers = [part[2] for part in parts]
    if len(set(before)) > 1:
        return _by_field(names, before, numbers)
    return _by_digits(before[0], numbers)


def unsure(names: Sequence[str], found: Reading) -> UserError:
    """The error that asks whether the names mean patients, with the setting for each answer."""
    patients = list(dict.fromkeys(found.patients))
    first, other = (names[found.patients.index(patient)] for patient in patients[:2])
    what = (
        f"the file names may say patients: '{first}' of patient '{patients[0]}', '{other}' of"
        f" '{patients[1]}' "
    )
    what += (
        f"({len(patients)} in all). Without them slices of one patient may be trained on and tested"
    )
    remedy = (
        '--set data.source.patient=names if they do; --set data.split.by=block (or "image") if'
        " not; "
    )
    remedy += f"another part of the names: --set data.source.patient=REGEX. {FILL_IN_TABLE}"
    return UserError(what, where="data.source.patient", remedy=remedy)


def _by_person(names: Sequence[str]) -> Reading | None:
    found = [PERSON.search(name) for name in names]
    if not all(found) or len({match[0] for match in found}) < 2:
        return None
    return Reading([match[0] for match in found], True)


def _by_field(
    names: Sequence[str], before: Sequence[str], numbers: Sequence[str]
) -> Reading | None:
    """Patients by the text before the last number, if it has numbers that vary and a patient has
    several images.
    """
    patients = [
        re.sub(r"(?i)[\W_]*(?:slice|slc|sl|plane|frame|z)?[\W_]*$", "", text) for text in before
    ]
    fields = [re.findall(r"\d+", text) for text in patients]
    alike = len({len(each) for each in fields}) == 1
    if alike:
        columns = [column for column in zip(*fields, strict=True) if len(set(column)) > 1]
    else:
        columns = []
    several = len(set(patients)) < len(set(names))
    if not several or not all(fields) or (alike and not columns):  # `yes_1` and `no_1` are classes
        return None
    # `1_2_030`, visit 2 of patient 1: two numbers group the images differently. The first number is
    # the patient.
    one = alike and all(
        len(set(zip(column, patients, strict=True))) == len(set(column)) for column in columns
    )
    if alike and not one:
        patients = list(columns[0])
    slices = all(map(SLICE.search, names))
    return Reading(patients, one and (slices or _shared_stacks(_stacks(patients, numbers), SURE)))


def _by_digits(before: str, numbers: Sequence[str]) -> Reading | None:
    """Patients by the leading digits of one number; as many last digits as fit are the slice."""
    for digits in (4, 3, 2):
        patients = [number[:-digits] for number in numbers]
        if not all(patients) or len(set(patients)) < 2:
            continue
        stacks = _stacks(patients, [number[-digits:] for number in numbers])
        highest = max(max(stack) for stack in stacks.values())
        if highest < FULL * 10**digits and _shared_stacks(stacks, 2):
            return Reading([before + patient for patient in patients], len(stacks) >= SURE)
    return None


def _stacks(patients: Sequence[str], numbers: Sequence[str]) -> dict[str, list[int]]:
    """Each patient's slice numbers, sorted."""
    numbers_of = defaultdict(set)
    for patient, number in zip(patients, numbers, strict=True):
        numbers_of[patient].add(int(number))
    return {patient: sorted(each) for patient, each in numbers_of.items()}


def _shared_stacks(stacks: Mapping[str, Sequence[int]], least: int) -> bool:
    """Whether there are at least `least` stacks, each of close numbers, and the ranges of all of
    them overlap.
    """
    if len(stacks) < least or min(map(len, stacks.values())) < STACK:
        return False
    for stack in stacks.values():
        step = median(high - low for low, high in zip(stack, stack[1:], strict=False))
        if step > STEP or stack[-1] - stack[0] > 2 * step * (len(stack) + 1):
            return False
    return max(stack[0] for stack in stacks.values()) <= min(stack[-1] for stack in stacks.values())


def patients_in_names(items: Sequence[Item], how: str | list[UserError]) -> list[str] | None:
    """The patient of each image, read from its folders' or file's name; None: cannot tell.

    `how` handles uncertain results: "take" accepts them, "ask" raises a UserError, "" drops them, a
    list drops them and receives that UserError. With `how` "folders", and "numbered folders" for
    short, the patient is read from `item.place` instead.
    """
    if how in ("folders", "numbered folders"):
        shared = shared_folders({item.place for item in items})
        patient_of = patient_folders if how == "folders" else patient_name
        return without_visits([patient_of(item.place, shared) for item in items])
    if any(is_volume(item.source) for item in items):  # each volume is a patient's
        volumes = [item for item in items if is_volume(item.source)]
        patients = iter(without_visits([patient_in(item.name) for item in volumes]))
        return [next(patients) if is_volume(item.source) else "" for item in items]
    if any(numbered(item.place) for item in items):
        return None  # folders are named after patients
    names = [item.stem for item in items]
    reading = reading_of(names)
    if reading is None:
        return None
    if not reading.sure:
        if how == "ask":
            raise unsure(names, reading)
        if isinstance(how, list):
            how.append(unsure(names, reading))
    return reading.patients if reading.sure or how == "take" else None


def patients_of(places: Iterable[Parts], how: str = "folders") -> dict[Parts, str]:
    """The patient of each place, its folders; see `patients_in_names`."""
    items = [Item("image", Path(), place=place) for place in dict.fromkeys(places)]
    patients = patients_in_names(items, how)
    return {item.place: patient for item, patient in zip(items, patients, strict=True)}
