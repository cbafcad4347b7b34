"""One direction of a model (`Frame`), the words on whether an image fits it, and the options of a
translation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field
from torch import Tensor

from gantk.catalog.contrasts import contrast_names, known_contrast
from gantk.data.masks import RINGING_SHARE, with_dark_background
from gantk.errors import UserError
from gantk.formats.image import Image
from gantk.plugin.spec import Count, Few, Positive, Side
from gantk.prepare.grid import FitMode, Plane
from gantk.runs.schemas import Finite

FIT = "fits the training data"
FITS = ("yes", "partly", "not recorded", "no")  # the answers, the best first
Name = Annotated[str, Field(max_length=1000)]
Sides = Annotated[tuple[Side, ...], Field(min_length=2, max_length=3)]
# [stack, rows, columns] or [rows, columns], as in `data.spacing`
Spacing = Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]


class Results(NamedTuple):
    """What a model makes of one image."""

    made: list[Tensor]  # (D, *spatial) in native intensities
    own_scale: bool  # whether they are on the scale of the image, not in the target's units
    notes: list[tuple[str, str]]  # "note" or "warning", and its text


@dataclass(frozen=True)
class TranslateOptions:
    """Options of one translation; the defaults give the method's own, deterministic result."""

    variants: int | None = None  # this many results, from styles drawn at random ...
    seed: int = 0  # ... with this seed
    example: Image | None = None  # or one result in the style of this image of the target domain
    uncertainty: bool = False  # whether an ensemble returns the spread of its models too
    label: str | None = None  # the class of the images, for conditional methods
    # the contrasts of the target domain that are used; (): all
    contrasts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.variants is not None and self.example is not None:
            raise UserError(
                "--variants and --style cannot be combined: a style image fixes the translation",
                where="--variants and --style",
            )

        if self.variants is not None and self.variants < 1:
            raise UserError(
                f"the number of translations cannot be {self.variants}",
                where="--variants",
                allowed="1 or more",
            )

        several = self.variants is not None or self.example is not None
        if self.uncertainty and several:
            raise UserError(
                "--uncertainty cannot be combined with --variants or --style",
                where="--uncertainty with --variants or --style",
            )

    @property
    def tails(self) -> list[str]:
        """The ends of the names of what is made of one image."""
        if self.variants is not None:
            return [f"-{number}" for number in range(1, self.variants + 1)]
        return ["", "_uncertainty"] if self.uncertainty else [""]


DEFAULT_OPTIONS = TranslateOptions()


@dataclass(frozen=True)
class Frame:
    """One direction of a trained model as plain values, as recipes and exported files hold them.

    The annotations are the schema of exported files: what is written is checked by them, and what
    is read too.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        strict=True, allow_inf_nan=False, extra="ignore", revalidate_instances="always"
    )

    source: Name  # the domains' human names
    target: Name
    dims: Literal[2, 3]  # spatial axes of the network's input
    size: Sides  # of the network's input
    # of one native image: contrasts, or 3 for colour
    channels: Annotated[int, Field(ge=1, le=1024)]
    range: tuple[Finite, Finite]  # network intensities of black and white
    fit: FitMode = "pad"
    neighbours: Few = 0  # slices on each side given as further channels
    plane: Plane = "axial"
    spacing: Spacing | None = None  # mm
    missing: Literal["refuse", "mask"] = "refuse"  # what to do if a patient lacks a contrast
    batch: Count = 16  # slices per pass
    detail: Literal["guided", "none"] = "guided"  # how results are enlarged
    masked: bool = False  # whether regions masked out of the input are masked in the result
    stripped: bool = False  # whether the training images are skull-stripped
    # by "source" and "target", see `gantk.data.look.values_of`
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    # whether it makes the contrasts that a patient lacks from those that the patient has
    completes: bool = False

    @property
    def sources(self) -> list[str]:
        """The contrasts of an input, one channel each: `["T1", "FLAIR"]` of "T1+FLAIR"."""
        return [*contrast_names(self.source)]

    @property
    def targets(self) -> list[str]:
        """The contrasts of a result, one channel each."""
        return [*contrast_names(self.target)]

    def part(self, to: str | None) -> slice:
        """The channels of a result that `to` names: that of one contrast, or all if it is not one
        of several.
        """
        called = known_contrast(to, self.targets) if to and len(self.targets) > 1 else None
        if called is None:
            return slice(None)
        place = self.targets.index(called)
        return slice(place, place + 1)

    def as_in_training(self, pixels: np.ndarray) -> np.ndarray:
        """An image (C, *spatial) with a dark background, where the training images had one; the
        same array where nothing is changed.
        """
        values = self.values.get("source", {})
        if not self.masked or not values:
            return pixels

        # z-scores have values far below the background of 0
        was_dark = values["low"] >= -RINGING_SHARE * values["high"]
        return with_dark_background(pixels) if was_dark else pixels
