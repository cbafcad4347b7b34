"""Reads contrast, domain, split (train, test) and patient from file and folder names."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from gantk.catalog.channels import paths_with_contrasts
from gantk.catalog.contrasts import (
    BESIDE_OTHERS,
    CONTRASTS,
    USUAL,
    contrast_in,
    exclude,
    join_contrast_words,
    one_word,
    same_contrast,
    usual_contrast,
    without_gaps,
    words_of,
)
from gantk.catalog.patients import Parts, parts_with_digits, patients_of
from gantk.catalog.patterns import (
    FURTHER_WORD,
    MASK_FOLDER,
    MASK_NAME,
    SPLIT_WORD,
    SPLITS,
)
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.data.sources.reader import Item, is_volume
from gantk.errors import NothingFound, UserError, one_line
from gantk.formats.files import LISTING_FILTER, is_image, list_images, natural, readable, stem_of

MAX_PATTERN_CHARACTERS = 1000

GLOB = re.compile(r"[*?\[]")

Files = dict[str, Path | None]  # the file of each contrast
Match = tuple[str, int | None]  # the domain of a path, and the index of the folder that names it
Key = TypeVar("Key", bound=Hashable)


class Scored(NamedTuple):
    """A match, how clear it is, and the other folders."""

    match: Match
    points: int
    folders: Parts


def images_below(folder: Path) -> list[Path]:
    """All images below a folder; none if the folder does not exist."""
    with suppress(UserError):
        return without_labels(list_images(folder, recursive=True), folder)
    return []


def without_labels(images: Sequence[Path], root: Path, words: Collection[str] = ()) -> list[Path]:
    """The images that neither their names nor their folders' below `root` call masks; all, if that
    leaves none.

    All as well if one of `words`, which the user chose for the domains, says masks.
    """

    @lru_cache
    def is_masks_folder(folder: Path) -> bool:
        return any(map(MASK_FOLDER.fullmatch, relative_to(folder, root).parts))

    if any(map(MASK_NAME.search, words)):
        return list(images)

    kept = []
    for image in images:
        if not MASK_NAME.search(stem_of(image)) and not is_masks_folder(image.parent):
            kept.append(image)

    return kept or list(images)


def images_of(folder: Path, option: str) -> tuple[Path, list[Path]]:
    """The folder that a folder or glob starts from, and its images in natural order; what exists is
    no glob.
    """
    for n, part in enumerate(folder.parts):
        start = Path(*folder.parts[:n])
        if not GLOB.search(part) or (start / part).exists():
            continue

        images: list[Path] = []
        with suppress(ValueError):  # it is no glob
            found = start.glob(str(Path(*folder.parts[n:])))
            images = [path for path in found if is_image(path) and path.is_file()]

        if images:
            return start, LISTING_FILTER.get()(sorted(images, key=natural))

        raise NothingFound(f"no images match '{folder}'", where=option, allowed=readable())

    return folder, list_images(folder, recursive=True)


def relative_to(path: Path, root: Path) -> Path:
    """A path relative to a folder, or the path itself if it is not below that folder."""
    return path.relative_to(root) if path.is_relative_to(root) else path


# --- patients and splits


def regex_option(pattern: str, option: str = "patient") -> re.Pattern | None:
    """The regular expression of an option, None for "" and "names"; that of `patient` needs one
    group, or `patient`.
    """
    if pattern in ("", "names"):
        return None

    try:
        if len(pattern) > MAX_PATTERN_CHARACTERS:
            raise re.error(f"it is longer than {MAX_PATTERN_CHARACTERS} characters")
        compiled = re.compile(pattern, re.NOFLAG if option == "patient" else re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        what = f"'{pattern[:99]}' is not a valid regular expression: {one_line(error)}"
        raise UserError(what, where=f"data.source.{option}") from error

    if option == "patient" and compiled.groups != 1 and "patient" not in compiled.groupindex:
        allowed = "exactly one group, or a group with the name patient: (?P<patient>...)"
        raise UserError(
            f"the pattern '{pattern}' has {compiled.groups} groups",
            where="data.source.patient",
            allowed=allowed,
        )

    return compiled


def patient_of(path: str, pattern: re.Pattern) -> str:
    """The patient that a pattern finds in a relative path, or in the file's name without suffix;
    else a UserError.
    """
    match = pattern.search(path) or pattern.search(stem_of(path))
    if not match:
        what = f"the pattern '{pattern.pattern}' finds no patient in '{path}'"
        remedy = (
            "correct the pattern. It is searched in the path below the folder, then in the file"
            " name without the suffix"
        )
        raise UserError(what, where="data.source.patient", remedy=remedy)

    return match["patient"] if "patient" in pattern.groupindex else match[1]


@lru_cache(maxsize=2**16)
def split_of(parts: Parts) -> str | None:
    """`train`, `validation` or `test` where a folder's name starts with such a word, or ends with
    it: `CT_test`.
    """
    last_words = [words_of(part)[-1] for part in parts if words_of(part)]
    for text in (*parts, *last_words):
        word = SPLIT_WORD.match(text)
        if word:
            return SPLITS[word[0].lower().removeprefix("images")[:2]]

    return None


def only_if_several(items: Sequence[Item]) -> None:
    """Clear the items' splits unless there are several: `TrainT1` as the only one means nothing."""
    if len({item.split for item in items} - {None}) < 2:
        for item in items:
            item.split = None


