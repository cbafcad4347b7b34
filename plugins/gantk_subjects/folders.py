"""Finds the folder that is a patient's: not a visit's, a contrast's or a data set's, which has numbers too."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from gantk.data.sources.file_names import Parts, numbered
from gantk.formats.contrasts import contrast_in

DATE = r"(?:(?:19|20)\d\d[\W_]?[01]\d[\W_]?[0-3]\d|[0-3]\d-[0-3]\d-(?:19|20)\d\d)"
VISITS = r"(?:sess?|session|visit|tp|time[\W_]?point|baseline|follow[\W_]?up|day|week|month|year)[\W_]?[dmvw]?\d*"
# A folder: `ses-01`, `2020-01-02`, `anat2`; in a name: `007_V1`, `MR_d0129`, `00001-001`, nnU-Net's channel `_0000`.
VISIT = re.compile(rf"(?i)(?:{DATE}|{VISITS}|anat|(?:anat|scan|series|study|exam|run|acq|mr)[\W_]?\d+)[\W\d_]*")
VISIT_WORD = re.compile(
    rf"(?i)(?<![^\W_])(?:{DATE}|{VISITS}|(?:[dmv]|mr)\d+)(?![^\W_])|(?<=\d{{5}})[-_]\d{{2,3}}$|(?<=\d)_000\d$"
)  # noqa: E501
DATED = re.compile(DATE)
# A word for a person with a number, `sub-01`, `Case003`; a folder of several persons: `site2`, `TrainingData`.
PERSON = re.compile(r"(?i)(?<![a-z])(?:(?:subject|subj|sub|patient|pat|pt|case|person)[\W_]*\d+|sub-[a-z0-9]+)")
SEVERAL = re.compile(
    r"(?i)^(?:train|test|val)|(?<![a-z])(?:(?:train(?:ing)?|test(?:ing)?|val|validation)(?:\D*$|[\W_]*data)|dataset"
    r"|(?:site|cent(?:er|re)|hospital|scanner|batch|fold|part|disc|set|group|cohort|task|data)[\W_]*\d*$)"
)


def without_visit(name: str) -> str:
    """A patient's name up to the word of a visit that follows a number: `007` for `007_V1`."""
    visits = (match.start() for match in VISIT_WORD.finditer(name))
    return next((name[:at].rstrip("_-. ") for at in visits if numbered([name[:at]])), name)


def patient_in(name: str) -> str:
    """The patient in the name of a volume: the word for a person and its number, else all but contrasts and visit."""
    person = PERSON.search(name)
    return person[0] if person else without_visit(contrast_in(name, set())[1] or name)


def patient_folders(place: Parts, shared: int = 0) -> str:
    """A patient's folders without those of visits: `siteA/p07` for `siteA/p07_V2` and `siteA/p07/2020-01-02/3`.

    The last of them is the first folder that names a person, else the first numbered one (by more than a contrast)
    that is not named as one of several patients, with a numbered one below; none of the first `shared` ones.
    """
    own, end = _with_patient(place, shared)
    return "/".join(own or place) if end is None else "/".join([*own[:end], without_visit(own[end])])


def patient_name(place: Parts, shared: int = 0) -> str:
    """The numbered ones of a patient's folders, without the `shared` ones; all where none is numbered."""
    whole = patient_folders(place, shared)
    return "/".join(numbered(whole.split("/")[shared:])) or whole


@lru_cache(maxsize=2**16)
def _with_patient(place: Parts, shared: int) -> tuple[Parts, int | None]:
    """The folders without those of visits, and the index of the patient's own, None where no folder is numbered."""
    visits = {i for i, x in enumerate(place) if VISIT.fullmatch(x) or (i > shared and DATED.match(x))}
    own = tuple(x for i, x in enumerate(place) if i < shared or i not in visits)
    ends = [i for i in range(shared, len(own)) if numbered([contrast_in(own[i], set())[1]])]
    alone = (i for i in ends if not SEVERAL.search(own[i]))
    return own, next((i for i in ends if PERSON.search(own[i])), next(alone, ends[-1] if ends else None))


def shared_folders(places: Collection[Parts]) -> int:
    """How many leading folders all places share that are no patient's: numbered ones, alike or many, lie below."""
    ends = min(places, default=()), max(places, default=())
    unlike = (i for i, (x, y) in enumerate(zip(*ends, strict=False)) if x != y or PERSON.search(x))
    for shared in range(next(unlike, min(map(len, ends))), 0, -1):
        found = [_with_patient(place, shared) for place in {*places}]
        names = {own[end] for own, end in found if end is not None}
        alike = len({re.sub(r"\d", "", name) for name in names}) < len(names)
        if (alike or len(names) > 3) and all(end is not None for _, end in found):
            return shared
    return 0
