"""Lines near the names of a folder, to propose where no layout explains them: nothing here decides.

1. Each part of the paths is written in all ways that it may be: as it is, if all share it; with the
   fields of typed words; else as unknown.
2. The unknown parts become patient, site, visit, slice or anything in turn.
3. The lines are tried on some of the images; the best explain most of them with one file a cell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations, product

from gantk.catalog.contrasts import ContrastWords, one_word
from gantk.catalog.layouts import LOOSE, Reading, Unclear, compile_layout, read_by
from gantk.catalog.words import SITE, SPLIT, VERSION, VISIT, are_channels, whole
from gantk.formats.files import is_volume, stem_of, suffix_of

UNKNOWN = "?"  # no field yet
MAX_PROPOSALS = 3
MAX_UNKNOWN = 5  # parts of a path
MAX_LINES = 400
MAX_TRIED_IMAGES = 400
MAX_NAMED_CONTRASTS = 5  # that one field may hold, where no name says a contrast
ONE_OF_FEW = 3  # folders that may be versions


def propose(unclear: Unclear, contrasts: Sequence[str], words: ContrastWords) -> list[Reading]:
    """The likeliest readings of images whose names are not clear, at most three, the best first."""
    images = unclear.images[:: len(unclear.images) // MAX_TRIED_IMAGES + 1]
    saying = [path for path in images if words.said(stem_of(path)) & {*contrasts}]
    near = [reading.layout for reading in unclear.readings if reading.entries]
    lines = dict.fromkeys([*near, *_lines_of(images, words), *_lines_of(saying, words)])
    readings = []
    for line in lines:
        reading = read_by(line, images, contrasts, words)
        if _has_all(reading, contrasts):
            readings.append(reading)
    is_said = any("{contrast}" in reading.layout for reading in readings)
    are_numbered = not is_said and is_volume(images[0]) and are_channels(images)
    if are_numbered or (not readings and len(contrasts) > 1):
        readings = [*_of_unnamed_contrasts(lines, images, contrasts)]

    different: dict[tuple, Reading] = {}
    readings.sort(key=lambda reading: -_worth(reading, len(images)))
    for reading in readings:
        different.setdefault(reading.table(), reading)
    best = [*different.values()][:MAX_PROPOSALS]
    return [_of_all(reading, unclear, contrasts, words) for reading in best]


def _has_all(reading: Reading, contrasts: Sequence[str]) -> bool:
    there = {entry.contrast for entry in reading.entries}
    return bool(there) and (len(contrasts) < 2 or there >= {*contrasts})


def _of_all(
    reading: Reading, unclear: Unclear, contrasts: Sequence[str], words: ContrastWords
) -> Reading:
    """A reading of some images as that of all of them, with what is left out."""
    paths = [*unclear.images, *unclear.left_out]
    own = reading.words or words
    found = read_by(reading.layout, paths, contrasts, own)
    found.settings = reading.settings
    return found


def _of_unnamed_contrasts(
    lines: Iterable[str], images: Sequence[str], contrasts: Sequence[str]
) -> Iterator[Reading]:
    """Readings where no name says a contrast: a field of few values may be it, in any order."""
    nothing = ContrastWords()
    if not contrasts:
        return
    for line, name in product(lines, ("visit", "slice", "name", "patient", "site")):
        if line.count(f"{{{name}}}") != 1 or "{contrast}" in line:
            continue
        if name == "patient" and re.search("{(?:site|visit)}", line):  # neither is a patient
            continue
        pattern = compile_layout(line.removesuffix(suffix_of(line)), nothing, LOOSE)
        matches = [pattern.fullmatch(path[: len(path) - len(suffix_of(path))]) for path in images]
        values = sorted({match[name] for match in matches if match})
        if not len(contrasts) <= len(values) <= MAX_NAMED_CONTRASTS or any(
            map(nothing.said, values)
        ):
            continue
        for chosen in permutations(values, len(contrasts)):
            value_of = dict(zip(contrasts, chosen, strict=True))
            own = {contrast: [one_word(value)] for contrast, value in value_of.items()}
            words = ContrastWords(contrasts, own)
            reading = read_by(line.replace(f"{{{name}}}", "{contrast}"), images, contrasts, words)
            reading.words = words
            reading.settings = tuple(
                f'data.words.{contrast}=["{value}"]' for contrast, value in value_of.items()
            )
            # of few images, these are the values of another field
            if 2 * len(reading.entries) >= len(images):
                yield reading


def _worth(reading: Reading, images: int) -> float:
    """How likely a reading is: it explains many images, in single cells, pairs and several patients."""
    entries = reading.entries
    cells = Counter(entry.cell for entry in entries)
    single = sum(count for count in cells.values() if count == 1)
    paired = sum(map(len, reading.pairs()))
    people = len({entry.patient for entry in entries})
    has_patients = 1 < people < len(entries)
    worth = 2 * len(entries) / images + (single + paired) / len(entries) + has_patients
    if reading.layout == "{class}/{name}":
        worth += 1.2
    # of equal ones the line that says more, and says it shorter
    return worth + 0.01 * reading.layout.count("{") - 0.001 * len(reading.layout)


def _lines_of(images: Sequence[str], words: ContrastWords) -> Iterator[str]:
    """Lines of the paths with most common number of folders."""
    depths = Counter(path.count("/") for path in images)
    for depth, _ in depths.most_common(2):
        own = [path for path in images if path.count("/") == depth]
        volumes = is_volume(own[0])
        parts = [path[: len(path) - len(suffix_of(path))].split("/") for path in own]
        columns = zip(*parts, strict=True)
        shapes = []
        for place, column in enumerate(columns):
            shapes.append(
                _names(column, words, volumes) if place == depth else _folders(column, words)
            )
        suffixes = {path[len(path) - len(suffix_of(path)) :] for path in images}
        suffix = suffixes.pop() if len(suffixes) == 1 else ""
        lines = [
            line for parts in product(*shapes) for line in _lines_of_shape("/".join(parts), volumes)
        ]
        yield from (_with_one_contrast(line) + suffix for line in lines[:MAX_LINES])


def _with_one_contrast(line: str) -> str:
    """A line in which only the last contrast is a field: the file's own name decides."""
    head, field, tail = line.rpartition("{contrast}")
    if not field:
        return line
    return re.sub(r"\*{2,}", "*", head.replace("{contrast}", "*") + field + tail)