# --- domains


def rename_or_map(said: Collection[str], domains: Sequence[str]) -> str:
    """Advice where names contain other contrasts than a recipe's domains: settings that rename or
    map them.
    """
    own = [one_word(domain) for domain in domains]
    fits = {word: [same_contrast(one_word(word), each) for each in own] for word in said}

    def usefulness(word: str) -> tuple:
        usual = USUAL.index(word) if word in USUAL else len(USUAL)
        return not any(fits[word]), usual, natural(word)

    words = sorted(fits, key=usefulness)[: len(domains)]
    if len(words) < len(domains):
        return ""
    # What fits a domain stays its own; of others the usual order decides.
    if len(words) == 2 and (fits[words[0]][1] or fits[words[1]][0]):
        words.reverse()

    settings = [f'--set data.source.{x}="{word}"' for x, word in zip("ab", words, strict=False)]
    return (
        f"rename the recipe's domains with --set 'data.domains={json.dumps(words)}', or set the"
        f" word for each domain with {' '.join(settings)}"
    )


def domain_match(name: str, domain: str) -> int:
    """How well a name matches a domain: 3 equal, 2 has it (or a synonym) as a word, 1 a word starts
    with it or starts it, 0 not.
    """
    wanted = re.sub(r"[^a-z0-9]", "", domain.lower())
    words = join_contrast_words([word.lower() for word in words_of(SPLIT_WORD.sub("", name))])
    if "".join(words) == wanted:
        return 3

    two_words = map(str.__add__, words, words[1:])
    if any(same_contrast(word, wanted) for word in words) or wanted in two_words:
        return 2

    for word in words:
        # A single letter starts too many words.
        either_starts_the_other = word.startswith(wanted) or wanted.startswith(word)
        if min(len(word), len(wanted)) > 1 and either_starts_the_other:
            return 1

    return 0


def bare_stem(stem: str, domains: Sequence[str]) -> str:
    """The stem without what names the domain: `007_T1W`, `007_T2W` and `mr007` are all `007`."""
    words = re.split(r"([_\-. ]+)", stem)
    for domain in filter(None, domains):
        words = [_bare(word, domain) for word in words]
    return without_gaps("".join(words))


@lru_cache(maxsize=2**12)  # the names of a million images repeat few words
def _bare(word: str, domain: str) -> str:
    """A word of a name without the domain: its number where they are glued, as in `mr007`."""
    glued = re.fullmatch(rf"{re.escape(domain)}([a-z]*)(\d*)", word, re.IGNORECASE)
    if glued:
        letters, number = glued.groups()
        if letters or not number or not domain[-1].isdigit():
            return number

    if domain_match(word, domain) < 2 or (len(domain) == 1 and len(word) > 1):
        return word  # such as `trainA` for A
    return ""


