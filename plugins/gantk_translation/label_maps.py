"""Label maps: maps their classes to a network's range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from gantk.data.intensity import Linear, option_fields
from gantk.errors import UserError
from gantk.plugin.spec import Part

EXACT_AUGMENTS = (
    "hflip",
    "vflip",
    "rot90",
)  # augmentations that move pixels without mixing their classes


@option_fields
class LabelMap(Linear, name="label_map"):
    """Spreads the classes of a label map, 0 to `classes` - 1, evenly over the networks' range. It
    resizes by nearest voxel.

    Any other value is an error: an unknown class, or a value between two classes from resampling.
    """

    # number of classes with the background; as in method.classes
    classes: Annotated[int, Field(ge=2, le=256)] = 5
    per: ClassVar[str] = "file"  # each file's values are checked; the mapping is the same for all
    nearest: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        # threshold of the background: half a class
        self.fitted = [0.0, self.classes - 1.0, 0.5 / (self.classes - 1)]

    def fit(self, images: Sequence[np.ndarray]) -> None:
        for image in images:
            self.of(image)

    def of(self, pixels: np.ndarray) -> LabelMap:
        """Return this mapping; UserError where the pixels are not a label map of these classes."""
        known = (pixels >= 0) & (pixels < self.classes) & (pixels == np.rint(pixels))
        if not known.all():
            values = ", ".join(f"{value:g}" for value in np.unique(pixels[~known])[:4])
            raise UserError(
                f"a label map contains the values {values}",
                where="data.intensity.a",
                allowed=f"whole numbers from 0 to {self.classes - 1}",
                remedy="set method.classes and data.intensity.a.classes to the number of classes;"
                " values between classes come from resampling: resample maps with nearest-neighbour"
                " interpolation",
            )

        return self


def expect_exact(augment: Sequence[Part]) -> None:
    """Raise UserError if an augmentation would change or mix the values of label maps."""
    for part in augment:
        if part.name not in EXACT_AUGMENTS and not part.options.get("nearest"):
            raise UserError(
                f"the augmentation '{part.name}' changes the values of label maps, but these are"
                " classes",
                where="data.augment",
                allowed=[*EXACT_AUGMENTS, "affine with nearest = true"],
            )
