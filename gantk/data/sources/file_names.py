"""Reads contrast, domain, split (train, test) and patient from file and folder names."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from gantk.data.sources.reader import Item
from gantk.errors import UserError, told
from gantk.formats.contrasts import (
    CONTRASTS,
    USUAL,
    contrast_in,
    exclude,
    one_word,
    same_contrast,
    usual_contrast,
    without_gaps,
    words_of,
)
from gantk.formats.files import LISTED, is_image, list_images, natural, readable, stem_of

# `train`, `Testing`, `imagesTr`, and glued to what follows: `trainA`, `TrainT1`, `traint1`, `test_b`; not `trainers`.
SPLIT_WORD = re.compile(
    r"^(?i:training|train|testing|test|validation|valid|val|imagestr|imagests|imagesva?l?)"
    r"(?=[A-Z0-9_\-. ]|[a-z]\d|[ab]$|$)"
)
SPLITS = {"tr": "train", "te": "test", "ts": "test", "va": "validation"}
LONGEST, PATIENCE = 1000, 2.0  # characters of a regular expression; seconds that it may take for one name
LABELS = re.compile(r"(?i)(label|mask|seg|segmentation|annotation)s?(tr|ts|va?l?)?")  # folders of masks: no domain

DATE = r"(?:19|20)\d\d[\W_]?[01]\d[\W_]?[0-3]\d"
VISITS = r"(?:sess?|session|visit|tp|time[\W_]?point|baseline|follow[\W_]?up)[\W_]?[dmvw]?\d*"
# A folder: `ses-01`, `2020-01-02`, `anat2`; in a name: `007_V1`, `OAS30001_MR_d0129`, `BraTS-GLI-00001-001`.
VISIT = re.compile(rf"(?i)(?:{DATE}|{VISITS}|anat|(?:anat|scan|series|study|exam|run|acq|mr)[\W_]?\d+)[\W\d_]*")
VISIT_WORD = re.compile(rf"(?i)(?<![^\W_])(?:{DATE}|{VISITS}|[dmv]\d+)(?![^\W_])|(?<=\d{{5}})[-_]\d{{2,3}}$")
GLOB = re.compile(r"[*?\[]")

Parts = tuple[str, ...]  # the folders of a path
Files = dict[str, Path | None]  # the file of each contrast
Match = tuple[str, int | None]  # the domain of a path, and the index of the folder that names it


def images_below(folder: Path) -> list[Path]:
    """All images below a folder; none if the folder does not exist."""
    with suppress(UserError):
        return list_images(folder, recursive=True)
    return []


def images_of(folder: Path, option: str) -> tuple[Path, list[Path]]:
    """The folder that a folder or glob starts from, and its images in natural order; what exists is no glob."""
    parts = folder.parts
    globs = [n for n, part in enumerate(parts) if GLOB.search(part) and not Path(*parts[: n + 1]).exists()]
    if not globs:
        return folder, list_images(folder, recursive=True)
    start, pattern = Path(*parts[: globs[0]]), str(Path(*parts[globs[0] :]))
    with suppress(ValueError):  # it is no glob
        if images := [path for path in start.glob(pattern) if is_image(path) and path.is_file()]:
            return start, LISTED.get()(sorted(images, key=natural))
    raise UserError(f"no images match '{folder}'", where=option, allowed=readable())


def relative_to(path: Path, root: Path) -> Path:
    """A path relative to a folder, or itself where it lies elsewhere."""
    return path.relative_to(root) if path.is_relative_to(root) else path


# --- patients and splits


def numbered(parts: Sequence[str]) -> list[str]:
    """The parts with a digit, as folders of patients have; folders of classes (`tumour`) have none."""
    return [part for part in parts if any(map(str.isdigit, part))]


def without_visit(name: str) -> str:
    """A patient's name up to the word of a visit that follows a number: `007` for `007_V1`."""
    visits = (match.start() for match in VISIT_WORD.finditer(name))
    return next((name[:at].rstrip("_-. ") for at in visits if numbered([name[:at]])), name)


def patient_folders(place: Sequence[str]) -> str:
    """A patient's folders without those of visits: `siteA/p07` for `siteA/p07_V2` and `siteA/p07/2020-01-02/3`."""
    own: list[str] = []
    for part in place:
        if not VISIT.fullmatch(part):
            own.append(without_visit(part))
        if numbered(own) and own[-1] != part:
            break
    while numbered(own) and not numbered(own[-1:]):
        own.pop()
    return "/".join(own or place)


