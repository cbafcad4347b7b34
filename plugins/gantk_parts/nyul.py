"""Nyul's landmark matching for scans from many scanners, and the full scale of pictures. Needs only
numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gantk.data.intensity import (
    AIR_SHARE,
    Linear,
    Mapping,
    Percentile,
    no_contrast,
    of_usual_scale,
    option_fields,
    rises,
    some_of,
)
from gantk.errors import UserError

Percentiles = Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], Field(min_length=1)]
# share of the range: a landmark nearer than this to the one before is left out of the scale
NARROW = 1 / 500
MIN_LANDMARK_DISTANCE = (
    1e-6  # share of a scan's span: landmarks nearer than this to each other are merged
)
FULL_SCALE = 255.0  # of 8-bit pictures


@option_fields
class Nyul(Mapping, name="nyul"):
    """Maps percentiles of each scan to a standard scale, learnt from the training scans. For MR from
    several scanners.

    Nyul & Udupa (1999), Magn. Reson. Med. 42(6); Nyul, Udupa & Zhang (2000), IEEE Trans. Med.
    Imaging 19(2). Every training scan is stretched linearly from its air to its last percentile.
    The standard scale is the mean position of each percentile after that. Air, the median of the
    background, is mapped to the start of the range, because networks that end in tanh reach no
    lower. The papers map the lowest percentile of the whole scan there.

    With unit = "median", the median of the foreground is mapped to the middle of the range. Values
    above the last percentile are scaled by the same factor as the median and exceed the range:
    fluid, and the fat of a whole head, keep their ratio to the brain. Networks then need
    `activation_out = "none"`.
    """

    # increasing percentiles of a scan; the last is mapped to the end of the range
    percentiles: Percentiles = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
    per: Literal["volume"] = "volume"  # compute the percentiles of each scan
    # voxels that count: true = above the mean; "tissue" = above air (the 5th percentile) + 5 % of
    # the way to the 99th percentile of the values above air
    foreground: Literal[True, "tissue"] = True
    unit: Literal["last", "median"] = "last"  # percentile that divides the others

    def __post_init__(self):
        super().__post_init__()
        percentiles = self.percentiles = tuple(map(float, self.percentiles))
        if (np.diff(percentiles) <= 0).any():
            raise UserError(
                f"the percentiles {list(percentiles)} do not increase",
                where="data.intensity.percentiles",
            )

        if self.unit == "median" and 50 not in percentiles:
            raise UserError(
                f"unit = 'median' needs 50 among the percentiles, but they are {list(percentiles)}",
                where="data.intensity.percentiles",
                remedy="add 50",
            )

        if self.foreground not in (True, "tissue"):  # of an earlier version
            raise UserError(
                f"foreground = {self.foreground!r} cannot be used any more",
                where="data.intensity.foreground",
                allowed=("true", "tissue"),
            )

        # index of the unit
        self.place = 1 + percentiles.index(50) if self.unit == "median" else len(percentiles)
        # of one scan; None: the mean of the training scans
        self.landmarks: Sequence[float] | None = None

    def measure(self, pixels: np.ndarray) -> list[float]:
        """The landmarks of one scan: air and its percentiles."""
        values = some_of(pixels)
        air = values.min()
        if self.foreground == "tissue":
            air = np.percentile(values, 5)
            above = values[values > air]
            if above.size:
                values = above[above > air + AIR_SHARE * (np.percentile(above, 99) - air)]
        elif rises(air, values.max()):
            above = values > values.mean()
            air = np.median(values[~above])
            values = values[above]

        return [float(air), *map(float, np.percentile(values, self.percentiles))]

    def fit_from(self, measured: Sequence[list[float]]) -> None:
        """Learn which landmarks the scale has, their positions in the range, and their mean native
        values in scans on the usual scale.
        """
        scans = np.array([scan for scan in measured if rises(scan[0], scan[self.place])])
        if not len(scans):
            raise no_contrast(measured[0][0], measured[0][self.place])

        first = scans[:, :1]
        whole = scans[:, [self.place]] - first
        places = np.mean((scans - first) / whole, axis=0)
        usual = of_usual_scale(whole[:, 0])
        kept = [0]
        for number, place in enumerate(places[1:-1], start=1):
            far_below = place - places[kept[-1]] >= NARROW
            far_above = places[-1] - place >= NARROW
            if (far_below and far_above) or number == self.place:
                kept.append(number)

        kept.append(len(places) - 1)
        start, end = self.range
        if self.unit == "median":
            end = start + (end - start) / 2 * float(places[-1])

        share = (end - start) / places[-1]
        inner = start + places[kept[1:-1]] * share
        self.fitted = {
            "kept": kept,
            "scale": [start, *inner.tolist(), end],
            "mean": scans[usual][:, kept].mean(axis=0).tolist(),
        }

    def take(self, measured: list[float]) -> None:
        if rises(measured[0], measured[self.place]):
            self.landmarks = [measured[number] for number in self.fitted["kept"]]

    def corners(self) -> tuple[Sequence[float], Sequence[float]]:
        """Native landmarks and their positions in the range; landmarks that coincide are merged by
        their mean.
        """
        native = np.array(self.landmarks or self.fitted["mean"])
        network = np.array(self.fitted["scale"])
        if self.unit == "median":  # add a landmark: last + (median - air)
            start, end = self.range
            median = native[self.fitted["kept"].index(self.place)]
            native = np.append(native, native[-1] + median - native[0])
            network = np.append(network, network[-1] + (end - start) / 2)

        whole = native[-1] - native[0]
        apart = np.diff(native) > MIN_LANDMARK_DISTANCE * whole
        group = np.concatenate([[0], np.cumsum(apart)])
        count = np.bincount(group)
        merged_native = np.bincount(group, native) / count
        merged_network = np.bincount(group, network) / count
        return merged_native, merged_network


class Unit(Linear, name="unit"):
    """Maps the full scale of 8-bit pictures, 0 to 255, to the range; a scan of other values by its
    percentiles.
    """

    per = "volume"
    fitted = (0.0, FULL_SCALE)
    fit = Mapping.fit

    def measure(self, pixels: np.ndarray) -> list[float]:
        """The figures of the full scale for whole numbers within it, else those of the percentiles."""
        if pixels.min() >= 0 and pixels.max() <= FULL_SCALE and not (pixels % 1).any():
            return [0.0, FULL_SCALE, AIR_SHARE, 0.0]
        return Percentile().measure(pixels)
