"""Inspects one image: reads header and pixels, and keeps numbers about them but not the pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from gantk.data.check.kinds import kind_of, round_digits
from gantk.data.look import Plane, background_level, look_of, planes_of
from gantk.data.masks import fill_enclosed
from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import Fingerprint, fingerprint_of
from gantk.data.spread import spread
from gantk.errors import UserError, file_error_words
from gantk.formats import files as io
from gantk.formats.image import Image, Scan

LOSSY = (".jpg", ".jpeg")
SAMPLE = 500_000  # evenly spread pixels for computing percentiles
GLANCE = 5_000  # evenly spread pixels, of which a scan has more values than a mask
MAX_MASK_VALUES = 8  # different ones
MAX_MASKS = 5  # slices of an image's mask that are filled


@dataclass(eq=False)
class Inspected:
    """One inspected image: `facts` as JSON, data for comparing images, and `error` where it cannot
    be read.
    """

    scan: Scan
    facts: dict[str, Any]
    error: UserError | None = None
    seen: Fingerprint | None = None
    look: list[float] = field(default_factory=list)  # as of `look_of`
    # what the reader says of it, and whether that is a doubt that it is the scan that it seems
    remarks: tuple[tuple[str, bool], ...] = ()
    header_patient: str = ""
    header_says: str = ""  # contrast in the DICOM header
    # in a study: its records, or those of its planes or parts, their domains, and its contrast where
    # a record has several
    records: list[Record] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    contrast: str = ""

    @property
    def patient(self) -> str:
        """The patient of its records or, where these name none, of its header."""
        named = (record.subject for record in reversed(self.records) if record.subject)
        return next(named, self.header_patient)

    @cached_property
    def mask_shares(self) -> tuple[float, float]:
        """The share of pixels that the lesion masks of its records mark; and what masks enclose besides
        in slices, of a volume a few, as a multiple of what they mark there. 0 without masks.
        """
        masks = [record.mask() > 0.5 for record in self.records if record.mask]
        if not masks:
            return 0.0, 0.0
        slices = np.concatenate(masks).reshape(-1, *masks[0].shape[-2:])
        shown = slices[spread(np.flatnonzero(slices.any((1, 2))), MAX_MASKS)]
        return slices.mean(), fill_enclosed(shown).sum() / max(1, shown.sum()) - 1

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.scan.name


def inspect(scan: Scan, read: Callable[[Scan], Image] = io.read) -> Inspected:
    """Read a scan once; a failure becomes its `error` and is not raised.

    Facts:

    * of the file: `dtype` as stored, `lossy`, the number of `files`
    * of the grid: `shape` (upright, without channels), `channels`; `spacing` in mm and `plane` if
      the file states them; `oriented` (whether it states left and right, and shows them)
    * of the pixels: `min`, `max`, `mean`, `range` (1st to 99th percentile), `content` (share of
      pixels that differ from the background), `values` (how many different ones there are, where
      these are 8 or less; else None), `skull` (whether a volume, but of CT, shows one;
      None if this is unclear)
    """
    suffix = io.suffix_of(scan.path)
    series = io.series_format(scan.files[0])
    kind = series.name.lower() if series else suffix[1:]

    item = Inspected(scan, {"path": scan.name, "format": kind, "files": len(scan.files)})
    try:
        image = read(scan)
    except (UserError, OSError) as error:
        what = f"'{scan.path}' cannot be read: {file_error_words(error)}"
        item.error = error if isinstance(error, UserError) else UserError(what)
        item.facts["error"] = str(item.error)
        return item

    planes = planes_of(image.pixels)
    item.facts |= _facts(image, planes)
    item.look = look_of(image.pixels, planes)
    item.seen = fingerprint_of(image.pixels, planes)
    header_facts = dict(image.facts)
    item.header_patient = header_facts.pop("patient", "")
    header_facts.pop("study", None)
    item.header_says = header_facts.pop("contrast", "")
    item.facts |= header_facts | {"lossy": header_facts.get("lossy", False) or suffix in LOSSY}
    remarks = [*((remark, False) for remark in image.remarks), *image.doubts]
    # without the image's name, so that equal ones of several images become one
    item.remarks = tuple(
        (remark.removeprefix(f"'{scan.path}'").lstrip(": "), is_doubt)
        for remark, is_doubt in remarks
    )
    return item


def scans_of(records: Iterable[Record]) -> dict[tuple[str, Scan], list[Record]]:
    """The records of each contrast and scan that they are read from: the scan named by their key, the
    contrast where a record has several. An image that is part of a file is one by itself.
    """
    found = defaultdict(list)
    for record in records:
        key = record.scan_key or record.key
        if record.file is None and record.files:
            found[record.domain, Scan(record.files[0], name=key)].append(record)
        for contrast, scan in record.file.scans.items() if record.file else ():
            if scan is not None:
                name = f"{key}/{scan.path.name}" if contrast else key
                found[contrast, replace(scan, name=name)].append(record)
    return found


def inspect_kept(scan: Scan, record: Record) -> Inspected:
    """What `inspect` finds in a scan of a record, whose `file` keeps it; in the image that it reads,
    if this is part of a file.
    """
    if record.file is None:
        return inspect(scan, lambda scan: Image(record.read(), path=record.path))
    known = record.file.reader.inspected
    if scan not in known:
        known[scan] = inspect(scan, record.file.read)
    return known[scan]


def _facts(image: Image, planes: Sequence[Plane]) -> dict[str, Any]:
    pixels = image.pixels
    flat = image.pixels.reshape(-1)
    low = pixels.min()
    high = pixels.max()
    gray = pixels[0]
    differs = np.abs(gray - background_level(gray)) > 0.05 * (gray.max() - gray.min())
    return kind_of(image, planes=planes) | {
        "dtype": str(image.dtype) if image.dtype is not None else None,
        "channels": image.channels,
        "min": round_digits(low),
        "max": round_digits(high),
        "mean": round_digits(pixels.mean(dtype=np.float64)),
        "range": [
            round_digits(value)
            for value in np.percentile(flat[:: max(1, flat.size // SAMPLE)], [1, 99])
        ],
        "constant": bool(low == high),
        "values": _few_values(flat),
        "content": round_digits(differs.mean(), 3),
    }


def _few_values(flat: np.ndarray) -> int | None:
    """How many different values there are, if these are as few as those of a mask."""
    if len(np.unique(flat[:: max(1, flat.size // GLANCE)])) > MAX_MASK_VALUES:
        return None
    count = len(np.unique(flat))
    return count if count <= MAX_MASK_VALUES else None
