"""What all intensity mappings share: native values to the networks' range and back, per set, scan or image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gantk.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    Pixels = np.ndarray | Tensor

PER = ("set", "volume", "image")


class Mapping:
    """One domain's native intensities to `range` and back, strictly rising and never clipped, so `inverse` is exact.

    `per` says whose intensities decide: those of the training "set"; of each "volume", that is, of the whole scan that
    a slice belongs to; or of each "image" alone. `of` gives the mapping of one scan, with its own exact inverse. What
    is fitted in the last two cases is the mean over the training scans of what each has itself: by that line results
    come out, on the scale of a typical scan, and scans without contrast take it.

    Arrays are computed in float64 and come back in their own precision, whole numbers as float32; tensors of torch
    stay tensors.

    A kind says what to `measure` and how to `settle`, and has `_forward` and `_inverse`, `_take` for what was measured
    of one scan, `_learnt` and `_restore` for what was fitted, as JSON.
    """

    name: ClassVar[str]
    kinds: ClassVar[dict[str, type[Mapping]]] = {}

    def __init_subclass__(cls, name: str = "", **keywords: Any):
        super().__init_subclass__(**keywords)
        if name:
            cls.name = name
            Mapping.kinds[name] = cls

    def __init__(self, options: dict[str, Any], range: Sequence[float], per: str = "set"):
        start, end = (float(value) for value in range)
        if not start < end:
            raise UserError(f"range {list(range)} is empty", where="data.intensity.range", allowed="[start, end]")
        if per not in PER:
            raise UserError(f"intensities cannot be learnt per '{per}'", where="data.intensity.per", allowed=PER)
        self.options = options | {"range": [start, end]}
        self.range, self.per = (start, end), per

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Learn from training images (C, *spatial) of this domain; UserError where all are constant."""
        if not len(images):
            raise UserError("there are no images to learn the intensities from", where="data.intensity")
        self.settle([self.measure(np.asarray(image)) for image in images])

    def measure(self, pixels: np.ndarray) -> list[float]:
        """What of one scan decides about its own mapping; `own` and `settle` take it."""
        raise NotImplementedError

    def settle(self, measured: Sequence[list[float]]) -> None:
        """Fit to the mean of what was measured of each training scan."""
        raise NotImplementedError

    def of(self, pixels: np.ndarray) -> Mapping:
        """The mapping of one scan (C, *spatial), where each has its own (per = "volume"); else this one."""
        return self.own(self.measure(np.asarray(pixels))) if self.per == "volume" else self

    def own(self, measured: list[float]) -> Mapping:
        """The mapping of the scan that was measured; the fitted one where it has no contrast."""
        own = copy.copy(self)
        own.per, own.options = "set", self.options | ({"per": "set"} if "per" in self.options else {})
        own._take(measured)
        return own

    def forward(self, image: Pixels) -> Pixels:
        """Native values to the network's; with per = "volume" or "image" as `image` alone has them."""
        if self.per == "set":
            return self._forward(image)
        return self.own(self.measure(image.detach().cpu().numpy() if is_tensor(image) else image))._forward(image)

    def inverse(self, image: Pixels) -> Pixels:
        """The network's values to native ones, as the training set has them, or the scan that `of` was given."""
        return self._inverse(image)

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs, as JSON."""
        return {"name": self.name, **self.options, "fitted": self._learnt()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Mapping:
        """The mapping that `state` described."""
        options = {key: value for key, value in state.items() if key not in ("name", "fitted")}
        mapping = cls.kinds[state["name"]](**options)
        if state["fitted"] is not None:
            mapping._restore(state["fitted"])
        return mapping


def from_state(state: dict[str, Any]) -> Mapping:
    """The mapping of whatever kind `state` describes; UserError where nobody here knows that kind."""
    from gantk.data import intensity, nyul  # noqa: F401  they make their kinds known

    if state["name"] not in Mapping.kinds:
        what = f"the intensity mapping '{state['name']}' is not known here"
        raise UserError(what, allowed=sorted(Mapping.kinds), remedy="install the plugin that offers it")
    return Mapping.from_state(state)


def is_tensor(image: Any) -> bool:
    """Whether this is a tensor of torch, which is not imported to find out."""
    return hasattr(image, "detach")


def like(exact: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A result of float64 in the precision of the image that it was made of: float32 unless that is float64."""
    kept = np.float64 if getattr(image, "dtype", None) == np.float64 else np.float32
    return exact.astype(kept, copy=False)[()]
