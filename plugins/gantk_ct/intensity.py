"""Hounsfield units to the networks' range, by one line or by windows; a mapping for each domain. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from gantk.data.intensity import Linear, Mapping, MinMax, Percentile, option_fields
from gantk.errors import UserError
from gantk.plugin.spec import Fraction, Intensity

PADDING = 200.0  # HU below air, from which on values are padding
FAINT = 0.01  # of the range that padding has, and as much what lies between it and air


@option_fields
class Window(Linear, name="window"):
    """Two native values chosen by hand go to the ends of the range: Hounsfield units, or any calibrated scale."""

    low: float = -1000.0  # native value that goes to the start of the range; air in Hounsfield units
    high: float = 2000.0  # native value that goes to its end; dense bone in Hounsfield units

    def __post_init__(self):
        super().__post_init__()
        if not self.low < self.high:
            what = f"the window from {self.low:g} to {self.high:g} is empty"
            raise UserError(what, where="data.intensity", allowed="low < high")
        self.fitted = [float(self.low), float(self.high)]


@option_fields
class Windows(Mapping, name="ct"):
    """Hounsfield units by a polygon of three pieces: air, the window of soft tissue, bone. Nothing is learnt or lost.

    One line from -1000 to 2000 HU leaves 4 % of the range to a brain window of 120 HU, and a network whose errors are
    2 % of it cannot show a brain. Here the window has `share` of the range, air to window half of what is left, window
    to bone the other half. Values beyond the ends go on along the outer pieces, so that the inverse is exact.
    """

    low: float = -20.0  # HU where the window begins: below cerebrospinal fluid
    high: float = 100.0  # HU where it ends: above fresh blood
    air: float = -1000.0  # HU that goes to the start of the range
    bone: float = 2000.0  # HU that goes to its end: dense bone
    share: Fraction = 0.7  # of the range that the window has
    no_hu: Literal["refuse", "percentile", "minmax"] = "refuse"  # images without HU: an error, or mapped by this line

    def __post_init__(self):
        super().__post_init__()
        if not self.air < self.low < self.high < self.bone or not self.share:
            given = f"air {self.air:g}, low {self.low:g}, high {self.high:g}, bone {self.bone:g}, share {self.share:g}"
            what, allowed = f"these windows are empty: {given}", "air < low < high < bone, share above 0"
            raise UserError(what, where="data.intensity", allowed=allowed)
        self._take_windows()

    def _take_windows(self) -> None:
        """The corners, and from where on it is no air: halfway from it to the window, at -510 HU."""
        (start, end), outside = self.range, (1 - self.share) / 2
        places = [start + place * (end - start) for place in (0.0, outside, outside + self.share, 1.0)]
        self.fitted = [[self.air, self.low, self.high, self.bone], places, sum(places[:2]) / 2]

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Learn how dark padding is; images that hold no Hounsfield units, such as pictures, are a UserError.

        Padding (-2000, -3024) is drawn together just below air: a corner far below black would tell a discriminator
        which images are real.
        """
        low, high = min(float(image.min()) for image in images), max(float(image.max()) for image in images)
        if low >= 0 and self.no_hu != "refuse":
            line = {"percentile": Percentile, "minmax": MinMax}[self.no_hu](range=self.range)
            line.fit(images)
            self.fitted = [*(np.asarray(each).tolist() for each in line.corners()), line.tissue[0]]
            return
        if low >= 0:
            what = f"the training images run from {low:g} to {high:g}: no Hounsfield units, whose air is -1000"
            remedy = (
                'give CT as DICOM or NIfTI in HU; for pictures (PNG, JPEG), which hold none, set no_hu = "percentile"'
            )
            raise UserError(what, where="data.intensity", remedy=remedy)
        self._take_windows()
        if low < self.air - PADDING:
            (native, places, tissue), step = self.fitted, FAINT * (self.range[1] - self.range[0])
            places = [places[0] - 2 * step, places[0] - step, *places]
            self.fitted = [[low, self.air - PADDING / 4, *native], places, tissue]

    def corners(self) -> tuple[Sequence[float], Sequence[float]]:
        """Hounsfield units and their places in the range."""
        return self.fitted[0], self.fitted[1]

    @property
    def note(self) -> str:
        """What a run says: that the training images hold no Hounsfield units, and how they are mapped; else ""."""
        return f"no Hounsfield units, so mapped by {self.no_hu} and not by windows" if len(self.fitted[0]) == 2 else ""

    @property
    def tissue(self) -> list[float]:
        """The network intensity above which an image shows tissue."""
        return [self.fitted[2]]


class Domains:
    """A mapping of its own for each domain: `{ name = "domains", a = "ct", b = "percentile" }`.

    Both have `range`, which is the networks'.
    """

    def __init__(
        self,
        *,
        a: Intensity = "ct",  # of the first domain
        b: Intensity = "percentile",  # of the second domain
        range: tuple[float, float] = (-1.0, 1.0),  # what the networks see of both
    ):
        self.range, own = tuple(map(float, range)), [list(part().range) for part in (a, b)]
        if any(each not in ([-1.0, 1.0], list(self.range)) for each in own):
            what = f"the two domains have the ranges {own[0]} and {own[1]}, and networks have one, {list(self.range)}"
            raise UserError(what, where="data.intensity", remedy="give the range once, beside a and b")
        self.parts = {
            x: replace(part, options=part.options | {"range": self.range}) for x, part in {"a": a, "b": b}.items()
        }

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """UserError: a recipe of one domain has no second one."""
        what = "'domains' gives two domains a mapping each, and this recipe has one"
        raise UserError(what, where="data.intensity", remedy='name that one\'s mapping: intensity = "ct"')
