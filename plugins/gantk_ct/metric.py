"""The error of made CT in Hounsfield units."""

from __future__ import annotations

from typing import Literal

from gantk.data.dataset import Data
from gantk.errors import UserError
from gantk.metrics.pairs import MAE
from gantk.metrics.references import units_of


class HounsfieldMAE(MAE):
    """Mean absolute error of made CT in Hounsfield units (HU), by the inverse of the recipe's intensity mapping.

    Scored where the images that are made are CT in HU: a domain called CT, of NIfTI, DICOM or other volumes whose air
    is near -1000. Pictures (PNG, JPEG) hold gray values, which are no HU: a UserError before the training.
    """

    name, unit, in_units = "mae_hu", "HU", None
    of_unit = "HU"  # it is called with native intensities, of domains that have this unit alone

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        no_hu: Literal["refuse", "skip"] = "refuse",  # data without Hounsfield units: an error, or no score
    ):
        super().__init__(data_range, dims)
        self.no_hu = no_hu

    def expect_data(self, data: Data) -> None:
        """UserError where no domain of these data is in Hounsfield units."""
        if self.no_hu == "skip":
            return
        known = {record.domain: record for record in data.training}
        if not any((units := units_of(data, [one], letter)) and units.name == "HU" for letter, one in known.items()):
            what = f"the metric '{self.name}' needs CT in Hounsfield units, and no domain is a CT that has them"
            remedy = "give NIfTI or DICOM in HU for a domain named CT, or leave it out: pictures hold no HU"
            raise UserError(what, where="evaluate.metrics", remedy=remedy)

    def _method(self) -> str:
        return "mae_hu/hounsfield-intensities"
