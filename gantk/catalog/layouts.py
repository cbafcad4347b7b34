"""Layouts: which file is whose and shows what, by a line with fields that explains every image of a
folder. Read `read` first; `propose` finds lines for a folder that none of ours explains.

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
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gantk.catalog.catalog import compose_text
from gantk.catalog.contrasts import ContrastWords, words_of
from gantk.catalog.words import (
    CLASS,
    PERSON,
    SERIES_WORDS,
    SITE,
    SPLIT,
    VISIT,
    are_channels,
    are_running_numbers,
    day_of,
    left_out,
    may_be_people_with_visits,
    patient_and_visit,
    split_named,
    take_split,
    visit_words,
    whole,
    without_visits,
)
from gantk.errors import UserError
from gantk.formats.files import formats, is_volume, suffix_of
from gantk.plugin.layout import Layout
from gantk.plugin.loader import registry

STRICT = {
    "patient": rf"(?!(?i:{VISIT}|{SPLIT}|{SITE}|{CLASS}|[AB])(?:/|$))[^/]+?",
    "person": rf"(?i:{PERSON})",
    "visit": rf"(?i:{VISIT})",
    "site": rf"(?i:{SITE})",
    "split": rf"(?i:{SPLIT})",
    "slice": r"(?i:slice|slc|sl|s|z)?[-_ ]?\d+",
    "ab": r"(?i:\w*[-_ ]?)(?:A|B)",
    "class": r"[^/\d]+?",
    "yesno": rf"(?i:{CLASS})",
    "picture": r"[^\d/]*\d{0,5}[^\d/]*",  # one number at most, which is no patient and slice
}
LOOSE = {"person": STRICT["person"], "split": STRICT["split"], "slice": r"\d+", "ab": STRICT["ab"]}
ANY_TEXT = r"[^/]+?"
TOKENS = re.compile(r"\*?\{contrast\}\*?|\{\w+(?::\d+)?\}|\*\*/|[*\[\]_]|[^*\[\]{}_]+|[{}]")
FIELDS = {*STRICT, "contrast", "running", "name", "class"}
MAX_PATTERN_CHARACTERS = 1000
CHANNELS_WITHOUT_NAMES = (
    "end in numbers of channels, which are different contrasts, and no dataset.json names them"
)
MAX_UNEXPLAINED_IMAGES = 10  # images at which a line is given up


@dataclass(slots=True)
class Entry:
    """What a layout says of one image; "" is not known."""

    path: str
    contrast: str = ""
    patient: str = ""
    visit: str = ""
    split: str = ""
    slice: str = ""
    label: str = ""
    volume: int | None = None  # of a file of several

    @property
    def anatomy(self) -> tuple[str, ...]:
        """What registered images of two contrasts share."""
        return self.split, self.patient, self.visit, self.slice

    @property
    def cell(self) -> tuple[str, ...]:
        """What no two images share."""
        return *self.anatomy, self.contrast, self.label


@dataclass
class Reading:
    """What a layout says of the images of a folder.

    Attributes:
        layout: the line, or what else states it.
        left_out: path -> why it is left out.
        doubt: why this reading is not taken without a question.
        settings: what else of the recipe it needs, as `data.words.T1=["0000"]`.
    """

    layout: str
    entries: list[Entry]
    left_out: dict[str, str] = field(default_factory=dict)
    doubt: str = ""
    settings: tuple[str, ...] = ()
    words: ContrastWords | None = None  # that it was read with, if others than the recipe's

    def of_contrasts(self, contrasts: Sequence[str]) -> Reading:
        """The reading with the images of other contrasts left out, if these are `contrasts`."""
        if contrasts:
            others = {e.path: e.contrast for e in self.entries if e.contrast not in contrasts}
            self.entries = [entry for entry in self.entries if entry.contrast in contrasts]
            used = {entry.path for entry in self.entries}
            self.left_out |= {path: name for path, name in others.items() if path not in used}
        return self

    def pairs(self) -> list[list[Entry]]:
        """The images of each anatomy that has one image of several contrasts each."""
        found = defaultdict(list)
        for entry in self.entries:
            if any(entry.anatomy[1:]):
                found[entry.anatomy].append(entry)
        return [
            own for own in found.values() if 1 < len({entry.contrast for entry in own}) == len(own)
        ]

    def table(self) -> tuple:
        """What makes two readings the same: contrasts, splits and classes of the files, and which
        are of one patient and of one pair.
        """
        people = defaultdict(set)
        for entry in self.entries:
            if entry.patient:
                people[entry.patient].add(entry.path)
        return (
            frozenset((e.path, e.contrast, e.split, e.label) for e in self.entries),
            frozenset(map(frozenset, people.values())),
            frozenset(frozenset(entry.path for entry in own) for own in self.pairs()),
        )


@dataclass
class Unclear:
    """The images of a folder whose reading has to be asked.

    Attributes:
        why: what was seen, in a sentence.
        images: the paths that no line explains, without those left out.
        readings: readings that were tried and doubted, the likeliest first.
    """

    why: str
    images: list[str]
    left_out: dict[str, str]
    readings: list[Reading]


@dataclass(frozen=True)
class _Image:
    """An image to explain: its path, and what of it lines are compared with."""

    path: str
    text: str
    split: str


def layouts() -> dict[str, Layout]:
    """All registered layouts by name; those of data sets first."""
    found = {
        entry.name: entry.target
        for entry in registry().of_kind("layout")
        if isinstance(entry.target, Layout)
    }
    return dict(sorted(found.items(), key=lambda item: item[1].general))


def layout_name(catalog: Any) -> str:
    """What a recipe calls the layout that was found for a catalog, so that nothing asks again: its
    name, or the line; "" where it has none.
    """
    line = getattr(catalog, "layout", "")
    known = {layout.pattern: name for name, layout in layouts().items()}
    return known.get(line, line if "{" in line and "|" not in line else "")


def read(
    paths: Sequence[str],
    contrasts: Sequence[str],
    words: ContrastWords,
    *,
    stripped: bool = False,
) -> Reading | Unclear:
    """The only reading of images by their paths below a folder, of volumes or of pictures; else what
    is to be asked.

    1. Masks, templates, copies and files that known programs made of others are left out.
    2. A layout of a data set that explains all others, letter by letter, applies.
    3. Else one of the general layouts that explain all others applies, if they all give the same
       table.

    `contrasts`: the recipe's, all of which must be found; those of `words` are recognised.
    """
    skipped = left_out(paths, words, stripped=stripped)
    images = [path for path in paths if path not in skipped]
    pictures = not any(map(is_volume, images))
    tried: list[Reading] = []
    for general in (False, True):
        lines = [
            layout
            for layout in layouts().values()
            if layout.general == general
            and layout.of in ("any", "pictures" if pictures else "volumes")
            and (not layout.one_domain or len(contrasts) == 1)
        ]
        readings = _readings_of(lines, images, contrasts, words)
        certain = {reading.table(): reading for reading in reversed(readings) if not reading.doubt}
        if len(certain) == 1:
            (reading,) = certain.values()
            reading.left_out |= skipped
            return reading
        if certain:
            readings = [*certain.values()]
            names = " and ".join(f"'{reading.layout}'" for reading in readings)
            why = f"can be read in {len(readings)} ways: {names}"
            return Unclear(why, images, skipped, readings)
        tried += readings

    tried = [reading for reading in tried if reading.entries]
    tried.sort(key=lambda reading: len(reading.left_out))
    why = "fit no layout that gantk knows"
    if are_channels(images):
        why = CHANNELS_WITHOUT_NAMES
    elif tried:
        why = f"fit no layout: for '{tried[0].layout}', {tried[0].doubt}"
    return Unclear(why, images, skipped, tried)


def _readings_of(
    lines: Sequence[Layout],
    images: Sequence[str],
    contrasts: Sequence[str],
    words: ContrastWords,
) -> list[Reading]:
    """The readings of lines, without the folders that all images share, else with them."""
    doubted: list[Reading] = []
    for own in _images_to_explain(images, words):
        readings = [explain(layout, own, contrasts, words) for layout in lines]
        if not all(reading.doubt for reading in readings):
            return readings
        doubted += readings
    return doubted


def _images_to_explain(images: Sequence[str], words: ContrastWords) -> list[list[_Image]]:
    """What lines are compared with: paths without the split and the folders that all share; then,
    where that differs, with these folders.
    """
    own = []
    for path in images:
        text, split = take_split(_without_suffix(path), words)
        own.append(_Image(path, compose_text(text), split))
    if len({image.split for image in own}) < 2:  # a single one, as in TrainT1, says nothing
        own = [_Image(image.path, image.text, "") for image in own]
    texts = without_shared([image.text for image in own])
    short = [_Image(image.path, text, image.split) for image, text in zip(own, texts, strict=True)]
    return [short] if short == own else [short, own]


def _without_suffix(path: str) -> str:
    return path[: len(path) - len(suffix_of(path))]


def without_shared(texts: Sequence[str]) -> list[str]:
    """Paths without the folders that all share, which say nothing; of paths of one length also
    without a folder that says no more than the one below it, as in Tr1/TrainT1, Tr2/TrainT2.
    """
    parts = [text.split("/") for text in texts]
    shortest = min(map(len, parts), default=1)
    columns = [[own[depth] for own in parts] for depth in range(shortest - 1)]
    if all(len(own) == shortest for own in parts):
        shared = {depth for depth, names in enumerate(columns) if len({*names}) == 1}
        shared |= {
            depth
            for depth, both in enumerate(pairwise(columns))
            if _name_each_other(*both) and len({*both[0]}) > 1
        }
    else:
        shared = set(range(max(shortest - 2, 0)))
        differing = [depth for depth in shared if len({*columns[depth]}) > 1]
        shared = {depth for depth in shared if depth < min(differing, default=shortest)}
    return ["/".join(x for depth, x in enumerate(own) if depth not in shared) for own in parts]


def _name_each_other(upper: Sequence[str], lower: Sequence[str]) -> bool:
    """Whether each upper folder has one lower folder, and the reverse."""
    both = {*zip(upper, lower, strict=True)}
    return len(both) == len({*upper}) == len({*lower})


def compile_layout(pattern: str, words: ContrastWords, types: Mapping[str, str]) -> re.Pattern:
    """A line as a regular expression over paths without suffix, with these types of fields.

    UserError for an unknown field or an unclosed bracket.
    """
    any_separator = types is STRICT
    wordings = sorted((w for w, each in words.contrast_of.items() if each), key=len, reverse=True)
    contrast = "|".join(re.escape(word) for word in wordings)
    parts = []
    seen = set()
    for token in TOKENS.findall(pattern):
        name, _, width = token.strip("*{}").partition(":")
        if token[0] == "{" or token.endswith(("}", "}*")):
            if name not in FIELDS:
                raise _wrong_layout(pattern, f"has no field '{token}'")
            body = types.get(name, ANY_TEXT)
            if name == "contrast":
                body = _contrast_text(token, contrast)
            elif width:
                body = rf"\d{{{width}}}" if name == "slice" else rf"[^/]{{{width}}}"
            if name in seen:  # a second contrast is any text; another field is the same text again
                parts.append(r"[^/]*?" if name == "contrast" else rf"(?P={name})")
            else:
                parts.append(rf"(?P<{name}>{body})")
            seen.add(name)
        elif token == "_" and any_separator:
            parts.append(r"[-_. ]+")
        else:
            signs = {"*": "[^/]*?", "**/": "(?:.*/)?", "[": "(?:", "]": ")?"}
            parts.append(signs.get(token, re.escape(token)))
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
        allowed=[
            f"{{{name}}}"
            for name in sorted(FIELDS - {"ab", "person", "running", "yesno", "picture"})
        ],
        remedy="write for example '{patient}/{visit}/{contrast}.nii.gz'; `gantk list layouts` has ours",
    )


def explain(
    layout: Layout,
    images: Sequence[_Image],
    contrasts: Sequence[str],
    words: ContrastWords,
    *,
    gives_up: bool = True,
) -> Reading:
    """The reading of a line, with the images that it does not explain as `left_out`, and a doubt
    where it is not certain: it does not explain all images, or gives two files one cell, or people,
    visits or running numbers may be taken for one another. It `gives_up` at some that it does not
    explain.
    """
    line = _without_suffix_of_format(layout.pattern)
    suffix = layout.pattern.removeprefix(line).lower().removesuffix(".*")
    pattern = compile_layout(line, words, STRICT if layout.general else LOOSE)
    found = Reading(layout.pattern, [])
    around: dict[str, set[tuple[str, ...]]] = defaultdict(set)  # contrast -> words around it
    numbers: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for image in images:
        match = pattern.fullmatch(image.text) if image.path.lower().endswith(suffix) else None
        fields = {key: value or "" for key, value in match.groupdict().items()} if match else {}
        entry = _entry(image, fields, contrasts, words) if match else "has another form"
        if layout.general and isinstance(entry, Entry):
            entry = _entry_by_types(entry, fields, layout, words)
        if isinstance(entry, str):
            found.left_out[image.path] = entry
            if gives_up and len(found.left_out) > MAX_UNEXPLAINED_IMAGES:
                return Reading(layout.pattern, [], found.left_out, "many images have another form")
            continue
        found.entries.append(entry)
        if "running" in fields:
            place = fields.get("contrast", ""), fields.get("ab", ""), entry.label, entry.split
            numbers[place].append(fields["running"])
        if "/*{contrast}*" in layout.pattern:
            around[entry.contrast].add(_unknown_words(fields, words))

    found.doubt = _first_left_out(found) or _doubt_about_table(found, layout, contrasts)
    if layout.general:
        found.doubt = found.doubt or _doubt_about_fields(found, layout, numbers.values(), around)
    return found.of_contrasts(contrasts)


def _without_suffix_of_format(pattern: str) -> str:
    """A line without the suffix of a format, or `.*`, at its end."""
    if pattern.endswith(".*"):
        return pattern[:-2]
    suffix = suffix_of(pattern.replace("{", "").replace("}", ""))
    return pattern[: len(pattern) - len(suffix)] if suffix in formats() else pattern


def _first_left_out(found: Reading) -> str:
    if not found.left_out:
        return "" if found.entries else "there are no images"
    path, why = next(iter(found.left_out.items()))
    others = f", and {len(found.left_out) - 1} more" if len(found.left_out) > 1 else ""
    return f"'{path}' {why}{others}"


def _entry(
    image: _Image, fields: Mapping[str, str], contrasts: Sequence[str], words: ContrastWords
) -> Entry | str:
    """The entry of an image by the fields of a line, each of which is what it says; or why not."""
    entry = Entry(image.path, split=image.split or split_named(fields.get("split", "")))
    said = words.meant(fields["contrast"]) if "contrast" in fields else frozenset[str]()
    if "contrast" in fields and len(said) != 1:
        return f"says {' and '.join(sorted(said)) or 'no contrast'}"
    entry.contrast = next(iter(said), contrasts[0] if len(contrasts) == 1 else "")
    if "ab" in fields:
        letter = fields["ab"][-1].upper()
        entry.contrast = contrasts["AB".index(letter)] if len(contrasts) == 2 else letter
    whose = fields.get("patient") or fields.get("person", "")
    entry.patient = "/".join(filter(None, (fields.get("site"), whose)))
    entry.visit = fields.get("visit", "")
    entry.label = fields.get("class") or fields.get("yesno", "")
    names = (fields.get(name) for name in ("slice", "running", "picture", "name"))
    entry.slice = next(filter(None, names), "")
    return entry


def _entry_by_types(
    entry: Entry, fields: Mapping[str, str], layout: Layout, words: ContrastWords
) -> Entry | str:
    """The entry by a general line, whose texts must be of their types; or why they are not."""
    whose = fields.get("patient") or fields.get("person", "")
    if layout.pattern == "*{contrast}*/{patient}":  # T1/p01_T1
        whose = without_contrast(whose, entry.contrast, words)
    if words.said(whose) - {words.contrast_of["mr"]}:
        return f"has a contrast, '{whose}', where the patient is expected"
    patient, visit = patient_and_visit(whose)
    has_patient = "{patient}" in layout.pattern or "{person}" in layout.pattern
    names_one = (
        whole(PERSON, patient) or {word.lower() for word in words_of(patient)} - SERIES_WORDS
    )
    if has_patient and not names_one:
        return "names no patient"
    entry.patient = "/".join(filter(None, (fields.get("site"), patient)))
    if not has_patient and layout.one_patient:
        entry.patient = "patient"
    visits = entry.visit, day_of(visit), visit_words(fields.get("contrast", ""))
    entry.visit = "/".join(filter(None, visits))
    if "name" in fields and is_volume(entry.path):  # a volume is all of its patient's visit
        entry.slice = ""
    entry.slice = without_contrast(entry.slice, entry.contrast, words)
    return entry


def without_contrast(text: str, contrast: str, words: ContrastWords) -> str:
    """A text without the words for a contrast."""
    own = "|".join(re.escape(word) for word, each in words.contrast_of.items() if each == contrast)
    if not own:
        return text
    return re.sub(rf"(?i)[-_. ]*(?<![a-z0-9])(?:{own})(?![a-z0-9])", "", text).strip("-_. ")


def _unknown_words(fields: Mapping[str, str], words: ContrastWords) -> tuple[str, ...]:
    """The words around a contrast that are neither of the scan, the visit nor the patient's folder."""
    rest = without_visits(fields.get("contrast", ""))
    known = {word.lower() for word in words_of(fields.get("patient", ""))} | SERIES_WORDS
    found = [word.lower() for word in words_of(rest)]
    return tuple(
        word
        for word in found
        if word not in known
        and word not in words.contrast_of
        and not re.fullmatch(r"\d{1,3}", word)
    )


