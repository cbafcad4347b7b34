"""Found files to records, and their reading: files that do not belong together are refused."""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from gantk.data import io
from gantk.data.image import Image
from gantk.data.layout import Found
from gantk.data.records import Record
from gantk.errors import UserError

Channels = Literal[1, 3] | None  # what `channels` of a source may ask for
SMALLEST = 8  # pixels on each side
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


class Reader:
    """Reads images of `dims` axes and checks each against the first of its domain."""

    def __init__(self, dims: int, channels: int | None = None, keep: int = 4):
        self.dims, self.channels, self.keep = dims, channels, keep
        self._first: dict[str, tuple[int, Path]] = {}  # domain -> channels of the first file read
        self._volumes: OrderedDict[Path, Image] = OrderedDict()  # the last ones, since planes are read one by one

    def read(self, letter: str, path: Path, plane: int | None = None) -> np.ndarray:
        """float32 (C, *spatial) of a file, or of one axial plane of a volume; UserError naming the file."""
        pixels = io.read(path).pixels if plane is None else self._volume(path).pixels[:, plane]
        if pixels.ndim - 1 != self.dims:
            kind = "a volume" if pixels.ndim == 4 else "a picture"
            raise UserError(f"'{path}' is {kind}, and data.dims is {self.dims}", where="data.dims")
        if min(pixels.shape[1:]) < SMALLEST:
            shape = " x ".join(map(str, pixels.shape[1:]))
            raise UserError(f"'{path}' is only {shape} pixels", allowed=f"{SMALLEST} or more on each side")
        pixels = self._as_asked(pixels)
        channels, first = self._first.setdefault(letter, (len(pixels), path))
        if len(pixels) != channels:
            raise UserError(
                f"'{path}' has {len(pixels)} channels, while '{first}' has {channels}",
                where="data.source",
                remedy="set data.source.channels = 1 (gray) or 3 (colour)",
            )
        return pixels

    def mask(self, path: Path, plane: int | None = None) -> np.ndarray:
        """float32 (1, *spatial) of a mask's file: 1 where it is above 0, whatever its labels."""
        return (self.read("mask", path, plane) > 0).astype(np.float32)

    def _as_asked(self, pixels: np.ndarray) -> np.ndarray:
        if self.channels == 3 and len(pixels) == 1:
            return np.repeat(pixels, 3, axis=0)
        if self.channels == 1 and len(pixels) == 3:
            gray = np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])
            return np.ascontiguousarray(pixels[:1] if gray else np.tensordot(LUMA, pixels, axes=1)[None])
        return pixels

    def _volume(self, path: Path) -> Image:
        image = self._volumes.get(path)
        if image is None:
            image = io.read(path)
            self._volumes[path] = image
            while len(self._volumes) > self.keep:
                self._volumes.popitem(last=False)
        return image


def planes_of(path: Path, shares: tuple[float, float]) -> tuple[int | None, ...]:
    """Axial planes of a volume between two shares of its height; `(None,)` for a NIfTI file that is one slice."""
    from gantk.data.nifti import upright_shape

    shape = upright_shape(path)
    if len(shape) < 3:
        return (None,)
    low, high = shares
    if not 0 <= low < high <= 1:
        raise UserError(f"planes = {list(shares)} is no part of a volume", where="data.source.planes", allowed="0 to 1")
    return tuple(range(int(low * shape[0]), max(int(high * shape[0]), int(low * shape[0]) + 1)))


def records_of(
    found: Sequence[Found],
    root: Path,
    pairs: dict[Path, str],
    patient: re.Pattern | None,
    reader: Reader,
    planes: tuple[float, float],
    expected: dict[str, str],
    labels: Mapping[Path, str] = MappingProxyType({}),
    masks: Mapping[Path, Path] = MappingProxyType({}),
) -> list[Record]:
    """Records in natural order; `position` counts within the stack of one domain, patient and split.

    `expected` names the domains; one of no image, or of one, from which nothing can be held out, is a UserError.
    `labels` and `masks` tell an image's class and the file of its mask, where these are known.
    """
    mask_reader = Reader(reader.dims, channels=1)
    stacks: dict[tuple, int] = defaultdict(int)
    # A folder is a patient where folders are numbered: `patient07`, `BRATS_HG0006`; `tumour` and `healthy` are kinds.
    numbered = sum(any(map(str.isdigit, "".join(image.place))) for image in found) * 2 > len(found)
    records = []
    for image in found:
        shown = image.path.relative_to(root) if image.path.is_relative_to(root) else image.path
        subject = patient_of(shown.as_posix(), patient) if patient else "/".join(image.place) if numbered else ""
        volume = io.suffix_of(image.path) in io.VOLUMES
        subject = subject or (image.name if volume else "")  # a volume is a scan of somebody
        for plane in planes_of(image.path, planes) if volume and reader.dims == 2 else (None,):
            stack = (image.letter, subject, image.split)
            pair, tail = pairs.get(image.path), "" if plane is None else f"/plane-{plane:03d}"
            records.append(
                Record(
                    domain=image.letter,
                    subject=subject,
                    key=shown.as_posix() + tail,
                    read=partial(reader.read, image.letter, image.path, plane),
                    pair=None if pair is None else pair + tail,
                    position=float(plane) if plane is not None else None if volume else float(stacks[stack]),
                    path=image.path,
                    split=image.split,
                    mask=partial(mask_reader.mask, masks[image.path], plane) if image.path in masks else None,
                    label=labels.get(image.path),
                )
            )
            stacks[stack] += 1
    for letter in sorted({record.domain for record in records} | set(expected)):
        expect_several([record for record in records if record.domain == letter], expected.get(letter, ""), root)
    return records


def expect_several(records: Sequence[Record], domain: str, root: Path) -> None:
    """UserError where a domain has no image, or one, from which nothing can be held out."""
    if len(records) < 2:
        of = f" of {domain}" if domain else ""
        what = f"only one image{of} in '{root}': '{records[0].key}'" if records else f"no images{of} in '{root}'"
        raise UserError(what, where="data.source.path", allowed=io.READABLE, remedy="two or more are needed")


def patient_of(path: str, pattern: re.Pattern) -> str:
    """The patient that a pattern finds in a relative path, or in the file's name without suffix; else a UserError."""
    match = pattern.search(path) or pattern.search(io.stem_of(path))
    if not match:
        raise UserError(
            f"the pattern '{pattern.pattern}' finds no patient in '{path}'",
            where="data.source.patient",
            remedy="correct the regular expression; it is searched in the path relative to the folder, "
            "then in the file's name without its suffix",
        )
    return match["patient"] if "patient" in pattern.groupindex else match[1]


def patient_pattern(pattern: str) -> re.Pattern | None:
    """The regular expression of a `patient` option, None for ""; it has one group, or one named `patient`."""
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"'{pattern}' is no regular expression: {error}", where="data.source.patient") from error
    if compiled.groups != 1 and "patient" not in compiled.groupindex:
        raise UserError(
            f"'{pattern}' has {compiled.groups} groups",
            where="data.source.patient",
            allowed="one group, or one that is named: (?P<patient>...)",
        )
    return compiled


def needed_path(path: str, name: str) -> Path:
    """A source's `path`, which it cannot do without."""
    if not path:
        raise UserError(
            f"'{name}' does not know where its images are",
            where="data.source.path",
            remedy=f'for example source = {{ name = "{name}", path = "data" }}, or --data PATH',
        )
    return Path(path)
