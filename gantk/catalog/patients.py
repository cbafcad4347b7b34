"""Finds the patient of each image in its file name, or in the names of the folders above it.

These folders may also be those of a visit, a contrast or a data set.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import contrast_in, without_gaps
from gantk.catalog.domains import Parts, parts_with_digits
from gantk.catalog.patterns import (
    AROUND_LAST_NUMBER,
    CLASS_WORDS,
    DATE_AND_SERIES,
    DATE_WORD,
    IMAGE_WORDS,
    LAST_NUMBER,
    LAST_WORD,
    NAME_AND_STUDY,
    OUTER_NUMBER,
    OUTER_VISIT,
    PERSON,
    SCANNER_FOLDER,
    SERIES_WORD,
    SEVERAL_PATIENTS,
    SLICE_AT_END,
    SLICE_BEFORE_NUMBER,
    SPLIT_WORD,
    STARTS_WITH_DATE,
    VERSION_FOLDER,
    VISIT_FOLDER,
    VISIT_WORD,
    YEAR_FOLDER,
)
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.errors import UserError

MAX_DIGITS_BESIDE_WORDS = 2  # of a visit in whose folder patients have names without number


def undated(name: str) -> str:
    """A name without its dates; the whole name if nothing else is in it."""
    rest = without_gaps(DATE_AND_SERIES.sub("", name))
    return rest if any(map(str.isalnum, rest)) else name


def dates_of(row: Row) -> list[str]:
    """The days in the folders and the name of an image."""
    dates = DATE_WORD.findall("/".join((*row.place, row.stem)))
    return [date[:8] if date.isdigit() else date for date in dates]


def without_visit(name: str) -> str:
    """A patient's name without the visit: up to its word behind a number, `007` for `007_V1_x`, or
    without the word at its beginning or end, `Meier` for `Meier_baseline`.
    """
    visits = (match.start() for match in VISIT_WORD.finditer(name))
    behind_number = next((at for at in visits if parts_with_digits([name[:at]])), None)
    if behind_number is not None:
        return name[:behind_number].rstrip("_-. ")
    return without_gaps(OUTER_VISIT.sub("", name)) or name


def without_visits(names: Sequence[str]) -> list[str]:
    """Each patient for names of patients and visits, found by comparing all: `p07` for `p07_1` and
    `p07_2`.

    Names that differ only in digits are compared with each other:

    ================================================== ===================== ==========
    rule                                               example               patient
    ================================================== ===================== ==========
    a last word that all names share does not count    `p07_nifti`           `p07`
    the last word is a visit, see below                `p07_1`, `p07_2`      `p07`
    `V1` beside a name without a number is a visit     `Meier_V1`            `Meier`
    a name that continues another patient's name       `p07_FU3`, `p07`      `p07`
    else the name is the patient                       `site1_007`           `site1_007`
    ================================================== ===================== ==========

    The last word is a visit if (1) some patients have several of them, (2) there are at most as many
    different last words as patients, and (3) it has at most as many digits as the number before it,
    or the word before is a word for a person (`sub-01`). Of `V1`, (1) and (2) have to hold: else it
    numbers volunteers (`HC_V01`).
    """
    patient_of = {name: name for name in names} | _without_numbers_of_visits(names)
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


def _without_numbers_of_visits(names: Iterable[str]) -> dict[str, str]:
    """The patients of names with `V1` at their beginning or end, where that is a visit."""
    patient_of = {}
    visits = set()
    for name in names:
        folders, slash, own = name.rpartition("/")
        number = OUTER_NUMBER.search(own)
        rest = without_gaps(OUTER_NUMBER.sub("", own))
        if number and rest and not parts_with_digits([rest]):
            patient_of[name] = folders + slash + rest
            visits.add(number[0].lower())

    patients = set(patient_of.values())
    return patient_of if len(visits) <= len(patients) < len(patient_of) else {}


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
    contrasts, dates, visit and how was scanned; "" if that is nothing.
    """
    person = PERSON.search(name)
    if person:
        return person[0]
    rest = without_series(undated(contrast_in(name, set())[1] or name))
    is_visit = VISIT_FOLDER.fullmatch(rest) or VISIT_WORD.fullmatch(rest)
    return "" if is_visit else without_visit(rest)


