"""DICOM: series of slices and multi-frame objects, read upright on one grid, and written back as derived series.

pydicom parses; it decodes too, or, where it lacks the codec (JPEG lossless, JPEG-LS, 12-bit JPEG), SimpleITK does.
Both come with the extra `dicom`, and are imported at the first DICOM file.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from gantk.errors import UserError
from gantk.formats.files import Scan, series_format
from gantk.formats.image import Image, SeriesFormat


class Dicom(SeriesFormat):
    """DICOM: a slice, a multi-frame file, or the series of a folder; written as a derived series with new UIDs."""

    name = "DICOM"
    listed = "DICOM (.dcm)"
    suffixes = (".dcm", ".dicom", ".ima")
    volumes = several = True

    def owns(self, path: Path) -> bool:
        """Whether the mark of DICOM stands at byte 128."""
        try:
            with path.open("rb") as file:  # what is said to be empty may be a window of the system, and wait for ever
                return os.fstat(file.fileno()).st_size > 132 and file.read(132)[128:] == b"DICM"
        except OSError:
            return False

    def group(self, folder: Path, files: Sequence[Path]) -> list[Scan]:
        """The images among the DICOM files of one folder, from their headers alone.

        Slices of one SeriesInstanceUID are one scan, sorted by position; a series that holds several stacks (a
        localizer's three planes, echoes, b-values, magnitude and phase) gives one for each. Multi-frame files, single
        slices, and files that cannot be read are scans of their own. What is no image (reports, segmentations,
        structure sets, DICOMDIR) is left out.
        """
        return room("slices").grouped(folder, files)

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """A slice, or the volume of a multi-frame file, of which `volume` chooses one stack of frames."""
        with room("slices").readable(path):
            return room("read").read_files([path], volume, values)

    def read_series(self, files: Sequence[Path], values: bool = True) -> Image:
        """The volume (1, D, H, W) that the files of one series make up; UserError where they are not one even stack."""
        with room("slices").readable(files[0].parent):
            return room("read").read_files(files, None, values)

    def holds(self, image: Image) -> bool:
        """Whether it was read from DICOM, whose headers are a list."""
        return isinstance(image.header, list)

    def limits(self, path: Path, image: Image) -> Sequence[tuple[float, float]]:
        """0 to 255 or 65,535 in colour; gray images hold any value by their rescale."""
        return [(0.0, 255.0), (0.0, 65535.0)] if image.channels == 3 else super().limits(path, image)

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """One derived file of the source's patient and study."""
        room("write").write_file(path, image, description)

    def write_series(self, folder: Path, image: Image, description: str = "") -> None:
        """A derived series of the source's patient and study: a file for each of the source's, in a folder that is new,
        empty, or holds an earlier result."""
        room("write").write_series(folder, image, description)

    def withdraw(self, path: Path) -> None:
        """Remove a file, or in one step a derived series."""
        room("write").withdraw(path) if path.is_dir() else super().withdraw(path)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix (.dcm, .dicom, .ima), or, without a known one, by the mark at byte 128."""
    return isinstance(series_format(path), Dicom)


def room(name: str) -> ModuleType:
    """A module that needs the extra; its absence is one UserError."""
    try:
        return importlib.import_module(f"gantk_dicom.{name}")
    except ImportError as error:
        missing = (error.name or str(error)).split(".")[0]
        what = f"DICOM needs {missing}, which is not installed"
        raise UserError(what, remedy='pip install "gantk[dicom]"') from error
