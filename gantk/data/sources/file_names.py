"""What names say: which folder or file holds which domain, which split, which patient."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.errors import UserError
from gantk.formats.files import list_images, natural, stem_of

# `train`, `Testing`, and glued to what follows: `trainA`, `TrainT1`, `traint1`, `test_b`; not `trainers`.
SPLIT_WORD = re.compile(r"^(?i:training|train|testing|test|validation|valid|val)(?=[A-Z0-9_\-. ]|[a-z]\d|[ab]$|$)")
SPLITS = {"tr": "train", "te": "test", "va": "validation"}


@dataclass(frozen=True)
class Found:
    """One image file and what its path says about it."""

    path: Path
    letter: str  # "a", "b" or "image"
    split: str | None
    place: tuple[str, ...]  # folders that say neither domain nor split: a patient, where there are several
    stem: str  # file name without suffix and without the domain's name

    @property
    def name(self) -> str:
        """What registered images of two domains share: place and stem."""
        return "/".join(filter(None, (*self.place, self.stem))) or "scan"


@dataclass(frozen=True)
class Meaning:
    """What one folder says: its domain, and which of its parts says so (None: its files do)."""

    letter: str
    part: int | None


def split_of(parts: Sequence[str]) -> str | None:
    """`train`, `validation` or `test` where a folder's name starts with such a word."""
    for part in parts:
        word = SPLIT_WORD.match(part)
        if word:
            return SPLITS[word[0][:2].lower()]
    return None


def likeness(name: str, domain: str) -> int:
    """How clearly a name means a domain: 3 is it, 2 has it as a word, 1 has a word that starts alike, 0 not at all."""
    rest = SPLIT_WORD.sub("", name)
    wanted = re.sub(r"[^a-z0-9]", "", domain.lower())
    words = [word.lower() for word in words_of(rest)]
    if "".join(words) == wanted:
        return 3
    if wanted in words:
        return 2
    # A single letter starts too many words.
    alike = [word for word in words if min(len(word), len(wanted)) > 1]
    return int(any(word.startswith(wanted) or wanted.startswith(word) for word in alike))