def of_contrast(said: Mapping[Path, str | None], word: str, others: set[str]) -> list[Path]:
    """The images of a contrast, by its own word in the name; in folders without it, by a synonym
    not in `others`.
    """
    own_folders = {image.parent for image, each in said.items() if each == word}
    images = []
    for image, each in said.items():
        if each == word:
            images.append(image)
        elif image.parent in own_folders or each in others:
            continue
        elif same_contrast(each or "", word):
            images.append(image)

    return without_derived(images, word)


def without_derived(images: Sequence[Path], domain: str) -> list[Path]:
    """A domain's images without those made from others, and without side files.

    The first are named as an image with a contrast in their folder or above it, and further words
    (`T1_brain` beside `T1`, not `T1_to_T2`); the second are volumes that name no contrast beside
    one that names the domain's (`bias`).
    """
    stems_of = defaultdict(set)  # by folder
    for image in images:
        stems_of[image.parent].add(stem_of(image).lower())

    contrasts = {image: usual_contrast(stem_of(image)) for image in images if is_volume(image)}
    own = usual_contrast(domain)
    with_contrast = {
        image.parent
        for image, contrast in contrasts.items()
        if contrast and not exclude(contrast, own)
    }

    @lru_cache
    def stems_above(folder: Path) -> list[set[str]]:
        return [stems_of[each] for each in (folder, *folder.parents) if each in stems_of]

    def is_derived(image: Path) -> bool:
        for original in possible_originals(stem_of(image).lower()):
            exists = any(original in stems for stems in stems_above(image.parent))
            if exists and usual_contrast(original):
                return True
        return False

    kept = []
    for image in images:
        is_side_file = image.parent in with_contrast and not contrasts.get(image, "no volume")
        if not is_side_file and not is_derived(image):
            kept.append(image)

    return kept


def possible_originals(stem: str) -> list[str]:
    """The names of which a name is one with further words: `t1` of `t1_brain`."""
    return [stem[: end.start()] for end in FURTHER_WORD.finditer(stem)]


def contrast_files(images: Sequence[Path], contrasts: Sequence[str]) -> dict[Path, Files]:
    """By folder, the image of each contrast: by its exact name, else by a usual synonym; UserError
    for two.
    """
    folders = {}
    for folder, candidates in contrast_candidates(images, contrasts).items():
        files: Files = dict.fromkeys(contrasts)
        for contrast, found in candidates.items():
            if len(found) > 1:
                raise _two_files(contrast, *found[:2])
            files[contrast] = found[0]
        folders[folder] = files

    return folders


def contrast_candidates(
    images: Sequence[Path], contrasts: Sequence[str]
) -> dict[Path, dict[str, list[Path]]]:
    """By folder, the images of each contrast that it holds: by the exact name, else by a usual
    synonym, else by a word that means it beside other contrasts (`CT1` beside `T1`).
    """
    wanted = {contrast: one_word(contrast) for contrast in contrasts}
    words = set(wanted.values())
    contrast_of = {image: contrast_in(stem_of(image), words)[0] for image in images}
    folders: dict[Path, dict[str, list[Path]]] = {image.parent: {} for image in images}
    for contrast, word in wanted.items():
        for image in of_contrast(contrast_of, word, words - {word}):
            folders[image.parent].setdefault(contrast, []).append(image)

    folders = {folder: found for folder, found in folders.items() if found}
    unnamed = [image for image, said in contrast_of.items() if said is None]
    for contrast, word in wanted.items():
        lacking = {folder for folder, found in folders.items() if contrast not in found}
        candidates = [image for image in unnamed if image.parent in lacking]
        for image in _meant_beside_others(candidates, word):
            folders[image.parent].setdefault(contrast, []).append(image)

    return folders