def without_series(name: str) -> str:
    """A name without the words that say how was scanned: `Meier` of `Meier_tse_ax`."""
    return without_gaps(SERIES_WORD.sub("", name))


def patient_folders(place: Parts, shared: int = 0) -> str:
    """A patient's folders without those of visits: `siteA/p07` for `siteA/p07_V2` and
    `siteA/p07/2020-01-02/3`.

    The last of these folders is the patient's own. It is the first that exists of

    1. the first folder that names a person,
    2. the first folder with a number (not of a contrast) whose name is not that of several patients,
    3. the last folder with a number.

    The first `shared` folders are not considered.
    """
    own, end = _with_patient(place, shared)
    if end is None:
        return "/".join(own or map(undated, place))
    return "/".join([*own[:end], without_visit(own[end])])


def patient_name(place: Parts, shared: int = 0) -> str:
    """Those of a patient's folders that have numbers, without the `shared` ones; all folders if no
    folder has a number.
    """
    whole = patient_folders(place, shared)
    return "/".join(parts_with_digits(whole.split("/")[shared:])) or whole


@lru_cache(maxsize=2**16)
def _is_no_patient(folder: str) -> bool:
    """Whether a folder is named after a visit, a version of the images or a scanner."""
    return any(each.fullmatch(folder) for each in (VISIT_FOLDER, VERSION_FOLDER, SCANNER_FOLDER))


@lru_cache(maxsize=2**16)
def _with_patient(place: Parts, shared: int) -> tuple[Parts, int | None]:
    """The folders without visits and versions, and the index of the patient's own, None where no
    folder is numbered.
    """
    own = []
    for i, folder in enumerate(place):
        is_visit = _is_no_patient(folder) or (i > shared and STARTS_WITH_DATE.match(folder))
        if i < shared or not is_visit:
            own.append(undated(folder))

    candidates = []
    for i in range(shared, len(own)):
        without_contrast = contrast_in(own[i], set())[1]
        if parts_with_digits([without_contrast]):
            candidates.append(i)

    persons = [i for i in candidates if PERSON.search(own[i])]
    single = [i for i in candidates if not SEVERAL_PATIENTS.search(own[i])]
    likeliest = [*persons[:1], *single[:1], *candidates[-1:]]
    return tuple(own), likeliest[0] if likeliest else None


def patient_places(place: Parts) -> tuple[Parts, bool]:
    """The folders without those of visits, and whether one of them is a single patient's by its
    number.
    """
    own, patient = _with_patient(place, 0)
    return own, patient is not None and not SEVERAL_PATIENTS.search(own[patient])


