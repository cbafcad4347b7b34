"""Lines near the names of a folder, to propose where no layout explains them: nothing here decides.

1. Each part of the paths is written in all ways that it may be: as it is, if all share it; with the
   fields of typed words; else as unknown.
2. The unknown parts become patient, site, visit, slice or anything in turn.
3. The lines are tried on some of the images; the best explain most of them with one file a cell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from gantk.catalog.contrasts import ContrastWords
from gantk.catalog.layouts import Reading, pairs_of, read_by
from gantk.catalog.words import (
    DATE,
    SITE,
    SLICE_WORDS,
    SPLIT,
    VERSION,
    VISIT,
    are_channels,
    whole,
)
from gantk.formats.files import is_volume, stem_of, suffix_of

UNKNOWN = "?"  # no field yet
MAX_PROPOSALS = 3
MAX_UNKNOWN = 5  # parts of a path
MAX_LINES = 400
MAX_TRIED_IMAGES = 400
ONE_OF_FEW = 3  # folders that may be versions
TYPED = [(SPLIT, ["{split}"]), (SITE, ["{site}"]), (VISIT, ["{visit}", UNKNOWN])]


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
    near = [reading.layout for reading in tried if reading.rows]
    lines = dict.fromkeys([*near, *_lines_of(images, words), *_lines_of(saying, words)])
    readings = [read_by(line, images, contrasts, words) for line in lines]
    readings = [reading for reading in readings if _has_all(reading, contrasts)]
    if are_channels(images):  # each is another contrast
        readings = [reading for reading in readings if "{contrast}" in reading.layout]

    different: dict[tuple, Reading] = {}
    readings.sort(key=lambda reading: -_worth(reading, len(images)))
    for reading in readings:
        different.setdefault(reading.table(), reading)
    best = [*different.values()][:MAX_PROPOSALS]
    found = []
    for reading in best:
        # a folder that has the name of its patient is no site
        named = reading.layout.replace("{site}", "{patient}")
        whole_readings = [
            read_by(line, paths, contrasts, words, left_out)
            for line in dict.fromkeys([named, reading.layout])
        ]
        found.append(max(whole_readings, key=lambda each: len(each.rows)))
    return found


def _has_all(reading: Reading, contrasts: Sequence[str]) -> bool:
    there = {row.contrast for row in reading.rows}
    return bool(there) and (len(contrasts) < 2 or there >= {*contrasts})


def _worth(reading: Reading, images: int) -> float:
    """How likely a reading is: it explains many images, in single cells, pairs and several patients."""
    rows = reading.rows
    cells = Counter(row.cell for row in rows)
    single = sum(count for count in cells.values() if count == 1)
    paired = sum(map(len, pairs_of(rows)))
    patients = {row.subject for row in rows}
    # a date may be all that is known of a patient, but anything else is likelier
    dates = [each for each in patients if whole(DATE, each.rpartition("/")[2])]
    has_patients = 1 < len(patients) < len(rows) and 2 * len(dates) < len(patients)
    worth = 2 * len(rows) / images + (single + paired) / len(rows) + has_patients
    if reading.layout == "{class}/{name}":
        worth += 1.2
    # of equal ones the line that says more, and says it shorter
    return worth + 0.01 * reading.layout.count("{") - 0.001 * len(reading.layout)


def _lines_of(images: Sequence[str], words: ContrastWords) -> Iterator[str]:
    """Lines of the paths with most common number of folders."""
    depths = Counter(path.count("/") for path in images)
    for depth, _ in depths.most_common(2):
        yield from _lines_of_depth([path for path in images if path.count("/") == depth], words)


def _lines_of_depth(paths: Sequence[str], words: ContrastWords) -> Iterator[str]:
    """Lines of paths with as many folders each."""
    volumes = is_volume(paths[0])
    suffixes = {suffix_of(path): path[len(path) - len(suffix_of(path)) :] for path in paths}
    parts = [path[: len(path) - len(suffix_of(path))].split("/") for path in paths]
    shapes = [_shapes(column, words) for column in zip(*parts, strict=True)]
    if not volumes and all(re.search(r"\d{4,}$", names[-1]) for names in parts):
        shapes[-1] += [f"{UNKNOWN}{{slice:3}}", f"{UNKNOWN}{{slice:2}}"]
    lines = [line for each in product(*shapes) for line in _lines_of_shape("/".join(each), volumes)]
    suffix = [*suffixes.values()][0] if len(suffixes) == 1 else ""
    yield from (_with_one_contrast(line) + suffix for line in lines[:MAX_LINES])


def _with_one_contrast(line: str) -> str:
    """A line in which only the last contrast is a field: the file's own name decides."""
    head, field, tail = line.rpartition("{contrast}")
    if not field:
        return line
    return re.sub(r"\*{2,}", "*", head.replace("{contrast}", "*") + field + tail)


