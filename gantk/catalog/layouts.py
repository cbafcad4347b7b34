"""Layouts: which file is whose and shows what, by a line with fields that explains every image of a
folder. Read `read` first; `doubts` says when a line that explains them is not certain, and `propose`
finds lines for a folder that none of ours explains.

| field | by itself | in a line that somebody gave |
|---|---|---|
| `{contrast}` | a text that says one contrast; `*` around it: any text | the same |
| `{patient}` | any text that is no visit, split, site or contrast | any text |
| `{person}` | a word for a person: `sub-01`, `p7`, `case 3` | the same |
| `{visit}` | a date, or a word of a visit: `ses-1`, `baseline` | any text |
| `{site}` | `site1`, `center2`, `fold0`; it is part of the patient | any text |
| `{split}` | train, validation, test | the same |
| `{slice}`, `{slice:3}` | a number; the last three digits | the same |
| `{running}` | numbers of pictures of nobody known | any text |
| `{name}`, `{class}` | any text: of an image, of its class | the same |
| `[...]`, `*` | optional; any text within a part of the path | the same |
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from gantk.catalog.catalog import Catalog, Row, compose_text
from gantk.catalog.contrasts import ContrastWords, one_word, only, words_of
from gantk.catalog.doubts import CHANNELS_WITHOUT_NAMES, doubt_about_names, doubt_about_table
from gantk.catalog.words import (
    CLASS,
    PERSON,
    PLACE,
    SERIES_WORDS,
    SITE,
    SLICE_WORDS,
    SPLIT,
    VISIT,
    are_channels,
    day_of,
    patient_and_visit,
    split_named,
    take_split,
    visit_words,
    whole,
)
from gantk.errors import UserError
from gantk.formats.files import formats, is_volume, suffix_of
from gantk.formats.image import Scan
from gantk.plugin.layout import Layout
from gantk.plugin.loader import registry

ANY_TEXT = r"[^/]+?"
LOOSE = {
    "person": rf"(?i:{PERSON})",
    "split": rf"(?i:{SPLIT})",
    "slice": r"\d+",
    "ab": r"(?i:\w*[-_ ]?)(?:A|B)",
}
STRICT = LOOSE | {
    "patient": rf"(?!(?i:{VISIT}|{SPLIT}|{PLACE}|{CLASS}|slice[-_ ]?\d+|[AB])(?:/|$))[^/]+?",
    "visit": rf"(?i:{VISIT})",
    "site": rf"(?i:{SITE})",
    "slice": rf"(?i:{'|'.join(SLICE_WORDS)}|s)?[-_ ]?\d+",
    "class": r"[^/\d]+?",
    "yesno": rf"(?i:{CLASS})",
    "picture": r"[^\d/]*\d{0,5}[^\d/]*",  # one number at most, which is no patient and slice
}
FIELDS = ("class", "contrast", "name", "patient", "site", "slice", "split", "visit")
TOKENS = re.compile(r"\*?\{contrast\}\*?|\{\w+(?::\d+)?\}|\*\*/|[*\[\]_]|[^*\[\]{}_]+|[{}]")
SIGNS = {"*": "[^/]*?", "**/": "(?:.*/)?", "[": "(?:", "]": ")?"}
MAX_PATTERN_CHARACTERS = 1000
MAX_UNEXPLAINED_IMAGES = 10  # images at which a line is given up
OTHER_FORM = "of another form"
CONTRASTS_ALONE = "contrasts in names"  # as a layout


@dataclass
class Reading:
    """What a layout says of the images of a folder.

    Attributes:
        layout: the line, or what else states it.
        rows: the images of the contrasts that are asked for; a scan's `name` is its path below the
            folder.
        others: the images of other contrasts.
        left_out: path -> what it is, of the images that are not read.
        doubt: why this reading is not taken without a question.
        letters: text -> contrast, where a letter says it, as in seqA and seqB.
    """

    layout: str
    rows: list[Row] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    doubt: str = ""
    letters: dict[str, str] = field(default_factory=dict)

    def of_contrasts(self, contrasts: Sequence[str]) -> Reading:
        """The reading with the images of other contrasts apart; of no `contrasts`, all are used."""
        if contrasts:
            self.others += [row for row in self.rows if row.contrast not in contrasts]
            self.rows = [row for row in self.rows if row.contrast in contrasts]
        return self

    def why_left_out(self) -> list[str]:
        """What each image is that is not used, of others their contrast."""
        return [*self.left_out.values(), *(row.contrast for row in self.others)]

    def table(self) -> tuple:
        """What makes two readings the same: contrasts, splits and classes of the files, and which
        are of one patient and of one pair.
        """
        people = defaultdict(set)
        for row in self.rows:
            if row.subject:
                people[row.subject].add(row.scan.name)
        return (
            frozenset((row.scan.name, row.contrast, row.split, row.label) for row in self.rows),
            frozenset(map(frozenset, people.values())),
            frozenset(frozenset(row.scan.name for row in own) for own in pairs_of(self.rows)),
        )


def pairs_of(rows: Iterable[Row]) -> list[list[Row]]:
    """The images of each anatomy that has one image of several contrasts each."""
    found = defaultdict(list)
    for row in rows:
        if row.anatomy:
            found[row.anatomy].append(row)
    return [own for own in found.values() if 1 < len({row.contrast for row in own}) == len(own)]


@dataclass
class Unclear:
    """The images of a folder whose reading has to be asked.

    Attributes:
        why: what was seen, in a sentence.
        readings: readings that were tried and doubted, the likeliest first.
    """

    why: str
    readings: list[Reading]


@dataclass(frozen=True)
class NamedImage:
    """An image to explain: its scan, and what of its path lines are compared with."""

    scan: Scan
    text: str
    split: str = ""


def layouts() -> dict[str, Layout]:
    """All registered layouts by name; those of data sets first."""
    found = {
        entry.name: entry.target
        for entry in registry().of_kind("layout")
        if isinstance(entry.target, Layout)
    }
    return dict(sorted(found.items(), key=lambda item: item[1].general))


def layout_name(catalog: Catalog) -> str:
    """What a recipe calls the layout that was found for a catalog, so that nothing asks again: its
    name, or the line; "" where it has none.
    """
    line = catalog.layout
    known = {layout.pattern: name for name, layout in layouts().items()}
    return known.get(line, line if "{" in line and "|" not in line else "")


def read(
    images: Sequence[str],
    contrasts: Sequence[str],
    words: ContrastWords,
) -> Reading | Unclear:
    """The only reading of images by their paths below a folder, of volumes or of pictures; else what
    is to be asked.

    1. A layout of a data set that explains all, letter by letter, applies.
    2. Else one of the general layouts that explain all applies, if they all give the same table.

    `contrasts`: the recipe's, all of which must be found; those of `words` are recognised.
    """
    kinds = ("any", "volumes" if any(map(is_volume, images)) else "pictures")
    tried: list[Reading] = []
    for general in (False, True):
        lines = [
            layout
            for layout in layouts().values()
            if layout.general == general
            and layout.of in kinds
            and (not layout.one_domain or len(contrasts) == 1)
        ]
        readings = _readings_of(lines, images, contrasts, words)
        certain = {reading.table(): reading for reading in reversed(readings) if not reading.doubt}
        if len(certain) == 1:
            return next(iter(certain.values()))
        if certain:
            return Unclear(f"can be read in {len(certain)} ways", [*certain.values()])
        tried += readings

    tried = [reading for reading in tried if reading.rows]
    tried.sort(key=lambda reading: len(reading.left_out))
    why = "fit no layout that gantk knows"
    if are_channels(images):
        why = CHANNELS_WITHOUT_NAMES
    elif tried:
        why = f"cannot be assigned with certainty: {tried[0].doubt}"
    return Unclear(why, tried)


def read_by(
    line: str,
    images: Sequence[str],
    contrasts: Sequence[str],
    words: ContrastWords,
    skipped: Mapping[str, str] = {},
) -> Reading:
    """The reading of a line that somebody gave, or of a layout by its name or text: the images that it
    fits; the others are left out. Those `skipped`, see `left_out`, are read where it fits no others.
    """
    if len(line) > MAX_PATTERN_CHARACTERS:
        raise _wrong_layout(line, f"is longer than {MAX_PATTERN_CHARACTERS} characters")
    known = layouts()
    known |= {layout.pattern: layout for layout in known.values()}
    tried = []
    if line in known:
        tried = [(known[line], own) for own in _images_to_explain(images)]
    if not tried or line == known[line].pattern:  # then its fields may be any text
        own = [NamedImage(scan_named(x), compose_text(without_suffix(x))) for x in images]
        tried.append((Layout(line), own))
    readings = (explain(layout, own, contrasts, words, gives_up=False) for layout, own in tried)
    first = next(readings)
    found = first if first.rows else next((each for each in readings if each.rows), first)
    if skipped and not found.rows:
        return read_by(line, [*images, *skipped], contrasts, words)
    found.left_out |= skipped
    return found


def read_contrasts(images: Sequence[str], words: ContrastWords) -> Reading:
    """The reading by contrasts alone, which a file's name or else the nearest folder says; no patient
    is known.
    """
    found = Reading(CONTRASTS_ALONE)
    for image in _without_splits(images):
        parts = reversed(image.text.split("/"))
        said = next(filter(None, map(words.said, parts)), frozenset[str]())
        row = Row(image.scan, only(said), split=image.split)
        row.session = visit_words(image.text)
        if not is_volume(row.path):
            row.slice = without_contrast(image.text, row.contrast, words)
        found.rows.append(row)
    return found


def scan_named(name: str) -> Scan:
    """The scan of a file by its path below the folder."""
    return Scan(Path(name), name=name)


def _readings_of(
    lines: Sequence[Layout],
    images: Sequence[str],
    contrasts: Sequence[str],
    words: ContrastWords,
) -> list[Reading]:
    """The readings of lines, without the folders that all images share, else with them."""
    doubted: list[Reading] = []
    for own in _images_to_explain(images):
        readings = [explain(layout, own, contrasts, words) for layout in lines]
        if not all(reading.doubt for reading in readings):
            return readings
        doubted += readings
    return doubted


def _images_to_explain(paths: Sequence[str]) -> list[list[NamedImage]]:
    """What lines are compared with: paths without the split and the folders that all share; then,
    where that differs, with these folders.
    """
    own = _without_splits(paths)
    texts = without_shared([image.text for image in own])
    short = [replace(image, text=text) for image, text in zip(own, texts, strict=True)]
    return [short] if short == own else [short, own]


def _without_splits(paths: Sequence[str]) -> list[NamedImage]:
    """Images by their paths without the split, if there are several."""
    taken = [take_split(compose_text(without_suffix(path))) for path in paths]
    # a single split, as in TrainT1, says nothing
    are_several = len({split for _, split in taken}) > 1
    return [
        NamedImage(scan_named(path), text, split if are_several else "")
        for path, (text, split) in zip(paths, taken, strict=True)
    ]


def without_suffix(path: str) -> str:
    """A path without the suffix of its format."""
    return path[: len(path) - len(suffix_of(path))]


def without_shared(texts: Sequence[str]) -> list[str]:
    """Paths of one length without the folders that all share, which say nothing, and without a folder
    that says no more than the one below it, as in Tr1/TrainT1, Tr2/TrainT2.
    """
    parts = [text.split("/") for text in texts]
    if len({*map(len, parts)}) != 1:
        return [*texts]
    *columns, _ = zip(*parts, strict=True)
    shared = {depth for depth, names in enumerate(columns) if len({*names}) == 1}
    shared |= {
        depth
        for depth, (upper, lower) in enumerate(pairwise(columns))
        if len({*upper}) == len({*lower}) == len({*zip(upper, lower, strict=True)}) > 1
    }
    return ["/".join(x for depth, x in enumerate(own) if depth not in shared) for own in parts]


def compile_layout(
    pattern: str, wordings: Iterable[str], types: Mapping[str, str]
) -> re.Pattern[str]:
    """A line as a regular expression over paths without suffix, with these wordings of contrasts and
    these types of fields.

    UserError for an unknown field or an unclosed bracket.
    """
    longest_first = sorted(wordings, key=len, reverse=True)
    contrast = "|".join(map(re.escape, longest_first))
    parts = []
    seen = set()
    for token in TOKENS.findall(pattern):
        name, _, width = token.strip("*{}").partition(":")
        if not (token[0] == "{" or token.endswith(("}", "}*"))):
            separator = token == "_" and types is STRICT
            parts.append(r"[-_. ]+" if separator else SIGNS.get(token, re.escape(token)))
            continue
        if name not in (*FIELDS, *STRICT, "running"):
            raise _wrong_layout(pattern, f"has no field '{token}'")
        body = types.get(name, ANY_TEXT)
        if name == "contrast":
            body = _contrast_text(token, contrast)
        elif width:
            body = rf"\d{{{width}}}" if name == "slice" else rf"[^/]{{{width}}}"
        if name not in seen:
            parts.append(rf"(?P<{name}>{body})")
        else:  # a second contrast is any text; another field is the same text again
            parts.append(r"[^/]*?" if name == "contrast" else rf"(?P={name})")
        seen.add(name)
    try:
        return re.compile("".join(parts))
    except re.error as error:
        raise _wrong_layout(pattern, "has a bracket [ without its ]") from error


def _contrast_text(token: str, wordings: str) -> str:
    """The text of a contrast, with any text around where the token has a `*`."""
    if token[0] == "*":
        return "[^/]*" if token[-1] == "*" else "[^/]*?"
    end = r"(?![A-Za-z])[^/]*?" if token[-1] == "*" else ""
    return rf"(?i:(?:{wordings}){end})"


def _wrong_layout(pattern: str, what: str) -> UserError:
    return UserError(
        f"the layout '{pattern[:200]}' {what}",
        where="--layout",
        allowed=[f"{{{name}}}" for name in FIELDS],
        remedy="write for example '{patient}/{visit}/{contrast}.nii.gz'; `gantk list layouts` has ours",
    )


def explain(
    layout: Layout,
    images: Sequence[NamedImage],
    contrasts: Sequence[str],
    words: ContrastWords,
    *,
    gives_up: bool = True,
) -> Reading:
    """The reading of a line, with the images that it does not explain as `left_out`, and a doubt
    where it is not certain, see `doubts`. It `gives_up` at some that it does not explain.

    Of a layout with words of its own, images that these do not name are left out without a doubt.
    """
    wordings = [word for word, contrast in words.contrast_of.items() if contrast]
    if layout.words:
        wordings = [*layout.words.values()]
        own = {words.contrast_of[one_word(c)]: [text] for c, text in layout.words.items()}
        words = ContrastWords(own=own, usual=False)
    line = _without_suffix_of_format(layout.pattern)
    suffix = layout.pattern.removeprefix(line).lower().removesuffix(".*")
    pattern = compile_layout(line, wordings, STRICT if layout.general else LOOSE)
    found = Reading(layout.pattern)
    fields_of: list[Mapping[str, str]] = []  # of each row
    for image in images:
        path = image.scan.name
        match = pattern.fullmatch(image.text) if path.lower().endswith(suffix) else None
        row: Row | str = OTHER_FORM
        if match:
            fields = {name: text or "" for name, text in match.groupdict().items()}
            row = _row_by_fields(image, fields, layout, contrasts, words)
        if isinstance(row, Row):
            found.rows.append(row)
            fields_of.append(fields)
            if "ab" in fields:
                found.letters[fields["ab"]] = row.contrast
            continue
        found.left_out[path] = row
        if gives_up and len(found.left_out) > MAX_UNEXPLAINED_IMAGES and not layout.words:
            found.rows = []
            found.doubt = "many images are of another form"
            return found

    found.doubt = _doubt(found, fields_of, layout, contrasts)
    return found.of_contrasts(contrasts)


def _doubt(
    found: Reading,
    fields_of: Sequence[Mapping[str, str]],
    layout: Layout,
    contrasts: Sequence[str],
) -> str:
    """Why the reading of a line is not certain; "" where it is."""
    if found.left_out and not layout.words:
        (path, what), *more = found.left_out.items()
        return f"'{path}' is {what}" + (f", and {len(more)} more" if more else "")
    doubt = doubt_about_table(found.rows, layout, contrasts)
    if doubt or not layout.general:
        return doubt
    return doubt_about_names(found.rows, fields_of, layout)


def _without_suffix_of_format(pattern: str) -> str:
    """A line without the suffix of a format, or `.*`, at its end."""
    if pattern.endswith(".*"):
        return pattern[:-2]
    suffix = suffix_of(pattern.replace("{", "").replace("}", ""))
    return pattern[: len(pattern) - len(suffix)] if suffix in formats() else pattern


def _row_by_fields(
    image: NamedImage,
    fields: Mapping[str, str],
    layout: Layout,
    contrasts: Sequence[str],
    words: ContrastWords,
) -> Row | str:
    """The row of an image by the fields of a line, each of which is what it says; or what else the
    image is.
    """
    said = words.meant(fields["contrast"]) if "contrast" in fields else frozenset[str]()
    if "contrast" in fields and len(said) != 1:
        return f"of {' and '.join(sorted(said)) or 'no contrast'}"
    split = image.split or split_named(fields.get("split", ""))
    row = Row(image.scan, next(iter(said), only(contrasts)), split=split)
    if "ab" in fields:
        letter = fields["ab"][-1].upper()
        row.contrast = contrasts["AB".index(letter)] if len(contrasts) == 2 else letter
    whose = fields.get("patient") or fields.get("person", "")
    row.subject = "/".join(filter(None, (fields.get("site"), whose)))
    row.session = fields.get("visit", "")
    row.label = fields.get("class") or fields.get("yesno", "")
    names = (fields.get(name) for name in ("slice", "running", "picture", "name"))
    row.slice = next(filter(None, names), "")
    return _row_by_types(row, whose, fields, layout, words) if layout.general else row


def _row_by_types(
    row: Row, whose: str, fields: Mapping[str, str], layout: Layout, words: ContrastWords
) -> Row | str:
    """The row by a general line, whose texts must be of their types; or what else the image is."""
    if layout.pattern == "*{contrast}*/{patient}":  # T1/p01_T1
        whose = without_contrast(whose, row.contrast, words)
    if words.said(whose) - {words.contrast_of["mr"]}:
        return f"named '{whose}', a contrast, where the patient is expected"
    patient, visit = patient_and_visit(whose)
    has_patient = "{patient}" in layout.pattern or "{person}" in layout.pattern
    is_named = whole(PERSON, patient) or {*map(str.lower, words_of(patient))} - SERIES_WORDS
    if has_patient and not is_named:
        return "without a patient"
    if not has_patient and layout.one_patient:
        patient = "patient"
    row.subject = "/".join(filter(None, (fields.get("site"), patient)))
    visits = row.session, day_of(visit), visit_words(fields.get("contrast", ""))
    row.session = "/".join(filter(None, visits))
    if "name" in fields and is_volume(row.path):  # a volume is all of its patient's visit
        row.slice = ""
    row.slice = without_contrast(row.slice, row.contrast, words)
    return row


def without_contrast(text: str, contrast: str, words: ContrastWords) -> str:
    """A text without the words for a contrast."""
    own = "|".join(re.escape(word) for word, each in words.contrast_of.items() if each == contrast)
    if not own:
        return text
    return re.sub(rf"(?i)[-_. ]*(?<![a-z0-9])(?:{own})(?![a-z0-9])", "", text).strip("-_. ")
