"""The option `patient`: a regular expression that finds the patient in a path."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from gantk.errors import UserError, one_line
from gantk.formats.files import stem_of

MAX_PATTERN_CHARACTERS = 1000
# where images say other domains than a recipe's
NAME_DOMAINS = (
    'name two of these with --set \'data.domains=["T1", "T2"]\', or give words for the domains with'
    " --set data.source.a=WORD --set data.source.b=WORD"
)

GLOB = re.compile(r"[*?\[]")


def relative_to(path: Path, root: Path) -> Path:
    """A path relative to a folder, or the path itself if it is not below that folder."""
    with suppress(ValueError):
        return path.relative_to(root)
    return path


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
        raise UserError(
            f"'{pattern[:99]}' is not a valid regular expression: {one_line(error)}",
            where=f"data.source.{option}",
        ) from error

    if option == "patient" and compiled.groups != 1 and "patient" not in compiled.groupindex:
        raise UserError(
            f"the pattern '{pattern}' has {compiled.groups} groups",
            where="data.source.patient",
            allowed="exactly one group, or a group with the name patient: (?P<patient>...)",
        )

    return compiled


def patient_of(path: str, pattern: re.Pattern[str]) -> str:
    """The patient that a pattern finds in a relative path, or in the file's name without suffix;
    else a UserError.
    """
    match = pattern.search(path) or pattern.search(stem_of(path))
    if not match:
        raise UserError(
            f"the pattern '{pattern.pattern}' finds no patient in '{path}'",
            where="data.source.patient",
            remedy="correct the pattern. It is searched in the path below the folder, then in the file"
            " name without the suffix",
        )

    return match["patient"] if "patient" in pattern.groupindex else match[1]
