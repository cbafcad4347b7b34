"""Reads contrast, domain, split (train, test) and patient from file and folder names."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gantk.catalog.contrasts import (
    USUAL,
    contrasts_in,
    exclude,
    join_contrast_words,
    one_word,
    same_contrast,
    usual_contrast,
    without_gaps,
    words_of,
)
from gantk.catalog.patterns import (
    FURTHER_WORD,
    SPLIT_WORD,
    SPLITS,
    SPM_PREFIX,
)
from gantk.errors import UserError, count_noun, one_line
from gantk.formats.files import (
    is_volume,
    natural,
    stem_of,
)

MAX_PATTERN_CHARACTERS = 1000
MAX_SPM_PREFIX = 6  # characters before a name
MAX_NAMED_DOMAINS = 5  # in a sentence
BY_ORDER = f"the first in the order {', '.join(USUAL)}"

Parts = tuple[str, ...]  # the folders of a path
GLOB = re.compile(r"[*?\[]")


def relative_to(path: Path, root: Path) -> Path:
    """A path relative to a folder, or the path itself if it is not below that folder."""
    with suppress(ValueError):
        return path.relative_to(root)
    return path


# --- patients and splits


def regex_option(pattern: str, option: str = "patient") -> re.Pattern[str] | None:
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


def patient_of(path: str, pattern: re.Pattern[str]) -> str:
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


def parts_with_digits(parts: Sequence[str]) -> list[str]:
    """The parts with a digit: those of patients have one, those of classes (`tumour`) do not."""
    return [part for part in parts if any(map(str.isdigit, part))]


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


def splits_of(places: Sequence[Parts]) -> list[str | None]:
    """The split that folders name, of each place; None for all where they name a single one, which
    means nothing (`TrainT1`).
    """
    splits = [split_of(place) for place in places]
    return splits if len(set(splits) - {None}) > 1 else [None] * len(splits)


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
    words = join_contrast_words(SPLIT_WORD.sub("", name))
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


def without_derived(images: Sequence[Path], domain: str) -> list[Path]:
    """A domain's images without those made from others, and without side files.

    The first are named as an image with a contrast in their folder or above it, and further words
    (`T1_brain` beside `T1`, not `T1_to_T2`) or SPM's letters (`wmT1`, `y_T1`); the second are
    volumes that name no contrast beside one that names the domain's (`bias`), where half of the
    folder do or several such folders have a file of this name.
    """
    stems_of = defaultdict(set)  # by folder
    for image in images:
        stems_of[image.parent].add(stem_of(image).lower())

    contrasts = {image: usual_contrast(stem_of(image)) for image in images if is_volume(image)}
    own = usual_contrast(domain)
    named = Counter(
        image.parent
        for image, contrast in contrasts.items()
        if contrast and not exclude(contrast, own)
    )
    images_in = Counter(image.parent for image in images)
    # what lies beside images of several folders
    recurring = Counter(stem_of(image) for image in contrasts if image.parent in named)

    def is_side_file(image: Path) -> bool:
        if contrasts.get(image, "no volume"):
            return False
        # a single stray file does not make side files of all others
        mostly_named = 2 * named[image.parent] >= images_in[image.parent]
        return image.parent in named and (mostly_named or recurring[stem_of(image)] > 1)

    @lru_cache
    def stems_above(folder: Path) -> list[set[str]]:
        return [stems_of[each] for each in (folder, *folder.parents) if each in stems_of]

    def is_derived(image: Path) -> bool:
        stem = stem_of(image)
        of_spm = (each.lower() for each in originals_of_spm(stem))
        for original in (*possible_originals(stem.lower()), *of_spm):
            exists = any(original in stems for stems in stems_above(image.parent))
            if exists and usual_contrast(original):
                return True
        return False

    return [image for image in images if not is_side_file(image) and not is_derived(image)]


def possible_originals(stem: str) -> list[str]:
    """The names of which a name is one with further words: `t1` of `t1_brain`."""
    return [stem[: end.start()] for end in FURTHER_WORD.finditer(stem)]


def originals_of_spm(stem: str) -> list[str]:
    """The names of which a name is one with SPM's small letters before it: `T1` of `wmT1`; of `MS1`
    none.
    """
    ends = range(1, min(len(stem), MAX_SPM_PREFIX + 1))
    return [stem[end:] for end in ends if SPM_PREFIX.fullmatch(stem[:end])]


def contrasts_said(path: Path) -> set[str]:
    """The usual contrasts in a file's name, or else in the nearest folder of its relative path that
    says some: t1 for `x/t1w/1.png`.
    """
    parts = (stem_of(path), *reversed(path.parts[:-1]))
    said = (contrasts_in(SPLIT_WORD.sub("", part)) for part in parts)
    return next(filter(None, said), set())


# --- domains that a recipe leaves out


class Note(NamedTuple):
    """Sentences on images that are left out, and the setting that uses them."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy[0].upper()}{self.remedy[1:]}"


def left_out_note(
    counts: Mapping[str, int], domains: Sequence[str], by_order: bool = False
) -> Note | None:
    """The note on images of other domains, by domain; None without any.

    `by_order`: the domains are not a recipe's, but the most usual ones of the images.
    """
    if not counts:
        return None

    by_number = Counter(counts).most_common()
    named = [f"{name} ({count})" for name, count in by_number[:MAX_NAMED_DOMAINS]]
    if len(by_number) > MAX_NAMED_DOMAINS:
        named.append(f"{len(by_number) - MAX_NAMED_DOMAINS} more")

    verbs = ("is", "it is") if len(domains) == 1 else ("are", "they are")
    why = BY_ORDER if by_order else f"the recipe's {'domain' if len(domains) == 1 else 'domains'}"
    used = f"{' and '.join(domains)} {verbs[0]} used, because {verbs[1]} {why}"
    files = count_noun(sum(counts.values()), "image")
    others = json.dumps([*domains[:-1], by_number[0][0]])
    return Note(
        f"{files} of other domains left out: {', '.join(named)}. {used}",
        f"to use others, set for example --set 'data.domains={others}'",
    )