def _meant_beside_others(images: Sequence[Path], contrast: str) -> list[Path]:
    """The images whose names mean a contrast where other images of the patient name others: `CT1`.

    Masks, and those made from others (`CT1_bet` beside `CT1`), are left out.
    """
    short = BESIDE_OTHERS.get(CONTRASTS.get(contrast, ""), set())
    stems = {image: stem_of(image).lower() for image in images}
    found = {
        image: stem
        for image, stem in stems.items()
        if short & set(words_of(stem)) and not MASK_NAME.search(stem)
    }
    originals = {(image.parent, stem) for image, stem in found.items()}
    kept = []
    for image, stem in found.items():
        if not any((image.parent, start) in originals for start in possible_originals(stem)):
            kept.append(image)

    return kept


def _two_files(contrast: str, one: Path, other: Path) -> UserError:
    what = f"'{one.parent}' contains two files of {contrast}: '{one.name}' and '{other.name}'"
    remedy = (
        "remove one of them or, if one is a mask, set data.source.mask to a word of its name."
        f" {FILL_IN_TABLE}"
    )
    return UserError(what, where="data.source.path", remedy=remedy)


def contrast_said(path: Path) -> str | None:
    """The usual contrast in a relative path, the one nearest to the file's name: T1 for
    `x/t1w/1.png`.
    """
    for part in (stem_of(path), *reversed(path.parts[:-1])):
        word = contrast_in(SPLIT_WORD.sub("", part), set())[0]
        if word:
            return CONTRASTS[word].upper()
    return None


def folders_apart(groups: Mapping[str, Collection[Path]]) -> dict[str, list[str]]:
    """By domain, the folders that only its relative paths have: `testA` and `trainA`, not the `png`
    above both.
    """
    parts = {
        letter: {part for path in paths for part in path.parts[:-1]}
        for letter, paths in groups.items()
    }
    both = set.intersection(*parts.values()) if len(parts) > 1 else set()
    return {letter: sorted(own - both, key=natural) for letter, own in parts.items()}


def _contrasts_said(paths: Collection[Path]) -> set[str]:
    said = map(contrast_said, paths)
    return {contrast for contrast in said if contrast is not None}


def expect_no_other_contrast(
    groups: Mapping[str, Collection[Path]], domains: Mapping[str, str]
) -> None:
    """UserError where the file names of a domain contain another contrast; a contrast in all
    domains is ignored.

    Only domains that are usual contrasts are checked: a domain may have any other name.
    """
    contrasts = {letter: _contrasts_said(paths) for letter, paths in groups.items()}
    common = set.intersection(*contrasts.values()) if len(contrasts) > 1 else set()
    unexpected = {letter: words - common for letter, words in contrasts.items()}
    for letter, words in unexpected.items():
        own = usual_contrast(domains[letter])
        if not own or not words or own.upper() in words:
            continue
        if len(contrasts) == 1 and not all(exclude(word.lower(), own) for word in words):
            continue

        apart = folders_apart(groups)
        called = [min(said or apart[x] or [x], key=natural) for x, said in unexpected.items()]
        meant = list(domains.values())
        what = (
            f"the folder or file names contain {' and '.join(called)}, but the recipe's domains are"
            f" {' and '.join(meant)}"
        )
        raise UserError(what, where="data.domains", remedy=rename_or_map(called, meant))


