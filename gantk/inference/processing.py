"""Bounds, brightness and detail of images on their way through `gantk.prepare`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gantk.data.intensity import IntensityMapping, Linear
from gantk.data.resample import slabs
from gantk.errors import UserError
from gantk.files import zeros_beside
from gantk.prepare.module import WINDOW_REACH, fit_lines, least_variance

if TYPE_CHECKING:
    from gantk.inference.frame import Frame

MAX_OF_BYTE = 255  # the largest whole number of 8 bits
# An image of so many pixels may be made of any image, however small ...
FREE_PIXELS = 2**22
MAX_ENLARGEMENT = 256  # ... a larger one only of an image of at least a 256th of its pixels


def expect_enlargement(native: tuple[int, ...], frame: Frame) -> None:
    """UserError where a network's images are far larger than these: the size of a file bounds time
    and memory, whatever a recipe says.
    """
    pixels = prod(frame.size)
    if frame.fit == "crop" or pixels <= max(FREE_PIXELS, MAX_ENLARGEMENT * prod(native)):
        return

    sides, wanted = (" x ".join(map(str, each)) for each in (native, frame.size))
    raise UserError(
        f"this model would enlarge an image of {sides} to {wanted}",
        where="data.size of the model's recipe",
        allowed=f"at most {FREE_PIXELS:,} pixels, or {MAX_ENLARGEMENT} times those of the image",
        remedy="use a model of smaller images, or larger images",
    )


# ---- brightness of pictures, whose files have no units


def picture_scale(
    mapping: IntensityMapping, values: dict[str, Any] | None, white: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The function from native intensities to a picture, in which 0 is their black and `white` their
    brightest tissue.

    `mapping`: of the training images; `values`: their statistics (`distribution.values_of`), None for
    models of earlier versions.
    """
    first = getattr(mapping, "lines", [mapping])[0]
    black = float(first.inverse(np.array(first.range[0])))
    brightest = float(first.inverse(brightest_tissue(mapping, values)))
    line = Linear(range=(0.0, white))
    line.fitted = [black, brightest]
    return line.forward


def brightest_tissue(mapping: IntensityMapping, values: dict[str, Any] | None) -> np.ndarray:
    """The network intensity of 99 % of the tissue of the training images; white where this is not
    known.
    """
    first = getattr(mapping, "lines", [mapping])[0]
    if not values:
        return np.array(first.range[1])
    return np.asarray(first.forward(np.array(values["quantiles"][-1])))


# ---- detail: the native input's, on results of the network's size


def lines_in_slabs(
    output: np.ndarray, seen: np.ndarray, spill: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`gantk.prepare.module.fit_lines` of (D, *size) and the network's input (C, *size), a few planes
    of a volume at a time; `spill` is the folder for large results.
    """
    shown = torch.from_numpy(seen)[None]
    made = torch.from_numpy(output)[None]
    rest = zeros_beside(spill, output.shape)
    slopes = zeros_beside(spill, output.shape)
    least = least_variance(shown)
    reach = 2 * WINDOW_REACH  # of two means
    for part in slabs(output.shape[1:]):
        begin = max(0, part.start - reach)
        around = slice(begin, part.stop + reach)
        inner = slice(part.start - begin, part.stop - begin)
        found = fit_lines(made[:, :, around], shown[:, :, around], least)
        rest[:, part], slopes[:, part] = (each[0, :, inner].numpy() for each in found)

    return rest, slopes
