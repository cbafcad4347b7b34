"""What may be decoded: bounds that are checked on a header and a file's size, before any memory is asked for."""

from __future__ import annotations

import os
from pathlib import Path

from gantk.errors import UserError

DEFLATE_RATIO = 1032  # bytes that one byte of a deflate stream can become at most (zlib's technical notes)
VARIABLE = "GANTK_MAX_GIB"
MAX_GIB = 16.0


def expect_room(path: Path, values: int) -> None:
    """UserError where the float32 pixels of an image of so many values would take more than GANTK_MAX_GIB."""
    text = os.environ.get(VARIABLE) or MAX_GIB
    try:
        limit = float(text)
    except ValueError as error:
        raise UserError(f"{VARIABLE} is '{text}'", allowed="a number of GiB", remedy="unset it, or set it") from error
    if not values * 4 <= limit * 2**30:
        raise UserError(
            f"'{path}' declares {values} values, {values * 4 / 2**30:.1f} GiB as float32",
            allowed=f"{limit:g} GiB",
            remedy=f"set the environment variable {VARIABLE} to more, if its header is right",
        )


def expect_held(path: Path, declared: int, held: int, packed: bool = False) -> None:
    """UserError where `held` bytes of a file cannot be the `declared` bytes of its voxels, deflated where `packed`."""
    if declared > held * (DEFLATE_RATIO if packed else 1):
        packing = " of compressed data" if packed else ""
        raise UserError(
            f"'{path}' is cut short, or its header is wrong: it declares {declared} bytes of voxels and "
            f"holds {held}{packing}",
            remedy="copy it again, or leave it out",
        )
