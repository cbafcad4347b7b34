"""Maps Hounsfield units to the networks' range by windows; separate mappings per
domain. Numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from gantk.data.intensity import IntensityMapping, Mapping, MinMax, Percentile, option_fields
from gantk.errors import UserError
from gantk.plugin.spec import Fraction, Intensity

PADDING = 200.0  # values more than this many HU below air are padding
FAINT_SHARE = 0.01  # share of the range for padding, and for the values between padding and air


@option_fields
class Windows(Mapping, name="ct"):
    """Maps Hounsfield units by three linear pieces: air, the soft-tissue window, and bone.

    It needs no fit and is invertible. One line from -1000 to 2000 HU gives a brain window of 120 HU
    only 4 % of the range, so a network with errors of 2 % of the range cannot show a brain. Here
    the window gets `share` of the range. The pieces from air to the window and from the window to
    bone each get half of the rest. Values beyond the ends continue the outer pieces, so that the
    inverse is exact.
    """

    low: float = -20.0  # HU at the start of the window: below cerebrospinal fluid
    high: float = 100.0  # HU at the end of the window: above fresh blood
    air: float = -1000.0  # HU mapped to the start of the range
    bone: float = 2000.0  # HU mapped to its end: dense bone
    share: Fraction = 0.7  # share of the range for the window
    # images without HU: an error, or use this mapping
    no_hu: Literal["refuse", "percentile", "minmax"] = "refuse"

    def __post_init__(self):
        super().__post_init__()
        if not self.air < self.low < self.high < self.bone or not self.share:
            given = (
                f"air {self.air:g}, low {self.low:g}, high {self.high:g}, bone {self.bone:g}, share"
                f" {self.share:g}"
            )
            raise UserError(
                f"the Hounsfield windows are empty: {given}",
                where="data.intensity",
                allowed="air < low < high < bone, share above 0",
            )

        self._set_corners()

    def _set_corners(self) -> None:
        """Set the corners, and the intensity above which there is tissue: halfway from air to the
        window, -510 HU.
        """
        start, end = self.range
        outside = (1 - self.share) / 2
        places = [
            start + place * (end - start) for place in (0.0, outside, outside + self.share, 1.0)
        ]
        self.fitted = [[self.air, self.low, self.high, self.bone], places, sum(places[:2]) / 2]

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Fit the value of padding; UserError for images without Hounsfield units, such as
        pictures.

        Padding (-2000, -3024) is mapped to just below air: values far below black would show the
        discriminator which images are real.
        """
        low = min(float(image.min()) for image in images)
        high = max(float(image.max()) for image in images)
        if low >= 0 and self.no_hu != "refuse":
            line = {"percentile": Percentile, "minmax": MinMax}[self.no_hu](range=self.range)
            line.fit(images)
            self.fitted = [*(np.asarray(each).tolist() for each in line.corners()), line.tissue[0]]
            return

        if low >= 0:
            raise UserError(
                f"the training images have values from {low:g} to {high:g}; these are not Hounsfield"
                " units, in which air is -1000",
                where="data.intensity",
                remedy="use CT as DICOM or NIfTI in HU; for pictures (PNG, JPEG), which have no HU, set"
                ' no_hu = "percentile"',
            )

        self._set_corners()
        if low < self.air - PADDING:
            native, places, tissue = self.fitted
            step = FAINT_SHARE * (self.range[1] - self.range[0])
            places = [places[0] - 2 * step, places[0] - step, *places]
            self.fitted = [[low, self.air - PADDING / 4, *native], places, tissue]

    def corners(self) -> tuple[Sequence[float], Sequence[float]]:
        """The corners of the mapping: Hounsfield units, and their values in the range."""
        return self.fitted[0], self.fitted[1]

    @property
    def note(self) -> str:
        """A message for the user if the training images hold no Hounsfield units, with their
        mapping; else "".
        """
        if len(self.fitted[0]) == 2:
            return f"no Hounsfield units: mapped by {self.no_hu} instead of windows"
        return ""

    @property
    def tissue(self) -> list[float]:
        """The network intensity above which an image shows tissue."""
        return [self.fitted[2]]


class Domains(IntensityMapping):
    """A separate mapping for each domain: `{ name = "domains", a = "ct", b = "percentile" }`.

    Both mappings have the same `range`, the range of the networks.
    """

    def __init__(
        self,
        *,
        a: Intensity = "ct",  # mapping of the first domain
        b: Intensity = "percentile",  # mapping of the second domain
        # network intensities of black and white, for both domains
        range: tuple[float, float] = (-1.0, 1.0),
    ):
        self.range = tuple(map(float, range))
        own = [list(part().range) for part in (a, b)]
        if any(each not in ([-1.0, 1.0], list(self.range)) for each in own):
            raise UserError(
                f"the two domains have the ranges {own[0]} and {own[1]}, but networks have one"
                f" range, {list(self.range)}",
                where="data.intensity",
                remedy="set the range once, next to a and b",
            )

        self.parts = {
            x: replace(part, options=part.options | {"range": self.range})
            for x, part in {"a": a, "b": b}.items()
        }

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Always a UserError: called only for recipes of one domain."""
        raise UserError(
            "the mapping 'domains' is for two domains, but this recipe has one",
            where="data.intensity",
            remedy='set one mapping, such as intensity = "ct"',
        )
