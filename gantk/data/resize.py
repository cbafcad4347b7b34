"""Native images to the size that the networks see, and back. Needs numpy alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

Mode = Literal["pad", "stretch", "crop"]


class Fit:
    """Bring images of one native size to `size`, and bring results back onto the native grid.

    `pad` keeps the aspect: the image is resized to the largest that fits, centred, and surrounded by its background.
    `stretch` resizes each axis on its own. `crop` keeps the resolution: what is larger than `size` is cut about its
    centre, what is smaller is centred in its background. Resizing is linear, and averages where it shrinks (no
    aliasing); where nothing has to be resized the values stay exactly as they are, there and back.
    """

    def __init__(self, native: tuple[int, ...], size: tuple[int, ...], mode: Mode = "pad"):
        if len(native) != len(size) or min(*native, *size) < 1:
            raise ValueError(f"cannot fit images of {native} to {size}")
        self.native, self.size = tuple(native), tuple(size)
        smaller = tuple(min(side, to) for side, to in zip(native, size, strict=True))
        scale = min(to / side for side, to in zip(native, size, strict=True))
        rounded = tuple(max(1, min(to, round(side * scale))) for side, to in zip(native, size, strict=True))
        # what the image fills of `size`
        self.content = {"pad": rounded, "stretch": self.size, "crop": smaller}[mode]
        self.window = _centred(self.content, self.size)
        self.shown = _centred(smaller, self.native) if mode == "crop" else _centred(self.native, self.native)

    def forward(self, image: np.ndarray, fill: float | np.ndarray | None = None) -> np.ndarray:
        """(C, *native) -> (C, *size); the padding takes `fill`, by default each channel's own minimum (air).

        A `fill` for each channel is (C, 1, ...).
        """
        self._expect(image, self.native)
        fitted = resize(image[(slice(None), *self.shown)], self.content)
        return fitted if self.content == self.size else _placed(fitted, self.window, self.size, image, fill)

    def inverse(self, image: np.ndarray) -> np.ndarray:
        """(C, *size) -> (C, *native): the padding is cut off, the rest resized.

        What `crop` had cut off cannot come back: each channel's own minimum stands there.
        """
        self._expect(image, self.size)
        part = image[(slice(None), *self.window)]
        there = tuple(place.stop - place.start for place in self.shown)
        part = resize(part, there)
        return part if there == self.native else _placed(part, self.shown, self.native, image, None)

    @staticmethod
    def _expect(image: np.ndarray, shape: tuple[int, ...]) -> None:
        if image.shape[1:] != shape:
            raise ValueError(f"this fit takes images of {shape}, not {image.shape[1:]}")


def resize(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(C, *spatial) -> (C, *size), linear, one axis after the other, in 2-D and 3-D alike.

    Not a matrix product, though it is one: the threads of NumPy's BLAS and those of torch wait for work by looking for
    it, and a training step beside a thread that reads images took five times as long.
    """
    for axis, to in enumerate(size, start=1):
        if image.shape[axis] != to:
            image = _resized(image, axis, *_taps(image.shape[axis], to))
    return np.ascontiguousarray(image)


def _resized(image: np.ndarray, axis: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    along = [-1 if other == axis else 1 for other in range(image.ndim)]
    parts = (image.take(place, axis) * weight.reshape(along) for place, weight in zip(places, weights, strict=True))
    total = next(parts)
    for part in parts:
        total += part
    return total.astype(image.dtype, copy=False)


def _centred(part: tuple[int, ...], whole: tuple[int, ...]) -> tuple[slice, ...]:
    starts = [(of - side) // 2 for side, of in zip(part, whole, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, part, strict=True))


def _placed(
    part: np.ndarray,
    window: tuple[slice, ...],
    size: tuple[int, ...],
    image: np.ndarray,
    fill: float | np.ndarray | None,
) -> np.ndarray:
    """`part` at its place in (C, *size), surrounded by `fill`, by default the minimum of each channel of `image`."""
    if fill is None:
        fill = image.min(axis=tuple(range(1, image.ndim)), keepdims=True)
    canvas = np.empty((len(part), *size), dtype=part.dtype)
    canvas[:] = fill
    canvas[(slice(None), *window)] = part
    return canvas


@lru_cache(maxsize=64)
def _taps(side: int, to: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels make the new ones, and their weights, (taps, to) each: a triangle as wide as the larger of the two
    pixels, the weights of a new one summing to 1."""
    step = side / to
    reach = max(step, 1.0)
    centres = (np.arange(to) + 0.5) * step - 0.5
    distance = np.abs(np.arange(side)[None] - centres[:, None]) / reach
    weights = np.clip(1 - distance, 0, None)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    taps = int((weights > 0).sum(axis=1).max())
    first = np.minimum((weights > 0).argmax(axis=1), side - taps)
    places = first[:, None] + np.arange(taps)
    return places.T, np.take_along_axis(weights, places, axis=1).T