def discover(
    root: Path, domains: tuple[str, str], images: Sequence[Path] | None = None
) -> list[Item]:
    """The images of two domains below `root`, in natural order; only `images`, if these are given.

    The first rule that finds images of both domains decides: the domains' names in folder names,
    then in file names, `A` and `B` at the ends of folder names, two folders in alphabetical order.
    Images that were made from others of their domain (`T1_brain` beside `T1`) are left out.
    UserError, with the folders found, where no rule fits, or where names contain contrasts other
    than the domains.
    """
    if images is None:
        images = list_images(root, recursive=True)
    if not images:
        raise NothingFound(
            f"no images in '{root}'",
            where="data.source.path",
            remedy="set it to a folder that contains images",
        )

    parts_of = {image: _folders(os.path.dirname(image), root) for image in images}
    folders = sorted(dict.fromkeys(parts_of.values()), key=lambda parts: natural("/".join(parts)))

    def of_folders(matches: Mapping[Parts, Match]) -> dict[Path, Match]:
        return {image: matches[parts] for image, parts in parts_of.items() if parts in matches}

    names = dict(zip("ab", domains, strict=True))
    by_folder = _clearest(folders, lambda part: [domain_match(part, domain) for domain in domains])
    match_of = of_folders(by_folder)
    if not match_of:
        match_of = _by_file_name(parts_of, domains)
    if not match_of:  # names say nothing of the domains: they must not say other contrasts either
        match_of = of_folders(_clearest(folders, _ends_in_a_or_b))
        if not match_of:
            match_of = of_folders(_two_groups(folders, domains))
        groups: dict[str, list[Path]] = {"a": [], "b": []}
        for image, (letter, _) in match_of.items():
            groups[letter].append(image.relative_to(root))
        expect_no_other_contrast(groups, names)

    if not match_of:
        raise _cannot_tell(root, domains, images, folders)

    kept: dict[Path, Match] = {}
    for letter in "ab":
        own = [image for image, match in match_of.items() if match[0] == letter]
        kept |= {image: match_of[image] for image in without_derived(own, names[letter])}

    return items_in(root, kept, names)


def _ends_in_a_or_b(folder: str) -> list[int]:
    """For each domain whether the last word of a folder's name is its letter: `trainA`."""
    words = words_of(SPLIT_WORD.sub("", folder))
    last = words[-1].lower() if words else ""
    return [int(last == letter) for letter in "ab"]


def _cannot_tell(
    root: Path, domains: Sequence[str], images: Sequence[Path], folders: Sequence[Parts]
) -> UserError:
    """The error that no rule finds two domains, with the settings that would."""
    if any("+" in domain for domain in domains):
        what = f"no folder in '{root}' contains one file for each contrast of {domains[0]}"
        allowed = "one folder for each patient, with one file for each contrast, such as T1.nii.gz"
        remedy = "move the files of each patient into a folder of its own"
        return UserError(what, where="data.source.path", allowed=allowed, remedy=remedy)

    contrasts = Counter(filter(None, (contrast_said(image.relative_to(root)) for image in images)))
    shown = ", ".join(f"'{'/'.join(parts) or '.'}'" for parts in folders[:8])
    if len(folders) > 8:
        shown += " ..."

    what = (
        f"it is unclear which images in '{root}' are {domains[0]} and which are"
        f" {domains[1]}. Folders found: {shown}"
    )
    allowed = "trainA and trainB, folders or files named after the domains, or two folders"
    remedy = rename_or_map([word for word, _ in contrasts.most_common(2)], domains)
    if not remedy:
        kind = "nifti" if all(map(is_volume, images)) else "folders"
        remedy = (
            "set data.domains to words of the file or folder names, or give a word or a glob for"
            f" each domain: --set data.source.name={kind} --set data.source.a=WORD"
            " --set data.source.b='*_0001*'"
        )

    return UserError(
        what, where="data.source.path", allowed=allowed, remedy=f"{remedy}. {FILL_IN_TABLE}"
    )


def items_in(root: Path, images: Mapping[Path, Match], domains: Mapping[str, str]) -> list[Item]:
    """Items of images whose domains are known, with split, place and stem, by domain, else in the
    order of the images.

    A split counts only if there are several (a single `TrainT1` means nothing), a place only if it
    differs within the domain.
    """
    items = []
    places = defaultdict(set)
    named = paths_with_contrasts(images)
    for path, (letter, index) in images.items():
        parts = _folders(os.path.dirname(path), root)
        place = tuple(
            part for i, part in enumerate(parts) if i != index and not SPLIT_WORD.fullmatch(part)
        )
        places[letter].add(place)
        stem = bare_stem(stem_of(named[path]), (domains[letter],))
        items.append(Item(letter, path, split=split_of(parts), place=place, stem=stem))

    only_if_several(items)
    for item in items:
        item.place = item.place if len(places[item.letter]) > 1 else ()

    return sorted(items, key=lambda item: item.letter)


