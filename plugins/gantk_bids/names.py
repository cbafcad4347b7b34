"""Parses names of BIDS files into entities and suffix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.formats import files as io

# Usual contrast -> its BIDS suffix, with the entity that it requires.
SUFFIXES = {
    "t1": "T1w",
    "t1ce": "ce-*_T1w",
    "t2": "T2w",
    "pd": "PDw",
    "flair": "FLAIR",
    "ct": "ct",
    "pet": "pet",
}


@dataclass(frozen=True)
class Named:
    """A file and its parsed name, such as `sub-01_ses-2_acq-fast_T1w.nii.gz`."""

    path: Path
    entities: dict[str, str]  # {"sub": "01", "ses": "2", "acq": "fast"}
    suffix: str  # "T1w"
    subject: str  # "sub-01"
    study: str  # "sub-01/ses-2", or the subject where there are no sessions

    def has(self, asked: Sequence[str]) -> bool:
        """Whether the name has these entities: `acq-fast`, or `ce` with any value; false for other
        names with `ce-`.
        """
        wanted = {
            key: value or "*" for key, _, value in (entity.partition("-") for entity in asked)
        }
        there = all(
            key in self.entities and value in ("*", self.entities[key])
            for key, value in wanted.items()
        )
        return there and ("ce" in wanted or "ce" not in self.entities)


def parse_name(path: Path) -> Named | None:
    """Parse a file's name into entities and suffix; None if it is not a BIDS name."""
    *pairs, suffix = io.stem_of(path).split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    if (
        len(entities) != len(pairs)
        or "sub" not in entities
        or not re.fullmatch("[A-Za-z0-9]+", suffix)
    ):
        return None

    study = "/".join(f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities)
    return Named(path, entities, suffix, f"sub-{entities['sub']}", study)
