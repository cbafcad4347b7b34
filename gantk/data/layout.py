"""What folder names say: which folder holds which domain, which split, which patient."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from gantk.data.io import READABLE, natural
from gantk.errors import UserError

SPLIT_WORDS = {
    "train": "train", "training": "train", "tr": "train",
    "test": "test", "testing": "test", "ts": "test", "te": "test",
    "val": "validation", "valid": "validation", "validation": "validation",
}  # fmt: skip
# `train`, `Training`, and glued to what follows: `trainA`, `TrainT1`, `test_b`.
SPLIT = re.compile(r"^(training|train|testing|test|validation|valid|val)(?=$|[^a-z]|a$|b$)", re.IGNORECASE)
GLUED = re.compile(r"^(training|train|testing|test|validation|valid|val)(?=[A-Z0-9_\- ]|[aAbB]$)", re.IGNORECASE)


def split_of(folder: PurePath) -> str | None:
    """`train`, `validation` or `test` where a part of the path starts with such a word."""
    for part in folder.parts:
        word = _split_word(part)
        if word:
            return SPLIT_WORDS[word.lower()]
    return None


def _split_word(part: str) -> str | None:
    if part.lower() in ("train", "training", "test", "testing", "val", "valid", "validation"):
        return part
    glued = GLUED.match(part)
    return glued[1] if glued else None
