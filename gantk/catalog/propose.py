"""Lines near the names of a folder, to propose where no layout explains them: nothing here decides.

1. Each part of the paths is written in all ways that it may be: as it is, if all share it; word by
   word; with a contrast anywhere; else as unknown.
2. The unknown parts become patient, site, visit, slice or anything in turn.
3. The lines are tried on some of the images; the best explain most of them with one file a cell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from os.path import commonprefix
from statistics import mode

from gantk.catalog.contrasts import ContrastWords, only
from gantk.catalog.layouts import Reading, pairs_of, read_by, without_suffix
from gantk.catalog.words import DATE, SLICE_WORDS, VERSION, whole
from gantk.formats.files import is_volume, stem_of

UNKNOWN = "?"  # no field yet
MAX_PROPOSALS = 3
MAX_TRIED_IMAGES = 400
MAX_VERSIONS = 3  # folders, of which a line names one


def propose(
    tried: Sequence[Reading],
    paths: Sequence[str],
    left_out: Mapping[str, str],
    contrasts: Sequence[str],
    words: ContrastWords,
) -> list[Reading]:
    """The likeliest readings of images whose names are not clear, at most three, the best first;
    `tried` are readings of layouts.
    """
    images = paths[:: len(paths) // MAX_TRIED_IMAGES + 1]
    saying = [path for path in images if words.said(stem_of(path)) & {*contrasts}]
    lines = [reading.layout for reading in tried if reading.rows]
    for own in filter(None, (images, saying)):
        lines += _lines_of(own, images, words)
    readings = [read_by(line, images, contrasts, words) for line in dict.fromkeys(lines)]
    # of two contrasts or more, all are there
    wanted = {*contrasts} if len(contrasts) > 1 else set()
    readings = [
        each for each in readings if each.rows and wanted <= {row.contrast for row in each.rows}
    ]
    readings.sort(key=lambda reading: -_worth(reading, len(images)))
    different: dict[tuple, str] = {}
    for reading in readings:
        different.setdefault(reading.table(), reading.layout)
    best = [*different.values()][:MAX_PROPOSALS]
    return [read_by(line, paths, contrasts, words, left_out) for line in best]


def _worth(reading: Reading, images: int) -> float:
    """How likely a reading is: it explains many images, in single cells, pairs and several patients."""
    rows = reading.rows
    cells = Counter(row.cell for row in rows)
    single = sum(count for count in cells.values() if count == 1)
    paired = sum(map(len, pairs_of(rows)))
    patients = {row.subject for row in rows}
    has_patients = 1 < len(patients) < len(rows)
    worth = 2 * len(rows) / images + (single + paired) / len(rows) + has_patients
    # of equal ones the line that says more, and says it shorter
    return worth + 0.01 * reading.layout.count("{") - 0.001 * len(reading.layout)


def _lines_of(own: Sequence[str], images: Sequence[str], words: ContrastWords) -> Iterator[str]:
    """Lines of those of some images whose paths have the most common number of folders; a folder is
    written as it is only where all `images` share it.
    """
    depth = mode(path.count("/") for path in own)
    paths = [path for path in own if path.count("/") == depth]
    stems = [*map(without_suffix, paths)]
    suffix = only({path.removeprefix(stem) for path, stem in zip(paths, stems, strict=True)})
    parts = [stem.split("/") for stem in stems]
    columns = [*zip(*parts, strict=True)]
    for place, column in enumerate(columns[:-1]):
        if len({*column}) == 1:  # of one patient, it may be
            columns[place] = tuple(x.split("/")[place] for x in images if x.count("/") > place)
    shapes = [_shapes(column, words) for column in columns]
    for shape in product(*shapes):
        for line in _lines_of_shape("/".join(shape), is_volume(paths[0])):
            # only the last contrast is a field: the file's own name decides
            head, field, tail = line.rpartition("{contrast}")
            yield re.sub(r"\*?{contrast}\*?", "*", head) + field + tail + suffix


def _shapes(column: Sequence[str], words: ContrastWords) -> list[str]:
    """How the folders, or names without suffix, of one depth may be written."""
    values = sorted({*column})
    are_versions = any(whole(VERSION, value) for value in values)
    if len(values) == 1 or len(values) <= MAX_VERSIONS and are_versions:
        return values
    shape = _by_words(column, words)
    if _tell_contrasts(map(words.said, values)):
        return [shape, "*{contrast}*"]
    return [shape] if "{contrast}" in shape else [shape, UNKNOWN]


def _by_words(column: Sequence[str], words: ContrastWords) -> str:
    """How names of most common number of words are written, word by word."""
    known = "|".join(map(re.escape, words.contrast_of))
    # case1t1 is case1 and t1; a date is one word
    between = rf"(?<!\d){DATE}(?!\d)|[-_. ]+|(?<=\d)(?=(?i:{known})$)"
    split_names = [re.split(f"({between})", name) for name in column]
    length = mode(map(len, split_names))
    shape = ""
    columns = [*zip(*(own for own in split_names if len(own) == length), strict=True)]
    for options in map(set, columns):
        start = commonprefix([*options]).rstrip("0123456789")
        if len(options) == 1:
            shape += options.pop()
        elif start.lower() in SLICE_WORDS:
            shape += f"{start}{{slice}}"
        elif _tell_contrasts(map(words.meant, options)):
            shape += "{contrast}"
        else:
            shape += UNKNOWN
    return shape


def _tell_contrasts(said: Iterable[frozenset[str]]) -> bool:
    """Whether texts say one contrast each, and not all the same."""
    contrasts = {*said}
    return len(contrasts) > 1 and all(len(each) == 1 for each in contrasts)


def _lines_of_shape(shape: str, volumes: bool) -> Iterator[str]:
    """The lines of a shape whose unknown parts are the patient, sites before it, and visits, slices or
    anything behind.
    """
    count = shape.count(UNKNOWN)
    if not count:
        yield shape
    stars = ["*"] * count
    for patient in range(count):
        rest = count - patient - 1
        before = ["{site}", *stars][:patient]
        later = [["{visit}", *stars]]
        if not volumes:
            later = [[*stars[1:rest], field] for field in ("{slice}", "{name}")]
        for fields in later:
            yield _put(shape, [*before, "{patient}", *fields[:rest]])
        if not volumes and not rest:  # as 20005 is slice 5 of patient 20
            yield _put(shape, [*before, "{patient}{slice:3}"])
        yield _put(shape, stars[:patient] + ["{patient}"] * (count - patient))


def _put(shape: str, fields: Sequence[str]) -> str:
    """A shape with these fields in place of its unknown parts."""
    parts = shape.split(UNKNOWN)
    return "".join(part + name for part, name in zip(parts, [*fields, ""], strict=True))
