"""Reads the names of files and folders: the only place that guesses contrasts, patients and pairs.

`read_names` fills the rows of a catalog column by column. The patterns are in `patterns.py`; how
patients are read from many names in `patients.py`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gantk.catalog.catalog import (
    Catalog,
    Row,
    composed,
    groups_of,
    has_one_of_each,
    has_several,
)
from gantk.catalog.channels import rows_of_images
from gantk.catalog.contrasts import (
    BESIDE_OTHERS,
    CONTRASTS,
    contrast_in,
    contrasts_in,
    exclude,
    one_word,
    same_contrast,
    times_contradict,
    usual_contrast,
    without_gaps,
    words_of,
)
from gantk.catalog.domains import (
    GLOB,
    Parts,
    bare_stem,
    domain_match,
    originals_of_spm,
    parts_with_digits,
    patient_of,
    possible_originals,
    regex_option,
    relative_to,
    splits_of,
    without_derived,
)
from gantk.catalog.masks import masks_named, set_masks, without_labels
from gantk.catalog.patients import (
    dates_of,
    patient_places,
    patients_in_names,
    patients_of,
    patients_of_volumes,
    unsure,
    visits_or_patients,
    without_series,
)
from gantk.catalog.patterns import (
    CHANNEL_AT_END,
    CLASS_WORDS,
    DATE_WORD,
    PERSON,
    SPLIT_WORD,
    STARTS_WITH_DATE,
    VISIT_FOLDER,
    VISIT_WORD,
)
from gantk.catalog.versions import (
    leave_one_version,
    leave_out_standard_space,
    leave_out_templates,
)
from gantk.errors import NothingFound, UserError, count_noun
from gantk.files import json_object
from gantk.formats.files import natural, readable, stem_of

UNNAMED = "no name says another contrast"  # rule for images of the only contrast asked for
OF_DERIVATIVES = ("derivatives", "sourcedata", "desc-", "space-")  # in paths, of BIDS
DOUBLE_ECHO = {"pd", "t2"}  # two images of one series, whose names say both
BEGINS_ALIKE = "a folder's name begins as the contrast's"
PATIENT_IN_NAME = "the file's name"


@dataclass(frozen=True)
class Asked:
    """What a recipe asks of names.

    Attributes:
        contrasts: contrast or domain -> a word, folder or glob of its files; "": its own name.
        options: contrast -> the key of the recipe that names its files, for messages.
        mask: word or glob of the names of masks; "": usual words.
        patient: regular expression for the patient in a path; "names": file names contain
            patients, without a doubt; "": folders, else names.
        by_folders: whether two folders, or all images, may be taken for contrasts that no name says.
    """

    contrasts: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    mask: str = ""
    patient: str = ""
    by_folders: bool = True

    def text(self, contrast: str) -> str:
        """The word or glob that is searched for a contrast."""
        return self.contrasts[contrast] or contrast


def read_names(root: Path, images: Sequence[Path], asked: Asked) -> Catalog:
    """The catalog of image files below `root`, from their names alone.

    With `asked.contrasts`, rows of these contrasts have those names, also where folders were only
    told apart (`trainA`, `trainB`). UserError where a pattern is wrong.
    """
    catalog = Catalog(rows_of_images(images, list(asked.contrasts)))
    _set_kinds(catalog, root, asked)
    words = [*asked.contrasts.values()]
    catalog.notes += leave_out_templates(catalog.of_kind("image"), words, root)
    _set_contrasts(catalog, root, asked)
    _set_places(catalog, asked, root)
    catalog.notes += leave_one_version(_asked_for(catalog, asked), root)
    chosen = _asked_for(catalog, asked)
    if len(asked.contrasts) == 1:
        _set_labels(chosen)
    _set_splits(chosen, root)
    _set_patients(catalog, chosen, root, asked)
    leave_out_standard_space(chosen, root)
    chosen = _asked_for(catalog, asked)
    _set_pairs(chosen)
    if asked.mask:
        masks = [row.path for row in catalog.of_kind("mask")]
        set_masks(chosen, masks, root, asked.mask, list(asked.contrasts))
    return catalog


def read_patients(rows: Sequence[Row], root: Path, patient: str = "") -> list[UserError]:
    """Set the patients of images whose contrasts are known by their paths below `root`, or below
    the folder that holds all of them; returns the doubts. `patient` as of `Asked`.
    """
    asked = Asked(dict.fromkeys([row.contrast for row in rows], ""), patient=patient)
    words = _words_wanted(asked)
    named = []
    for row in rows:
        path = Path(os.path.abspath(row.scan.path))
        stem = contrast_in(stem_of(path), words)[1]
        named.append(replace(row, scan=replace(row.scan, path=path, files=(path,)), stem=stem))

    catalog = Catalog(named)
    paths = [root.absolute(), *(row.path for row in named)]
    folder = Path(os.path.commonpath(paths))
    _set_places(catalog, asked, folder)
    _set_patients(catalog, named, folder, asked)
    for row, one in zip(rows, named, strict=True):
        row.subject = one.subject
    return catalog.doubts


def _asked_for(catalog: Catalog, asked: Asked) -> list[Row]:
    """The images of the contrasts asked for; all images where none is."""
    images = catalog.of_kind("image")
    if not asked.contrasts:
        return images
    return [row for row in images if row.contrast in asked.contrasts]


# --- masks


def _set_kinds(catalog: Catalog, root: Path, asked: Asked) -> None:
    """Tell masks from images, by the option `mask` and by usual words."""
    named = set(masks_named([row.path for row in catalog], root, asked.mask))
    others = [row.path for row in catalog if row.path not in named]
    texts = [asked.text(contrast) for contrast in asked.contrasts]
    images = set(without_labels(others, root, texts))
    chosen = any(word in text for text in texts for word in OF_DERIVATIVES)
    computed = set() if chosen else _derivatives(catalog, root)
    if computed:
        catalog.notes.append(
            f"{count_noun(computed, 'file')} left out in derivatives/ or sourcedata/ of a BIDS data set"
        )
    for row in catalog:
        if row.path in computed:
            row.fill("kind", "version", "in derivatives/, beside the scans of a BIDS data set")
        if row.path in named:
            row.fill("kind", "mask", f"the name matches data.source.mask, '{asked.mask}'")
        elif row.path not in images:
            row.fill("kind", "mask", "the name has a word for masks")


def _derivatives(rows: Iterable[Row], root: Path) -> set[Path]:
    """The files in derivatives/ and sourcedata/ beside the folders of subjects."""
    first = {row.path: relative_to(row.path, root).parts[0] for row in rows}
    if not any(name.startswith("sub-") for name in first.values()):
        return set()
    return {path for path, name in first.items() if name in ("derivatives", "sourcedata")}


# --- contrasts


def _set_contrasts(catalog: Catalog, root: Path, asked: Asked) -> None:
    """Set the contrast of each image, and its stem."""
    rows = catalog.of_kind("image")
    said = _set_said_contrasts(rows, root, asked)
    found = {name: _rows_of(name, rows, said, root, asked) for name in asked.contrasts}
    if asked.by_folders and len(found) == 1:
        _take_all_if_unnamed(found, rows, asked)
    elif asked.by_folders and not any(asked.contrasts.values()):
        found = _told_apart_by_folders(catalog, found, root, asked)

    _name_contrasts(catalog, found)
    for contrast in found or {row.contrast for row in rows if row.contrast}:
        _leave_out_derived(contrast, [row for row in rows if row.contrast == contrast])


def _set_said_contrasts(rows: Sequence[Row], root: Path, asked: Asked) -> dict[int, str]:
    """Set what each path says, without heed to what else there is; returns by id of the row the
    word for the contrast.
    """
    words = _words_wanted(asked)
    said = {}
    for row in rows:
        path = row.path.relative_to(root)
        word, stem, where = _contrast_in_path(path, words)
        row.stem = row.stem or stem
        if contrasts_in(stem_of(path)) == DOUBLE_ECHO:
            word = _contrast_of_echo(row.path)
            where = "EchoTime in the JSON file beside it"
            row.why["contrast"] = (
                "empty: the name says PD and T2, and no JSON file beside it the echo"
            )
        if row.contrast:
            word = row.contrast.lower()
            where = (
                f"the {'channel' if row.scan.volume is None else 'volume'}'s name in dataset.json"
            )
        elif not word and len(asked.contrasts) == 1:  # the root's own name may say the only one
            word = contrast_in(root.resolve().name, words)[0] or ""
            where = f"the folder's name '{root.resolve().name}'"

        if word and not asked.contrasts and len(_contrasts_of(path)) > 1:
            row.why["contrast"] = "empty: folder and file name different contrasts"
        elif word:
            said[id(row)] = word
            row.fill("contrast", CONTRASTS.get(word, word).upper(), where)
    return said


def _contrast_of_echo(image: Path) -> str:
    """Which contrast of a double echo an image shows, by the EchoTime (s) in the JSON file beside it;
    "" where it states none, or one of either.
    """
    echo = json_object(image.with_name(f"{stem_of(image)}.json")).get("EchoTime")
    if not isinstance(echo, int | float):
        return ""
    times = {"echo_time": 1000 * echo}
    fitting = [each for each in sorted(DOUBLE_ECHO) if not times_contradict(times, each)]
    return fitting[0] if len(fitting) == 1 else ""


def _told_apart_by_folders(
    catalog: Catalog, found: dict[str, list[Row]], root: Path, asked: Asked
) -> dict[str, list[Row]]:
    """The rows of two contrasts by their folders, where no name says them; else those found."""
    if all(found.values()):
        return found
    groups, rule = _two_folders(catalog.of_kind("image"), root, asked)
    one_is_named = any(found.values())
    if not groups or (one_is_named and rule != BEGINS_ALIKE):
        return found
    return _rows_of_groups(catalog, groups, rule, root, asked)


def _contrasts_of(path: Path) -> set[str]:
    """All contrasts that the parts of a relative path name."""
    said = set().union(*map(contrasts_in, (*path.parts[:-1], stem_of(path))))
    return said - {"mr"} or said


def _words_wanted(asked: Asked) -> set[str]:
    """The words that count as contrasts, besides the usual ones."""
    names = {one_word(contrast) for contrast in asked.contrasts}
    texts = {one_word(asked.text(name)) for name in asked.contrasts if asked.text(name).isalnum()}
    return names | texts if len(texts) > 1 else names


def _contrast_in_path(path: Path, wanted: set[str]) -> tuple[str, str, str]:
    """The word for a contrast in a relative path, the name without it, and where it stands: the
    file's name first, then the nearest folder.
    """
    stem = stem_of(path)
    word, rest = contrast_in(stem, wanted)
    if word:
        return word, rest, f"'{word}' in the file's name"
    for folder in reversed(path.parts[:-1]):
        word = contrast_in(SPLIT_WORD.sub("", folder), wanted)[0]
        if word:
            return word, rest, f"the folder '{folder}'"
    return "", rest, ""


def _rows_of(
    contrast: str, rows: Sequence[Row], said: Mapping[int, str], root: Path, asked: Asked
) -> list[Row]:
    """The rows of one contrast that is asked for."""
    text = asked.contrasts[contrast]
    where = f"data.source.{asked.options.get(contrast, '')}"
    rule = f"{where} is '{text}'"
    folder = root / text
    if text and folder.is_dir():
        return _with_rule([row for row in rows if row.path.is_relative_to(folder)], rule)
    if GLOB.search(text):
        pattern = os.path.relpath(folder, root) if "/" in text else f"**/{text}"
        paths: set[Path] = set()
        with suppress(ValueError):  # it is no glob
            paths = set(root.glob(pattern))
        matched = [row for row in rows if row.path in paths]
        if not matched:
            raise NothingFound(f"no images match '{folder}'", where=where, allowed=readable())
        return _with_rule(matched, rule)

    with_words = _rows_with_words(text, rows, root)
    if with_words:
        return _with_rule(with_words, rule)
    found = _rows_saying(contrast, rows, said, asked)
    if text:
        return found
    return found + _rows_meant_beside_others(contrast, found, rows, said)


def _rows_with_words(text: str, rows: Sequence[Row], root: Path) -> list[Row]:
    """The rows whose paths have all words of a text; none for an empty text."""
    wanted = {word.lower() for word in words_of(text)}
    matching = []
    for row in rows if wanted else ():
        path = relative_to(row.path, root)
        words = words_of(str(path.with_name(stem_of(path))))
        if wanted <= {word.lower() for word in words}:
            matching.append(row)
    return matching


def _rows_saying(
    contrast: str, rows: Sequence[Row], said: Mapping[int, str], asked: Asked
) -> list[Row]:
    """The rows whose path says a contrast by its own word, else by a synonym that no other contrast
    is called; where a file has the own word, those with synonyms beside it are other versions.
    """
    word = one_word(asked.text(contrast))
    others = {one_word(asked.text(name)) for name in asked.contrasts} - {word}
    own_stems: dict[Path, set[str]] = defaultdict(set)
    for row in rows:
        if said.get(id(row)) == word:
            own_stems[row.path.parent].add(row.stem)

    found = []
    for row in rows:
        own = said.get(id(row), "")
        is_synonym = own != word and own not in others and same_contrast(own, word)
        originals = {"", row.stem, *possible_originals(row.stem), *originals_of_spm(row.stem)}
        if is_synonym and originals & own_stems[row.path.parent]:
            row.fill("kind", "version", f"beside it lies a file named exactly '{word}'")
        elif own == word or is_synonym:
            found.append(row)
    return found


def _rows_meant_beside_others(
    contrast: str, own: Sequence[Row], rows: Sequence[Row], said: Mapping[int, str]
) -> list[Row]:
    """The rows whose names mean a contrast only beside other contrasts of the patient (`CT1` beside
    `T1`), in folders without a row of it; not those made from others (`CT1_bet` beside `CT1`).
    """
    short = BESIDE_OTHERS.get(CONTRASTS.get(one_word(contrast), ""), set())
    with_own = {row.path.parent for row in own}
    with_others = {row.path.parent for row in rows if id(row) in said} - with_own
    found = {}
    for row in rows:
        stem = stem_of(row.path).lower()
        unnamed = id(row) not in said and row.path.parent in with_others
        if unnamed and short & set(words_of(stem)):
            found[row.path.parent, stem] = row

    kept = []
    for (folder, stem), row in found.items():
        originals = (*possible_originals(stem), *originals_of_spm(stem))
        if not any((folder, original) in found for original in originals):
            kept.append(row)
            row.stem = without_gaps(
                re.sub(rf"(?i)(?<![a-z0-9])({'|'.join(short)})(?![a-z0-9])", "", row.stem)
            )
    return _with_rule(kept, "a word that means it beside other contrasts")


def _with_rule(rows: list[Row], rule: str) -> list[Row]:
    """The rows, whose contrast this rule has found."""
    for row in rows:
        row.why["contrast"] = rule
    return rows


def _take_all_if_unnamed(found: dict[str, list[Row]], rows: Sequence[Row], asked: Asked) -> None:
    """All images are of the only contrast, where no name contains it and none another one."""
    ((contrast, own),) = found.items()
    # whoever asks for a word says what there is
    if not own and not asked.contrasts[contrast] and not _say_others({contrast: rows}):
        found[contrast] = _with_rule(list(rows), UNNAMED)


def _say_others(groups: Mapping[str, Sequence[Row]]) -> bool:
    """Whether the names of a contrast's rows say another one; what those of all contrasts say is
    ignored. Only usual contrasts are compared: others may have any name.
    """
    said = [{row.contrast for row in rows if row.contrast} for rows in groups.values()]
    common = set.intersection(*said) if len(said) > 1 else set()
    for contrast, words in zip(groups, said, strict=True):
        own = usual_contrast(contrast)
        others = words - common
        if not own or not others or own.upper() in others:
            continue
        if len(said) > 1 or all(exclude(word.lower(), own) for word in others):
            return True
    return False


def _name_contrasts(catalog: Catalog, found: Mapping[str, list[Row]]) -> None:
    """Write the names of the contrasts asked for into their rows; UserError for a row of two."""
    taken: dict[int, str] = {}
    for contrast, rows in found.items():
        for row in rows:
            if id(row) not in taken:
                taken[id(row)] = contrast
                row.contrast = contrast
            else:
                both = " and ".join((taken[id(row)], contrast))
                raise UserError(
                    f"'{row.path}' belongs to both domains, {both}",
                    where="data.source",
                    remedy="make data.source.a and data.source.b more specific, or correct the"
                    " table that `gantk data check SCANS --table scans.csv` writes",
                )

    for row in catalog:  # a synonym that another word of the same folder replaces
        if row.kind == "image" and id(row) not in taken and row.contrast in found:
            row.contrast = CONTRASTS.get(one_word(row.contrast), row.contrast).upper()
            if row.contrast in found:
                row.fill("kind", "version", "another file of this contrast fits better")


def _leave_out_derived(contrast: str, rows: Sequence[Row]) -> None:
    """Mark images that were made from another of their contrast: `T1_brain` beside `T1`."""
    named = [row for row in rows if row.why.get("contrast") != UNNAMED]
    kept = set(without_derived([row.path for row in named], contrast))
    for row in named:
        if row.path not in kept and not row.why.get("contrast", "").startswith("data.source."):
            row.fill("kind", "version", "its name is that of another image with further words")


# --- two folders without names for contrasts


Groups = dict[Parts, str]  # folders -> contrast


def _two_folders(rows: Sequence[Row], root: Path, asked: Asked) -> tuple[Groups, str]:
    """The contrast of each folder where names do not say it: by the beginning of a word, by A and B
    at the end, or as two groups in alphabetical order.
    """
    contrasts = list(asked.contrasts)
    folders = {relative_to(row.path, root).parts[:-1] for row in rows}
    ordered = sorted(folders, key=lambda parts: natural("/".join(parts)))
    if len(contrasts) != 2:
        return {}, ""

    def matches(part: str) -> list[int]:
        return [domain_match(part, contrast) for contrast in contrasts]

    def ends(part: str) -> list[int]:
        words = words_of(SPLIT_WORD.sub("", part))
        last = words[-1].lower() if words else ""
        return [int(last == letter) for letter in "ab"]

    for rule, score in (
        (BEGINS_ALIKE, matches),
        ("the folder ends in A or B", ends),
    ):
        groups = _best_folders(ordered, score, contrasts)
        if groups:
            return groups, rule
    if any(row.contrast and row.is_volume for row in rows):
        return {}, ""  # volumes of one contrast in two folders are two groups of patients
    return _two_groups(ordered, contrasts), "the first and second folder in alphabetical order"


def _best_folders(folders: Sequence[Parts], score, contrasts: Sequence[str]) -> Groups:
    """The contrast of each folder by its best-matching part; {} unless both contrasts have some."""
    found: Groups = {}
    for parts in folders:
        scores = [score(part) for part in parts]
        first = max((each[0] for each in scores), default=0)
        second = max((each[1] for each in scores), default=0)
        if first != second:
            found[parts] = contrasts[0] if first > second else contrasts[1]
    return found if len({*found.values()}) == 2 else {}


def _two_groups(folders: Sequence[Parts], contrasts: Sequence[str]) -> Groups:
    """Two groups of folders; those of splits, and parts that all paths share, do not count."""
    counted = {}
    for parts in folders:
        counted[parts] = [part for part in parts if not SPLIT_WORD.fullmatch(part)]

    for depth in range(min(map(len, counted.values()), default=0)):
        names = sorted({own[depth] for own in counted.values()}, key=natural)
        names.sort(
            key=lambda name: domain_match(name, contrasts[1]) - domain_match(name, contrasts[0])
        )
        if len(names) > 2:
            return {}
        if len(names) == 2:
            of_name = dict(zip(names, contrasts, strict=True))
            return {parts: of_name[own[depth]] for parts, own in counted.items()}
    return {}


def _rows_of_groups(
    catalog: Catalog, contrast_of: Groups, rule: str, root: Path, asked: Asked
) -> dict[str, list[Row]]:
    """The rows of two groups of folders; their names must not say other contrasts."""
    found: dict[str, list[Row]] = {contrast: [] for contrast in asked.contrasts}
    for row in catalog.of_kind("image"):
        parts = relative_to(row.path, root).parts[:-1]
        if parts in contrast_of:
            found[contrast_of[parts]].append(row)

    if rule != BEGINS_ALIKE:
        if _say_others(found):
            return dict.fromkeys(asked.contrasts, [])
        first, second = (
            {part for row in rows for part in relative_to(row.path, root).parts[:-1]}
            for rows in found.values()
        )
        catalog.groups = {
            contrast: sorted(own - (first & second), key=natural)
            for contrast, own in zip(asked.contrasts, (first, second), strict=True)
        }
    return {contrast: _with_rule(rows, rule) for contrast, rows in found.items()}


# --- folders, splits


def _set_places(catalog: Catalog, asked: Asked, root: Path) -> None:
    """Set the folders of each row that may be a patient's or a visit's, and its name, in one
    spelling.
    """
    words = _words_wanted(asked)
    of_groups = {part for parts in catalog.groups.values() for part in parts}
    for row in catalog:
        folders = relative_to(row.scan.path, root).parts[:-1]
        row.place = tuple(map(composed, _place_of(folders, words, of_groups)))
        row.stem = composed(row.stem)

    images = _asked_for(catalog, asked)
    _drop_folders_of_contrasts(images)
    places = defaultdict(set)
    for row in images:
        places[row.contrast].add(row.place)
    for row in images:
        if not row.is_volume and len(places[row.contrast]) == 1:
            row.place = ()  # what all images share says nothing of one
        row.stem = bare_stem(row.stem, (row.contrast,))


def _place_of(folders: Parts, words: set[str], of_groups: set[str]) -> Parts:
    """The folders without words for contrasts, splits and groups.

    What a folder says besides a contrast (TSE of `T2_TSE`) counts only where no folder has a number.
    """
    place = []
    others = []
    for folder in folders:
        rest = contrast_in(folder, words)[1]
        has_number = bool(parts_with_digits([rest]))
        is_split = SPLIT_WORD.match(rest) and not has_number
        if not rest or is_split or folder in of_groups:
            continue
        place.append(rest)
        if rest == folder or has_number:
            others.append(rest)
    return tuple(others if parts_with_digits(others) else place)


def _drop_folders_of_contrasts(rows: Sequence[Row]) -> None:
    """Leave out the folders that only tell contrasts apart: `Tr1` of all T1, `Tr2` of all T2."""
    contrasts = {row.contrast for row in rows}
    depth = 0
    while len(contrasts) > 1 and all(len(row.place) > depth for row in rows):
        contrasts_of = defaultdict(set)
        for row in rows:
            contrasts_of[row.place[depth]].add(row.contrast)
        tells = len(contrasts_of) == len(contrasts) and all(
            len(own) == 1 for own in contrasts_of.values()
        )
        elsewhere = all(
            parts_with_digits(row.place[:depth] + row.place[depth + 1 :]) for row in rows
        )
        is_person = any(PERSON.search(name) for name in contrasts_of)
        numbered = bool(parts_with_digits(list(contrasts_of)))
        if (
            tells
            and not is_person
            and (elsewhere or not numbered or _many_files(rows, contrasts_of))
        ):
            for row in rows:
                row.place = row.place[:depth] + row.place[depth + 1 :]
        else:
            depth += 1


def _many_files(rows: Sequence[Row], folders: Mapping[str, set[str]]) -> bool:
    """Whether the folders hold pictures, so that one each would be all of a contrast."""
    return not any(row.is_volume for row in rows) and len(rows) > 2 * len(folders)


def _set_labels(rows: Sequence[Row]) -> None:
    """Set the classes of images of one contrast: the first folders, where two or more have no
    number.
    """
    classes = {row.place[0] for row in rows if row.place and not parts_with_digits(row.place[:1])}
    if len(classes) < 2:
        return
    for row in rows:  # folders below the class's may be patients'
        if row.place and row.place[0] in classes:
            row.fill("label", row.place[0], "the folder, one of several without a number")
            row.place = row.place[1:]


def names_classes(folders: Sequence[str]) -> bool:
    """Whether folders are named after classes of images, such as yes and no."""
    return not CLASS_WORDS.isdisjoint(map(str.lower, folders))


def _set_splits(rows: Sequence[Row], root: Path) -> None:
    """Set the splits that folders name; a single one, as in `TrainT1`, means nothing."""
    splits = splits_of([relative_to(row.path, root).parts[:-1] for row in rows])
    for row, split in zip(rows, splits, strict=True):
        if split:
            row.fill("split", split, "a folder's name")


# --- patients, visits, pairs


def _set_patients(catalog: Catalog, rows: list[Row], root: Path, asked: Asked) -> None:
    """Set patient and visit: by a pattern, folders, or names."""
    pattern = regex_option(asked.patient)
    if pattern:
        for row in rows:
            key = composed(relative_to(row.scan.path, root).as_posix())
            row.fill(
                "subject", patient_of(key, pattern), f"data.source.patient is '{asked.patient}'"
            )
        return

    doubts, notes = visits_or_patients(rows)
    catalog.notes += notes
    if doubts:
        catalog.doubts += doubts
        return

    volumes = [row for row in rows if row.is_volume]
    pictures = [row for row in rows if not row.is_volume]
    of_folder = _folder_names([row.place for row in rows])
    if pictures:
        _set_patients_of_pictures(catalog, pictures, of_folder, asked)
    if volumes:
        _set_patients_of_volumes(volumes, of_folder, asked.patient == "names")


def _folder_names(places: Sequence[Parts]) -> dict[Parts, str]:
    """The patient of each place: the folders with numbers, or all of its folders where two patients
    would have one name (`Berlin/001`, `Paris/001`).
    """
    whole = patients_of(places)
    short = patients_of(places, whole=False)
    if len(set(short.values())) < len(set(whole.values())):
        return whole
    return short


def _set_patients_of_volumes(
    rows: Sequence[Row], of_folder: Mapping[Parts, str], by_names: bool
) -> None:
    """By numbered folders; by a folder that holds one image of each contrast; else, or `by_names`, by
    name, with the folder where sites use the same names.
    """
    beside = Counter((row.place, row.contrast) for row in rows)
    several = len({row.place for row in rows}) > 1
    by_name = patients_of_volumes(rows)
    named: list[tuple[Row, Parts, str]] = []
    for row, name in zip(rows, by_name, strict=True):
        folders, is_patient = patient_places(row.place)
        alone = folders and beside[row.place, row.contrast] == 1
        # the name of a series numbers it in the patient's folder
        of_patient = is_patient and (several or row.scan.is_series)
        by_folder = (of_patient or alone) and not by_names
        if by_folder or (row.place and not (row.stem and name)):
            row.fill("subject", of_folder[row.place], "the folder")
        else:
            dates = DATE_WORD.findall(row.stem)
            named.append((row, folders, name or "_".join(dates) or row.stem))

    _set_patients_of_named(named, of_folder)
    for row in rows:
        row.session = _session(row)


def _set_patients_of_named(
    named: Sequence[tuple[Row, Parts, str]], of_folder: Mapping[Parts, str]
) -> None:
    """By the names of volumes (row, folders, name); where they recur in several folders, these are
    sites, or patients if there are more of them than names.
    """
    names = {name for _, _, name in named}
    folders_of_names = {folders for _, folders, _ in named}
    recur = len({(folders, name) for _, folders, name in named}) > len(names)
    for row, folders, name in named:
        if recur and len(names) < len(folders_of_names):  # the same few visits of many
            row.fill("subject", of_folder[row.place], "the folder")
        elif recur:
            row.fill("subject", "/".join((*folders, name)), "folder and file name")
        else:
            row.fill("subject", name, PATIENT_IN_NAME)


def _session(row: Row) -> str:
    """The visit: folders and words of one, dates, and without a date what a folder or name says
    behind the patient, but for how was scanned.
    """
    visits = [part for part in row.place if VISIT_FOLDER.fullmatch(part)]
    own = row.subject.rpartition("/")[2]
    for text in row.place if own in "/".join(row.place) else (row.stem,):
        rest = text.removeprefix(own)
        if own and rest and rest != text:
            if not DATE_WORD.search(rest):
                visits.append(without_series(rest).strip("_-. "))
            break
    name = CHANNEL_AT_END.sub("", row.stem)
    said = (word[0] for word in VISIT_WORD.finditer(name))
    undated = [word for word in said if not STARTS_WITH_DATE.match(word)]
    for word in (*undated, *dates_of(row)):
        word = word.strip("_-. ")
        if not any(word in text for text in (own, *visits)):
            visits.append(word)
    return "/".join(filter(None, visits))


def _set_patients_of_pictures(
    catalog: Catalog, rows: Sequence[Row], of_folder: Mapping[Parts, str], asked: Asked
) -> None:
    """By names, if the user says so; by folders, if most pictures lie in numbered ones; else by
    names, if these are sure.
    """
    by_names = asked.patient == "names"
    numbered = sum(bool(parts_with_digits(row.place)) for row in rows)
    if 2 * numbered > len(rows) and not by_names:
        for row in rows:
            row.fill("subject", of_folder[row.place], "the folder")
            row.session = _session(row)
        return

    if numbered and not by_names:
        return  # folders are named after patients, but not all
    catalog.doubts += _set_patients_by_names(rows, asked.patient)


def _set_patients_by_names(rows: Sequence[Row], patient: str) -> list[UserError]:
    """Set the patients in the names of pictures, where they are sure or `patient` is "names"; else
    returns the doubt, if names may contain patients. With "names", those that share no patient are
    one each.
    """
    reading = patients_in_names(rows)
    if reading is None:
        if patient == "names":
            _set_patients_of_named([(row, row.place, row.stem) for row in rows], {})
        return []
    if reading.sure or patient == "names":
        for row, name in zip(rows, reading.patients, strict=True):
            row.fill("subject", name, PATIENT_IN_NAME)
        return []

    for row in rows:
        row.why["subject"] = "empty: the file's name may contain the patient"
    return [unsure([row.stem for row in rows], reading)]


def _set_pairs(rows: Sequence[Row]) -> None:
    """Set what images of one anatomy share: patient and visit, where these have one volume of each
    contrast, else folder and name; nothing where names do not tell which belong together, or give
    one to two images of a contrast, and for a volume alone.
    """
    several = has_several(rows)
    for members in groups_of(rows):
        names = defaultdict(list)
        for row in members:
            names[row.name].append(row)
        are_volumes = all(row.is_volume for row in members)
        single = are_volumes and has_one_of_each(members)
        tell = not are_volumes or (
            any(map(has_several, names.values())) and all(map(has_one_of_each, names.values()))
        )
        for row in members:
            if single and several and len(members) == 1:
                row.why["pair"] = "empty: no image of another contrast of this visit"
            elif single:
                row.fill("pair", row.visit, "the only images of their contrasts of this visit")
            elif tell:
                name = "/".join(filter(None, (row.split, row.name)))
                row.fill("pair", name, "folder and name without the contrast")
            else:
                row.why["pair"] = "empty: names do not tell which images belong together"
