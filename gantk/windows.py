"""Images larger than what a network sees: overlapping windows, blended so that no seam shows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


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
    (a Gaussian of a quarter of its side), where it knows least of its surroundings.
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


def _box(corner: tuple[int, ...], window: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(start, start + part) for start, part in zip(corner, window, strict=True))


def _weight(window: tuple[int, ...]) -> Tensor:
    """(*window), a product of Gaussians, never 0."""
    weight = torch.ones(())
    for side in window:
        places = (torch.arange(side) + 0.5) / side - 0.5
        weight = weight[..., None] * torch.exp(-0.5 * (places / 0.25) ** 2)
    return weight.clamp_min(1e-3)