def _doubt_about_fields(
    found: Reading,
    layout: Layout,
    numbers: Iterable[Sequence[str]],
    around: Mapping[str, set[tuple[str, ...]]],
) -> str:
    """Why what the fields of a general line hold may be something else; "" where it is certain."""
    if "{contrast}" not in layout.pattern and are_channels([e.path for e in found.entries]):
        return CHANNELS_WITHOUT_NAMES
    if not all(map(are_running_numbers, numbers)):
        return "names of pictures may hold patients"
    for contrast, own in around.items():
        if len(own) > 1:
            shown = " and ".join(f"'{' '.join(words)}'" for words in sorted(own)[:2])
            return f"names of {contrast} differ in words that may be patients, as {shown}"
    counts = Counter(entry.contrast for entry in found.entries)
    if layout.one_patient and max(counts.values()) > 1:
        return "there are several files of one contrast"
    contrasts_of: dict[str, set[str]] = defaultdict(set)
    for entry in found.entries:
        contrasts_of[entry.patient].add(entry.contrast)
    if "{patient}" in layout.pattern and may_be_people_with_visits({*contrasts_of}):
        return "the first words of its patients may be the patients, and the others visits"
    there = set().union(*contrasts_of.values())
    if 1 < len(contrasts_of) == sum(map(len, contrasts_of.values())) == len(there):
        return "its patients would tell the contrasts apart"
    return ""


