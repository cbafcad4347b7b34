"""The scale of an image and of its results: which intensity mapping belongs to one file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np

from gantk.data.intensity import (
    MAX_HISTOGRAM_VALUES,
    IntensityMapping,
    Linear,
    some_of,
)
from gantk.errors import UserError
from gantk.formats.image import Image
from gantk.inference.frame import Frame


class Scales:
    """The intensity mappings of both domains of a direction, fitted to the training images, and those
    of single images.
    """

    def __init__(self, frame: Frame, source: IntensityMapping, target: IntensityMapping):
        self.frame = frame
        self.source = source
        self.target = target

    def scales(self, image: Image) -> tuple[Any, IntensityMapping]:
        """The intensity mappings of an image, see `own_scale`, and of its results, see
        `result_scale`.
        """
        mapping = self.own_scale(image.pixels)
        return mapping, self.result_scale(image, mapping)

    def own_scale(self, pixels: np.ndarray) -> Any:
        """The intensity mapping for a file: the training set's, or its own if the recipe or its
        values require that.

        MR has no units: another scanner's T1 may run to 4,000 where the training set's ran to 255.
        A mapping is fitted to a file whose 99.5th percentile, of any channel, is below half or
        above twice the training set's.
        """
        fitted = self.source
        if fitted.per != "set":
            return fitted.of(pixels)

        if self._has_usual_scale(pixels) or not np.nanmax(pixels) > np.nanmin(pixels):
            return fitted  # also for blank images, which have no scale

        own = deepcopy(fitted)
        for number, line in enumerate(own.lines):
            part = pixels[number :: len(own.lines)]
            if not np.isnan(part.min()):
                with suppress(UserError):  # nearly blank
                    line.fit([part])

        return own

    def result_scale(self, image: Image, mapping: IntensityMapping) -> IntensityMapping:
        """The mapping of an image's results: the target's, in the units of the training scans; or
        for an image without units, such as a picture, that is not on the scale of the training
        images, the straight line from its own black to its own white. A recipe that fixes the
        scale, as a window of given values does, knows the units.

        `mapping`: the image's, as `own_scale` returns it. If the type of its file has a largest
        value, the line leaves room for the target's brightest tissue.
        """
        pixels = image.pixels
        nearest = self.target.nearest  # a label map, whose values are classes
        if image.has_units or nearest or self._is_training_scale(pixels, image.dtype):
            return self.target
        if self._fixes_scale(pixels):
            return self.target

        own = mapping.lines[0]
        ends = np.array(self.frame.range, dtype=np.float64)
        line = Linear(range=self.frame.range)
        line.fitted = np.asarray(own.inverse(ends), dtype=np.float64).tolist()
        largest = _largest_value(pixels, image.dtype)
        if largest is not None:
            black, white = line.fitted
            brightest = float(
                line.inverse(_brightest_tissue(self.target, self.frame.values.get("target")))
            )
            room = (largest - black) / (brightest - black)
            line.fitted = [black, black + min(1.0, room) * (white - black)]

        return line

    def in_training_units(
        self, image: Image
    ) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        """Two functions, which convert values of an image and of its result to the units of the
        training images.
        """
        mapping, scale = self.scales(image)
        if scale is self.target:
            return np.asarray, np.asarray

        return (
            lambda given: np.asarray(self.source.inverse(mapping.forward(given))),
            lambda made: np.asarray(self.target.inverse(scale.forward(made))),
        )

    def _has_usual_scale(self, pixels: np.ndarray) -> bool:
        """Whether the 99.5th percentile of each channel is between half and twice the training
        set's white.
        """
        fitted = self.source
        white = np.full((len(pixels), *[1] * self.frame.dims), fitted.range[1])
        expected = np.asarray(fitted.inverse(white)).flatten()
        # nan if all are nan
        known = ~np.isnan([np.fmax.reduce(channel, axis=None) for channel in pixels])
        some = [some_of(pixels[n], MAX_HISTOGRAM_VALUES) for n in np.flatnonzero(known)]
        top = np.array([np.nanpercentile(values, 99.5) for values in some])
        ratio = top / np.where(expected[known] > 0, expected[known], np.nan)
        return bool(np.all((ratio >= 0.5) & (ratio <= 2.0)))

    def _fixes_scale(self, pixels: np.ndarray) -> bool:
        """Whether the source's mapping is the same for every image, whatever its values."""
        line = self.source.lines[0]
        if line.per == "volume":
            return False

        own = deepcopy(line)
        with suppress(UserError):  # nearly blank, or not in the units of the scale
            own.fit([pixels])

        return bool(own.fitted == line.fitted)

    def _is_training_scale(self, pixels: np.ndarray, dtype: np.dtype | None) -> bool:
        """Whether an image has the scale of the training images. Whole numbers have it only where
        the training images were whole numbers too, and the target's fit into `dtype`.
        """
        blank = not np.nanmax(pixels) > np.nanmin(pixels)
        if not blank and not self._has_usual_scale(pixels):
            return False

        values = self.frame.values
        if dtype is None or not np.issubdtype(dtype, np.integer) or len(values) < 2:
            return True

        target = values["target"]
        whole = target["whole"] and values["source"]["whole"]
        return whole and target["low"] >= 0 and target["high"] <= np.iinfo(dtype).max


def _largest_value(pixels: np.ndarray, dtype: np.dtype | None) -> float | None:
    """White in the file of an image: the largest whole number of its type, 1 for values from -1 to
    1; None where there is none.
    """
    if dtype is not None and np.issubdtype(dtype, np.integer):
        return float(np.iinfo(dtype).max)
    return 1.0 if np.nanmax(np.abs(pixels)) <= 1 else None


def value_range(
    mapping: IntensityMapping, values: dict[str, Any] | None
) -> tuple[float, float, bool]:
    """The least and the largest value of a domain's training images, and whether these were whole
    numbers; `mapping`: of these; `values`: their statistics
    (`gantk.data.look.values_of`), None for models of earlier versions.
    """
    if values:
        return values["low"], values["high"], values["whole"]

    ends = [float(line.inverse(np.array(end))) for line in mapping.lines for end in line.range]
    return min(ends), max(ends), True


def _brightest_tissue(mapping: IntensityMapping, values: dict[str, Any] | None) -> np.ndarray:
    """The network intensity of 99 % of the tissue of the training images; white where this is not
    known.
    """
    first = mapping.lines[0]
    if not values:
        return np.array(first.range[1])
    return np.asarray(first.forward(np.array(values["quantiles"][-1])))