def _folders(column: Sequence[str], words: ContrastWords) -> list[str]:
    """How the folders of one depth may be written."""
    values = {*column}
    if len(values) == 1:
        return [column[0]]
    if len(values) <= ONE_OF_FEW and any(whole(VERSION, value) for value in values):
        return sorted(values)
    for kind, name in ((SPLIT, "split"), (VISIT, "visit"), (SITE, "site")):
        if all(whole(kind, value) for value in values):
            return [f"{{{name}}}", UNKNOWN] if kind == VISIT else [f"{{{name}}}"]
    shapes = _by_words(column, words)
    says = {words.said(value) for value in values}
    tells_contrasts = len(says) > 1 and all(len(said) == 1 for said in says)
    if tells_contrasts:
        shapes.append("*{contrast}*")
    if not any("{contrast}" in shape for shape in shapes):
        shapes.append(UNKNOWN)
    if len(values) <= ONE_OF_FEW:
        shapes += sorted(values)
    return list(dict.fromkeys(shapes))


def _names(column: Sequence[str], words: ContrastWords, volumes: bool) -> list[str]:
    """How the names of files may be written, without their suffixes."""
    shapes = _by_words(column, words)
    if all(len(words.said(value)) == 1 for value in column):
        shapes.append("*{contrast}*")
    before = {_separator_before_contrast(value, words) for value in column}
    if all(before):
        shapes.append(f"{UNKNOWN}{min(before)}{{contrast}}*")
    if "{contrast}" not in "".join(shapes):
        shapes.append(UNKNOWN)
    if not volumes and all(re.search(r"\d{4,}$", value) for value in column):
        shapes += [f"{UNKNOWN}{{slice:3}}", f"{UNKNOWN}{{slice:2}}"]
    return list(dict.fromkeys(shapes))


def _by_words(column: Sequence[str], words: ContrastWords) -> list[str]:
    """How names of most common number of words may be written, word by word; [] for one unknown."""
    split_names = [re.split(r"([-_. ]+)", value) for value in column]
    length = Counter(map(len, split_names)).most_common(1)[0][0]
    shape = ""
    for place in zip(*(own for own in split_names if len(own) == length), strict=True):
        options = {*place}
        says = [words.meant(word) for word in place]
        if len(options) == 1:
            shape += place[0]
        elif all(len(said) == 1 for said in says) and len({*says}) > 1:
            shape += "{contrast}"
        elif all(whole(VISIT, word) for word in options):
            shape += "{visit}"
        else:
            shape += _glued_to_contrast(place, words) or UNKNOWN
    return [shape] if shape != UNKNOWN else []


def _glued_to_contrast(place: Sequence[str], words: ContrastWords) -> str:
    """`case?{contrast}` for case1t1 and case1t2."""
    known = "|".join(map(re.escape, words.contrast_of))
    matches = [re.fullmatch(rf"(?i)([a-z]+)\d+(?:{known})", word) for word in place]
    begins = {match[1] if match else "" for match in matches}
    return f"{begins.pop()}{UNKNOWN}{{contrast}}" if len(begins) == 1 and all(matches) else ""


def _separator_before_contrast(text: str, words: ContrastWords) -> str:
    known = "|".join(map(re.escape, words.contrast_of))
    match = re.search(rf"(?i).([-_. ])(?:{known})(?![a-z0-9])", text)
    return match[1] if match else ""


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
        line = _put(shape, ["*"] * (count - 1) + ["{name}"])
        yield line
        if shape == f"{UNKNOWN}/{UNKNOWN}":
            yield "{class}/{name}"


def _put(shape: str, fields: Sequence[str]) -> str:
    """A shape with these fields in place of its unknown parts."""
    parts = shape.split(UNKNOWN)
    return "".join(part + name for part, name in zip(parts, [*fields, ""], strict=True))
