"""Inspection of one image: what its header and pixels say, as numbers that outlive the pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.split.near_duplicates import Fingerprint, background, fingerprint_of, percentiles
from gantk.errors import UserError, told
from gantk.files import sha256_of
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
    series = io.series_format(scan.files[0]) if scan.files else None
    kind = series.name.lower() if series else suffix[1:] if io.is_image(scan.path) else "folder"
    item = Inspected(scan, {"path": scan.name, "format": kind})
    words = [io.stem_of(scan.name), *reversed(Path(scan.name).parts[:-1])] if scan.name else []
    item.said = next(filter(None, (contrast_in(word, set())[0] for word in words)), "")
    try:
        digest = hashlib.sha256()
        for file in scan.files if len(scan.files) != 1 else ():
            with file.open("rb") as content:
                hashlib.file_digest(content, lambda: digest)  # noqa: B023 - it goes on with the one before
        of_all = sha256_of(scan.files[0]) if len(scan.files) == 1 else digest.hexdigest()
        item.facts |= {"files": len(scan.files), "sha256": of_all}
        image = _read(item)
    except (UserError, OSError) as error:
        unreadable = f"'{scan.path}' cannot be read: {getattr(error, 'strerror', None) or told(error)}"
        item.error = error if isinstance(error, UserError) else UserError(unreadable)
        item.facts["error"] = str(item.error)
        return item
    item.facts |= _facts(image)
    item.seen = fingerprint_of(item.name, image.pixels)
    said = dict(image.facts)
    item.patient, item.header_says = said.pop("patient", ""), said.pop("contrast", "")
    item.facts |= said | {"lossy": said.get("lossy", False) or suffix in LOSSY}
    # Messages name the image themselves: alike remarks of several become one.
    named, remarks = f"'{scan.path}'", (*item.remarks, *image.remarks)
    item.remarks = tuple(remark.removeprefix(f"{named}: ").removeprefix(f"{named} ") for remark in remarks)
    return item


def _read(item: Inspected) -> Image:
    try:
        return io.read(item.scan)
    except UserError as error:
        if "volumes" not in error.what:
            raise
        item.remarks = (f"{error.what.split(' holds ')[-1]}; the first was looked at",)
        return io.read(item.scan, volume=0)


def _facts(image: Image) -> dict[str, Any]:
    pixels, flat = image.pixels, image.pixels.reshape(-1)
    low, high, gray = pixels.min(), pixels.max(), pixels[0]
    differs = np.abs(gray - background(gray)) > 0.05 * (gray.max() - gray.min())
    facts = {
        "shape": list(pixels.shape[1:]),
        "spacing": None if image.affine is None else [_rounded(step) for step in image.spacing],
        "plane": plane_of(image),
        "dtype": str(image.dtype) if image.dtype is not None else None,
        "channels": image.channels,
        "min": _rounded(low),
        "max": _rounded(high),
        "mean": _rounded(pixels.mean(dtype=np.float64)),
        "range": [_rounded(value) for value in percentiles(flat[:: max(1, flat.size // SAMPLE)], [1, 99])],
        "constant": bool(low == high),
        "content": _rounded(differs.mean(), 3),
    }
    if image.dims == 3:
        facts["empty_planes"] = sum(bool(plane.min() == plane.max()) for plane in np.moveaxis(pixels, 1, 0))
    return facts


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


def _rounded(value: float, digits: int = 6) -> float:
    """Digits that mean something, and the same on every machine."""
    return float(f"{float(value):.{digits}g}")
