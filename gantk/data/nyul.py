"""Nyul's landmark matching: scans of one contrast from many scanners, brought onto one scale. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gantk.data.intensity import Foreground, Mapping, is_tensor, like, rises, split_values
from gantk.errors import UserError

if TYPE_CHECKING:
    from gantk.data.intensity import Pixels

NARROW = 1 / 500  # of the range: a landmark nearer to the one before it is left out of the scale
SAME = 1e-6  # of a scan's own span: landmarks nearer to each other are one


class Nyul(Mapping, name="nyul"):
    """Percentiles of each scan go to places of one scale that the training scans share: MR of several scanners.

    Nyul & Udupa (1999), Magn. Reson. Med. 42(6); Nyul, Udupa & Zhang (2000), IEEE Trans. Med. Imaging 19(2). Every
    training scan is stretched linearly from its air to its last percentile; the scale is the mean of where its
    percentiles then lie. A scan's own mapping is the polygon through its percentiles and the scale's places, its outer
    pieces carried on without end: strictly rising, so that the inverse is exact for that scan. Air, the median of what
    is not foreground, goes to the start of the range, since networks that end in tanh reach no further; in the papers
    that is the lowest percentile of the whole scan. Results come out by the mean of the training scans' percentiles. A
    scan without contrast takes these too.
    """

    def __init__(
        self,
        *,
        percentiles: tuple[float, ...] = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99),  # rising, the last to the end
        per: Literal["volume", "image"] = "volume",  # each scan by its own percentiles, or each slice
        foreground: Foreground = True,  # of which values: true: above the mean; "otsu": above its threshold; false: all
        range: tuple[float, float] = (-1.0, 1.0),  # what the networks see
    ):
        if not percentiles or min(percentiles) < 0 or max(percentiles) > 100 or (np.diff(percentiles) <= 0).any():
            what, allowed = f"{list(percentiles)} are no percentiles to match", "one or more, rising, from 0 to 100"
            raise UserError(what, where="data.intensity.percentiles", allowed=allowed)
        options = dict(percentiles=[float(p) for p in percentiles], per=per, foreground=foreground)
        super().__init__(options, range, per)
        self.percentiles, self.foreground = tuple(options["percentiles"]), foreground
        self.kept: list[int] = []  # which of air and percentiles the scale has
        self.scale: list[float] = []  # their places in the range
        self.mean: list[float] = []  # the mean of them over the training scans
        self._native = self._network = np.empty(0)  # the corners of the polygon

    def measure(self, pixels: np.ndarray) -> list[float]:
        """Air and the percentiles of one scan."""
        values, others = split_values(np.asarray(pixels), self.foreground)
        air = np.median(others) if others.size else values.min()
        return [float(air), *map(float, np.percentile(values, self.percentiles))]

    def fit_from(self, measured: Sequence[list[float]]) -> None:
        """Learn the scale from the landmarks of each training scan; UserError where all are constant."""
        scans = np.array([scan for scan in measured if rises(scan[0], scan[-1])])
        if not len(scans):
            what = f"all {len(measured)} training images of a domain have no contrast"
            remedy = "look at the images, or choose other percentiles"
            raise UserError(what, where="data.intensity", remedy=remedy)
        places = np.mean((scans - scans[:, :1]) / (scans[:, -1:] - scans[:, :1]), axis=0)
        kept = [0]
        for number, place in enumerate(places[1:-1], start=1):
            if place - places[kept[-1]] >= NARROW and 1 - place >= NARROW:
                kept.append(number)
        kept.append(len(places) - 1)
        start, end = self.range
        scale = [start, *(start + places[kept[1:-1]] * (end - start)).tolist(), end]
        self._restore({"kept": kept, "scale": scale, "mean": scans[:, kept].mean(axis=0).tolist()})

    def _take(self, measured: list[float]) -> None:
        if rises(measured[0], measured[-1]):
            self._native, self._network = corners(np.array(measured)[self.kept], np.array(self.scale))

    def _forward(self, image: Pixels) -> Pixels:
        return self._along(image, self._native, self._network)

    def _inverse(self, image: Pixels) -> Pixels:
        return self._along(image, self._network, self._native)

    def _along(self, image: Pixels, before: np.ndarray, after: np.ndarray) -> Pixels:
        """The polygon through the corners, its first and last piece carried on."""
        if not before.size:
            raise ValueError("the intensity mapping 'nyul' was not fitted")
        values = image.detach().cpu().numpy() if is_tensor(image) else image
        exact = np.asarray(values, np.float64)
        piece = np.searchsorted(before[1:-1], exact, side="right")
        slopes = np.diff(after) / np.diff(before)
        done = like(after[piece] + (exact - before[piece]) * slopes[piece], values)
        return image.new_tensor(done) if is_tensor(image) else done

    def _learnt(self) -> dict[str, Any] | None:
        return {"kept": self.kept, "scale": self.scale, "mean": self.mean} if self.kept else None

    def _restore(self, learnt: dict[str, Any]) -> None:
        self.kept, self.scale, self.mean = learnt["kept"], learnt["scale"], learnt["mean"]
        self._native, self._network = corners(np.array(self.mean), np.array(self.scale))


def corners(native: np.ndarray, network: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks and their places as a strictly rising polygon: landmarks that coincide are one, at their mean place.

    `native` does not fall, and its last value is above its first; `network` rises.
    """
    apart = np.diff(native) > SAME * (native[-1] - native[0])
    group = np.concatenate([[0], np.cumsum(apart)])
    count = np.bincount(group)
    return np.bincount(group, native) / count, np.bincount(group, network) / count
