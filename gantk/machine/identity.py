"""What all ranks of a training must have in common, in words short enough to be compared and told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gantk import __version__
from gantk.data.dataset import Data
from gantk.recipe.load import resolved
from gantk.recipe.tables import Model

LOCAL = {"data.source.path", "data.split.file"}  # machines may keep the same files at different places


def identity_of(model: Model, data: Data) -> dict[str, str]:
    """Versions, every key of the recipe in force, and the images of each split with the sizes of their files."""
    found = {"gantk": __version__, "torch": torch.__version__}
    found |= {key: str(value) for key, value in _flat(resolved(model)) if key not in LOCAL}
    for split, records in data.splits.items():
        seen = hashlib.sha256()
        for record in records:
            sizes = [path.stat().st_size for path in record.files]
            seen.update(repr((record.domain, record.key, record.subject, record.pair, record.label, sizes)).encode())
        found[f"{split} data"] = f"{len(records)} images ({seen.hexdigest()[:8]})"
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
