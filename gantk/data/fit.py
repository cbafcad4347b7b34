"""Native images to the size that the networks see, and back."""

from __future__ import annotations

from typing import Literal

import numpy as np


class Fit:
    """Bring images of one native size to `size`, and bring results back onto the native grid.

    `pad` keeps the aspect: the image is resized to the largest that fits, centred, and surrounded by its background.
    `stretch` resizes each axis on its own. Resizing is linear, and averages where it shrinks (no aliasing); where
    nothing has to be resized the values stay exactly as they are, there and back.
    """

    def __init__(self, native: tuple[int, ...], size: tuple[int, ...], mode: Literal["pad", "stretch"] = "pad"):
        if len(native) != len(size) or min(*native, *size) < 1:
            raise ValueError(f"cannot fit images of {native} to {size}")
        self.native, self.size = tuple(native), tuple(size)
        scale = min(to / side for side, to in zip(native, size, strict=True))
        rounded = tuple(max(1, min(to, round(side * scale))) for side, to in zip(native, size, strict=True))
        self.content = rounded if mode == "pad" else self.size  # what the image fills of `size`
        starts = [(to - side) // 2 for to, side in zip(self.size, self.content, strict=True)]
        self.window = tuple(slice(start, start + side) for start, side in zip(starts, self.content, strict=True))

    def forward(self, image: np.ndarray, fill: float | np.ndarray | None = None) -> np.ndarray:
        """(C, *native) -> (C, *size); the padding takes `fill`, by default the image's own minimum (air).

        A `fill` for each channel is (C, 1, ...).
        """
        self._expect(image, self.native)
        fitted = resize(image, self.content)
        if self.content == self.size:
            return fitted
        canvas = np.full((len(image), *self.size), image.min() if fill is None else fill, dtype=image.dtype)
        canvas[(slice(None), *self.window)] = fitted
        return canvas

    def inverse(self, image: np.ndarray) -> np.ndarray:
        """(C, *size) -> (C, *native): the padding is cut off, the rest resized."""
        self._expect(image, self.size)
        return resize(image[(slice(None), *self.window)], self.native)

    @staticmethod
    def _expect(image: np.ndarray, shape: tuple[int, ...]) -> None:
        if image.shape[1:] != shape:
            raise ValueError(f"this fit takes images of {shape}, not {image.shape[1:]}")


def resize(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(C, *spatial) -> (C, *size), linear, one axis after the other, in 2-D and 3-D alike."""
    for axis, to in enumerate(size, start=1):
        if image.shape[axis] != to:
            weights = _weights(image.shape[axis], to)
            image = np.moveaxis(np.tensordot(weights, image, axes=(1, axis)), 0, axis).astype(image.dtype)
    return np.ascontiguousarray(image)


def _weights(side: int, to: int) -> np.ndarray:
    """(to, side): a triangle as wide as the larger of the two pixels, each row summing to 1."""
    step = side / to
    reach = max(step, 1.0)
    centres = (np.arange(to) + 0.5) * step - 0.5
    distance = np.abs(np.arange(side)[None] - centres[:, None]) / reach
    weights = np.clip(1 - distance, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