def shared_folders(places: Collection[Parts]) -> int:
    """How many leading folders all places share that are not a patient's: below them are folders
    with numbers, similar ones or more than three.
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


def visits_or_patients(rows: Sequence[Row]) -> tuple[list[UserError], list[str]]:
    """The doubt about folders with numbers that may be visits, sites or patients (`2019/001`,
    `2020/001`): most names in them recur in others, and are not fewer; and as of
    `_visits_of_people` and `_words_behind_people`. Of words (`early/001`, `Berlin/001`) a note on the reading.
    """
    found = {}
    for row in rows:
        parts = _possible_patients(row)
        if row.contrast == rows[0].contrast:  # others are other series
            *above, last = parts or ("",)
            found["/".join(above), last] = row

    folders = {folder for folder, _ in found}
    names = Counter(name for _, name in found)
    most_recur = 2 * len(found) > len(folders) * len(names)
    # a patient's number has as many digits as a visit's; names of people have none
    digits = _digits(names) or MAX_DIGITS_BESIDE_WORDS
    unclear = any(_may_be_visit(folder, digits) for folder in folders)
    if not (most_recur and 2 <= len(folders) <= len(names)):
        people = _visits_of_people(found, most_recur and len(names) < len(folders))
        return people or _words_behind_people(rows), []

    name = names.most_common(1)[0][0]
    first, other = sorted("/".join(filter(None, each)) for each in found if each[1] == name)[:2]
    example = next(row for (_, last), row in found.items() if last == name)
    end = _pattern_behind(name, example)
    if not unclear:
        one = f"--set data.source.patient='([^/_.]+){end}'"
        return [], [f"'{first}' and '{other}' are read as two patients. If they are one: {one}"]
    which = f"{first}' and '{other}"
    return [_doubt(which, f"([^/_.]+){end}", f"([^/]+/[^/_.]+){end}")], []


def _visits_of_people(found: Mapping[tuple[str, str], Row], few: bool) -> list[UserError]:
    """The doubt about numbers behind names that several share: long ones, which may be of studies
    (`Meier/7001234`, `Meier/ACC7001290`), and with `few` of many names any folder (`Meier/1`). Names
    that share more than two on average are sites.
    """
    numbers: dict[str, dict[str, Row]] = defaultdict(dict)
    for (above, last), row in found.items():
        named = NAME_AND_STUDY.fullmatch("/".join(filter(None, (above, last))))
        is_visit = few and last in row.place and not parts_with_digits([above])
        if PERSON.search(last) or not (named or is_visit or not parts_with_digits([above, last])):
            return []
        if named:
            numbers[named[1]][named[2]] = row
        elif parts_with_digits([last]):
            numbers[above][last] = row

    several = [name for name, own in numbers.items() if len(own) > 1]
    if not several or 2 * len(numbers) < sum(map(len, numbers.values())):
        return []
    name = several[0]
    first, other = sorted(numbers[name])[:2]
    end = _pattern_behind(first, numbers[name][first])
    one, two = NAME_AND_STUDY.pattern, r"([^/]+_[A-Za-z]{0,4}\d{5,})"
    if any(above == name for above, _ in found):
        one, two = f"([^/]+)/{end}", f"([^/]+/[^/_.]+){end}"
    return [_doubt(f"{first}' and '{other}' of '{name}", one, two)]


def _words_behind_people(rows: Sequence[Row]) -> list[UserError]:
    """The doubt about last words of names without numbers, where each name has each of them
    (`Meier_before`, `Meier_x`, `Adam_before`, `Adam_x`).
    """
    names = set()
    for row in rows:
        if parts_with_digits([*row.place, undated(row.stem)]) or not row.is_volume:
            return []
        names.add(patient_in(row.stem))

    ends = {name: end.start() for name in names if (end := LAST_WORD.search(name))}
    people = {name[:end] for name, end in ends.items()}
    words = sorted({name[end:] for name, end in ends.items()})
    if not len(people) * len(words) == len(names) > max(len(people), len(words)):
        return []
    person = min(people)
    either = "|".join(map(re.escape, words))
    which = f"{person}{words[0]}' and '{person}{words[1]}"
    return [_doubt(which, f"([^/]+)(?:{either})", f"([^/]+(?:{either}))")]


def _doubt(which: str, one: str, two: str) -> UserError:
    """The question whether images are of one patient or of two, with the pattern of each answer."""
    what = (
        f"'{which}' may be two visits of one patient, or two patients. One person may then be in"
        " training and test, and scores too good"
    )
    remedy = (
        f"say which with --set data.source.patient='{one}' (one patient), or '{two}' (two), or"
        f" another REGEX. {FILL_IN_TABLE}"
    )
    return UserError(what, where="data.source.patient", remedy=remedy)


def _possible_patients(row: Row) -> list[str]:
    """The folders of an image, and the name of a volume, up to the last that is no visit, series or
    slice.
    """
    name = undated(row.stem) if row.is_volume else ""
    parts = [*patient_places(row.place)[0], *parts_with_digits([name])]
    parts = list(filter(without_series, parts))
    no_patient = (VISIT_FOLDER, VISIT_WORD, SLICE_AT_END)
    while parts and any(each.fullmatch(parts[-1]) for each in no_patient):
        parts.pop()
    return parts


def _pattern_behind(name: str, row: Row) -> str:
    """The pattern of what follows a name in the path of an image, to its end."""
    parts = row.scan.path.parts[::-1]
    of_name = [n for n, part in enumerate(parts) if name in part]
    behind = parts.index(name) if name in parts else next(iter(of_name), 0)
    return "[^/]*" + "/[^/]*" * behind + "$"


def _may_be_visit(folder: str, digits: int) -> bool:
    """Whether a folder has a number, of at most so many digits or a year, and is not called a person
    or a site.
    """
    last = folder.rpartition("/")[2]
    if YEAR_FOLDER.fullmatch(last):
        return True
    is_named = PERSON.search(last) or SEVERAL_PATIENTS.search(last)
    return bool(parts_with_digits([last])) and not is_named and _digits([last]) <= digits


# --- in the names of files

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
        f"the file names may contain patients: '{first}' would be of patient '{patients[0]}',"
        f" '{other}' of '{patients[1]}' ({len(patients)} patients in all). If patients are not"
        " known, slices of one patient may be in training and test, and scores too good"
    )
    remedy = (
        "if this is right, use --set data.source.patient=names. If the patient is another part of"
        " the name, use --set data.source.patient=REGEX. If the names contain no patients, use"
        f' --set data.split.by=block (or "image"). {FILL_IN_TABLE}'
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


def _by_word(rows: Sequence[Row]) -> Reading | None:
    """Patients by the word before a running number, as in `kirby_102` and `tcga6692_060`; never sure.

    None unless two such words have several images each within one domain, class and folder: there
    they do not tell these apart.
    """
    patients = []
    counts: dict[tuple, Counter[str]] = defaultdict(Counter)
    for row in rows:
        match = AROUND_LAST_NUMBER.match(row.stem)
        before = SLICE_BEFORE_NUMBER.sub("", match[1]) if match else ""
        patients.append(before or row.stem)
        word = re.sub(r"[\W_]", "", before).lower()
        is_split = SPLIT_WORD.match(before) is not None
        if len(word) > 1 and word not in CLASS_WORDS | IMAGE_WORDS and not is_split:
            counts[row.contrast, row.label, row.place][before] += 1

    for own in counts.values():
        if sum(count > 1 for count in own.values()) > 1:
            return Reading(patients, False)
    return None


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


def patients_in_names(rows: Sequence[Row]) -> Reading | None:
    """The patients of pictures, read from their files' names; None where the names have none."""
    return reading_of([row.stem for row in rows]) or _by_word(rows)


