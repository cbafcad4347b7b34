"""The format of a result's file: the one that is asked for, else its input's. Where this cannot hold
the values of the target domain, nothing is written.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from gantk.errors import UserError, count_noun
from gantk.formats import files
from gantk.formats.files import suffix_of
from gantk.formats.image import Image
from gantk.inference.frame import Frame
from gantk.inference.scales import Scales, value_range

MIN_LEVELS = 64  # least span of whole numbers for a domain whose files held fractions
SLACK = 0.05  # of the range of values, by which a file may cut the lowest ones
MAX_CLIPPED_SHARE = 0.05  # of the values of all results, above which it is a warning


class ResultFormat:
    """Fits results to the files that will hold them, and counts what is brighter than their white.
    `suffix` is the format that is asked for, "" without any.
    """

    def __init__(self, scales: Scales, frame: Frame, suffix: str = ""):
        self.scales = scales
        self.frame = frame
        self.suffix = suffix
        self.clipped: list[float] = []  # share of the values of each result in whole numbers

    def fit(self, path: Path, image: Image, source: Path) -> Image:
        """The result of `source` as the file `path` holds it: whole numbers are rounded and clipped
        in place. UserError where the file cannot hold the target's range.
        """
        if self.suffix and suffix_of(path) != suffix_of(source):
            image = replace(image, dtype=None)
        known = self._range_of(image)
        limits = files.writer_of(path, image).limits(path, image)
        fitting = [each for each in limits if holds_range(each, *known)]
        if not fitting:
            raise UserError(
                f"the values of {self.frame.target} range from {known[0]:g} to {known[1]:g}, which a"
                f" {suffix_of(path)} file cannot hold",
                where=str(path),
                remedy="choose another format: --format tif or --format nii.gz",
            )
        least, most = fitting[0]
        if most == np.inf:
            return image

        pixels = np.rint(image.pixels, out=image.pixels)
        # lower values are black, as in the file; a comparison of the whole would take memory
        beyond = [np.mean(plane > most) for planes in pixels for plane in planes]
        self.clipped.append(float(np.mean(beyond)))
        return replace(image, pixels=np.clip(pixels, least, most, out=pixels))

    def clipped_line(self) -> str:
        """How many values of all results were clipped to the white of their files; "" for none."""
        if not any(self.clipped):
            return ""
        share = np.mean(self.clipped)
        return (
            f"{'warning' if share > MAX_CLIPPED_SHARE else 'clipped'}  {100 * share:.2g} % of the values are"
            f" clipped to white, in {np.count_nonzero(self.clipped)} of"
            f" {count_noun(self.clipped, 'image')} (--format tif keeps them)"
        )

    def _range_of(self, image: Image) -> tuple[float, float, bool]:
        """The least and the largest value that a result may have, those of the target's training
        images or of its own scale, and whether they are whole numbers.
        """
        if not image.own_scale:
            return value_range(self.scales.target, self.frame.values.get("target"))
        if image.is_integer:
            return 0.0, float(np.iinfo(image.dtype).max), True
        return float(image.pixels.min()), float(image.pixels.max()), False


def holds_range(limits: tuple[float, float], low: float, high: float, whole: bool) -> bool:
    """Whether a file with these limits holds values from `low` to `high`; one of whole numbers does
    where the values are `whole` too, or where rounding leaves MIN_LEVELS of them.
    """
    least, most = limits
    is_fine = most == np.inf or whole or high - low >= MIN_LEVELS
    return is_fine and least <= low + SLACK * (high - low) and high <= most


def with_suffix(path: Path, suffix: str) -> Path:
    """`scan.png` with the suffix ".nii.gz" is `scan.nii.gz`; without one it is left as it is."""
    return path.with_name(files.split_suffix(path)[0] + suffix) if suffix else path


def with_tail(path: Path, tail: str) -> Path:
    """`scan.nii.gz` with the tail "-1" is `scan-1.nii.gz`."""
    stem, suffix = files.split_suffix(path)
    return path.with_name(f"{stem}{tail}{suffix}")
