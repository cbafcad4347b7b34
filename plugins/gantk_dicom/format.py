"""The DICOM format: reads series of slices and multi-frame objects upright on one grid, writes
derived series.

pydicom comes with the extra `dicom`, and is imported at the first DICOM file.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gantk.errors import importing, raise_if_of_machine
from gantk.formats.files import series_format
from gantk.formats.image import Image, Scan, SeriesFormat, SeriesHeader


class Dicom(SeriesFormat):
    """DICOM: a slice, a multi-frame file, or the series of a folder; written as a derived series
    with new UIDs.
    """

    name = "DICOM"
    listed = "DICOM (.dcm)"
    suffixes = (".dcm", ".dicom", ".ima")
    volumes = True

    def owns(self, path: Path) -> bool:
        """Whether the file has DICOM's magic bytes at position 128."""
        try:
            # first, because a pipe, or a pseudo-file of 0 bytes as in /proc, could block
            if not path.is_file() or path.stat().st_size <= 132:
                return False
            with path.open("rb") as file:
                return file.read(132)[128:] == b"DICM"
        except OSError as error:
            raise_if_of_machine(error)
            return False

    def group(self, folder: Path, files: Sequence[Path]) -> list[Scan]:
        """Group the DICOM files of one folder into scans, reading headers only.

        Slices of one SeriesInstanceUID are one scan, sorted by position; a series with several
        volumes (a localizer's planes, echoes, b-values, magnitude and phase) gives one scan for
        each. Multi-frame files, single slices and unreadable files are separate scans. Files
        without an image (reports, segmentations, structure sets, DICOMDIR) are skipped.
        """
        return room("series").group_into_scans(folder, files)

    def header(self, path: Path) -> Any:
        """The dataset of a file."""
        return room("files").header(path)

    def describe(self, path: Path) -> SeriesHeader:
        """What the header of a file says of its series, without names of people."""
        return room("names").describe(self.header(path))

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """Read a slice, or the volume of a multi-frame file."""
        return self.read_series([path], values)

    def read_series(self, files: Sequence[Path], values: bool = True) -> Image:
        """Read the volume (1, D, H, W) of the files of one series; UserError where they are not one
        even stack.
        """
        return room("read").read_files(files, values)

    def holds(self, image: Image) -> bool:
        """Whether the image was read from DICOM: its header is then a list."""
        return isinstance(image.header, list)

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """Write one derived file with the source's patient and study."""
        room("write").write_file(path, image, description)

    def write_series(self, folder: Path, image: Image, description: str = "") -> None:
        """Write a derived series with the source's patient and study: one file per source file."""
        room("write").write_series(folder, image, description)

    def files_of_others(self, folder: Path) -> list[Path]:
        """The DICOM files of a folder whose description does not say that gantk wrote them."""
        return room("write").files_of_others(folder)

    def withdraw(self, path: Path) -> None:
        """Delete a file, or atomically a derived series."""
        room("write").withdraw(path) if path.is_dir() else super().withdraw(path)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its suffix (.dcm, .dicom, .ima) or, without a known one, by the
    bytes at 128.
    """
    return isinstance(series_format(path), Dicom)


def room(name: str) -> ModuleType:
    """Import a module that needs the extra `dicom`; UserError where the extra is not installed."""
    with importing("DICOM", "dicom"):
        return importlib.import_module(f"gantk_dicom.{name}")
