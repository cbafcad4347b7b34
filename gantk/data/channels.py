"""Several contrasts in one image: every channel has its own intensities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import Pixels
from gantk.errors import UserError


class PerChannel:
    """One intensity mapping for each contrast of a domain; images are (C, *spatial) or (N, C, *spatial).

    Where neighbouring slices come along as channels the contrasts repeat: channel i belongs to contrast i modulo their
    number. A contrast that a patient lacks is NaN; `fit` passes over it.
    """

    def __init__(self, lines: Sequence[Any], names: Sequence[str], dims: int):
        self.lines, self.names, self.dims = list(lines), tuple(names), dims

    @property
    def range(self) -> tuple[float, float]:
        """What the networks see."""
        return self.lines[0].range

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Learn each contrast's mapping from the images that have it; UserError where none has."""
        for number, (line, name) in enumerate(zip(self.lines, self.names, strict=True)):
            channels = [np.asarray(image)[number :: len(self.lines)] for image in images]
            present = [channel for channel in channels if not np.isnan(channel).any()]
            if not present:
                raise UserError(f"none of {len(images)} training images has the contrast '{name}'", where="data.source")
            line.fit(present)

    def forward(self, image: Pixels) -> Pixels:
        """Native values to the network's."""
        return self._each(image, [line.forward for line in self.lines])

    def inverse(self, image: Pixels) -> Pixels:
        """The network's values to native ones."""
        return self._each(image, [line.inverse for line in self.lines])

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs, as JSON."""
        return {"contrasts": list(self.names), "dims": self.dims, "lines": [line.state() for line in self.lines]}

    @classmethod
    def from_state(cls, state: dict[str, Any], line: Callable[[dict[str, Any]], Any]) -> PerChannel:
        """The mapping that `state` described; `line` makes that of one channel."""
        return cls([line(each) for each in state["lines"]], state["contrasts"], state["dims"])

    def _each(self, image: Pixels, functions: list[Callable[[Pixels], Pixels]]) -> Pixels:
        axis, count = image.ndim - self.dims - 1, len(functions)
        if axis < 0 or image.shape[axis] % count:
            raise ValueError(f"{count} contrasts do not share out the channels of {tuple(image.shape)}")
        before = (slice(None),) * axis
        done = [function(image[(*before, slice(k, None, count))]) for k, function in enumerate(functions)]
        # interleaved again: (slices, contrasts) along the channels
        stacked = torch.stack(done, axis + 1) if isinstance(image, Tensor) else np.stack(done, axis + 1)
        return stacked.reshape(image.shape)


def absent_channels(pixels: np.ndarray) -> np.ndarray:
    """Which channels (C,) of an image a patient lacks: they are NaN."""
    return np.isnan(pixels).any(axis=tuple(range(1, pixels.ndim)))


def backgrounds(pixels: np.ndarray) -> np.ndarray:
    """Each channel's own minimum, (C, 1, ...): the air of one contrast is not that of another."""
    return pixels.min(axis=tuple(range(1, pixels.ndim)), keepdims=True)