def words_of(name: str) -> list[str]:
    """The words of a name: `brainT1_slice` -> brain, T1, slice."""
    return [word for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", name) if word]


def discover(root: Path, domains: tuple[str, str], images: Sequence[Path] | None = None) -> list[Found]:
    """The images below `root` (of `images`, where these are given) that belong to one of two domains, in natural order.

    Decided by the first that finds both: the domains' names in folder names, `A` and `B` at their ends, the domains'
    names in file names, two folders in alphabetical order. UserError with the folders found where none does.
    """
    images = list_images(root, recursive=True) if images is None else images
    folders = sorted(
        {image.parent.relative_to(root).parts for image in images}, key=lambda parts: natural("/".join(parts))
    )
    if not images:
        raise UserError(
            f"no images in '{root}'", where="data.source.path", remedy="point it at a folder that holds some"
        )
    meanings = (
        _by_score(folders, lambda part: [likeness(part, domain) for domain in domains])
        or _by_score(folders, lambda part: [int(_ending(part) == letter) for letter in "ab"])
        or {}
    )
    if not meanings:
        found = _by_file_name(images, root, domains)
        if found:
            return found
        meanings = _two_groups(folders)
    if not meanings:
        names = ", ".join(f"'{'/'.join(parts) or '.'}'" for parts in folders[:8]) + (" ..." if len(folders) > 8 else "")
        raise UserError(
            f"cannot tell which images in '{root}' are {domains[0]} and which are {domains[1]}: folders {names}",
            where="data.source.path",
            allowed="trainA and trainB, folders or files named after the domains, or two folders",
            remedy="set data.domains to names that the folders have, or data.source.a and data.source.b",
        )
    chosen = [image for image in images if image.parent.relative_to(root).parts in meanings]
    return _named(
        [
            (image, image.parent.relative_to(root).parts, meanings[image.parent.relative_to(root).parts])
            for image in chosen
        ],
        domains,
    )


def below(root: Path, images: Sequence[Path], letter: str, domain: str = "") -> list[Found]:
    """Images of one domain, wherever below `root` they lie."""
    meaning = Meaning(letter, None)
    return _named([(image, _parts_below(image.parent, root), meaning) for image in images], (domain, domain))


def _parts_below(folder: Path, root: Path) -> tuple[str, ...]:
    return folder.relative_to(root).parts if folder.is_relative_to(root) else ()


def _by_score(folders: Sequence[tuple[str, ...]], score: Callable[[str], list[int]]) -> dict[tuple, Meaning] | None:
    """Folders by which domain their clearest part means, None unless both have some; only the clearest are kept."""
    ranked: dict[int, list[tuple[int, tuple[str, ...], int]]] = defaultdict(list)
    for parts in folders:
        options = [(score(part), index) for index, part in enumerate(parts)]
        best = [max(((scores[i], index) for scores, index in options), default=(0, 0)) for i in (0, 1)]
        if best[0][0] != best[1][0]:
            winner = int(best[1][0] > best[0][0])
            ranked[winner].append((best[winner][0], parts, best[winner][1]))
    if len(ranked) < 2:
        return None
    return {
        parts: Meaning("ab"[winner], part)
        for winner, entries in ranked.items()
        for points, parts, part in entries
        if points == max(entries)[0]
    }


def _ending(part: str) -> str:
    """The last word of a name without its split word, in lower case: `trainA` and `set_A` end with a."""
    words = words_of(SPLIT_WORD.sub("", part))
    return words[-1].lower() if words else ""


def _by_file_name(images: Sequence[Path], root: Path, domains: tuple[str, str]) -> list[Found]:
    scores = {image: [likeness(stem_of(image), domain) for domain in domains] for image in images}
    top = [max(score[i] for score in scores.values()) for i in (0, 1)]
    found = []
    for image, score in scores.items():
        winner = int(score[1] > score[0])
        if score[0] != score[1] and score[winner] == top[winner] and top[winner] >= 2:
            found.append((image, image.parent.relative_to(root).parts, Meaning("ab"[winner], None)))
    return _named(found, domains) if len({meaning.letter for *_, meaning in found}) == 2 else []


def _two_groups(folders: Sequence[tuple[str, ...]]) -> dict[tuple, Meaning]:
    """Two folders that say nothing, first a, then b; split folders and what all have in common aside."""
    plain = {parts: [i for i, part in enumerate(parts) if not SPLIT_WORD.fullmatch(part)] for parts in folders}
    depth = 0
    while all(len(kept) > depth for kept in plain.values()):
        names = sorted({parts[kept[depth]] for parts, kept in plain.items()}, key=natural)
        if len(names) == 2:
            letters = dict(zip(names, "ab", strict=True))
            return {parts: Meaning(letters[parts[kept[depth]]], kept[depth]) for parts, kept in plain.items()}
        if len(names) > 2:
            break
        depth += 1
    return {}


def _named(entries: Sequence[tuple[Path, tuple[str, ...], Meaning]], domains: tuple[str, str]) -> list[Found]:
    """Found images, with what their folders say beyond domain and split, where that differs between folders."""
    places = [
        tuple(part for i, part in enumerate(parts) if i != meaning.part and not SPLIT_WORD.fullmatch(part))
        for _, parts, meaning in entries
    ]
    several = {
        letter: len({place for place, (*_, meaning) in zip(places, entries, strict=True) if meaning.letter == letter})
        > 1
        for letter in ("a", "b", "image")
    }
    splits = [split_of(parts) for _, parts, _ in entries]
    said = len({split for split in splits if split}) > 1  # `TrainT1` alone says nothing about a split
    found = []
    for (path, _, meaning), place, split in zip(entries, places, splits, strict=True):
        domain = domains["ab".index(meaning.letter)] if meaning.letter in "ab" else ""
        place = place if several[meaning.letter] else ()
        found.append(Found(path, meaning.letter, split if said else None, place, _plain_stem(path, domain)))
    return sorted(found, key=lambda image: (image.letter, natural(image.path)))


def _plain_stem(path: Path, domain: str) -> str:
    return bare_stem(stem_of(path), (domain,))


def bare_stem(stem: str, domains: Sequence[str]) -> str:
    """The stem without what names the domain: `007_T1W`, `007_T2W` and `mr007` are all `007`."""
    words = re.split(r"([_\-. ]+)", stem)
    for domain in domains:
        words = [_without(word, domain) for word in words]
    return re.sub(r"([_\-. ])[_\-. ]+", r"\1", "".join(words)).strip("_-. ")


def _without(word: str, domain: str) -> str:
    match = re.fullmatch(rf"{re.escape(domain)}([a-z]*)(\d*)", word, re.IGNORECASE) if domain else None
    if match and (match[1] or not match[2] or not domain[-1].isdigit()):
        return match[2]
    return "" if domain and likeness(word, domain) >= 2 else word