@lru_cache(maxsize=2**16)
def _folders(place: str, root: Path) -> Parts:
    """The folders below `root` of the images in one place; cached, since Paths are slow to make."""
    return Path(place).relative_to(root).parts


def _clearest(folders: Sequence[Parts], score: Callable[[str], list[int]]) -> dict[Parts, Match]:
    """The domain of the best-matching folders, by the best part of their paths; {} unless both
    domains have some.
    """
    found = {}
    for parts in folders:
        scores = [score(part) for part in parts]
        a = max(((each[0], place) for place, each in enumerate(scores)), default=(0, 0))
        b = max(((each[1], place) for place, each in enumerate(scores)), default=(0, 0))
        if a[0] != b[0]:
            points, place = max(a, b)
            letter = "b" if b > a else "a"
            others = parts[:place] + parts[place + 1 :]
            found[parts] = Scored((letter, place), points, others)

    return _best_of_patients(found)


def _by_file_name(parts_of: Mapping[Path, Parts], domains: Sequence[str]) -> dict[Path, Match]:
    """The domain of the images whose names match one best; {} unless both domains have some."""
    found = {}
    named = paths_with_contrasts(parts_of)
    for image, parts in parts_of.items():
        a, b = (domain_match(stem_of(named[image]), domain) for domain in domains)
        if a != b and max(a, b) >= 2:
            found[image] = Scored(("b" if b > a else "a", None), max(a, b), parts)
    return _best_of_patients(found)


def _best_of_patients(found: Mapping[Key, Scored]) -> dict[Key, Match]:
    """Each patient's best matches, if they have 2 points or there are none; {} unless both domains
    have some. `T1_brain` is left out beside `T1`, not where it is a patient's only T1; `t1ce`
    always.
    """
    patients = patients_of(each.folders for each in found.values())
    groups: dict[tuple[str, str], list[Key]] = defaultdict(list)
    most_points = {"a": 0, "b": 0}
    for key, each in found.items():
        letter = each.match[0]
        most_points[letter] = max(most_points[letter], each.points)
        if parts_with_digits(each.folders):
            patient = patients[each.folders]
        else:
            patient = "/".join(each.folders[:1])
        groups[letter, patient].append(key)

    best: dict[Key, Match] = {}
    for (letter, _), keys in groups.items():
        own_best = max(found[key].points for key in keys)
        if own_best >= min(2, most_points[letter]):
            best |= {key: found[key].match for key in keys if found[key].points == own_best}

    return best if len({letter for letter, _ in best.values()}) == 2 else {}


def _two_groups(folders: Sequence[Parts], domains: Sequence[str]) -> dict[Parts, Match]:
    """The domains of two groups of folders: in alphabetical order, unless a name matches a domain.
    Folders of splits and masks, and parts that all paths share, are ignored.
    """
    kept = {}  # the indices of the parts that are no splits
    for parts in folders:
        if not any(map(MASK_FOLDER.fullmatch, parts)):
            kept[parts] = [i for i, part in enumerate(parts) if not SPLIT_WORD.fullmatch(part)]

    def fits_second(name: str) -> int:
        return domain_match(name, domains[1]) - domain_match(name, domains[0])

    for depth in range(min(map(len, kept.values()), default=0)):
        names = sorted({parts[own[depth]] for parts, own in kept.items()}, key=natural)
        names.sort(key=fits_second)
        if len(names) > 2:
            return {}
        if len(names) == 2:
            letters = dict(zip(names, "ab", strict=True))
            return {parts: (letters[parts[own[depth]]], own[depth]) for parts, own in kept.items()}

    return {}
