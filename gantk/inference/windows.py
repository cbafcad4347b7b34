"""Images larger than what a network sees: where windows lie, and overlapping ones blended so that no seam shows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[slice, ...]


def by_windows(
    images: Tensor, window: tuple[int, ...], overlap: float, function: Callable[[Tensor], Tensor], batch: int = 16
) -> Tensor:
    """`function` over every window of the images, put together by a weighted mean.

    Args:
        images: (N, C, *size), each side at least the window's.
        window: sides of what the function takes.
        overlap: share of a window's side that the next one covers too, 0 to below 1; more is smoother and slower.
        function: (n, C, *window) -> (n, D, *window).
        batch: windows per call.

    Returns (N, D, *size), float32, on the images' device. A window counts most at its middle and least at its border
    (a Gaussian of a quarter of its side), where it knows least of its surroundings. Each window is on its own:
    `gantk.inference.tiles.Tiling` makes them agree.
    """
    size = tuple(images.shape[2:])
    if any(side < part for side, part in zip(size, window, strict=True)):
        raise ValueError(f"images of {size} are smaller than the window {window}")
    if size == tuple(window):
        return torch.cat([function(part).float() for part in images.split(batch)])
    weight = _weight(window).to(images.device)
    places = [(n, corner) for n in range(len(images)) for corner in corners(size, window, overlap)]
    total, weights = None, torch.zeros(1, 1, *size, device=images.device)
    for corner in corners(size, window, overlap):
        weights[(slice(None), slice(None), *_box(corner, window))] += weight
    for first in range(0, len(places), batch):
        chosen = places[first : first + batch]
        done = function(torch.stack([images[n][(slice(None), *_box(corner, window))] for n, corner in chosen])).float()
        if total is None:
            total = torch.zeros(len(images), done.shape[1], *size, device=images.device)
        for (n, corner), part in zip(chosen, done, strict=True):
            total[n][(slice(None), *_box(corner, window))] += part * weight
    return total / weights


def corners(size: tuple[int, ...], window: tuple[int, ...], overlap: float) -> Iterator[tuple[int, ...]]:
    """Where windows begin: evenly spread, the first and the last flush with the image, overlapping at least so much."""
    along = []
    for side, part in zip(size, window, strict=True):
        step = max(1, int(part * (1 - overlap)))
        count = 1 + -(-(side - part) // step)
        along.append([round(i * (side - part) / max(1, count - 1)) for i in range(count)])
    return itertools.product(*along)


def _box(corner: tuple[int, ...], window: tuple[int, ...]) -> Box:
    return tuple(slice(start, start + part) for start, part in zip(corner, window, strict=True))


def _weight(window: tuple[int, ...]) -> Tensor:
    """(*window), a product of Gaussians, never 0."""
    weight = torch.ones(())
    for side in window:
        weight = weight[..., None] * gaussian(side)
    return weight.clamp_min(1e-3)


def gaussian(side: int) -> Tensor:
    """(side,), highest in the middle, with a deviation of a quarter of the side."""
    return torch.exp(-0.5 * (((torch.arange(side) + 0.5) / side - 0.5) / 0.25) ** 2)


@dataclass(frozen=True)
class Tile:
    """A part of an image that a network sees at once.

    `box` is what it sees. `inner` is what it answers for: the inner parts of all tiles cover the image once. `weights`
    tell, along each axis, how much it counts where tiles are blended: those of all tiles sum to 1 everywhere.
    """

    box: Box
    inner: Box
    weights: tuple[Tensor, ...]

    def within(self, factors: tuple[int, ...]) -> Box:
        """The inner part in pixels of the tile's own map whose sides are smaller by `factors`."""
        both = zip(self.box, self.inner, factors, strict=True)
        return tuple(slice((i.start - b.start) // f, (i.stop - b.start) // f) for b, i, f in both)

    def scaled(self, factors: tuple[int, ...], *, inner: bool = False) -> Box:
        """The box, or the inner part, in pixels of the image's map whose sides are smaller by `factors`."""
        chosen = zip(self.inner if inner else self.box, factors, strict=True)
        return tuple(slice(place.start // f, place.stop // f) for place, f in chosen)


def tiles(size: tuple[int, ...], window: tuple[int, ...], halo: tuple[int, ...], align: tuple[int, ...]) -> list[Tile]:
    """The tiles that an image of `size` is covered by.

    Args:
        window: sides of a tile, at most the image's.
        halo: pixels that a tile sees, at least, around its inner part, but where the image ends.
        align: tiles and their inner parts begin at multiples of this; it divides `size` and `window`.
    """
    along = [_along(*axis) for axis in zip(size, window, halo, align, strict=True)]
    return [Tile(*(tuple(part) for part in zip(*each, strict=True))) for each in itertools.product(*along)]


def _along(side: int, part: int, halo: int, align: int) -> list[tuple[slice, slice, Tensor]]:
    step = part - 2 * -(-halo // align) * align
    if side > part and step < align:
        raise ValueError(f"tiles of {part} pixels leave nothing between halos of {halo}")
    count = 1 + -(-(side - part) // max(step, 1))
    starts = [i * (side - part) // max(1, count - 1) // align * align for i in range(count)]
    cuts = [start + (last + part - start) // 2 // align * align for last, start in itertools.pairwise(starts)]
    edges = list(itertools.pairwise([0, *cuts, side]))
    shares = torch.zeros(count, side)
    for i, start in enumerate(starts):
        shares[i, start : start + part] = gaussian(part)
    shares /= shares.sum(0)
    boxes = [slice(start, start + part) for start in starts]
    return [(box, slice(*edge), share[box]) for box, edge, share in zip(boxes, edges, shares, strict=True)]


def padded(images: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Box]:
    """The images brought to a size that is at least theirs, and where they lie in the result.

    What is added is the image's reflection on both sides, or its border where it is too small to be reflected.
    """
    starts, sides = [], images.shape[2:]
    for axis, (side, full) in enumerate(zip(sides, size, strict=True)):
        extra = full - side
        starts.append(extra // 2)
        if extra:
            around = [0, 0] * (len(sides) - 1 - axis) + [extra // 2, extra - extra // 2] + [0, 0] * axis
            images = F.pad(images, around, mode="reflect" if extra - extra // 2 < side else "replicate")
    return images, tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
