"""Detects images that a model cannot translate: another contrast by header or name, or no anatomy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gantk.catalog.contrasts import (
    USUAL_WORDS,
    contradict,
    names_with_contrast,
    times_contradict,
    times_in_words,
    usual_contrast,
)
from gantk.data.look import distance, tissue_quantiles
from gantk.formats.image import Image

MIN_NEIGHBOUR_CORRELATION = (
    0.5  # least correlation of neighbouring pixels: heads have 0.88 or more, noise at most 0.03
)
# spread of tissue values over the training images': 741 heads have 0.55 or more, bottles 0.4
MIN_RELATIVE_SPREAD = 0.5
# a label map has few whole values, and most neighbours along both sides share one, see
# `benchmarks/results/input-checks.md`
MAX_LABELS = 256
MIN_SHARED_VALUE = 0.75
COMPARED_PLANES = 8  # planes of a volume in which neighbours are compared
SAME_SHARE = 0.01  # share of a domain's range: a smaller difference is none
TISSUE_SHARE = 0.1  # share of a domain's range: tissue is above it
# an output is far outside the training's values if it is farther than so many widths of them
FAR_WIDTHS = 4.0
# bright and dark are swapped if the values fit so many times better the other way round
MIN_DISTANCE_RATIO = 1.5


def doubt(image: Image, frame: Any) -> str | None:
    """The warning about an input, the same text for all images with the same problem; None where
    there is none.

    Header and names decide about the contrast. An image without anatomy is always reported.
    """
    meant = usual_contrast(frame.source)
    names = names_with_contrast(image.facts, image.path, meant)
    # the first name that states a contrast counts; with an agent it fits T1, and MR any of MR's
    said = sorted(next(filter(None, map(USUAL_WORDS.said, names)), ()))
    if said and all(contradict(each.lower(), meant) for each in said):
        return f"the header or the name says {said[0]}, but it is translated as {frame.source}"
    if times_contradict(image.facts, meant):
        return (
            f"the header's {times_in_words(image.facts)} are not those of {frame.source}, as which it"
            " is translated"
        )

    # CT in a narrow window is as flat
    if meant not in (None, "ct") and _is_label_map(image.pixels):
        return f"the input is a label map, but it is translated as {frame.source}"

    if strange := no_anatomy(image.pixels, frame.values.get("source")):
        return f"the input {strange}, but it is translated as {frame.source}"

    return None


def _share_of_range(image: np.ndarray, values: Any) -> np.ndarray:
    """Intensities as shares of their domain's range in training."""
    span = values["high"] - values["low"]
    return (image - values["low"]) / max(span, 1e-9)


def doubt_of_result(given: np.ndarray, made: np.ndarray, frame: Any) -> str | None:
    """The warning about a translation (C, *spatial) of an image; None where there is none.

    Far outside: the middle tissue value is farther from the target's training images than
    FAR_WIDTHS times the width of their tissue values, as where units differ by a thousand.
    Unchanged: the mean difference over tissue from its input is below 1 %, each as a share of its
    own domain's range. Inverted: its values do not fit the target's training images, but would fit
    if bright and dark were swapped.
    """
    values = frame.values
    if len(values) < 2 or not (np.isfinite(given).all() and np.isfinite(made).all()):
        return None

    if len(given) == len(made):
        before = _share_of_range(given, values["source"])
        after = _share_of_range(made, values["target"])
        tissue = np.any(before > TISSUE_SHARE, axis=0)
        if tissue.any() and np.abs(before - after)[:, tissue].mean() < SAME_SHARE:
            return "the output is nearly identical to the input: the translation changed nothing"
    if not np.ptp(made) > 0:
        return None

    quantiles = tissue_quantiles(made.reshape(-1))
    middle = np.array(values["target"]["quantiles"])
    usual = float(np.median(middle))
    own = float(np.median(quantiles))
    if abs(own - usual) > FAR_WIDTHS * max(float(middle[-1] - middle[0]), abs(usual)):
        return (
            f"the output's values lie far outside those of {frame.target} in the training (tissue has"
            f" about {own:.4g}, there {usual:.4g}). Check the units of the input and of the"
            " training images"
        )

    swapped = quantiles[0] + quantiles[-1] - quantiles[::-1]
    near = values["target"]["near"]
    if distance(quantiles, middle) > MIN_DISTANCE_RATIO * max(near, distance(swapped, middle)):
        return (
            f"bright and dark are swapped in the output, unlike in the {frame.target} images of the"
            " training"
        )

    return None


def no_anatomy(pixels: np.ndarray, own: dict[str, Any] | None) -> str:
    """Describe an image (C, *spatial) that shows no anatomy or another modality: noise, one even
    material, Hounsfield units instead of MR or the reverse; "" for any other image.

    `own` are the values of the model's training images, None where they are not known. Other organs
    and photographs with edges and several brightnesses are not recognised: see `benchmarks/results/input-checks.md`.
    """
    gray = _some_planes(pixels)
    if not np.ptp(gray) > 0:
        return ""  # blank: reported elsewhere

    correlations = [
        np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in _neighbours(gray)
    ]
    if max(correlations) < MIN_NEIGHBOUR_CORRELATION:
        return "is noise (neighbouring pixels are uncorrelated)"

    if own is None:
        return ""

    low = np.percentile(gray, 1)
    reach = own["high"] - own["low"]
    if own["low"] > -0.05 * reach and low < -0.5 * reach:
        return "has values far below 0, like Hounsfield units"
    if own["low"] < -0.1 * reach and own["low"] <= -200 and gray.min() >= 0:
        return "has no values below 0, where Hounsfield units have air"

    if _spread(tissue_quantiles(gray.reshape(-1))) < MIN_RELATIVE_SPREAD * _spread(
        np.array(own["quantiles"])
    ):
        return "has nearly one brightness, as a bottle, a mask or an inverted image has"

    return ""


def _some_planes(pixels: np.ndarray) -> np.ndarray:
    """The gray values of a picture, or of some planes of a volume."""
    gray = pixels[:, :: max(1, pixels.shape[1] // COMPARED_PLANES)] if pixels.ndim == 4 else pixels
    return np.nan_to_num(gray.mean(axis=0), copy=False, posinf=0, neginf=0)


def _is_label_map(pixels: np.ndarray) -> bool:
    """Whether pixels are labels: see MAX_LABELS. What has the lowest value is background."""
    gray = _some_planes(pixels)
    values = np.unique(gray)
    if len(values) > MAX_LABELS or (values != np.rint(values)).any():
        return False
    for one, other in _neighbours(gray):
        inside = (one > values[0]) & (other > values[0])
        if not inside.any() or (one == other)[inside].mean() < MIN_SHARED_VALUE:
            return False
    return True


def _neighbours(gray: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pixels and their neighbours, along the columns and along the rows of each plane."""
    for axis in (-2, -1):
        lines = np.moveaxis(gray, axis, 0)
        yield lines[:-1], lines[1:]


def _spread(tissue: np.ndarray) -> float:
    """The difference of the brightest and the darkest tissue, as a share of the brightest."""
    return float(tissue[-1] - tissue[0]) / max(float(np.abs(tissue).max()), 1e-9)
