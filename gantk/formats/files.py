"""Files to images and back: the suffix chooses the format, and a name appears only when its file is complete.

Memory is bounded before anything is decoded: an image of which the float32 pixels would take more than GANTK_MAX_GIB
(an environment variable, 16 unless set) is refused, and so is a file that is too small for what its header declares.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from gantk.errors import UserError
from gantk.formats.image import Image

PICTURES = "gantk.formats.pictures"
# A format is a module with `read(path, volume) -> Image` and `write(path, image)`, imported at first use; pictures hold
# no volumes.
FORMATS = {
    ".png": PICTURES,
    ".jpg": PICTURES,
    ".jpeg": PICTURES,
    ".tif": PICTURES,
    ".tiff": PICTURES,
    ".bmp": PICTURES,
    ".nii": "gantk.formats.nifti",
    ".nii.gz": "gantk.formats.nifti",
    ".hdr": "gantk.formats.nifti",
    ".nrrd": "gantk.formats.itk",
    ".nhdr": "gantk.formats.itk",
    ".mha": "gantk.formats.itk",
    ".mhd": "gantk.formats.itk",
}
SUFFIXES = tuple(FORMATS)
VOLUMES = tuple(suffix for suffix, form in FORMATS.items() if form != PICTURES)  # may hold three axes
PAIRS = (".hdr", ".nhdr", ".mhd")  # a header, with the voxels in a second file beside it
DICOM = (".dcm", ".dicom", ".ima")  # slices of a series, hence no images of their own to `is_image`
READABLE = (
    "PNG, JPEG, TIFF, BMP, NIfTI (.nii, .nii.gz, .hdr), DICOM (.dcm), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd)"
)


@dataclass(frozen=True)
class Scan:
    """One thing that `read` gives an image of: a file, or the files of one DICOM series."""

    path: Path  # the file, or the folder of the series
    files: tuple[Path, ...]  # that file, or the series' files sorted by position
    name: str  # relative name of the result: the file's path, for a series its folder or folder/NUMBER-DESCRIPTION


def suffix_of(path: str | Path) -> str:
    """The suffix that chooses the format, in lower case: `.nii.gz` is one suffix."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: str | Path) -> str:
    """The name without the suffix that chooses the format."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(name))]


def is_image(path: str | Path) -> bool:
    """Whether the name says that this is an image that can be read; hidden files (`.x`, `._x.png`) are none."""
    return suffix_of(path) in FORMATS and not Path(path).name.startswith(".")


def natural(path: str | Path) -> list[tuple[int, int, str]]:
    """Sorting key that puts `Image #9` before `Image #10`."""
    parts = re.split(r"([0-9]+)", str(path).casefold())
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def list_images(folder: str | Path, *, recursive: bool = False) -> list[Path]:
    """The images of a folder, with `recursive` of its sub-folders too, in natural order; DICOM files are left out.

    Links to files are followed, as data sets are made of them; links to folders are not, for they may lead in a circle.
    A folder that is missing or may not be opened is a UserError.
    """
    return _listed(folder, recursive, is_image)


def scans(folder: str | Path, recursive: bool = True) -> list[Scan]:
    """Everything readable below a folder, in natural order: files, and DICOM files grouped to series by folder.

    Links to files are followed, those to folders are not. A DICOM file that is broken, and a sub-folder that may not be
    opened, are scans of their own, of which `read` then complains. A folder that is missing: UserError.
    """
    from gantk.formats import dicom

    folder, closed, slices = Path(folder), [], {}
    files = _listed(folder, recursive, lambda path: is_image(path) or dicom.is_dicom(path), closed)
    found = [Scan(path, (path,), path.relative_to(folder).as_posix()) for path in closed]
    for file in files:
        if is_image(file):
            found.append(Scan(file, (file,), file.relative_to(folder).as_posix()))
        else:
            slices.setdefault(file.parent, []).append(file)
    for place, parts in slices.items():
        found += _series(folder, place, parts)
    return sorted(found, key=lambda scan: natural(scan.name))


def read(path: str | Path | Scan, volume: int | None = None) -> Image:
    """The image in a file, in a folder of one DICOM series, or of a scan: float32 (C, *spatial), native, upright.

    `volume` chooses one volume, counted from 0, of a file that holds several; without it such a file is refused.
    What is missing, empty, cut short, of another kind than its suffix, or not finite is a `UserError` naming it.
    """
    scan = path if isinstance(path, Scan) else _scan_of(Path(path))
    try:
        image = _read(scan, volume)
        wrong = _not_finite(image.pixels)
    except MemoryError as error:
        raise UserError(f"'{scan.path}' does not fit into memory", remedy="close other programs, or crop it") from error
    except UserError as error:  # of a second file, or a library
        raise error if scan.path.name in str(error) else error.at(str(scan.path)) from error.__cause__
    if wrong:
        raise UserError(
            f"'{scan.path}' holds {wrong} values that are not finite, or beyond what float32 holds",
            remedy="replace them (NaN outside the head is usually 0), or leave the file out",
        )
    return image


def write(path: str | Path, image: Image, description: str = "") -> None:
    """Write an image in the suffix's format, never clipped or rescaled; UserError where the format cannot hold it.

    A path without a known suffix is a folder for a derived DICOM series, where the image was read from one.
    `description` is what the image shows ("T2"), which DICOM alone keeps.
    """
    path, suffix = Path(path), suffix_of(path)
    if _not_finite(image.pixels):
        raise UserError(f"'{path}' would hold values that are not finite", remedy="look for a diverged training")
    if suffix in DICOM or (suffix not in SUFFIXES and isinstance(image.header, list)):
        importlib.import_module("gantk.formats.dicom").write(path, image, description)
        return
    form = _format(path, "write")
    try:
        with (_replacing_pair if suffix in PAIRS else replacing)(path) as temporary:
            form.write(temporary, image)
    except OSError as error:
        what = f"'{path}' cannot be written: {error.strerror or error}"
        raise UserError(what, remedy="look at the folder's permissions and the space that is left") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix, that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{stem_of(path)}.{os.getpid()}{path.name[len(stem_of(path)) :]}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _replacing_pair(path: Path) -> Iterator[Path]:
    """The same for a header that names a second file: both keep their names, in a hidden folder until complete."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder = path.with_name(f".{path.name}.{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder / path.name
        parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)  # the header last
        for part in parts:
            _sync(part)
        for part in parts:
            os.replace(part, path.with_name(part.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read(scan: Scan, volume: int | None) -> Image:
    if len(scan.files) > 1 or scan.path != scan.files[0]:
        _only_volume(scan.path, volume)
        return importlib.import_module("gantk.formats.dicom").read_series(scan.files)
    form = _format(scan.path, "read")
    _expect_file(scan.path)
    if FORMATS.get(suffix_of(scan.path)) != PICTURES:
        return form.read(scan.path, volume)
    _only_volume(scan.path, volume)
    return form.read(scan.path)


def _scan_of(path: Path) -> Scan:
    """What a path names: a file, or the one series of a folder."""
    if not os.path.isdir(path):  # which, unlike Path.is_dir, never raises
        return Scan(path, (path,), path.name)
    from gantk.formats import dicom

    found = _series(path, path, _listed(path, False, lambda file: not is_image(file) and dicom.is_dicom(file)))
    if len(found) != 1:
        names = ", ".join(f"'{scan.name}'" for scan in found[:3]) + (", ..." if len(found) > 3 else "")
        raise UserError(
            f"'{path}' is a folder of {len(found)} DICOM series ({names})" if found else f"'{path}' is a folder",
            allowed="one image file, or a folder that holds one DICOM series",
            remedy="name one file, or keep each series in a folder of its own",
        )
    return found[0]


def _series(root: Path, place: Path, files: list[Path]) -> list[Scan]:
    """The series among the DICOM files of one folder, named relative to the folder that is listed."""
    from gantk.formats import dicom

    try:
        found = dicom.series_in(place, files)
    except UserError:  # no DICOM reader installed: reading each of them will say so
        found = [Scan(file, (file,), file.name) for file in files]
    relative, several = place.relative_to(root), sum(scan.path == place for scan in found) > 1
    named = []
    for scan in found:
        whole = scan.path == place and not several
        named.append(replace(scan, name=(relative if whole else relative / Path(scan.name).name).as_posix()))
    return named


def _listed(
    folder: str | Path, recursive: bool, wanted: Callable[[Path], bool], closed: list[Path] | None = None
) -> list[Path]:
    """The visible files below a folder that are wanted; sub-folders that may not be opened go to `closed`, if given."""
    folder, found = Path(folder), []
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise UserError(f"the folder '{folder}' {what}", remedy="check the spelling of the path")

    def shut(error: OSError) -> None:
        if closed is None or Path(error.filename) == folder:
            raise UserError(
                f"the folder '{error.filename}' cannot be listed: {error.strerror}", remedy="look at its permissions"
            )
        closed.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=shut):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if name.startswith("."):
                continue
            if _is_regular(path) and wanted(path):
                found.append(path)
    return sorted(found, key=natural)


def _is_regular(path: Path) -> bool:
    """Whether it is a file, and no pipe or device, of which reading could wait for ever; broken links are none."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _expect_file(path: Path) -> None:
    """UserError where there is no regular file that may be opened and holds something."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except FileNotFoundError as error:
        raise UserError(f"'{path}' does not exist", remedy="name one image file") from error
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UserError(f"'{path}' cannot be opened: {what}", remedy="look at its permissions") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{path}' is a pipe or a device, not a file", remedy="name one image file")
    if status.st_size == 0:
        raise UserError(f"'{path}' is empty (0 bytes)", remedy="copy it again, or remove it")


def _only_volume(path: Path, volume: int | None) -> None:
    if volume not in (None, 0):
        raise UserError(f"'{path}' holds one image, and --volume asks for number {volume}", remedy="leave it out")


def _not_finite(pixels: np.ndarray) -> int:
    """How many values are not finite, counted plane by plane."""
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    return sum(int(plane.size - np.isfinite(plane).sum()) for plane in planes)


def _format(path: Path, verb: str) -> ModuleType:
    suffix = suffix_of(path)
    if suffix in FORMATS:
        return importlib.import_module(FORMATS[suffix])
    if suffix in DICOM or (verb == "read" and _is_regular(path)):
        dicom = importlib.import_module("gantk.formats.dicom")
        if suffix in DICOM or dicom.is_dicom(path):
            return dicom
    if os.path.isdir(path):
        raise UserError(f"the folder '{path}' cannot be listed", remedy="look at its permissions")
    raise UserError(f"cannot {verb} '{path}': unknown suffix '{suffix}'", allowed=READABLE)
