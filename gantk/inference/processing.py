"""Prepares images for a network (`Preprocess`), and turns its output into the units of the files
(`Postprocess`).

    Preprocess:  neighbouring slices as channels -> the network's size -> the source's intensities
    Postprocess: the target's intensities <- the native size, with the input's detail <- the result
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.data.intensity import IntensityMapping, Linear, to_network
from gantk.data.resample import Resize, slabs
from gantk.errors import UserError
from gantk.files import zeros_beside

if TYPE_CHECKING:
    from gantk.inference.frame import Frame

MAX_OF_BYTE = 255  # the largest whole number of 8 bits
# An image of so many pixels may be made of any image, however small ...
FREE_PIXELS = 2**22
MAX_ENLARGEMENT = 256  # ... a larger one only of an image of at least a 256th of its pixels
WINDOW_SIDE = (
    3  # side in pixels, at the networks' size, of the windows in which `line_of` fits lines
)
MIN_VARIANCE_SHARE = (
    1e-10  # share of the squared range: windows with less variance than this get slope 0
)


class Preprocess:
    """Images in native intensities to a network's input."""

    def __init__(self, frame: Frame, mapping: IntensityMapping, native: tuple[int, ...]):
        """`mapping`: the source's intensity mapping for these images; `native`: their sides."""
        _expect_enlargement(native, frame)
        self.frame = frame
        self.mapping = mapping
        if frame.fit == "crop":  # the network runs at the native size
            self.resize = Resize(native, native, "pad")
        else:
            self.resize = Resize(native, frame.size, frame.fit)

    def __call__(self, images: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The image at `index` of (N, C, *native) with its neighbours as channels, as it is and as
        the network sees it: (C, *native) and (C, *size).
        """
        native = self._with_neighbours(images, index)
        return native, to_network(native, self.mapping, self.resize)

    def middle(self, stacked: np.ndarray, axis: int = 0) -> np.ndarray:
        """The channels of the image itself, without those of its neighbouring slices."""
        reach = self.frame.neighbours
        return np.split(stacked, 2 * reach + 1, axis)[reach]

    def _with_neighbours(self, images: np.ndarray, index: int) -> np.ndarray:
        """The image and its neighbours; at the ends the outermost slice is repeated."""
        reach = self.frame.neighbours
        if not reach:
            return np.ascontiguousarray(images[index])  # strided if sliced
        places = np.clip(np.arange(index - reach, index + reach + 1), 0, len(images) - 1)
        return np.concatenate(images[places])


def _expect_enlargement(native: tuple[int, ...], frame: Frame) -> None:
    """UserError where a network's images are far larger than these: the size of a file bounds time
    and memory, whatever a recipe says.
    """
    pixels = prod(frame.size)
    if frame.fit == "crop" or pixels <= max(FREE_PIXELS, MAX_ENLARGEMENT * prod(native)):
        return

    sides, wanted = (" x ".join(map(str, each)) for each in (native, frame.size))
    raise UserError(
        f"this model would enlarge an image of {sides} to {wanted}",
        where="data.size of the model's recipe",
        allowed=f"at most {FREE_PIXELS:,} pixels, or {MAX_ENLARGEMENT} times those of the image",
        remedy="use a model of smaller images, or larger images",
    )


class Postprocess:
    """The inverse of a `Preprocess`: a network's results to the target's native intensities."""

    def __init__(self, preprocess: Preprocess, target: IntensityMapping, maps: Sequence[str]):
        """`target`: the target's intensity mapping; `maps`: the kind of each result, "image" or
        "spread", a deviation from the image before it.
        """
        self.preprocess = preprocess
        self.frame = preprocess.frame
        self.mapping = preprocess.mapping
        self.resize = preprocess.resize
        self.target = target
        self.maps = tuple(maps)

    def write(
        self,
        native: np.ndarray,
        seen: np.ndarray,
        outputs: Sequence[np.ndarray],
        canvases: Sequence[np.ndarray],
    ) -> None:
        """Write the results (D, *size) for one image, as `preprocess` returned it, into canvases
        (D, *native), a few planes at a time.
        """
        guided = self.resize.content != self.resize.native and self.frame.detail == "guided"
        lines: list[tuple[np.ndarray, np.ndarray] | None] = []
        for output, kind in zip(outputs, self.maps, strict=True):
            fitted = guided and kind == "image"
            lines.append(line_of(output, self.preprocess.middle(seen)) if fitted else None)

        for planes in self._parts():
            enlarge = partial(self.resize.inverse, planes=planes)
            if guided:
                high = self.mapping.forward(self.preprocess.middle(native)[:, planes])
                high = np.where(np.isnan(high), self.frame.range[0], high)

            for output, line, kind, canvas in zip(outputs, lines, self.maps, canvases, strict=True):
                if kind == "image":
                    image = with_detail(*line, high, enlarge) if line else enlarge(output)
                    canvas[:, planes] = self.target.inverse(image)
                else:  # a deviation from the image before it
                    width = np.maximum(enlarge(output), 0)
                    upper = self.target.inverse(image + width)
                    lower = self.target.inverse(image - width)
                    canvas[:, planes] = np.abs(upper - lower) / 2

    def write_blank(self, image: np.ndarray, canvases: Sequence[np.ndarray]) -> None:
        """Write the target's value for that of a blank image (C, *native) into the canvases.

        A value brighter than air has no known translation: black.
        """
        spatial = [slice(1)] * (image.ndim - 1)
        level = image[(slice(None), *spatial)].ravel()
        air = level_in_network(self.frame, self.mapping, level)
        air = np.where(air > self.mapping.tissue, self.frame.range[0], air)
        for canvas, kind in zip(canvases, self.maps, strict=True):
            if kind == "image":
                target = target_level(self.frame, self.target, air, len(canvas))
                canvas[:] = target.reshape(-1, *[1] * len(spatial))

    def _parts(self) -> Sequence[slice]:
        """The planes that are written at a time: all, if each image has its own mapping."""
        if getattr(self.mapping, "per", "set") == "set":
            return self.resize.slabs
        return [slice(None)]


def level_in_network(frame: Frame, mapping: IntensityMapping, level: np.ndarray) -> np.ndarray:
    """A value of each channel (C,) in network intensities; for a missing contrast, NaN, the mean of
    the others, and black where all are missing.
    """
    shape = (len(level), *[1] * frame.dims)
    seen = np.asarray(mapping.forward(level.reshape(shape))).reshape(-1)
    is_known = np.isfinite(level)
    usual = seen[is_known].mean() if is_known.any() else frame.range[0]
    return np.where(is_known, seen, usual)


def target_level(
    frame: Frame, target: IntensityMapping, seen: np.ndarray, channels: int
) -> np.ndarray:
    """The target's value per channel for the network intensity of each channel of the source; black
    where the domains have different numbers of channels.
    """
    flat = np.full((channels, *[1] * frame.dims), frame.range[0], dtype=np.float32)
    if channels == len(seen):
        flat[:] = seen.reshape(flat.shape)
    return np.asarray(target.inverse(flat)).reshape(channels)


# ---- brightness of pictures, whose files have no units


def picture_scale(
    mapping: IntensityMapping, values: dict[str, Any] | None, white: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The function from native intensities to a picture, in which 0 is their black and `white` their
    brightest tissue.

    `mapping`: of the training images; `values`: their statistics (`distribution.values_of`), None for
    models of earlier versions.
    """
    first = getattr(mapping, "lines", [mapping])[0]
    black = float(first.inverse(np.array(first.range[0])))
    brightest = float(first.inverse(brightest_tissue(mapping, values)))
    line = Linear(range=(0.0, white))
    line.fitted = [black, brightest]
    return line.forward


def brightest_tissue(mapping: IntensityMapping, values: dict[str, Any] | None) -> np.ndarray:
    """The network intensity of 99 % of the tissue of the training images; white where this is not
    known.
    """
    first = getattr(mapping, "lines", [mapping])[0]
    if not values:
        return np.array(first.range[1])
    return np.asarray(first.forward(np.array(values["quantiles"][-1])))


# ---- detail: the native input's, on results of the network's size


def line_of(
    output: np.ndarray, seen: np.ndarray, spill: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit an output as slope x input + remainder; returns (remainder, slope), (D, *size), for
    `with_detail`.

    The slope is by least squares in every small window. `with_detail` enlarges remainder and slope
    instead of the output and applies the slope to the input at full resolution: the fast guided
    filter (He & Sun 2015) without regularisation, and with the remainder kept, so that an output
    equal to its input stays equal.

    `output`: (D, *size); `seen`: the network's input, (C, *size), matched by channel if C = D, else
    averaged. Volumes are processed a few planes at a time; `spill` is the folder for large results.
    """
    from scipy.ndimage import uniform_filter  # slow import, not needed at the networks' size

    if len(seen) != len(output):
        seen = seen.mean(axis=0, keepdims=True).repeat(len(output), axis=0)

    flat = MIN_VARIANCE_SHARE * (float(seen.max()) - float(seen.min())) ** 2
    rest = zeros_beside(spill, output.shape)
    slopes = zeros_beside(spill, output.shape)
    reach = 2 * (WINDOW_SIDE // 2)  # of two means

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, size=(1, *[WINDOW_SIDE] * (values.ndim - 1)), mode="nearest")

    for part in slabs(output.shape[1:]):
        begin = max(0, part.start - reach)
        x = seen[:, begin : part.stop + reach].astype(np.float64)
        y = output[:, begin : part.stop + reach].astype(np.float64)
        mean_x = mean(x)
        variance = mean(mean(x * x) - mean_x * mean_x)
        covariance = mean(mean(x * y) - mean_x * mean(y))
        slope = np.divide(covariance, variance, out=np.zeros_like(x), where=variance > flat)
        inner = slice(part.start - begin, part.stop - begin)
        rest[:, part] = (y - slope * x)[:, inner]
        slopes[:, part] = slope[:, inner]

    return rest, slopes


def with_detail(
    rest: np.ndarray, slope: np.ndarray, native: np.ndarray, enlarge: Callable
) -> np.ndarray:
    """Enlarge remainder and slope (D, *size) and apply them to the native input; returns (D,
    *native).
    """
    if len(native) != len(slope):
        native = native.mean(axis=0, keepdims=True)

    done = enlarge(slope) * native
    done += enlarge(rest)
    return done
