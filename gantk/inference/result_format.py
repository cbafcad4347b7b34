"""The format of a result's file: that which is asked for, else its input's; in a folder a TIFF takes the
place of one that cannot hold the target's range.
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
from gantk.inference.notes import Note
from gantk.inference.scales import Scales, value_range

MIN_LEVELS = 64  # least span of whole numbers for a domain whose files held fractions


class ResultFormat:
    """Fits results to the files that will hold them, and counts what is clipped.

    `suffix` is the format that is asked for, "" without any; `taken` are the files of results in a
    folder, empty where a single file is named.
    """

    def __init__(self, scales: Scales, frame: Frame, suffix: str):
        self.scales = scales
        self.frame = frame
        self.suffix = suffix
        self.taken: set[Path] = set()
        # of each result in whole numbers: values beyond the limits, values, and the limits
        self.clipped: list[tuple[int, int, str]] = []

    def fit(self, path: Path, image: Image, source: Path) -> tuple[Path, Image, list[Note]]:
        """The file for the result of `source`, the result as it holds it, and notes on what was
        changed.

        UserError where it cannot hold the target's range, if the user has asked for this format or
        file.
        """
        if self.suffix and suffix_of(path) != suffix_of(source):
            image = replace(image, dtype=None)
        fitted = self._round_to_levels(path, image)
        if fitted is not None:
            return path, fitted, []

        low, high, _ = self._range_of(image)
        what = (
            f"the values of {self.frame.target} range from {low:g} to {high:g}, which a"
            f" {suffix_of(path)} file cannot hold"
        )
        tiff = with_suffix(path, ".tif")
        if self.suffix or not self.taken or tiff in self.taken or image.channels > 1:
            remedy = "choose another format: --format tif or --format nii.gz"
            raise UserError(what, where=str(path), remedy=remedy)
        self.taken.add(tiff)
        return tiff, replace(image, dtype=None), [("note", f"{what}, so it is written as .tif")]

    def clipped_line(self) -> str:
        """How many values of all results were clipped to the limits of their files; "" for none."""
        affected = sum(beyond > 0 for beyond, _, _ in self.clipped)
        if not affected:
            return ""
        share = sum(beyond for beyond, _, _ in self.clipped) / sum(n for _, n, _ in self.clipped)
        limits = " or ".join(sorted({limits for _, _, limits in self.clipped}))
        return (
            f"clipped  {100 * share:.2g} % of all values are clipped to {limits} in {affected} of"
            f" {count_noun(self.clipped, 'image')} (--format tif keeps them)"
        )

    def _range_of(self, image: Image) -> tuple[float, float, bool]:
        """The least and the largest value that a result may have, those of the target's training
        images or of its own scale, and whether they are whole numbers.
        """
        if not image.own_scale:
            return value_range(self.scales.target, self.frame.values.get("target"))
        if image.dtype is not None and np.issubdtype(image.dtype, np.integer):
            return 0.0, float(np.iinfo(image.dtype).max), True
        return float(image.pixels.min()), float(image.pixels.max()), False

    def _round_to_levels(self, path: Path, image: Image) -> Image | None:
        """A result whose overshoot is clipped to the whole numbers that a file holds; None where these
        cannot hold the target's range.
        """
        low, high, whole = self._range_of(image)
        needs_floats = not whole and high - low < MIN_LEVELS  # rounding would leave too few levels
        for least, most in files.writer_of(path, image).limits(path, image):
            holds_range = least <= low + 0.05 * (high - low) and high <= most
            if holds_range and (most == np.inf or not needs_floats):
                break
        else:
            return None

        if most == np.inf:
            return image

        pixels = np.rint(image.pixels, out=image.pixels)
        beyond = 0
        for planes in pixels:
            for plane in planes:  # a comparison of the whole would take memory
                beyond += int(np.count_nonzero((plane < least) | (plane > most)))
        self.clipped.append((beyond, pixels.size, f"{least:g} .. {most:g}"))
        return replace(image, pixels=np.clip(pixels, least, most, out=pixels))


def expect_file_of(source: Path, target: Path, suffix: str) -> None:
    """UserError where a translation of this file cannot be written as the file `target`."""
    kind = suffix or suffix_of(source)
    if part := files.series_format(source):
        kind = part.suffixes[0]
    is_known = suffix_of(target) in files.formats()
    same_kind = bool(suffix) or files.is_volume(source) == files.is_volume(target)
    if suffix not in ("", suffix_of(target)) or not is_known or not same_kind:
        raise UserError(
            f"a translation of '{source.name}' cannot be written as '{target.name}'",
            where="OUTPUT",
            allowed=kind,
        )


def with_suffix(path: Path, suffix: str) -> Path:
    """`scan.png` with the suffix ".nii.gz" is `scan.nii.gz`; without one it is left as it is."""
    return path.with_name(files.split_suffix(path)[0] + suffix) if suffix else path


def with_tail(path: Path, tail: str) -> Path:
    """`scan.nii.gz` with the tail "-1" is `scan-1.nii.gz`."""
    stem, suffix = files.split_suffix(path)
    return path.with_name(f"{stem}{tail}{suffix}")
