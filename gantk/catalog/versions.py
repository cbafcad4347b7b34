"""Takes one of several versions of an image: `pre/T1.nii.gz` of `orig/T1.nii.gz` and
`pre/T1.nii.gz`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import (
    CONTRASTS,
    contrast_in,
    exclude,
    usual_contrast,
    without_gaps,
    words_of,
)
from gantk.catalog.domains import Parts, parts_with_digits, relative_to
from gantk.catalog.patterns import (
    MASK_NAME,
    MAY_BE_TEMPLATE,
    STANDARD_SPACE_FOLDER,
    STRIPPED_WORD,
    TEMPLATE,
    UNWANTED_VERSIONS,
    VERSION_FOLDER,
    VERSION_WORD,
)
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.errors import UserError, count_noun
from gantk.formats.files import stem_of

Words = tuple[Parts, Parts]  # the words of a path's folders, and of its name, that say its version


@dataclass
class Version:
    """One version of an image."""

    row: Row
    image: tuple  # what all versions of the image share
    words: Words

    @property
    def all_words(self) -> Parts:
        return self.words[0] + self.words[1]


def refuse_folders_of_visits(rows: Sequence[Row], letters: dict[str, str], root: Path) -> None:
    """UserError if most files of a contrast are in folders whose file names end in several contrasts.

    Example: `T1/P1_T1_FLAIR` next to `T1/P1_T1_T2` is of the first visit, not of the contrast T1.
    `T1_to_T2` and `T2_in_T1` do not count as names that end in a contrast.

    `letters` are the contrasts by domain's letter, `root` is the folder of all images.
    """
    for contrast in letters.values():
        own = usual_contrast(contrast)
        if not own:
            continue

        counts = Counter[Path]()
        ends = defaultdict[Path, dict[str, Row]](dict)  # the contrasts that names end in
        for row in rows:
            if row.contrast == contrast:
                counts[row.path.parent] += 1
                said = _contrast_at_end(row)
                if said:
                    ends[row.path.parent].setdefault(said, row)

        mixed = []
        for folder, of_contrast in ends.items():
            others = any(exclude(said.lower(), own) for said in of_contrast)
            if len(of_contrast) > 1 and others:
                mixed.append(folder)

        if 2 * sum(counts[folder] for folder in mixed) > counts.total():
            raise _mixed_folder(ends[mixed[0]], contrast, letters, root)


def _contrast_at_end(row: Row) -> str | None:
    """The contrast that a file's name ends in; None after `to` and `in`."""
    words = [word.lower() for word in words_of(stem_of(row.path))]
    if not words or words[-1] not in CONTRASTS:
        return None
    if len(words) > 1 and words[-2].endswith(("to", "in")):
        return None
    return CONTRASTS[words[-1]].upper()


def _mixed_folder(
    said: dict[str, Row], contrast: str, letters: dict[str, str], root: Path
) -> UserError:
    """The error for a folder whose file names end in several contrasts."""
    first = relative_to(next(iter(said.values())).path, root).as_posix()
    contrasts = ", ".join(sorted(said))
    what = f"names of files that would count as {contrast} end in {contrasts}: '{first}' and others"
    ways = " ".join(f"--set data.source.{x}='**/*_{each}.*'" for x, each in letters.items())
    remedy = f"set which files belong to each domain: {ways}. {FILL_IN_TABLE}"
    return UserError(what, where="data.source", remedy=remedy)


def leave_out_standard_space(rows: Sequence[Row], root: Path) -> None:
    """Mark images in a standard space of subjects who have others of the contrast as `version`."""
    own_space = set()
    in_standard = []
    for row in rows:
        folders = relative_to(row.path, root).parts[:-1]
        if any(map(STANDARD_SPACE_FOLDER.fullmatch, folders)):
            in_standard.append(row)
        else:
            own_space.add((row.subject, row.contrast))
    for row in in_standard:
        if (row.subject, row.contrast) in own_space:
            row.fill("kind", "version", "in a standard space, beside one in the patient's own")


