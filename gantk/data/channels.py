"""Images of one or more contrasts as networks see them: every channel has its own intensities. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.data.intensity_mapping import is_tensor
from gantk.data.resize import Fit
from gantk.errors import UserError

if TYPE_CHECKING:
    from gantk.data.intensity_mapping import Pixels


class PerChannel:
    """One intensity mapping for each contrast of a domain; images are (C, *spatial) or (N, C, *spatial).

    Where neighbouring slices come along as channels the contrasts repeat: channel i belongs to contrast i modulo their
    number. A contrast that a patient lacks is NaN; `fit` and `of` pass over it.
    """

    def __init__(self, lines: Sequence[Any], names: Sequence[str], dims: int):
        self.lines, self.names, self.dims = list(lines), tuple(names), dims

    @property
    def range(self) -> tuple[float, float]:
        """What the networks see."""
        return self.lines[0].range

    @property
    def per(self) -> str:
        """Whose intensities decide: those of the "set", of each "volume" or of each "image"."""
        return getattr(self.lines[0], "per", "set")

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Learn each contrast's mapping from the images that have it; UserError where none has."""
        for number, line in enumerate(self.lines):
            channels = [np.asarray(image)[number :: len(self.lines)] for image in images]
            line.fit(self._present([channel for channel in channels if not np.isnan(channel).any()], number, images))

    def measure(self, pixels: np.ndarray) -> list[list[float] | None]:
        """What of one scan (C, *spatial) decides about each contrast's mapping; None for one that the patient lacks."""
        channels = [np.asarray(pixels)[number :: len(self.lines)] for number in range(len(self.lines))]
        return [
            None if np.isnan(channel).any() else line.measure(channel)
            for line, channel in zip(self.lines, channels, strict=True)
        ]

    def settle(self, measured: Sequence[list[list[float] | None]]) -> None:
        """Fit each contrast to the mean of the scans that have it; UserError where none has."""
        for number, line in enumerate(self.lines):
            line.settle(
                self._present([scan[number] for scan in measured if scan[number] is not None], number, measured)
            )

    def of(self, pixels: np.ndarray) -> PerChannel:
        """The mappings of one scan (C, *spatial), where each has its own (per = "volume"); else these."""
        return self.own(self.measure(pixels)) if self.per == "volume" else self

    def own(self, measured: Sequence[list[float] | None]) -> PerChannel:
        """The mappings of the scan that was measured."""
        lines = [line if one is None else line.own(one) for line, one in zip(self.lines, measured, strict=True)]
        return PerChannel(lines, self.names, self.dims)

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

    def _present(self, found: list, number: int, images: Sequence) -> list:
        if not found:
            what = f"none of {len(images)} training images has the contrast '{self.names[number]}'"
            raise UserError(what, where="data.source")
        return found

    def _each(self, image: Pixels, functions: list[Callable[[Pixels], Pixels]]) -> Pixels:
        axis, count = image.ndim - self.dims - 1, len(functions)
        if axis < 0 or image.shape[axis] % count:
            raise ValueError(f"{count} contrasts do not share out the channels of {tuple(image.shape)}")
        places = [(*(slice(None),) * axis, slice(k, None, count)) for k in range(count)]
        done = [function(image[place]) for function, place in zip(functions, places, strict=True)]
        # interleaved again: (slices, contrasts) along the channels
        whole = done[0].new_empty(image.shape) if is_tensor(image) else np.empty(image.shape, dtype=done[0].dtype)
        for place, part in zip(places, done, strict=True):
            whole[place] = part
        return whole


def absent_channels(pixels: np.ndarray) -> np.ndarray:
    """Which channels (C,) of an image a patient lacks: they are NaN."""
    return np.isnan(pixels).any(axis=tuple(range(1, pixels.ndim)))


def backgrounds(pixels: np.ndarray) -> np.ndarray:
    """Each channel's own minimum, (C, 1, ...): the air of one contrast is not that of another."""
    return pixels.min(axis=tuple(range(1, pixels.ndim)), keepdims=True)


def to_size(pixels: np.ndarray, fit: Fit) -> np.ndarray:
    """Native pixels (C, *native) at the size that the networks see, (C, *size), in native intensities, float32.

    A channel that is NaN (a patient lacks it) stays so.
    """
    absent = absent_channels(pixels)
    if not absent.any():
        return np.asarray(fit.forward(pixels), dtype=np.float32)
    known = np.where(absent.reshape(-1, *[1] * (pixels.ndim - 1)), np.float32(0), pixels)
    done = np.asarray(fit.forward(known), dtype=np.float32)
    done[absent] = np.nan
    return done


def to_intensities(fitted: np.ndarray, intensity: Any) -> np.ndarray:
    """What `to_size` gave, in network intensities; of several contrasts, one that is NaN becomes black."""
    absent = absent_channels(fitted) if isinstance(intensity, PerChannel) else None
    if absent is None or not absent.any():
        return np.ascontiguousarray(intensity.forward(fitted), dtype=np.float32)
    known = np.where(absent.reshape(-1, *[1] * (fitted.ndim - 1)), np.float32(0), fitted)
    done = np.ascontiguousarray(intensity.forward(known), dtype=np.float32)
    done[absent] = intensity.range[0]
    return done


def to_network(pixels: np.ndarray, intensity: Any, fit: Fit) -> np.ndarray:
    """Native pixels (C, *native) as a network sees them: brought to `fit.size`, then to network intensities, float32.

    Of several contrasts, one that is NaN (a patient lacks it) becomes black.
    """
    return to_intensities(to_size(pixels, fit), intensity)
