"""Finds files of pretrained weights and reads their tensors."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from gantk.errors import UserError, one_line
from gantk.files import MAX_TENSORS_BYTES, regular_file

VARIABLE = "GANTK_WEIGHTS"  # names a folder of weight files, for machines without a network
SUFFIXES = (".safetensors", ".pth", ".bin")


def weights_file(name: str) -> Path | None:
    """The file of that name, with or without its suffix, in $GANTK_WEIGHTS; None if there is none."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    candidates = (Path(folder).expanduser() / f"{name}{suffix}" for suffix in ("", *SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def read_state(path: Path, where: str = VARIABLE) -> dict[str, Tensor]:
    """Read a file's tensors by name, without running code in it; of nested dicts, the largest one
    of tensors.
    """
    from safetensors.torch import load_file

    detail = "it contains no named tensors"
    try:
        if path.suffix == ".safetensors":
            found = load_file(regular_file(path, max_bytes=MAX_TENSORS_BYTES))
        else:
            path = regular_file(path, max_bytes=MAX_TENSORS_BYTES)
            found = torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise any error
        if "weights_only" in str(error):
            detail = "it is damaged, or it is a pickle file that may run code"
        else:
            detail = one_line(error)
        found = None

    state = _largest(found) if isinstance(found, dict) else {}
    if not state:
        remedy = "copy or save it again"
        raise UserError(
            f"'{path}' cannot be read as weights: {detail}",
            where=where,
            allowed="a .safetensors file, or a PyTorch file of named tensors",
            remedy=remedy,
        )

    return state


def _largest(found: dict) -> dict[str, Tensor]:
    own = {
        key: value
        for key, value in found.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    return max(
        [own, *(_largest(value) for value in found.values() if isinstance(value, dict))], key=len
    )
