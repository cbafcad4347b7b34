"""What file and folder names say: contrast, domain, split (train, test), and the rest, which is the patient's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantk.errors import UserError
from gantk.formats.contrasts import without_gaps, words_of
from gantk.formats.files import list_images, natural, stem_of

# `train`, `Testing`, and glued to what follows: `trainA`, `TrainT1`, `traint1`, `test_b`; not `trainers`.
SPLIT_WORD = re.compile(r"^(?i:training|train|testing|test|validation|valid|val)(?=[A-Z0-9_\-. ]|[a-z]\d|[ab]$|$)")
SPLITS = {"tr": "train", "te": "test", "va": "validation"}

Parts = tuple[str, ...]  # the folders of a path


@dataclass(frozen=True)
class Found:
    """One image file and what its path says about it."""

    path: Path
    letter: str  # "a", "b" or "image"
    split: str | None
    place: Parts  # folders that say neither domain nor split: a patient, where there are several
    stem: str  # file name without suffix and without the domain's name

    @property
    def name(self) -> str:
        """What registered images of two domains share: place and stem."""
        return "/".join(filter(None, (*self.place, self.stem))) or "scan"


# --- words


def images_below(folder: Path) -> list[Path]:
    """All images below a folder, none where there is no such folder."""
    try:
        return list_images(folder, recursive=True)
    except UserError:
        return []


def only_if_several(splits: Iterable[str | None]) -> list[str | None]:
    """The splits that folders say, if these are several: `TrainT1` beside no other says nothing about a split."""
    splits = list(splits)
    return splits if len(set(splits) - {None}) > 1 else [None] * len(splits)


def split_of(parts: Sequence[str]) -> str | None:
    """`train`, `validation` or `test` where a folder's name starts with such a word."""
    found = next(filter(None, map(SPLIT_WORD.match, parts)), None)
    return found and SPLITS[found[0][:2].lower()]


def domain_match(name: str, domain: str) -> int:
    """How clearly a name means a domain: 3 is it, 2 has it as a word, 1 has a word that starts alike, 0 not at all."""
    wanted = re.sub(r"[^a-z0-9]", "", domain.lower())
    words = [word.lower() for word in words_of(SPLIT_WORD.sub("", name))]
    if "".join(words) == wanted:
        return 3
    if wanted in words:
        return 2
    # A single letter starts too many words.
    alike = [word for word in words if min(len(word), len(wanted)) > 1]
    return int(any(word.startswith(wanted) or wanted.startswith(word) for word in alike))


def bare_stem(stem: str, domains: Sequence[str]) -> str:
    """The stem without what names the domain: `007_T1W`, `007_T2W` and `mr007` are all `007`."""
    words = re.split(r"([_\-. ]+)", stem)
    for domain in filter(None, domains):
        for i, word in enumerate(words):
            glued = re.fullmatch(rf"{re.escape(domain)}([a-z]*)(\d*)", word, re.IGNORECASE)
            if glued and (glued[1] or not glued[2] or not domain[-1].isdigit()):
                words[i] = glued[2]
            elif domain_match(word, domain) >= 2:
                words[i] = ""
    return without_gaps("".join(words))


# --- patients


def numbered(parts: Sequence[str]) -> list[str]:
    """The parts that hold a digit: folders of patients, where folders of kinds (`tumour`) have none."""
    return [part for part in parts if any(map(str.isdigit, part))]


def regex_option(pattern: str, option: str = "patient") -> re.Pattern | None:
    """The regular expression of an option, None for ""; that of `patient` has one group, or one named `patient`."""
    if not pattern:
        return None
    try:
        found = re.compile(pattern, re.NOFLAG if option == "patient" else re.IGNORECASE)
    except re.error as error:
        raise UserError(f"'{pattern}' is no regular expression: {error}", where=f"data.source.{option}") from error
    if option == "patient" and found.groups != 1 and "patient" not in found.groupindex:
        allowed = "one group, or one that is named: (?P<patient>...)"
        raise UserError(f"'{pattern}' has {found.groups} groups", where="data.source.patient", allowed=allowed)
    return found


def patient_of(path: str, pattern: re.Pattern) -> str:
    """The patient that a pattern finds in a relative path, or in the file's name without suffix; else a UserError."""
    match = pattern.search(path) or pattern.search(stem_of(path))
    if not match:
        what = f"the pattern '{pattern.pattern}' finds no patient in '{path}'"
        remedy = "correct it; it is searched in the path below the folder, then in the file's name without its suffix"
        raise UserError(what, where="data.source.patient", remedy=remedy)
    return match["patient"] if "patient" in pattern.groupindex else match[1]


# --- folders of two domains