def _doubt_about_table(found: Reading, layout: Layout, contrasts: Sequence[str]) -> str:
    """Why a table is not certain: a contrast that no file has, two files in one cell, or one patient
    alone who lacks a contrast.
    """
    entries = found.entries
    there = {entry.contrast for entry in entries}
    lacking = [name for name in contrasts if name not in there]
    if lacking:
        return f"no file is named {' or '.join(lacking)}"

    wanted = {*contrasts} if len(contrasts) > 1 else there
    cells = Counter(entry.cell for entry in entries if entry.contrast in wanted)
    cell, count = cells.most_common(1)[0]
    if count > 1 and not re.search(r"{(?:running|picture)}", layout.pattern):
        _, patient, visit, name, contrast, _ = cell
        whose = " ".join(filter(None, (patient, visit, name))) or "one image"
        return f"'{whose}' has {count} files of {contrast}"

    contrasts_of: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        contrasts_of[entry.patient].add(entry.contrast)
    without = [patient for patient, own in contrasts_of.items() if patient and wanted - own]
    if layout.general and contrasts and len(contrasts_of) > 2 and len(without) == 1:
        missing = " and ".join(sorted(wanted - contrasts_of[without[0]]))
        return f"'{without[0]}' alone has no {missing}"
    return ""


def read_by(
    line: str,
    paths: Sequence[str],
    contrasts: Sequence[str],
    words: ContrastWords,
    *,
    stripped: bool = False,
) -> Reading:
    """The reading of a line that somebody gave, or of a layout by its name or text: the images that it
    fits; the others are left out, and so are masks and the like where it fits others too.
    """
    if len(line) > MAX_PATTERN_CHARACTERS:
        raise _wrong_layout(line, f"is longer than {MAX_PATTERN_CHARACTERS} characters")
    known = layouts()
    patterns = {each.pattern: each for each in known.values()}
    layout = known.get(line) or patterns.get(line) or Layout(line)
    skipped = left_out(paths, words, stripped=stripped)
    first = Reading(line, [])
    for own in ([path for path in paths if path not in skipped], paths):
        images = [_Image(path, compose_text(_without_suffix(path)), "") for path in own]
        ways = _images_to_explain(own, words) if line in (known | patterns) else [images]
        for way in ways:
            found = explain(layout, way, contrasts, words, gives_up=False)
            if found.entries:
                found.left_out |= {path: why for path, why in skipped.items() if path not in own}
                return found
            first = first if first.left_out else found
    return first