def _shapes(column: Sequence[str], words: ContrastWords) -> list[str]:
    """How the folders, or names without suffix, of one depth may be written."""
    values = sorted({*column})
    are_versions = any(whole(VERSION, value) for value in values)
    if len(values) == 1 or len(values) <= ONE_OF_FEW and are_versions:
        return values
    for kind, shapes in TYPED:
        if all(whole(kind, value) for value in values):
            return [*shapes]
    shapes = _by_words(column, words)
    says = [words.said(value) for value in values]
    if len({*says}) > 1 and all(len(said) == 1 for said in says):
        shapes.append("*{contrast}*")
    shapes += _before_contrast(values, words)
    if not any("{contrast}" in shape for shape in shapes):
        shapes.append(UNKNOWN)
    if len(values) <= ONE_OF_FEW:
        shapes += values
    return list(dict.fromkeys(shapes))


def _before_contrast(values: Sequence[str], words: ContrastWords) -> list[str]:
    """The shape of names in which one separator stands before the contrast; [] of others."""
    known = "|".join(map(re.escape, words.contrast_of))
    before = [re.match(rf"(?i).+?([-_. ])(?:{known})(?![a-z0-9])", value) for value in values]
    separators = {match[1] if match else "" for match in before}
    if len(separators) == 1 and all(separators):
        return [f"{UNKNOWN}{separators.pop()}{{contrast}}*"]
    return []


def _by_words(column: Sequence[str], words: ContrastWords) -> list[str]:
    """How names of most common number of words may be written, word by word; [] for one unknown."""
    known = "|".join(map(re.escape, words.contrast_of))
    # case1t1 is case1 and t1; a date is one word
    between = rf"(?<!\d){DATE}(?!\d)|[-_. ]+|(?<=\d)(?=(?i:{known})$)"
    split_names = [re.split(f"({between})", name) for name in column]
    length = Counter(map(len, split_names)).most_common(1)[0][0]
    shape = ""
    columns = [*zip(*(own for own in split_names if len(own) == length), strict=True)]
    for place, following in zip(columns, [*columns[1:], ("end",)], strict=True):
        options = {*place}
        says = {words.meant(word) for word in options}
        start = _common_start(options)
        if len(options) == 1:
            shape += place[0]
        elif len(says) > 1 and all(len(said) == 1 for said in says):
            shape += "{contrast}"
        elif all(whole(VISIT, word) for word in options):
            shape += "{visit}"
        elif start.lower() in SLICE_WORDS:
            shape += f"{start}{{slice}}"
        else:
            shape += UNKNOWN if any(following) else f"{start}{UNKNOWN}"
    # a date may be all that is known of a patient
    shapes = dict.fromkeys([shape, shape.replace("{visit}", UNKNOWN)])
    return [each for each in shapes if each != UNKNOWN]


def _common_start(options: set[str]) -> str:
    """`case` of case1 and case2."""
    starts = {re.sub(r"[^a-zA-Z].*", "", word) for word in options}
    return starts.pop() if len(starts) == 1 else ""


def _lines_of_shape(shape: str, volumes: bool) -> Iterator[str]:
    """The lines of a shape whose unknown parts are the patient, sites before it, and visits, slices or
    anything behind.
    """
    count = shape.count(UNKNOWN)
    if count > MAX_UNKNOWN:
        return
    if not count:
        yield shape
    for patient in range(count):
        before = (["{site}"] + ["*"] * (patient - 1)) if patient else []
        if patient == count - 1 > 0:
            yield _put(shape, ["{visit}", *["*"] * (patient - 1), "{patient}"])
        rest = count - patient - 1
        for later in ("{visit}", "*") if volumes else ("{slice}", "{name}", "*"):
            after = ["*"] * rest
            if rest and later != "*":
                after = [later, *after[1:]] if volumes else [*after[1:], later]
            yield _put(shape, [*before, "{patient}", *after])
        yield _put(shape, ["*"] * patient + ["{patient}"] * (count - patient))
    if count and not volumes:
        yield _put(shape, ["*"] * (count - 1) + ["{name}"])
        if shape == f"{UNKNOWN}/{UNKNOWN}":
            yield "{class}/{name}"


def _put(shape: str, fields: Sequence[str]) -> str:
    """A shape with these fields in place of its unknown parts."""
    parts = shape.split(UNKNOWN)
    return "".join(part + name for part, name in zip(parts, [*fields, ""], strict=True))