def discover(root: Path, domains: tuple[str, str], images: Sequence[Path] | None = None) -> list[Found]:
    """The images below `root` (of `images`, where these are given) that belong to one of two domains, in natural order.

    Decided by the first that finds both: the domains' names in folder names, `A` and `B` at their ends, the domains'
    names in file names, two folders in alphabetical order. UserError with the folders found where none does.
    """
    images = list_images(root, recursive=True) if images is None else images
    if not images:
        raise UserError(f"no images in '{root}'", where="data.source.path", remedy="point it at a folder that has some")
    parts_of = {image: image.parent.relative_to(root).parts for image in images}
    folders = sorted(set(parts_of.values()), key=lambda parts: natural("/".join(parts)))

    def ending(part: str) -> list[int]:  # `trainA` and `set_A` end with a
        last = "".join(words_of(SPLIT_WORD.sub("", part))[-1:]).lower()
        return [int(last == "a"), int(last == "b")]

    by_folder = _clearest(folders, lambda part: [domain_match(part, domain) for domain in domains])
    by_folder = by_folder or _clearest(folders, ending)
    by_file = {} if by_folder else _by_file_name(images, domains)
    by_folder = by_folder or ({} if by_file else _two_groups(folders))
    if not by_folder and not by_file:
        names = ", ".join(f"'{'/'.join(parts) or '.'}'" for parts in folders[:8]) + (" ..." if len(folders) > 8 else "")
        raise UserError(
            f"cannot tell which images in '{root}' are {domains[0]} and which are {domains[1]}: folders {names}",
            where="data.source.path",
            allowed="trainA and trainB, folders or files named after the domains, or two folders",
            remedy="set data.domains to names that the folders have, or data.source.a and data.source.b",
        )
    entries = [(image, parts, *by_folder[parts]) for image, parts in parts_of.items() if parts in by_folder]
    entries += [(image, parts_of[image], letter, None) for image, letter in by_file.items()]
    return _found(entries, dict(zip("ab", domains, strict=True)))


def below(root: Path, images: Sequence[Path], letter: str, domain: str = "") -> list[Found]:
    """Images of one domain, wherever below `root` they lie."""
    folders = [image.parent for image in images]
    parts = [folder.relative_to(root).parts if folder.is_relative_to(root) else () for folder in folders]
    return _found([(image, own, letter, None) for image, own in zip(images, parts, strict=True)], {letter: domain})


def _clearest(folders: Sequence[Parts], score: Callable[[str], list[int]]) -> dict[Parts, tuple[str, int | None]]:
    """The domain that the clearest part of a folder means, and that part; of each domain the clearest folders only.

    Nothing unless both domains have some.
    """
    ranked: dict[str, list[tuple[int, Parts, int]]] = defaultdict(list)
    for parts in folders:
        options = [(score(part), index) for index, part in enumerate(parts)]
        a, b = (max(((scores[i], index) for scores, index in options), default=(0, 0)) for i in (0, 1))
        if a[0] != b[0]:
            letter, (points, index) = ("a", a) if a[0] > b[0] else ("b", b)
            ranked[letter].append((points, parts, index))
    if len(ranked) < 2:
        return {}
    return {
        parts: (letter, part)
        for letter, entries in ranked.items()
        for points, parts, part in entries
        if points == max(entries)[0]
    }


def _by_file_name(images: Sequence[Path], domains: tuple[str, str]) -> dict[Path, str]:
    """The domain of each image whose name says it as clearly as any; nothing unless both domains have some."""
    scores = {image: [domain_match(stem_of(image), domain) for domain in domains] for image in images}
    top = [max(each) for each in zip(*scores.values(), strict=True)]
    letters = {}
    for image, (a, b) in scores.items():
        if a != b and max(a, b) == top[int(b > a)] >= 2:
            letters[image] = "ab"[int(b > a)]
    return letters if len(set(letters.values())) == 2 else {}


def _two_groups(folders: Sequence[Parts]) -> dict[Parts, tuple[str, int | None]]:
    """Two folders that say nothing, first a, then b; split folders and what all have in common aside."""
    kept = {parts: [i for i, part in enumerate(parts) if not SPLIT_WORD.fullmatch(part)] for parts in folders}
    for depth in range(min(map(len, kept.values()))):
        names = sorted({parts[own[depth]] for parts, own in kept.items()}, key=natural)
        if len(names) > 1:
            groups = {parts: ("ab"[names.index(parts[own[depth]]) % 2], own[depth]) for parts, own in kept.items()}
            return groups if len(names) == 2 else {}
    return {}


def _found(entries: Sequence[tuple[Path, Parts, str, int | None]], domains: dict[str, str]) -> list[Found]:
    """Found images of (path, folders, domain, the part that says the domain), with what their folders say beyond that.

    A split counts where there is more than one (`TrainT1` alone says nothing), a place where it differs in the domain.
    """
    places: dict[str, set[Parts]] = defaultdict(set)
    found = []
    for path, parts, letter, own in entries:
        place = tuple(part for i, part in enumerate(parts) if i != own and not SPLIT_WORD.fullmatch(part))
        places[letter].add(place)
        found.append(Found(path, letter, split_of(parts), place, bare_stem(stem_of(path), (domains[letter],))))
    for i, split in enumerate(only_if_several(image.split for image in found)):
        place = found[i].place if len(places[found[i].letter]) > 1 else ()
        found[i] = replace(found[i], split=split, place=place)
    return sorted(found, key=lambda image: (image.letter, natural(image.path)))