def patients_of_volumes(rows: Sequence[Row]) -> list[str]:
    """The patient of each volume, by its own name without its folders; "" where names tell no
    patients.
    """
    names = without_visits([patient_in(replace(row, place=()).name) for row in rows])
    return [""] * len(names) if _are_series(rows, names) else names


def _are_series(rows: Sequence[Row], names: Sequence[str]) -> bool:
    """Whether names tell series, as in `2020-01-02/3_T1_ax` and `2020-01-02/4_T2_tse`: each is of one
    contrast, but most dates are of several.
    """
    of_name: dict[str, set[str]] = defaultdict(set)
    of_date: dict[str, set[str]] = defaultdict(set)
    for row, name in zip(rows, names, strict=True):
        of_name[name].add(row.contrast)
        for date in dates_of(row):
            of_date[date].add(row.contrast)

    shared = sum(len(own) > 1 for own in of_date.values())
    one_each = all(len(own) == 1 for own in of_name.values())
    return one_each and len(of_name) <= len(of_date) < 2 * shared


def patients_of(places: Iterable[Parts], whole: bool = True) -> dict[Parts, str]:
    """The patient of each place: its folders, or, unless `whole`, the numbered one."""
    unique = list(dict.fromkeys(places))
    shared = shared_folders(unique)
    patient_of = patient_folders if whole else patient_name
    patients = without_visits([patient_of(place, shared) for place in unique])
    return dict(zip(unique, patients, strict=True))
