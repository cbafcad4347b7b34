"""Nyul's landmark matching for scans from many scanners, and the full scale of pictures. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gantk.data.intensity import Foreground, Linear, Mapping, no_contrast, option_fields, rises, split_values
from gantk.errors import UserError
from gantk.plugin.spec import Weight

NARROW = 1 / 500  # of the range: a landmark nearer to the one before it is left out of the scale
SAME = 1e-6  # of a scan's own span: landmarks nearer to each other are one


@option_fields
class Nyul(Mapping, name="nyul"):
    """Percentiles of each scan go to places of one scale that the training scans share: MR of several scanners.

    Nyul & Udupa (1999), Magn. Reson. Med. 42(6); Nyul, Udupa & Zhang (2000), IEEE Trans. Med. Imaging 19(2). Every
    training scan is stretched from its air to its last percentile; the scale is the mean of where its percentiles then
    lie. Air, the median of what is not foreground, goes to the start of the range, since networks that end in tanh
    reach no further; in the papers that is the lowest percentile of the whole scan.
    """

    percentiles: tuple[Weight, ...] = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)  # rising, the last to the end
    per: Literal["volume", "image"] = "volume"  # each scan by its own percentiles, or each slice
    foreground: Foreground = True  # of which values: true: above the mean; "otsu": above its threshold; false: all

    def __post_init__(self):
        super().__post_init__()
        percentiles = self.percentiles = tuple(map(float, self.percentiles))
        if not percentiles or percentiles[0] < 0 or percentiles[-1] > 100 or (np.diff(percentiles) <= 0).any():
            what, allowed = f"{list(percentiles)} are no percentiles to match", "one or more, rising, from 0 to 100"
            raise UserError(what, where="data.intensity.percentiles", allowed=allowed)
        self.landmarks: Sequence[float] | None = None  # of one scan; None: the mean of the training scans

    def measure(self, pixels: np.ndarray) -> list[float]:
        """Air and the percentiles of one scan."""
        values, others = split_values(pixels, self.foreground)
        air = np.median(others) if others.size else values.min()
        return [float(air), *map(float, np.percentile(values, self.percentiles))]

    def fit_from(self, measured: Sequence[list[float]]) -> None:
        """Learn which of air and percentiles the scale has, their places in the range, and their mean."""
        scans = np.array([scan for scan in measured if rises(scan[0], scan[-1])])
        if not len(scans):
            raise no_contrast(len(measured), measured[0][0], measured[0][-1])
        places = np.mean((scans - scans[:, :1]) / (scans[:, -1:] - scans[:, :1]), axis=0)
        kept = [0]
        for number, place in enumerate(places[1:-1], start=1):
            if place - places[kept[-1]] >= NARROW and 1 - place >= NARROW:
                kept.append(number)
        kept.append(len(places) - 1)
        start, end = self.range
        scale = [start, *(start + places[kept[1:-1]] * (end - start)).tolist(), end]
        self.fitted = {"kept": kept, "scale": scale, "mean": scans[:, kept].mean(axis=0).tolist()}

    def take(self, measured: list[float]) -> None:
        if rises(measured[0], measured[-1]):
            self.landmarks = [measured[number] for number in self.fitted["kept"]]

    def corners(self) -> tuple[Sequence[float], Sequence[float]]:
        """Landmarks and their places; landmarks that coincide are one, at their mean place."""
        native, network = np.array(self.landmarks or self.fitted["mean"]), self.fitted["scale"]
        apart = np.diff(native) > SAME * (native[-1] - native[0])
        group = np.concatenate([[0], np.cumsum(apart)])
        count = np.bincount(group)
        return np.bincount(group, native) / count, np.bincount(group, network) / count


@option_fields
class Unit(Linear, name="unit"):
    """The full scale of 8-bit or 16-bit pictures, 0 to 255 or 65535, goes to the range: nothing is learnt."""

    bits: Literal[8, 16] = 8  # bits of a pixel

    def __post_init__(self):
        super().__post_init__()
        self.fitted = [0.0, 2.0**self.bits - 1]

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Nothing to learn, but images that are no such pictures are a UserError."""
        low, high = min(image.min() for image in images), max(image.max() for image in images)
        if low < 0 or high > self.fitted[1]:
            what = f"values from {low:g} to {high:g} are not those of {self.bits}-bit pictures"
            remedy = "choose bits = 16, or the intensity 'percentile'"
            raise UserError(what, where="data.intensity", allowed=f"0 to {self.fitted[1]:g}", remedy=remedy)
