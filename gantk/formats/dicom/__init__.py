"""DICOM: series of slices and multi-frame objects, read upright on one grid, and written back as derived series.

pydicom parses; it decodes too, or, where it lacks the codec (JPEG lossless, JPEG-LS, 12-bit JPEG), SimpleITK does.
Both come with the extra `dicom`, and are imported at the first DICOM file.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from gantk.errors import UserError
from gantk.formats.image import Format, Image

if TYPE_CHECKING:
    from gantk.formats.files import Scan

SUMMARY = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality", "SeriesDescription", "ProtocolName",
           "ImageType", "SOPClassUID")  # fmt: skip


class Dicom(Format):
    """DICOM: a slice, a multi-frame file, or the series of a folder; written as a derived series with new UIDs."""

    name = "DICOM"
    listed = "DICOM (.dcm)"
    suffixes = (".dcm", ".dicom", ".ima")
    volumes = several = True

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """One file: a slice (1, H, W), a multi-frame object (1, D, H, W), or a colour picture (3, H, W).

        `volume` chooses one stack of frames, counted from 0, where the file holds several.
        """
        return _room("read").read_files([path], volume, values)

    def read_series(self, files: Sequence[Path], values: bool = True) -> Image:
        """The volume (1, D, H, W) that the files of one series make up; UserError where they are not one even stack."""
        return _room("read").read_files(files, None, values)

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """One derived file of the source's patient and study; `write_series` writes a series."""
        _room("write").write_file(path, image, description)


def write_series(folder: Path, image: Image, description: str = "") -> None:
    """Write an image that came from DICOM as a derived series on the same grid, of the same patient and study.

    The folder (new, empty, or of an earlier result) gets a file for each of the source's. `description` is what the
    image shows, the target domain's name: "T2". No value is clipped.
    """
    _room("write").write_series(folder, image, description)


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM: by its suffix (.dcm, .dicom, .ima), or, without a known one, by the mark at byte 128."""
    from gantk.formats.files import is_image, suffix_of

    path = Path(path)
    if path.name.startswith(".") or is_image(path):
        return False
    if suffix_of(path) in Dicom.suffixes:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def series_in(folder: Path, files: Sequence[Path]) -> list[Scan]:
    """The images among the DICOM files of one folder, from their headers alone.

    Slices of one SeriesInstanceUID are one scan, sorted by position; a series that holds several stacks (a localizer's
    three planes, echoes, b-values, magnitude and phase) gives one for each. Multi-frame files, single slices, pictures
    without a position, and files that cannot be read are scans of their own. What is no image (reports,
    segmentations, structure sets, DICOMDIR) is left out.
    """
    return _room("series").series_in(Path(folder), files)


def summary(file: Path) -> dict[str, str]:
    """Whose image a file is, and of what: the elements of SUMMARY as text, "" where absent; UserError if unreadable."""
    found = _room("slices").header(Path(file), (*SUMMARY, "Rows"))
    return {name: str(found.get(name) or "").strip() for name in SUMMARY}


def installed() -> None:
    """UserError where the extra is missing."""
    _room("slices")


def remarks(image: Image) -> tuple[str, ...]:
    """What a user should know of how an image was read: slices left out, tilt taken out, too few slices."""
    return tuple(getattr(image.header, "remarks", ()))


def _room(name: str) -> ModuleType:
    """A module that needs the extra; its absence is one UserError."""
    try:
        return importlib.import_module(f"gantk.formats.dicom.{name}")
    except ImportError as error:
        missing = (error.name or str(error)).split(".")[0]
        what = f"DICOM needs {missing}, which is not installed"
        raise UserError(what, remedy='pip install "gantk[dicom]"') from error
