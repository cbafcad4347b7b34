"""Takes one of several versions of an image: `pre/T1.nii.gz` of `orig/T1.nii.gz` and
`pre/T1.nii.gz`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gantk.catalog.contrasts import CONTRASTS, exclude, usual_contrast, without_gaps, words_of
from gantk.catalog.domains import relative_to
from gantk.catalog.patients import Parts
from gantk.catalog.patterns import UNWANTED_VERSIONS, VERSION_FOLDER, VERSION_WORD
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.data.sources.reader import Item, is_volume
from gantk.errors import UserError, count_noun
from gantk.formats.files import stem_of

Words = tuple[Parts, Parts]  # the words of a path's folders, and of its name, that say its version


@dataclass
class Version:
    """One version of an image."""

    item: Item
    image: tuple  # what all versions of the image share
    words: Words

    @property
    def all_words(self) -> Parts:
        return self.words[0] + self.words[1]


def refuse_folders_of_visits(items: Sequence[Item], names: dict[str, str], root: Path) -> None:
    """UserError if most files of a domain are in folders whose file names end in several contrasts.

    Example: `T1/P1_T1_FLAIR` next to `T1/P1_T1_T2` is of the first visit, not of the contrast T1.
    `T1_to_T2` and `T2_in_T1` do not count as names that end in a contrast.

    `names` are the domains by letter, `root` is the folder of all images.
    """
    for letter, name in names.items():
        own = usual_contrast(name)
        if not own:
            continue

        counts = Counter[Path]()
        ends = defaultdict[Path, dict[str, Item]](dict)  # the contrasts that names end in
        for item in items:
            if item.letter != letter or item.contrasts:
                continue
            folder = item.display_path.parent
            counts[folder] += 1
            contrast = _contrast_at_end(item)
            if contrast:
                ends[folder].setdefault(contrast, item)

        mixed = []
        for folder, said in ends.items():
            if len(said) > 1 and any(exclude(contrast.lower(), own) for contrast in said):
                mixed.append(folder)

        if 2 * sum(counts[folder] for folder in mixed) > counts.total():
            raise _mixed_folder(ends[mixed[0]], name, names, root)


def _contrast_at_end(item: Item) -> str | None:
    """The contrast that a file's name ends in; None after `to` and `in`."""
    words = [word.lower() for word in words_of(stem_of(item.display_path))]
    if not words or words[-1] not in CONTRASTS:
        return None
    if len(words) > 1 and words[-2].endswith(("to", "in")):
        return None
    return CONTRASTS[words[-1]].upper()


def _mixed_folder(said: dict[str, Item], name: str, names: dict[str, str], root: Path) -> UserError:
    """The error for a folder whose file names end in several contrasts."""
    first = relative_to(next(iter(said.values())).display_path, root).as_posix()
    contrasts = ", ".join(sorted(said))
    what = f"names of files that would count as {name} end in {contrasts}: '{first}' and others"
    ways = " ".join(f"--set data.source.{x}='**/*_{each}.*'" for x, each in names.items())
    remedy = f"set which files belong to each domain: {ways}. {FILL_IN_TABLE}"
    return UserError(what, where="data.source", remedy=remedy)


def one_version(items: Sequence[Item], root: Path) -> tuple[list[Item], str | None]:
    """The items with one version of each image, and a sentence on those left out; all and None
    where there is one each.

    Versions are files of one domain whose paths below `root` differ only in words for versions. Only
    versions whose folders hold at least half as many images as the fullest, in both domains, are
    considered. Of these the one without such a word is taken, else the processed one, else the one
    as it was scanned, else the one without skull.
    """
    if not _may_be_versions(items):
        return list(items), None

    versions = [_version(item, root) for item in items]
    best = _best_versions(versions)
    left_out = [each for each in versions if each.words != best[each.image].words]
    if not left_out:
        return list(items), None

    kept = [each.item for each in versions if each.words == best[each.image].words]
    first = left_out[0]
    other = best[first.image].item
    left, taken = (relative_to(each.display_path, root).as_posix() for each in (first.item, other))
    files = f"{count_noun(left_out, 'file')} {'is' if len(left_out) == 1 else 'are'}"
    note = (
        f"{files} left out as other versions of an image, such as '{left}' next to '{taken}'. To"
        f" choose another version: {_way_to_choose(first)}"
    )
    return kept, note


def _may_be_versions(items: Sequence[Item]) -> bool:
    """Whether any folder, or any volume's name, has a word for a version."""
    folders = {
        part for folder in {item.display_path.parent for item in items} for part in folder.parts
    }
    if any(map(VERSION_FOLDER.fullmatch, folders)):
        return True
    return any(
        VERSION_WORD.search(item.display_path.name) for item in items if is_volume(item.source)
    )


def _best_versions(versions: Sequence[Version]) -> dict[tuple, Version]:
    """The most liked version of each image."""
    counts = {each.item.letter: Counter[Parts]() for each in versions}
    for each in versions:
        counts[each.item.letter][each.words[0]] += 1

    # of each kind of folder the number of images in the domain that has fewer
    complete = {}
    for each in versions:
        folders = each.words[0]
        complete[folders] = min(count[folders] for count in counts.values())

    most = max(complete.values())

    def liking(each: Version) -> tuple:
        full = 2 * complete[each.words[0]] >= most
        liked = [not any(map(unliked.match, each.all_words)) for unliked in UNWANTED_VERSIONS]
        return full, not each.all_words, *liked, each.words

    best: dict[tuple, Version] = {}
    for each in versions:
        if each.image not in best or liking(each) > liking(best[each.image]):
            best[each.image] = each

    return best


def _way_to_choose(left_out: Version) -> str:
    """The settings by which a user takes the version that was left out."""
    if left_out.item.contrasts:
        return "remove the others from the folder"
    if left_out.item.letter == "image":  # `a` is no glob in a source of one domain
        words = left_out.all_words
        return f"--set data.source.a={words[0]}" if words else "remove the others from the folder"
    return "--set data.source.a='**/orig/*T1*', and data.source.b in the same way"


def _version(item: Item, root: Path) -> Version:
    """An item with its path without words for versions, and these words."""
    folders, folder_words = _folders(relative_to(item.display_path, root).parts[:-1])
    stem = stem_of(item.display_path)
    name_words: list[str] = []
    if is_volume(item.source):
        name_words = VERSION_WORD.findall(stem.lower())
        # raw 3DT1, then T1_preprocessed
        stem = without_gaps(VERSION_WORD.sub("", stem).removeprefix("3D")) or stem

    image = (item.letter, *folders, stem, item.volume)
    return Version(item, image, (folder_words, tuple(name_words)))


@lru_cache(maxsize=2**16)
def _folders(parts: Parts) -> Words:
    """The folders that say no version, and those that do, in lower case."""
    others = tuple(part for part in parts if not VERSION_FOLDER.fullmatch(part))
    versions = tuple(part.lower() for part in parts if VERSION_FOLDER.fullmatch(part))
    return others, versions
