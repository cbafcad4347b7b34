"""Scores synthetic CT in Hounsfield units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.evaluate import Scorer
from gantk.metrics.pairs import CEILING, MAE
from gantk.metrics.references import units_of

RANGE = 4024.0  # HU, from -1024 to 3000


class HounsfieldMAE(MAE):
    """Mean absolute error of synthetic CT in Hounsfield units (HU), by the inverse of the recipe's
    intensity mapping.

    It is computed if the target is CT in HU: a domain named CT, of NIfTI, DICOM or other volumes
    whose air is near -1000. Pictures (PNG, JPEG) have gray values instead of HU and cause an error
    before the training. With `within` its name is `mae_hu_within`, and images whose reference has
    no such value score nan.
    """

    name = "mae_hu"
    unit = "HU"
    of_unit = "HU"  # called with native intensities, and only for domains with this unit

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        # for data without Hounsfield units: an error, or no score
        no_hu: Literal["refuse", "skip"] = "refuse",
        # score only pixels whose reference is within these HU; (-20, 100): soft tissue
        within: tuple[float, float] | None = None,
    ):
        super().__init__(data_range, dims)
        if within and not within[0] < within[1]:
            raise UserError(
                f"the range from {within[0]:g} to {within[1]:g} HU is empty",
                where="evaluate.metrics",
                allowed="within = [low, high], low < high",
            )

        self.no_hu = no_hu
        self.within = within
        self.name += "_within" if within else ""

    def expect_data(self, scorer: Scorer) -> bool:
        """Whether a domain of the data is in Hounsfield units; UserError where none is, unless
        `no_hu` says to skip it.
        """
        data = scorer.data
        known = {record.domain: record for record in data.training}
        units = [units_of(data, [one], letter) for letter, one in known.items()]
        in_hu = any(each is not None and each.name == "HU" for each in units)
        if not in_hu and self.no_hu == "refuse":
            raise UserError(
                f"the metric '{self.name}' needs CT in Hounsfield units, but no domain is CT with"
                " such values",
                where="evaluate.metrics",
                remedy="use NIfTI or DICOM in HU for a domain named CT, or leave the metric out: pictures"
                " have no HU",
            )
        return in_hu

    def in_regions(
        self, output: Tensor, reference: Tensor, masks: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """As of MAE; with `within` only over pixels whose reference lies in it."""
        if self.within:
            masks = [(reference >= self.within[0]) & (reference <= self.within[1])] * len(masks)
        return super().in_regions(output, reference, masks)

    @property
    def in_mask(self) -> str | None:
        """None with `within`, which is already a region: no additional scores of foreground or
        lesion.
        """
        return None if self.within else super().in_mask

    def _method(self) -> str:
        where = "/reference-within-{:g}-to-{:g}".format(*self.within) if self.within else ""
        return f"{self.name}/hounsfield-intensities{where}"


class HounsfieldPSNR(HounsfieldMAE):
    """Peak signal-to-noise ratio of synthetic CT in HU over a fixed range of 4024 HU, as in
    SynthRAD 2023.

    Options and conditions are those of `mae_hu`. Unlike `psnr`, it does not depend on the intensity
    mapping.
    """

    name = "psnr_hu"
    unit = "dB"
    higher_is_better = True

    def _map(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).square()

    def of_mean(self, mean: Tensor) -> Tensor:
        """Decibels of a mean square error in HU."""
        return (10 * torch.log10(RANGE**2 / mean)).clamp_max(CEILING)

    def _method(self) -> str:
        return f"{super()._method()}/range-{RANGE:g}-HU/at-most-{CEILING:g}-dB"
