"""Parses names of BIDS files into entities and suffix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gantk.catalog.contrasts import CONTRASTS, one_word
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

    def matches(self, text: str) -> bool:
        """Whether it has a suffix of `SUFFIXES`: one with `ce-*_` needs a contrast agent, others
        allow none.
        """
        *agent, suffix = text.split("_")
        return suffix == self.suffix and bool(agent) == ("ce" in self.entities)


def parse_name(path: Path) -> Named | None:
    """Parse a file's name into entities and suffix; None if it is not a BIDS name."""
    entities = io.entities_of(path)
    suffix = io.stem_of(path).rpartition("_")[2]
    if not (entities and re.fullmatch("[A-Za-z0-9]+", suffix)):
        return None

    subject = f"sub-{entities['sub']}"
    study = subject
    if "ses" in entities:
        study = f"{subject}/ses-{entities['ses']}"

    return Named(path, entities, suffix, subject, study)


def suffix_of_contrast(name: str) -> str | None:
    """The BIDS suffix of a contrast by any of its names, with the entity that it requires."""
    return SUFFIXES.get(CONTRASTS.get(one_word(name), ""))