class BoundedPattern:
    """A user's regular expression with a time limit: `(a+)+$` could search for ever, which is a UserError here.

    A timer of CPU seconds interrupts the search, but only in the main thread, and not on Windows.
    """

    def __init__(self, pattern: str, flags: int):
        self.pattern, self.compiled = pattern, re.compile(pattern, flags)
        self.groups, self.groupindex = self.compiled.groups, self.compiled.groupindex

    def search(self, text: str) -> re.Match | None:
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            return self.compiled.search(text)
        before = signal.signal(signal.SIGVTALRM, self._stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
        try:
            return self.compiled.search(text)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    def _stop(self, *_) -> None:
        what = f"the pattern '{self.pattern}' takes more than {PATIENCE:g} s for one name"
        raise UserError(what, where="data.source", remedy="repeat nothing that is itself repeated, as (a+)+ does")


def regex_option(pattern: str, option: str = "patient") -> BoundedPattern | None:
    """The regular expression of an option, None for "" and "names"; that of `patient` needs one group, or `patient`."""
    if pattern in ("", "names"):
        return None
    try:
        if len(pattern) > LONGEST:
            raise re.error(f"it is longer than {LONGEST} characters")
        compiled = BoundedPattern(pattern, re.NOFLAG if option == "patient" else re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        what = f"'{pattern[:99]}' is no regular expression: {told(error)}"
        raise UserError(what, where=f"data.source.{option}") from error
    if option == "patient" and compiled.groups != 1 and "patient" not in compiled.groupindex:
        allowed = "one group, or one that is named: (?P<patient>...)"
        raise UserError(f"'{pattern}' has {compiled.groups} groups", where="data.source.patient", allowed=allowed)
    return compiled


def patient_of(path: str, pattern: BoundedPattern) -> str:
    """The patient that a pattern finds in a relative path, or in the file's name without suffix; else a UserError."""
    match = pattern.search(path) or pattern.search(stem_of(path))
    if not match:
        what = f"the pattern '{pattern.pattern}' finds no patient in '{path}'"
        remedy = "correct it; it is searched in the path below the folder, then in the file's name without its suffix"
        raise UserError(what, where="data.source.patient", remedy=remedy)
    return match["patient"] if "patient" in pattern.groupindex else match[1]


def split_of(parts: Sequence[str]) -> str | None:
    """`train`, `validation` or `test` where a folder's name starts with such a word, or ends with it: `CT_test`."""
    ends = (words_of(part)[-1:] for part in parts)
    match = next(filter(None, map(SPLIT_WORD.match, (*parts, *(last for end in ends for last in end)))), None)
    return match and SPLITS[match[0].lower().removeprefix("images")[:2]]


def only_if_several(items: Sequence[Item]) -> None:
    """Clear the items' splits unless there are several: `TrainT1` as the only one means nothing."""
    if len({item.split for item in items} - {None}) < 2:
        for item in items:
            item.split = None


# --- domains


def rename_or_map(said: Collection[str], domains: Sequence[str]) -> str:
    """Advice where names contain other contrasts than a recipe's domains: settings that rename or map them."""
    said = sorted(set(said), key=lambda word: (USUAL.index(word) if word in USUAL else len(USUAL), natural(word)))
    said = said[: len(domains)]
    if len(said) < len(domains):
        return ""
    each = " ".join(f'--set data.source.{letter}="{word}"' for letter, word in zip("ab", said, strict=False))
    return f"rename the recipe's domains, --set 'data.domains={json.dumps(said)}', or say what each is called, {each}"


def domain_match(name: str, domain: str) -> int:
    """How well a name matches a domain: 3 equal, 2 has it (or a synonym) as a word, 1 a word starts alike, 0 not."""
    wanted = re.sub(r"[^a-z0-9]", "", domain.lower())
    words = [word.lower() for word in words_of(SPLIT_WORD.sub("", name))]
    if "".join(words) == wanted:
        return 3
    if any(same_contrast(word, wanted) for word in words):
        return 2
    # A single letter starts too many words.
    alike = [word for word in words if min(len(word), len(wanted)) > 1]
    return int(any(word.startswith(wanted) or wanted.startswith(word) for word in alike))


def bare_stem(stem: str, domains: Sequence[str]) -> str:
    """The stem without what names the domain: `007_T1W`, `007_T2W` and `mr007` are all `007`."""
    words = re.split(r"([_\-. ]+)", stem)
    for domain in filter(None, domains):
        words = [_bare(word, domain) for word in words]
    return without_gaps("".join(words))


@lru_cache(maxsize=2**12)  # the names of a million images repeat few words
def _bare(word: str, domain: str) -> str:
    glued = re.fullmatch(rf"{re.escape(domain)}([a-z]*)(\d*)", word, re.IGNORECASE)
    if glued and (glued[1] or not glued[2] or not domain[-1].isdigit()):
        return glued[2]
    return "" if domain_match(word, domain) >= 2 and (len(domain) > 1 or len(word) == 1) else word  # not `trainA` for A


def of_contrast(said: Mapping[Path, str | None], word: str, others: set[str]) -> list[Path]:
    """The images of a contrast, by its own word in the name; in folders without it, by a synonym not in `others`."""
    own = {image.parent for image, each in said.items() if each == word}
    alike = (i for i, each in said.items() if same_contrast(each or "", word) and each not in others)
    return [image for image in alike if said[image] == word or image.parent not in own]


def contrast_files(images: Sequence[Path], contrasts: Sequence[str]) -> dict[Path, Files]:
    """By folder, the image of each contrast: by its exact name, else by a usual synonym; UserError for two."""
    wanted = {contrast: one_word(contrast) for contrast in contrasts}
    words = set(wanted.values())
    contrast_of = {image: contrast_in(stem_of(image), words)[0] for image in images}
    folders: dict[Path, Files] = {image.parent: dict.fromkeys(contrasts) for image in images}
    for contrast, word in wanted.items():
        for image in of_contrast(contrast_of, word, words - {word}):
            if other := folders[image.parent][contrast]:
                what = f"'{image.parent}' holds two files of {contrast}: '{other.name}' and '{image.name}'"
                remedy = "leave one of them out, or name the one that is no image with mask"
                raise UserError(what, where="data.source.path", remedy=remedy)
            folders[image.parent][contrast] = image
    return {folder: files for folder, files in folders.items() if any(files.values())}


def contrast_said(path: Path) -> str | None:
    """The usual contrast in a relative path, the one nearest to the file's name: T1 for `x/t1w/1.png`."""
    words = (contrast_in(SPLIT_WORD.sub("", part), set())[0] for part in (stem_of(path), *reversed(path.parts[:-1])))
    word = next(filter(None, words), None)
    return word and CONTRASTS[word].upper()


def folders_apart(groups: Mapping[str, Collection[Path]]) -> dict[str, list[str]]:
    """By domain, the folders that only its relative paths have: `testA` and `trainA`, not the `png` above both."""
    parts = {letter: {part for path in paths for part in path.parts[:-1]} for letter, paths in groups.items()}
    both = set.intersection(*parts.values()) if len(parts) > 1 else set()
    return {letter: sorted(own - both, key=natural) for letter, own in parts.items()}


def expect_no_other_contrast(groups: Mapping[str, Collection[Path]], domains: Mapping[str, str]) -> None:
    """UserError where the file names of a domain contain another contrast; a contrast in all domains is ignored.

    Only domains that are usual contrasts are checked: a domain may have any other name.
    """
    contrasts = {letter: {contrast_said(path) for path in paths} - {None} for letter, paths in groups.items()}
    common = set.intersection(*contrasts.values()) if len(contrasts) > 1 else set()
    unexpected = {letter: words - common for letter, words in contrasts.items()}
    for letter, words in unexpected.items():
        own = usual_contrast(domains[letter])
        fit = (word == own.upper() or (len(contrasts) == 1 and not exclude(word.lower(), own)) for word in words if own)
        if own and words and not any(fit):
            apart = folders_apart(groups)
            called = [min(words or apart[each] or [each], key=natural) for each, words in unexpected.items()]
            own = " and ".join(domains.values())
            what = f"folder or file names say {' and '.join(called)}, and this recipe has {own}"
            raise UserError(what, where="data.domains", remedy=rename_or_map(called, list(domains.values())))


def discover(root: Path, domains: tuple[str, str], images: Sequence[Path] | None = None) -> list[Item]:
    """The images below `root` (of `images`, where these are given) that belong to one of two domains, in natural order.

    Decided by the first rule that finds both: the domains' names in folder names, then in file names, `A` and `B` at
    the ends of folder names, two folders in alphabetical order. UserError, with the folders found, where none does, or
    where names contain contrasts other than the domains.
    """
    images = list_images(root, recursive=True) if images is None else images
    if not images:
        raise UserError(f"no images in '{root}'", where="data.source.path", remedy="point it at a folder that has some")
    parts_of = {image: image.parent.relative_to(root).parts for image in images}
    folders = sorted(dict.fromkeys(parts_of.values()), key=lambda parts: natural("/".join(parts)))
    names = dict(zip("ab", domains, strict=True))
    matches = _clearest(folders, lambda part: [domain_match(part, domain) for domain in domains])
    letters: dict[Path, Match] = {image: matches[parts] for image, parts in parts_of.items() if parts in matches}
    letters = letters or {image: (letter, None) for image, letter in _by_file_name(images, domains).items()}
    if not letters:
        matches = _clearest(folders, _ending) or _two_groups(folders, domains)
        letters = {image: matches[parts] for image, parts in parts_of.items() if parts in matches}
        groups = {letter: [i.relative_to(root) for i, (own, _) in letters.items() if own == letter] for letter in "ab"}
        expect_no_other_contrast(groups, names)
    if not letters:
        counts = Counter(filter(None, (contrast_said(image.relative_to(root)) for image in images)))
        shown = ", ".join(f"'{'/'.join(parts) or '.'}'" for parts in folders[:8]) + (" ..." if len(folders) > 8 else "")
        remedy = rename_or_map([word for word, _ in counts.most_common(2)], domains)
        raise UserError(
            f"cannot tell which images in '{root}' are {domains[0]} and which are {domains[1]}: folders {shown}",
            where="data.source.path",
            allowed="trainA and trainB, folders or files named after the domains, or two folders",
            remedy=remedy or "set data.domains to names that the folders have, or data.source.a and data.source.b",
        )
    return items_in(root, letters, names)


def items_in(root: Path, images: Mapping[Path, Match], domains: Mapping[str, str]) -> list[Item]:
    """Items of images whose domains are known, with split, place and stem, by domain in natural order.

    A split counts if there are several (`TrainT1` alone means nothing), a place if it differs within the domain.
    """
    items, places = [], defaultdict(set)
    for path, (letter, index) in images.items():
        parts = path.parent.relative_to(root).parts
        place = tuple(part for i, part in enumerate(parts) if i != index and not SPLIT_WORD.fullmatch(part))
        places[letter].add(place)
        stem = bare_stem(stem_of(path), (domains[letter],))
        items.append(Item(letter, path, split=split_of(parts), place=place, stem=stem))
    only_if_several(items)
    for item in items:
        item.place = item.place if len(places[item.letter]) > 1 else ()
    return sorted(items, key=lambda item: (item.letter, natural(item.source)))


def _ending(part: str) -> list[int]:
    """Whether a folder's name ends with A, and with B, as 0 or 1: `trainA` and `set_B`."""
    last = "".join(words_of(SPLIT_WORD.sub("", part))[-1:]).lower()
    return [int(last == "a"), int(last == "b")]


def _clearest(folders: Sequence[Parts], score: Callable[[str], list[int]]) -> dict[Parts, Match]:
    """The domain of the best-matching folders, by the best part of their paths; {} unless both domains have some."""
    best: dict[str, dict[Parts, tuple[int, int]]] = {"a": {}, "b": {}}
    for parts in folders:
        scores = [score(part) for part in parts]
        a, b = (max(((each[i], place) for place, each in enumerate(scores)), default=(0, 0)) for i in (0, 1))
        if a[0] != b[0]:
            best["a" if a > b else "b"][parts] = max(a, b)
    if not best["a"] or not best["b"]:
        return {}
    top = {letter: max(found.values())[0] for letter, found in best.items()}
    entries = ((letter, parts, *own) for letter, found in best.items() for parts, own in found.items())
    return {parts: (letter, place) for letter, parts, points, place in entries if points == top[letter]}


def _by_file_name(images: Sequence[Path], domains: tuple[str, str]) -> dict[Path, str]:
    """The domain of the images whose names match one best; {} unless both domains have some."""
    scores = {image: [domain_match(stem_of(image), domain) for domain in domains] for image in images}
    top = [max(each) for each in zip(*scores.values(), strict=True)]
    clear = {image: int(b > a) for image, (a, b) in scores.items() if a != b}
    letters = {image: "ab"[i] for image, i in clear.items() if scores[image][i] == top[i] >= 2}
    return letters if len(set(letters.values())) == 2 else {}


def _two_groups(folders: Sequence[Parts], domains: Sequence[str]) -> dict[Parts, Match]:
    """The domains of two groups of folders: in alphabetical order, unless a name matches a domain. Folders of splits
    and masks, and parts that all paths share, are ignored."""
    folders = [parts for parts in folders if not any(map(LABELS.fullmatch, parts))]
    kept = {parts: [i for i, part in enumerate(parts) if not SPLIT_WORD.fullmatch(part)] for parts in folders}
    for depth in range(min(map(len, kept.values()), default=0)):
        names = sorted({parts[own[depth]] for parts, own in kept.items()}, key=natural)
        names.sort(key=lambda name: domain_match(name, domains[1]) - domain_match(name, domains[0]))
        if len(names) > 2:
            return {}
        if len(names) == 2:
            return {parts: ("ab"[names.index(parts[own[depth]])], own[depth]) for parts, own in kept.items()}
    return {}
