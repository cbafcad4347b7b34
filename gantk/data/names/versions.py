"""Takes one of several versions of an image: `pre/T1.nii.gz` of `orig/T1.nii.gz` and
`pre/T1.nii.gz`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from gantk.data.names.domains import relative_to
from gantk.data.names.patient_folders import VERSION, Parts
from gantk.data.sources.reader import Item, is_volume
from gantk.data.sources.rows import FILL_IN_TABLE
from gantk.errors import UserError, counted
from gantk.formats.contrasts import CONTRASTS, exclude, usual_contrast, without_gaps, words_of
from gantk.formats.files import stem_of

if TYPE_CHECKING:
    from gantk.data.sources.source import FileSource

# The least liked versions first: brains without skull, then what is as it was scanned.
LEAST = re.compile(r"(?i).*strip|bet|ss"), re.compile(r"(?i)raw|orig|unproc")
# A word of a volume's name that says a version: `p1_T1_n4`.
WORD = re.compile(rf"(?i)(?<![^\W_]){VERSION.pattern.removeprefix('(?i)')}(?![^\W_])")

Words = tuple[Parts, Parts]  # the words of a path's folders, and of its name, that say its version


def refuse_folders_of_visits(items: Sequence[Item], source: FileSource) -> None:
    """UserError where most files of a domain lie in folders whose file names end in several
    contrasts: `T1/P1_T1_FLAIR` beside `T1/P1_T1_T2` is of the first visit, not of T1. `T1_to_T2`
    and `T2_in_T1` end in no contrast of their own.
    """
    for letter, name in source.names.items():
        if not (own := usual_contrast(name)):
            continue
        folders = defaultdict[Path, dict[str, Item]](dict)
        counts = Counter[Path]()
        for item in items:
            if item.letter == letter and not item.contrasts:
                counts[folder := item.shown.parent] += 1
                before, last = ["", "", *(word.lower() for word in words_of(stem_of(item.shown)))][
                    -2:
                ]
                if last in CONTRASTS and not before.endswith(("to", "in")):
                    folders[folder].setdefault(CONTRASTS[last].upper(), item)
        mixed = [
            x
            for x, said in folders.items()
            if len(said) > 1 and any(exclude(one.lower(), own) for one in said)
        ]
        if 2 * sum(counts[folder] for folder in mixed) > counts.total():
            said = folders[mixed[0]]
            first = relative_to(next(iter(said.values())).shown, source.root).as_posix()
            what = (
                f"files that would count as {name} end in {', '.join(sorted(said))}: '{first}' and"
                " others"
            )
            ways = " ".join(
                f"--set data.source.{x}='**/*_{each}.*'" for x, each in source.names.items()
            )
            raise UserError(
                what,
                where="data.source",
                remedy=f"name the files of each domain: {ways}. {FILL_IN_TABLE}",
            )


def one_version(items: Sequence[Item], root: Path) -> tuple[list[Item], str | None]:
    """The items with one version of each image, and a sentence on those left out; all and None
    where there is one each.

    Versions are files of one domain whose paths below `root` differ in words for versions alone. Of
    those whose folders hold at least half as many images as any, in both domains, the one without
    such a word is taken; else the processed one, the one as it was scanned, the one without skull.
    """
    folders = {part for folder in {item.shown.parent for item in items} for part in folder.parts}
    stems = (item.shown.name for item in items if is_volume(item.source))
    if not any(map(VERSION.fullmatch, folders)) and not any(map(WORD.search, stems)):
        return list(items), None
    marked = [(item, *_version(item, root)) for item in items]
    versions: dict[tuple, dict[Words, Item]] = defaultdict(dict)
    counts = {item.letter: Counter() for item in items}
    for item, key, words in marked:
        versions[key].setdefault(words, item)
        counts[item.letter][words[0]] += 1
    complete = {
        words[0]: min(count[words[0]] for count in counts.values()) for _, _, words in marked
    }

    def liking(words: Words) -> tuple:
        least = (not any(map(each.match, sum(words, ()))) for each in LEAST)
        return 2 * complete[words[0]] >= max(complete.values()), not any(words), *least, words

    best = {key: max(found, key=liking) for key, found in versions.items()}
    left = [
        (item, sum(words, ()), versions[key][best[key]])
        for item, key, words in marked
        if words != best[key]
    ]
    if not left:
        return list(items), None
    item, words, other = left[0]
    first, taken = (relative_to(each.shown, root).as_posix() for each in (item, other))
    ways = "--set data.source.a='**/orig/*T1*' and the like for b"
    if item.contrasts or item.letter == "image":  # sources whose `a` is no glob
        if item.contrasts or not words:
            ways = "take the others out of the folder"
        else:
            ways = f"--set data.source.a={words[0]}"
    note = (
        f"{counted(left, 'file')} left out as other versions: '{first}' beside '{taken}'. To"
        f" choose: {ways}"
    )
    return [item for item, key, words in marked if words == best[key]], note


def _version(item: Item, root: Path) -> tuple[tuple, Words]:
    """What all versions of an item's image share, such as its path without words for versions, and
    these words.
    """
    folders, said = _folders(relative_to(item.shown, root).parts[:-1])
    stem = stem_of(item.shown)
    words = []
    if is_volume(item.source):
        words = WORD.findall(stem.lower())
        # raw 3DT1, then T1_preprocessed
        stem = without_gaps(WORD.sub("", stem).removeprefix("3D")) or stem
    return (item.letter, *folders, stem, item.volume), (said, tuple(words))


@lru_cache(maxsize=2**16)
def _folders(parts: Parts) -> tuple[Parts, Parts]:
    """The folders that say no version, and those that do, in lower case."""
    return tuple(x for x in parts if not VERSION.fullmatch(x)), tuple(
        x.lower() for x in parts if VERSION.fullmatch(x)
    )
