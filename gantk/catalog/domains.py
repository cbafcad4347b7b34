"""The option `patient`, and sentences on domains."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gantk.catalog.contrasts import USUAL, one_word, same_contrast
from gantk.errors import UserError, count_noun, one_line
from gantk.formats.files import natural, stem_of

MAX_PATTERN_CHARACTERS = 1000
MAX_NAMED_DOMAINS = 5  # in a sentence
BY_ORDER = f"the first in the order {', '.join(USUAL)}"

GLOB = re.compile(r"[*?\[]")


def relative_to(path: Path, root: Path) -> Path:
    """A path relative to a folder, or the path itself if it is not below that folder."""
    with suppress(ValueError):
        return path.relative_to(root)
    return path


# --- patients and splits


def regex_option(pattern: str, option: str = "patient") -> re.Pattern[str] | None:
    """The regular expression of an option; that of `patient` needs one group, or `patient`. None for
    "" and "names", which earlier recipes have.
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
