"""Overlapping windows of an image: their positions, and the blending of a network's results for
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Tile:
    """One window. The `inner` parts of all tiles cover the image once; their `weights` sum to 1 at
    every pixel.
    """

    box: Box
    inner: Box
    local: Box  # the inner part, relative to the start of the box
    # one Gaussian for each axis: a window weighs most at its middle
    weights: tuple[np.ndarray, ...]


def tiles(
    size: Sequence[int], window: Sequence[int], shared: Sequence[int], align: Sequence[int]
) -> list[Tile]:
    """Tiles that cover an image of `size`, evenly spaced, the first and the last at its edges.

    Args:
        window: sides of a tile, at most the image's.
        shared: least overlap of neighbours, in pixels.
        align: tiles and their inner parts begin at multiples of this; it divides size, window and
          shared.
    """
    along = [_along(*axis) for axis in zip(size, window, shared, align, strict=True)]
    return [Tile(*map(tuple, zip(*axes, strict=True))) for axes in itertools.product(*along)]


def _along(
    side: int, part: int, shared: int, align: int
) -> list[tuple[slice, slice, slice, np.ndarray]]:
    """(box, inner, local, weights) of each tile along one axis."""
    if side > part and part - shared < align:
        raise ValueError(f"tiles of {part} pixels cannot overlap by {shared} pixels")

    count = 1 + -(-(side - part) // max(part - shared, 1))
    starts = [round(i * (side - part) / max(1, count - 1)) // align * align for i in range(count)]
    cuts = [
        start + (last + part - start) // 2 // align * align
        for last, start in itertools.pairwise(starts)
    ]
    bell = np.exp(-0.5 * (((np.arange(part) + 0.5) / part - 0.5) / 0.25) ** 2)
    total = np.zeros(side)
    for start in starts:
        total[start : start + part] += bell

    slices = []
    for start, first, last in zip(starts, [0, *cuts], [*cuts, side], strict=True):
        weights = (bell / total[start : start + part]).astype(np.float32)
        slices.append(
            (
                slice(start, start + part),
                slice(first, last),
                slice(first - start, last - start),
                weights,
            )
        )

    return slices


def shrunk(box: Box, factors: Sequence[int]) -> Box:
    """A box of the image in pixels of a map whose sides are divided by `factors`."""
    return tuple(
        slice(place.start // by, place.stop // by) for place, by in zip(box, factors, strict=True)
    )


def at(box: Box) -> tuple[slice | EllipsisType, ...]:
    """The index of a box of images (..., *size)."""
    return (..., *box)


def by_windows(
    images: Tensor,
    window: Sequence[int],
    overlap: float,
    function: Callable[[Tensor], Tensor],
    batch: int = 16,
) -> Tensor:
    """Apply `function`, (n, C, *window) -> (n, D, *window), to overlapping windows of images and
    blend its results.

    (N, C, *size), no side shorter than the window's, to (N, D, *size), float32. `overlap`: share of
    a window's side that the next one covers, 0 to below 1; more is smoother and slower. `batch`:
    windows per call. They are independent: a norm inside the function takes its statistics from one
    window.
    """
    size = images.shape[2:]
    shared = [part - max(1, int(part * (1 - overlap))) for part in window]
    places = list(
        itertools.product(range(len(images)), tiles(size, window, shared, (1,) * len(size)))
    )
    total: Tensor | None = None
    for first in range(0, len(places), batch):
        chosen = places[first : first + batch]
        made = function(torch.stack([images[n][at(tile.box)] for n, tile in chosen]))
        if total is None:
            total = made.new_zeros(len(images), made.shape[1], *size)
        for (n, tile), part in zip(chosen, made, strict=True):
            for axis, weights in enumerate(tile.weights, 1):
                along = torch.from_numpy(weights).to(part.device)
                part = part * along.reshape(-1, *[1] * (len(size) - axis))
            total[n][at(tile.box)] += part

    if total is None:
        raise ValueError("there are no images")

    return total
