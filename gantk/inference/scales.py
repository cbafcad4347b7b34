"""The scale of an image and of its results: which intensity mapping belongs to one file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np

from gantk.data.intensity import MAX_HISTOGRAM_VALUES, IntensityMapping, Linear, some_of
from gantk.errors import UserError
from gantk.formats.image import Image
from gantk.inference.frame import Frame

MAX_OF_PICTURES = 255
Conversion = Callable[[np.ndarray], np.ndarray]


class Scales:
    """The intensity mappings of both domains of a direction, fitted to the training images, and those
    of single images.
    """

    def __init__(self, frame: Frame, source: IntensityMapping, target: IntensityMapping):
        self.frame = frame
        self.source = source
        self.target = target

    def scales(self, image: Image) -> tuple[Any, IntensityMapping]:
        """The intensity mappings of an image, see `own_scale`, and of its results.

        Results get the target's units; those of a picture or array on another scale than the training
        images get a line from the image's own black and white, at which the brightest tissue of
        the target fits into the file. Label maps, and mappings that are the same for every image,
        as a CT window, keep the target's units.
        """
        mapping = self.own_scale(image.pixels)
        keeps_units = image.has_units or self.target.nearest
        if keeps_units or self._is_training_scale(image) or self._is_fixed(image.pixels):
            return mapping, self.target

        line = Linear(range=self.frame.range)
        ends = mapping.lines[0].inverse(np.array(self.frame.range, dtype=np.float64))
        line.fitted = np.asarray(ends, dtype=np.float64).tolist()
        largest = _largest_value(image)
        if largest is not None:
            black, white = line.fitted
            brightest = float(line.inverse(self._brightest_tissue()))
            share = min(1.0, (largest - black) / (brightest - black))
            line.fitted = [black, black + share * (white - black)]
        return mapping, line

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
        if not _has_contrast(pixels) or self._has_usual_scale(pixels):
            return fitted

        own = deepcopy(fitted)
        for number, line in enumerate(own.lines):
            part = pixels[number :: len(own.lines)]
            if not np.isnan(part.min()):
                with suppress(UserError):  # nearly blank
                    line.fit([part])
        return own

    def in_training_units(self, image: Image) -> tuple[Conversion, Conversion]:
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
        """Whether the 99.5th percentile of each channel, of 8-bit pictures the brightest value, is
        between half and twice the training set's white.
        """
        values = self.frame.values.get("source", {})
        are_pictures = values.get("whole") and values["high"] <= MAX_OF_PICTURES
        percent = 100.0 if are_pictures else 99.5  # scans have a few far brighter values
        white = np.full((len(pixels), *[1] * self.frame.dims), self.source.range[1])
        expected = np.asarray(self.source.inverse(white)).flatten()
        for channel, usual in zip(pixels, expected, strict=True):
            if np.isnan(np.fmax.reduce(channel, axis=None)):  # a contrast that is missing
                continue
            top = np.nanpercentile(some_of(channel, MAX_HISTOGRAM_VALUES), percent)
            if not (usual > 0 and 0.5 <= top / usual <= 2.0):
                return False
        return True

    def _is_fixed(self, pixels: np.ndarray) -> bool:
        """Whether the source's mapping is the same for every image, whatever its values."""
        line = self.source.lines[0]
        if line.per == "volume":
            return False
        own = deepcopy(line)
        with suppress(UserError):  # nearly blank, or not in the units of the scale
            own.fit([pixels])
        return bool(own.fitted == line.fitted)

    def _is_training_scale(self, image: Image) -> bool:
        """Whether an image has the scale of the training images. Whole numbers have it only where
        the training images were whole numbers too, and the target's fit into its type.
        """
        if _has_contrast(image.pixels) and not self._has_usual_scale(image.pixels):
            return False
        if not image.is_integer or len(self.frame.values) < 2:
            return True
        target = self.frame.values["target"]
        whole = target["whole"] and self.frame.values["source"]["whole"]
        return whole and target["low"] >= 0 and target["high"] <= np.iinfo(image.dtype).max

    def _brightest_tissue(self) -> np.ndarray:
        """The network intensity of 99 % of the tissue of the target's training images; white where
        this is not known.
        """
        first = self.target.lines[0]
        values = self.frame.values.get("target")
        if not values:
            return np.array(first.range[1])
        return np.asarray(first.forward(np.array(values["quantiles"][-1])))


def _has_contrast(pixels: np.ndarray) -> bool:
    return bool(np.nanmax(pixels) > np.nanmin(pixels))


def _largest_value(image: Image) -> float | None:
    """White in the file of an image: the largest whole number of its type, 1 for values from -1 to
    1; None where there is none.
    """
    if image.is_integer:
        return float(np.iinfo(image.dtype).max)
    return 1.0 if np.nanmax(np.abs(image.pixels)) <= 1 else None


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
