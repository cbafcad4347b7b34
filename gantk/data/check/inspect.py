"""Inspection of one image: what its header and pixels say, as numbers that outlive the pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.split.near_duplicates import Fingerprint, content_size, fingerprint_of
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.contrasts import contrast_in
from gantk.formats.image import Image

AXES = ("axial", "coronal", "sagittal")  # how slices lie that are stacked along an upright volume's z, y or x
THICK = 1.5  # a stack whose slices are so much farther apart than pixels was acquired in slices
LOSSY = (".jpg", ".jpeg")
SAMPLE = 500_000  # pixels, evenly spread, of which percentiles are taken


@dataclass(eq=False)
class Inspected:
    """What is kept of one image: `facts` as JSON, and what comparing images needs; `error` where it cannot be read."""

    scan: io.Scan
    facts: dict[str, Any]
    error: UserError | None = None
    seen: Fingerprint | None = None
    symmetry: float | None = None  # correlation of a picture's content with its mirror image; None for volumes
    extent: tuple[float, float] | None = None  # height and width of what is in a picture, in pixels; None for volumes
    remarks: tuple[str, ...] = ()
    domains: list[str] = field(default_factory=list)  # filled in by whoever knows
    patient: str = ""
    said: str = ""  # contrast that file or folder name, the nearest first
    header_says: str = ""  # contrast that a DICOM header names

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.scan.name


def inspect(scan: io.Scan) -> Inspected:
    """One scan read once: the first volume of a file of several. Whatever is wrong with it is its `error`, not raised.

    Facts: `shape` (upright, without channels), `spacing` in mm and `plane` where the file knows them, `dtype` as saved,
    `channels`, `min`, `max`, `mean`, `range` (1st to 99th percentile), `content` (share of pixels that differ from the
    background), `empty_planes` (axial planes of a volume without contrast), `lossy`, `files`, `sha256`.
    """
    suffix = io.suffix_of(scan.path)
    part = io.series_format(scan.files[0]) if scan.files else None
    kind = part.name.lower() if part else suffix[1:] if io.is_image(scan.path) else "folder"
    item = Inspected(scan, {"path": scan.name, "format": kind})
    words = [io.stem_of(scan.name), *reversed(Path(scan.name).parts[:-1])] if scan.name else []
    item.said = next((word for word in (contrast_in(part, set())[0] for part in words) if word), "")
    try:
        digest = hashlib.sha256()
        for file in scan.files:
            with open(file, "rb") as opened:
                while block := opened.read(2**20):
                    digest.update(block)
        item.facts |= {"files": len(scan.files), "sha256": digest.hexdigest()}
        try:
            image = io.read(scan)
        except UserError as error:
            if "volumes" not in error.what:
                raise
            image = io.read(scan, volume=0)
            item.remarks += (f"{error.what.split(' holds ')[-1]}; the first was looked at",)
    except (UserError, OSError) as error:
        if isinstance(error, OSError):
            error = UserError(f"'{scan.path}' cannot be read: {error.strerror or error}")
        item.error = error
        item.facts["error"] = str(error)
        return item
    _add_pixels(item, image)
    said = image.facts
    item.patient, item.header_says = said.pop("patient", ""), said.pop("contrast", "")
    item.facts |= said
    item.remarks += image.remarks
    # Messages name the image themselves: alike remarks of several become one.
    named = f"'{scan.path}'"
    item.remarks = tuple(remark.removeprefix(f"{named}: ").removeprefix(f"{named} ") for remark in item.remarks)
    item.facts["lossy"] = item.facts.get("lossy", False) or suffix in LOSSY
    return item


def _add_pixels(item: Inspected, image: Image) -> None:
    pixels = image.pixels
    flat = pixels.reshape(-1)
    low, high = pixels.min(), pixels.max()
    item.facts |= {
        "shape": list(pixels.shape[1:]),
        "spacing": None if image.affine is None else [_rounded(step) for step in image.spacing],
        "plane": plane_of(image),
        "dtype": str(image.dtype) if image.dtype is not None else None,
        "channels": image.channels,
        "min": _rounded(low),
        "max": _rounded(high),
        "mean": _rounded(pixels.mean(dtype=np.float64)),
        "range": [_rounded(value) for value in np.percentile(flat[:: max(1, flat.size // SAMPLE)], [1, 99])],
        "constant": bool(low == high),
        "content": 0.0 if low == high else _rounded(_content(pixels[0]), 3),
    }
    if image.dims == 3:
        item.facts["empty_planes"] = sum(bool(plane.min() == plane.max()) for plane in np.moveaxis(pixels, 1, 0))
    item.seen = fingerprint_of(item.name, pixels)
    if image.dims == 2 and item.seen.thumbnails is not None:
        content = item.seen.thumbnails[1, 0].astype(np.float32)
        item.symmetry = float(np.corrcoef(content.ravel(), content[:, ::-1].ravel())[0, 1])
        item.extent = tuple(np.multiply(content_size(pixels), pixels.shape[1:]))


def plane_of(image: Image) -> str | None:
    """`axial`, `coronal` or `sagittal` for a slice, or a volume of thick slices; `any` for about cubic voxels.

    None where the file does not say how it lies in the patient.
    """
    if image.affine is None:
        return None
    if image.dims == 3:
        across = int(np.argmax(image.spacing))
        others = max(step for axis, step in enumerate(image.spacing) if axis != across)
        return AXES[across] if image.spacing[across] > THICK * others else "any"
    thin = [axis for axis, side in enumerate(image.file_shape) if side == 1]
    direction = np.abs(image.affine[:3, thin[0]]) if len(thin) == 1 else np.zeros(3)
    return AXES[::-1][int(np.argmax(direction))] if direction.any() else None


def _content(gray: np.ndarray) -> float:
    """Share of pixels that differ from the background, the median at the border, by 5 % of the range."""
    faces = [np.take(gray, end, axis).ravel() for axis in range(gray.ndim) for end in (0, -1)]
    background = np.median(np.concatenate(faces))
    return float(np.mean(np.abs(gray - background) > 0.05 * (gray.max() - gray.min())))


def _rounded(value: float, digits: int = 6) -> float:
    """Digits that mean something, and the same on every machine."""
    return float(f"{float(value):.{digits}g}")
