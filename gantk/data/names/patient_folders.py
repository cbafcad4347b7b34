"""Finds the folder that is a patient's: not a visit's, a contrast's or a data set's, which has
numbers too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache

from gantk.data.names.patterns import (
    LAST_NUMBER,
    LAST_WORD,
    PERSON,
    SCANNER_FOLDER,
    SEVERAL_PATIENTS,
    STARTS_WITH_DATE,
    VERSION_FOLDER,
    VISIT_FOLDER,
    VISIT_WORD,
)
from gantk.formats.contrasts import contrast_in

Parts = tuple[str, ...]  # the folders of a path


def parts_with_digits(parts: Sequence[str]) -> list[str]:
    """The parts with a digit: those of patients have one, those of classes (`tumour`) do not."""
    return [part for part in parts if any(map(str.isdigit, part))]


def without_visit(name: str) -> str:
    """A patient's name up to the word of a visit that follows a number: `007` for `007_V1`."""
    visits = (match.start() for match in VISIT_WORD.finditer(name))
    return next((name[:at].rstrip("_-. ") for at in visits if parts_with_digits([name[:at]])), name)


def without_visits(names: Sequence[str]) -> list[str]:
    """Each patient for names of patients and visits, found by comparing all: `p07` for `p07_1` and
    `p07_2`.

    In names that differ in digits alone the last word is a visit's if patients have several, there
    are no more kinds of it than patients, and it has no more digits than the number before (as
    `site1_007` has) or this is a person's. A word that all of them end with (`_nifti`) does not
    count, and `p07_FU3` beside `p07` is the same patient's.
    """
    patient_of = {name: name for name in names}
    while True:
        shorter = dict(_shorter(set(patient_of.values())))
        if not shorter:
            break
        patient_of = {name: shorter.get(own, own) for name, own in patient_of.items()}

    known = set(patient_of.values())
    for name, own in patient_of.items():
        for end in re.finditer(r"(?<=\d)(?=[-_. ][^/]*$)", own):
            if own[: end.start()] in known:
                patient_of[name] = own[: end.start()]
                break

    if len(set(patient_of.values())) == len(patient_of):
        return list(names)

    return [patient_of[name] for name in names]


def _shorter(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each name that ends with a visit, or with what all alike end with, and the name without
    that.
    """
    alike: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in names:
        last = LAST_WORD.search(name)
        if last and parts_with_digits([name[: last.start()]]):
            pattern = re.sub(r"\d+", "0", name.rpartition("/")[2])
            alike[pattern].append((name[: last.start()], name[last.start() :]))

    for pairs in alike.values():
        heads = {head for head, _ in pairs}
        tails = {tail for _, tail in pairs}
        if len(heads) > 1 and (len(tails) == 1 or _are_visits(heads, tails, len(pairs))):
            for head, tail in pairs:
                yield head + tail, head


def _are_visits(patients: Collection[str], visits: Collection[str], count: int) -> bool:
    """Whether `count` names are of several visits of some patients."""
    if not len(visits) <= len(patients) < count:
        return False
    return _digits(patients) >= _digits(visits) or all(map(PERSON.search, patients))


def _digits(names: Collection[str]) -> int:
    """The most digits of the names' last numbers."""
    numbers = filter(None, map(LAST_NUMBER.search, names))
    return max((len(number[0]) for number in numbers), default=0)


def patient_in(name: str) -> str:
    """The patient in the name of a volume: the word for a person and its number, else all but
    contrasts and visit.
    """
    person = PERSON.search(name)
    return person[0] if person else without_visit(contrast_in(name, set())[1] or name)


def patient_folders(place: Parts, shared: int = 0) -> str:
    """A patient's folders without those of visits: `siteA/p07` for `siteA/p07_V2` and
    `siteA/p07/2020-01-02/3`.

    The last of them is the first folder that names a person, else the first numbered one (by more
    than a contrast) that is not named as one of several patients, with a numbered one below; none
    of the first `shared` ones.
    """
    own, end = _with_patient(place, shared)
    if end is None:
        return "/".join(own or place)
    return "/".join([*own[:end], without_visit(own[end])])


def patient_name(place: Parts, shared: int = 0) -> str:
    """The numbered ones of a patient's folders, without the `shared` ones; all where none is
    numbered.
    """
    whole = patient_folders(place, shared)
    return "/".join(parts_with_digits(whole.split("/")[shared:])) or whole


@lru_cache(maxsize=2**16)
def _is_no_patient(folder: str) -> bool:
    """Whether a folder is named after a visit, a version of the images or a scanner."""
    return any(each.fullmatch(folder) for each in (VISIT_FOLDER, VERSION_FOLDER, SCANNER_FOLDER))


def has_patient(place: Parts) -> bool:
    """Whether a folder has a number of its own, and is no visit's, contrast's or version's."""
    return _with_patient(place, 0)[1] is not None


@lru_cache(maxsize=2**16)
def _with_patient(place: Parts, shared: int) -> tuple[Parts, int | None]:
    """The folders without visits and versions, and the index of the patient's own, None where no
    folder is numbered.
    """
    own = []
    for i, folder in enumerate(place):
        is_visit = _is_no_patient(folder) or (i > shared and STARTS_WITH_DATE.match(folder))
        if i < shared or not is_visit:
            own.append(folder)

    candidates = []
    for i in range(shared, len(own)):
        without_contrast = contrast_in(own[i], set())[1]
        if parts_with_digits([without_contrast]):
            candidates.append(i)

    persons = [i for i in candidates if PERSON.search(own[i])]
    single = [i for i in candidates if not SEVERAL_PATIENTS.search(own[i])]
    likeliest = [*persons[:1], *single[:1], *candidates[-1:]]
    return tuple(own), likeliest[0] if likeliest else None


def shared_folders(places: Collection[Parts]) -> int:
    """How many leading folders all places share that are no patient's: numbered ones, alike or
    many, lie below.
    """
    for shared in range(_common_folders(places), 0, -1):
        names = set()
        for place in set(places):
            own, patient = _with_patient(place, shared)
            if patient is None:
                break
            names.add(own[patient])
        else:
            alike = len({re.sub(r"\d", "", name) for name in names}) < len(names)
            if alike or len(names) > 3:
                return shared

    return 0


def _common_folders(places: Collection[Parts]) -> int:
    """The number of leading folders that all places have, up to the first that names a person."""
    first = min(places, default=())
    last = max(places, default=())
    for i, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other or PERSON.search(one):
            return i
    return min(len(first), len(last))