def leave_out_templates(rows: Sequence[Row], words: Sequence[str], root: Path) -> list[str]:
    """Mark volumes of templates and atlases as `no scan`, unless most images are such or one of
    `words`, which the user chose, names them; returns a sentence on them. Below a numbered folder,
    and with a numbered name, they are a patient's.
    """
    templates = []
    for row in rows:
        if not MAY_BE_TEMPLATE.search(str(row.path)) or not row.is_volume:
            continue  # of most rows, and fast
        parts = []
        for part in (*relative_to(row.path, root).parts[:-1], stem_of(row.path)):
            rest = contrast_in(re.sub(r"[\d.]+mm", "", part), set())[1]
            parts += [rest] if rest else []
        own = [part for part in parts[-2:] if TEMPLATE.search(part)]
        others = [part for part in parts if part not in own]
        if own and not parts_with_digits(others):
            templates.append(row)

    if not 0 < 2 * len(templates) < len(rows) or any(map(TEMPLATE.search, words)):
        return []
    for row in templates:
        row.fill("kind", "no scan", "its name is that of a template or an atlas")
    first = relative_to(templates[0].path, root).as_posix()
    return [
        f"{count_noun(templates, 'file')} left out: templates or atlases by their names, such as"
        f" '{first}'. If these are of patients, {FILL_IN_TABLE[3:]}"
    ]


def leave_one_version(rows: Sequence[Row], root: Path) -> list[str]:
    """Mark all but one version of each image as `version`; returns sentences on those left out.

    Versions are files of one contrast whose paths below `root` differ only in words for versions.
    Only versions whose folders hold at least half as many images as the fullest, of each contrast,
    are considered. Of these the one without such a word is taken, else the processed one, else the
    one as it was scanned, else the one without skull.
    """
    if not _may_be_versions(rows):
        return []

    versions = [_version(row, root) for row in rows]
    best = _best_versions(versions)
    left_out = [each for each in versions if each.words != best[each.image].words]
    if not left_out:
        return []

    for each in left_out:
        taken = relative_to(best[each.image].row.path, root).as_posix()
        each.row.fill("kind", "version", f"another version of '{taken}'")

    first = left_out[0]
    left = relative_to(first.row.path, root).as_posix()
    taken = relative_to(best[first.image].row.path, root).as_posix()
    files = f"{count_noun(left_out, 'file')} {'is' if len(left_out) == 1 else 'are'}"
    return [
        f"{files} left out as other versions of an image, such as '{left}' next to '{taken}'. To"
        f" choose another version: --set data.source.a='**/orig/*T1*' (and data.source.b in the"
        f" same way), or {FILL_IN_TABLE[3:]}"
    ]


def without_whole_heads(images: Sequence[Path]) -> list[Path]:
    """The images without those of which there is one without skull in the same folder."""
    whole = set()
    for image in images:
        stem = stem_of(image)
        word = STRIPPED_WORD.search(stem)
        if word and not MASK_NAME.search(stem):
            whole.add((image.parent, stem[: word.start()] + stem[word.end() :]))
    return [image for image in images if (image.parent, stem_of(image)) not in whole]


def _may_be_versions(rows: Sequence[Row]) -> bool:
    """Whether any folder, or any volume's name, has a word for a version."""
    folders = {part for folder in {row.path.parent for row in rows} for part in folder.parts}
    if any(map(VERSION_FOLDER.fullmatch, folders)):
        return True
    return any(VERSION_WORD.search(row.path.name) for row in rows if row.is_volume)


def _best_versions(versions: Sequence[Version]) -> dict[tuple, Version]:
    """The preferred version of each image."""
    counts = {each.row.contrast: Counter[Parts]() for each in versions}
    for each in versions:
        counts[each.row.contrast][each.words[0]] += 1

    # of each kind of folder the number of images of the contrast that has fewer
    complete = {}
    for each in versions:
        folders = each.words[0]
        complete[folders] = min(count[folders] for count in counts.values())

    most = max(complete.values())

    def preference(each: Version) -> tuple:
        full = 2 * complete[each.words[0]] >= most
        wanted = [not any(map(word.match, each.all_words)) for word in UNWANTED_VERSIONS]
        return full, not each.all_words, *wanted, each.words

    best: dict[tuple, Version] = {}
    for each in versions:
        if each.image not in best or preference(each) > preference(best[each.image]):
            best[each.image] = each

    return best


def _version(row: Row, root: Path) -> Version:
    """A row with its path without words for versions, and these words."""
    folders, folder_words = _folders(relative_to(row.path, root).parts[:-1])
    stem = stem_of(row.path)
    name_words: list[str] = []
    if row.is_volume:
        name_words = VERSION_WORD.findall(stem.lower())
        # raw 3DT1, then T1_preprocessed
        stem = without_gaps(VERSION_WORD.sub("", stem).removeprefix("3D")) or stem

    return Version(row, (row.contrast, *folders, stem), (folder_words, tuple(name_words)))


@lru_cache(maxsize=2**16)
def _folders(parts: Parts) -> Words:
    """The folders that say no version, and those that do, in lower case."""
    others = tuple(part for part in parts if not VERSION_FOLDER.fullmatch(part))
    versions = tuple(part.lower() for part in parts if VERSION_FOLDER.fullmatch(part))
    return others, versions
