"""One image looked at: what its header and pixels say, as numbers that outlive the pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.near_duplicates import Fingerprint, content_size, fingerprint_of
from gantk.data.sources.file_names import contrast_in
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.image import Image

AXES = ("sagittal", "coronal", "axial")  # across which slices lie, by the patient's axis that they are stacked along
THICK = 1.5  # a stack whose slices are so much farther apart than pixels was acquired in slices
LOSSY = (".jpg", ".jpeg")


@dataclass(eq=False)
class Inspected:
    """What is kept of one image: `facts` as JSON, and what comparing images needs; `error` where it cannot be read."""

    scan: io.Scan
    facts: dict[str, Any]
    error: UserError | None = None
    seen: Fingerprint | None = None
    mirror: float | None = None  # how alike a picture and its mirror image are; None for volumes
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
    item = Inspected(scan, {"path": scan.name, "format": _format(scan)})
    item.said = _said(scan.name)
    try:
        item.facts |= {"files": len(scan.files), "sha256": _hash(scan.files)}
        image = _read(scan, item)
    except UserError as error:
        item.error = error
        item.facts["error"] = str(error)
        return item
    except OSError as error:
        item.error = UserError(f"'{scan.path}' cannot be read: {error.strerror or error}")
        item.facts["error"] = str(item.error)
        return item
    _look(image, item)
    if item.facts["format"] == "dicom":
        _dicom(image, item)
    # Messages name the image themselves: alike remarks of several become one.
    named = f"'{scan.path}'"
    item.remarks = tuple(remark.removeprefix(f"{named}: ").removeprefix(f"{named} ") for remark in item.remarks)
    item.facts["lossy"] = item.facts.get("lossy", False) or io.suffix_of(scan.path) in LOSSY
    return item


def _read(scan: io.Scan, item: Inspected) -> Image:
    try:
        return io.read(scan)
    except UserError as error:
        if "volumes" not in error.what:
            raise
        try:
            image = io.read(scan, volume=0)
        except UserError:
            raise error from None
        item.remarks += (f"{error.what.split(' holds ')[-1]}; the first was looked at",)
        return image


def _look(image: Image, item: Inspected) -> None:
    pixels = image.pixels
    spread = np.percentile(_some(pixels), [1, 99])
    constant = bool(pixels.min() == pixels.max())
    item.facts |= {
        "shape": list(pixels.shape[1:]),
        "spacing": None if image.affine is None else [_rounded(step) for step in image.spacing],
        "plane": plane_of(image),
        "dtype": str(image.dtype) if image.dtype is not None else None,
        "channels": image.channels,
        "min": _rounded(pixels.min()),
        "max": _rounded(pixels.max()),
        "mean": _rounded(pixels.mean(dtype=np.float64)),
        "range": [_rounded(value) for value in spread],
        "constant": constant,
        "content": 0.0 if constant else _rounded(_content(pixels), 3),
    }
    if image.dims == 3:
        flat = [bool(plane.min() == plane.max()) for plane in np.moveaxis(pixels, 1, 0)]
        item.facts["empty_planes"] = sum(flat)
    item.seen = fingerprint_of(pixels, item.name)
    if image.dims == 2 and item.seen.thumbnails is not None:
        content = item.seen.thumbnails[1, 0].astype(np.float32)
        item.mirror = float(np.corrcoef(content.ravel(), content[:, ::-1].ravel())[0, 1])
        item.extent = tuple(np.multiply(content_size(pixels), pixels.shape[1:]))


def plane_of(image: Image) -> str | None:
    """`axial`, `coronal` or `sagittal` for a slice, or a volume of thick slices; `any` for about cubic voxels.

    None where the file does not say how it lies in the patient.
    """
    if image.affine is None:
        return None
    if image.dims == 3:
        spacing = image.spacing
        across = int(np.argmax(spacing))
        others = max(step for axis, step in enumerate(spacing) if axis != across)
        return AXES[::-1][across] if spacing[across] > THICK * others else "any"
    thin = [axis for axis, side in enumerate(image.file_shape) if side == 1]
    if len(thin) != 1:
        return None
    direction = np.abs(image.affine[:3, thin[0]])
    return AXES[int(np.argmax(direction))] if direction.any() else None


def _content(pixels: np.ndarray) -> float:
    """Share of pixels that differ from the background, the most frequent value at the border, by 5 % of the range."""
    gray = pixels[0]
    faces = [np.take(gray, end, axis).ravel() for axis in range(gray.ndim) for end in (0, -1)]
    background = np.median(np.concatenate(faces))
    low, high = gray.min(), gray.max()
    return float(np.mean(np.abs(gray - background) > 0.05 * (high - low)))


def _dicom(image: Image, item: Inspected) -> None:
    from gantk.data.sources.dicom import MODALITIES, contrast_of
    from gantk.formats import dicom

    words = dicom.summary(item.scan.files[0])
    first = image.header[0] if isinstance(image.header, list) and image.header else None
    number = {key: _number(first, key) for key in ("EchoTime", "RepetitionTime", "InversionTime")}
    item.facts |= {
        "modality": words["Modality"] or None,
        "description": words["SeriesDescription"] or words["ProtocolName"] or None,
        "echo_time": number["EchoTime"],
        "repetition_time": number["RepetitionTime"],
        "inversion_time": number["InversionTime"],
        "lossy": str(first.get("LossyImageCompression", "")) == "01" if first is not None else False,
    }
    item.patient = words["PatientID"]
    said = contrast_of(words["SeriesDescription"]) or contrast_of(words["ProtocolName"]) or ""
    item.header_says = said or {value: key for key, value in MODALITIES.items()}.get(words["Modality"], "")
    item.header_says = "" if item.header_says == "mr" else item.header_says
    item.remarks += dicom.remarks(image)


def _number(dataset: Any, key: str) -> float | None:
    try:
        value = dataset.get(key)
        return None if value in (None, "") else float(value)
    except (AttributeError, TypeError, ValueError):
        return None


def _said(name: str) -> str:
    """The contrast that a relative name says: the file's word, else that of the folder nearest to it."""
    parts = Path(name).parts
    words = [io.stem_of(parts[-1]), *reversed(parts[:-1])] if parts else []
    return next((word for word in (contrast_in(part, set())[0] for part in words) if word), "")


def _format(scan: io.Scan) -> str:
    suffix = io.suffix_of(scan.path)
    return suffix[1:] if io.is_image(scan.path) else "dicom" if scan.files else "folder"


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _some(pixels: np.ndarray) -> np.ndarray:
    """At most about 500,000 of the pixels, evenly spread."""
    flat = pixels.reshape(-1)
    return flat[:: max(1, flat.size // 500_000)]


def _rounded(value: float, digits: int = 6) -> float:
    """Digits that mean something, and the same on every machine."""
    return float(f"{float(value):.{digits}g}")
