"""Reads, writes, lists and compares image files. The suffix chooses the format, which may come from
a plugin.

Memory is checked before an image is decoded: an image whose float32 pixels would take more than
GANTK_MAX_GIB (an environment variable, 16 by default) is refused. A written file appears only when
it is complete.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gantk.errors import UserError, join_first, raise_if_of_machine, reading_file, writing_file
from gantk.files import (
    ANY_SIZE,
    expect_permission,
    expect_replaceable,
    make_folder,
    record_written,
    regular_file,
    restrict,
    sync,
    temporary_beside,
)
from gantk.formats.budget import reading
from gantk.formats.image import (
    Format,
    Image,
    Scan,
    SeriesFormat,
    unusable_values,
    unusable_words,
)
from gantk.plugin.loader import registry
from gantk.terminal import warn

_known: ContextVar[dict[Any, Any] | None] = ContextVar("_known", default=None)
T = TypeVar("T")
MAX_FOLDER_DEPTH = 128  # folders above a file
# folders of what was deleted, and of systems: of a NAS, Windows, macOS and a file system's root
SYSTEM_FOLDERS = re.compile(
    r"(?i)#recycle|@recycle|@eadir|\$recycle\.bin|recycler|__macosx|system volume information"
)
MAX_POINTER_BYTES = 1024  # of a file that stands for one that was not fetched
POINTER = re.compile(rb"/annex/objects/|version https://git-lfs\.github\.com/spec/")
MAX_FOLDER_VISITS = 64  # times that links may lead to one folder


# suffixes of archives and pictures that are not read, and of volumes: suffix -> (kind, program that converts it)
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
UNREAD_PICTURES = ".gif .webp .avif .heic .jxl .jp2 .pgm .ppm .tga .exr .psd .svs .ndpi .czi"
UNREAD_VOLUMES = {
    ".mgz": ("FreeSurfer MGZ", "mri_convert"),
    ".mgh": ("FreeSurfer MGH", "mri_convert"),
    ".mnc": ("MINC", "mnc2nii"),
    ".head": ("AFNI", "3dAFNItoNIFTI"),
    ".brik": ("AFNI", "3dAFNItoNIFTI"),
    ".par": ("Philips PAR/REC", "dcm2niix"),
    **dict.fromkeys((".hdr", ".img"), ("Analyze or NIfTI pair", "nibabel; check left and right")),
    **dict.fromkeys((".npy", ".npz"), ("NumPy array", "nibabel")),
    **dict.fromkeys((".mat", ".h5", ".hdf5"), ("array", "nibabel")),
    **dict.fromkeys((".gipl", ".vtk", ".vti"), ("ITK or VTK volume", "SimpleITK or 3D Slicer")),
}


@dataclass(frozen=True)
class FileKind:
    """The kind of an image file that `read` does not take."""

    name: str  # "DICOM", "GIF"
    remedy: str = ""  # for the user: what to do with the file


class NotFinite(UserError):
    """An image contains values that are NaN, infinite or too large to compute with."""


def formats() -> dict[str, Format]:
    """Suffix -> format, plugins' included; UserError where two formats claim one suffix."""
    registered = registry()
    if "formats" not in registered.cache:
        by_suffix: dict[str, Format] = {}
        for entry in registered.of_kind("format"):
            try:
                form = entry.load()()
                form.name = form.name or entry.name
                form.owner = entry.owner
                suffixes = tuple(form.suffixes)
            except Exception as error:  # one broken plugin must not disable the other formats
                warnings.warn(str(entry.refusal("cannot be used", error)), stacklevel=2)
                continue

            for suffix in suffixes:
                other = by_suffix.setdefault(suffix, form)
                if other is not form:
                    raise UserError(
                        f"two formats use the suffix '{suffix}': '{other.name}' of {other.owner}"
                        f" and '{form.name}' of {form.owner}",
                        remedy="uninstall one of the two packages",
                    )

        registered.cache["formats"] = by_suffix

    return registered.cache["formats"]


def readable() -> str:
    """All formats with their suffixes, for messages: "NIfTI (.nii, .nii.gz), NRRD (.nrrd,
    .nhdr)".
    """
    every = (form for form in dict.fromkeys(formats().values()) if form.listed is not None)
    return ", ".join(form.listed or f"{form.name} ({', '.join(form.suffixes)})" for form in every)


def suffix_of(path: str | Path) -> str:
    """The suffix that chooses the format, in lower case: `.nii.gz` is one suffix."""
    # Without a Path, which is slow to make: a table may have a million names.
    stem, _, last = os.fspath(path).rpartition(os.sep)[2].lower().rpartition(".")
    two = f".{stem.rpartition('.')[2]}.{last}"
    if "." in stem and two in formats():
        return two
    if stem and last:
        return f".{last}"
    return ""


def stem_of(path: str | Path) -> str:
    """The name without the suffix that chooses the format."""
    name = os.path.basename(path)
    return name[: len(name) - len(suffix_of(name))]


def entities_of(path: str | Path) -> dict[str, str]:
    """The entities of a name of BIDS, `{"sub": "01", "ses": "2"}` of sub-01_ses-2_T1w.nii; {} of other
    names.
    """
    *pairs, _ = stem_of(path).split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return entities if len(entities) == len(pairs) and "sub" in entities else {}


def split_suffix(path: Path) -> tuple[str, str]:
    """The name without the suffix of a format, and this suffix, as it is spelled; a folder of a series
    has none, also where its name has dots.
    """
    stem = stem_of(path) if suffix_of(path) in formats() else path.name
    return stem, path.name.removeprefix(stem)


def is_image(path: str | Path) -> bool:
    """Whether the suffix is an image format's; not for DICOM files, which are parts of a series,
    and hidden files.
    """
    form = formats().get(suffix_of(path))
    name = os.path.basename(path)
    return form is not None and not isinstance(form, SeriesFormat) and not name.startswith(".")


def series_format(path: str | Path) -> SeriesFormat | None:
    """The format of a file that may be one part of an image, as a DICOM slice is, by its suffix or
    else its content; None for all other files.
    """
    if os.path.basename(path).startswith("."):
        return None

    form = formats().get(suffix_of(path))
    if form is not None:
        return form if isinstance(form, SeriesFormat) else None
    return next((form for form in _series_formats() if form.owns(Path(path))), None)


def unread_kind(path: Path) -> FileKind | None:
    """The kind of an image file that no format reads, by its suffix; None for all other files, and
    for hidden ones.
    """
    suffix = suffix_of(path)
    if path.name.startswith(".") or suffix in formats():
        return None
    if suffix in ARCHIVES:
        return FileKind(f"{suffix} archive", "unpack it, and name the folder")
    if suffix in UNREAD_PICTURES.split(" "):
        return FileKind(suffix[1:].upper(), "save it as PNG or TIFF")
    if suffix in UNREAD_VOLUMES:
        name, program = UNREAD_VOLUMES[suffix]
        return FileKind(name, f"convert it to NIfTI (.nii.gz) with {program}")
    return None


def is_volume(path: str | Path) -> bool:
    """Whether one file of this suffix may hold a whole volume, as NIfTI may."""
    form = formats().get(suffix_of(path))
    return form is not None and form.volumes and not isinstance(form, SeriesFormat)


def natural(path: str | Path) -> list[tuple[int, int, str]]:
    """Sorting key that puts `Image #9` before `Image #10`."""
    parts = re.split(r"([0-9]+)", str(path).casefold())
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def list_images(folder: str | Path, *, recursive: bool = False) -> list[Path]:
    """The images of a folder, and if `recursive` of its sub-folders, in natural order; DICOM files
    are left out.

    Links are followed, since many data sets consist of links. UserError for a missing or unreadable
    folder.
    """
    return files_below(Path(folder), recursive, is_image)


def scans(folder: str | Path, recursive: bool = True) -> list[Scan]:
    """Everything that `read` can read below a folder, in natural order: image files, and the DICOM
    series of folders.

    A broken DICOM file is a scan of its own, for which `read` raises. UserError for a missing or
    unreadable folder.
    """
    folder = Path(folder)
    return scans_of(folder, files_below(folder, recursive, bool))


def scans_of(folder: Path, files: Iterable[Path]) -> list[Scan]:
    """The scans of these files below a folder, as `scans` finds them; other files are left out."""
    scanned = []
    series: dict[tuple[Path, SeriesFormat], list[Path]] = {}
    for file in files:
        if is_image(file):
            scanned.append(Scan(file, name=file.relative_to(folder).as_posix()))
            continue
        form = series_format(file)  # opens files whose suffix no format claims
        if form is not None:
            series.setdefault((file.parent, form), []).append(file)

    for (place, form), slices in series.items():
        scanned += _group_into_scans(form, place, slices, place.relative_to(folder))

    return sorted(scanned, key=lambda scan: natural(scan.name))


def read(path: str | Path | Scan, volume: int | None = None) -> Image:
    """Read a file, a folder of one DICOM series, or a scan: float32 (C, *spatial), native
    intensities, upright.

    `volume` chooses one volume, counted from 0, of a file that holds several; without it such a
    file is refused; a scan has its own. UserError names a file that is missing, empty, truncated, of another kind than
    its suffix, or not finite.
    """
    image = _read_image(path, volume, values=True)
    if wrong := unusable_words(image.pixels):
        raise NotFinite(
            f"'{image.path or path}' contains {wrong}",
            remedy="replace these values (with 0 if they are outside the head), or leave the file out",
        )

    return image


def sidecar_of(path: Path) -> Path:
    """The path of the JSON file beside an image: `x_flair.json` of `x_flair.nii.gz`."""
    return path.with_name(f"{split_suffix(path)[0]}.json")


def outline(path: Path | Scan, volume: int | None = None) -> Image:
    """What `read` returns, but with zeros as pixels; only headers are read where the format can."""
    return _once(("outline", path, volume), lambda: _read_image(path, volume, values=False))


def difference(one: Path | Scan, other: Path | Scan) -> str | None:
    """`grids_differ` of two images, by their headers."""
    return grids_differ(outline(one), outline(other))


def grids_differ(first: Image, second: Image) -> str | None:
    """How the voxel grids of two images differ, in words; None where they are the same."""
    if first.pixels.shape[1:] != second.pixels.shape[1:]:
        return " against ".join(
            " x ".join(map(str, image.pixels.shape[1:])) for image in (first, second)
        )

    if first.grid.same_as(second.grid):
        return None

    return "the same number of voxels, but at other positions (the affines differ)"


def files_of(path: Path) -> list[Path]:
    """The files that `read` opens for a path: all files of a folder; a header and the separate file
    of its voxels.
    """
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())

    form = formats().get(suffix_of(path))
    try:
        return form.files(path) if form else [path]
    except Exception:  # a broken header, which `read` will report
        return [path]


def write(
    path: str | Path, image: Image, description: str = "", *, overwrite: bool = False
) -> None:
    """Write an image in the suffix's format, never clipped or rescaled; UserError where the format
    cannot hold it, and where it would replace what gantk did not write (unless `overwrite`).

    A path without a known suffix is a folder for a derived DICOM series, where the image was read
    from one. `description` is what the image shows ("T2"); DICOM, NIfTI and pictures store it, see
    `label_of`.
    """
    path = Path(path)
    if unusable_values(image.pixels):
        raise NotFinite(
            f"the image for '{path}' contains NaN or infinite values, or values above 1e15",
            remedy="check whether the training has diverged",
        )

    with writing_file(path):
        expect_writable([path], overwrite)
        form = writer_of(path, image)
        if isinstance(form, SeriesFormat) and suffix_of(path) not in formats():
            form.write_series(path, image, description)
        elif path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        else:
            with hidden_folder(path, overwrite) as folder:
                form.write(folder / path.name, image, description)


def expect_writable(paths: Iterable[Path], overwrite: bool = False) -> None:
    """UserError where images written to these paths, files or folders of series, would replace what
    gantk did not write; see `gantk.files.expect_replaceable`.
    """
    replaced = []
    for path in paths:
        if suffix_of(path) in formats() or path.is_file():  # a JSON file beside an image too
            replaced.append(path)
        else:
            expect_permission(path, "OUTPUT")
            replaced += [file for form in _series_formats() for file in form.files_of_others(path)]
    expect_replaceable(replaced, overwrite)


def expect_file_of(source: Path, target: Path, suffix: str, where: str = "OUTPUT") -> None:
    """UserError where what is made of this file cannot be written as the file `target`."""
    kind = suffix or suffix_of(source)
    if part := series_format(source):
        kind = part.suffixes[0]
    is_known = suffix_of(target) in formats()
    same_kind = bool(suffix) or is_volume(source) == is_volume(target)
    if suffix not in ("", suffix_of(target)) or not is_known or not same_kind:
        raise UserError(
            f"the result of '{source.name}' cannot be written as '{target.name}'",
            where=where,
            allowed=kind,
        )


def writer_of(path: Path, image: Image) -> Format:
    """The format that writes an image to a path; UserError for an unknown suffix and an image of no
    series.
    """
    form = formats().get(suffix_of(path))
    form = form or next((form for form in _series_formats() if form.holds(image)), None)
    if form is None:
        raise _unknown_suffix(path, "write")
    return form


@contextmanager
def hidden_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden folder to write a file and its parts in; at the end they move to `path`'s
    folder, the file last, unless one would replace what gantk did not write (UserError).

    Where a header and its voxels are two files, an earlier header that differs is removed before
    its voxels are replaced: a kill leaves the old pair, the new pair or none, never a mixture.
    """
    folder = temporary_beside(path)
    make_folder(folder)
    try:
        yield folder
        new = folder / path.name
        parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
        for part in parts:
            restrict(part)
            sync(part)

        expect_replaceable([path.with_name(part.name) for part in parts], overwrite)
        for part in parts:
            record_written(path.with_name(part.name), part)
        if len(parts) > 1 and path.is_file() and path.read_bytes() != new.read_bytes():
            path.unlink()

        for part in parts:
            os.replace(part, path.with_name(part.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def chosen_volume(path: Path, volume: int | None, count: int, what: str) -> int:
    """The index of the requested one of `count` volumes; UserError if there is no request, or if it
    is out of range.
    """
    if count > 1 and volume is None:
        raise UserError(
            f"'{path}' contains {what}",
            allowed="one 2-D or 3-D image",
            remedy=f"choose a volume from 0 to {count - 1} with --volume, name the volumes in a"
            " dataset.json as nnU-Net does (to train on them), or save it as a file of its own",
        )

    if not 0 <= (volume or 0) < count:
        raise UserError(f"'{path}' has no volume {volume}", allowed=f"0 to {count - 1}")

    return volume or 0


@np.errstate(all="ignore")
def _read_image(source: str | Path | Scan, volume: int | None, values: bool) -> Image:
    """Read an image, or without `values` its grid; any error of a library becomes a UserError that
    names the file.
    """
    scan = source if isinstance(source, Scan) else scan_of(Path(source))
    volume = volume if scan.volume is None else scan.volume
    path = scan.path
    series = scan.files != (scan.path,)
    if not series:
        _expect_fetched(path)
        with reading_file(path):
            if regular_file(path, max_bytes=ANY_SIZE).stat().st_size == 0:
                raise ValueError("it is empty (0 bytes)")

    form = formats().get(suffix_of(scan.files[0])) or series_format(scan.files[0])
    if form is None:
        raise unread_error(path)

    if volume and (series or not form.several):
        raise UserError(
            f"'{path}' contains only one image, but --volume is {volume}",
            remedy="remove --volume",
        )

    plain = "NIfTI (.nii.gz)" if form.volumes else "PNG"
    remedy = (
        f"if other programs open it, save it as {plain} with one of them; if not, copy the file"
        " again, or leave it out"
    )
    with (
        reading_file(path, form.name, allowed=form.allowed, remedy=remedy),
        reading(*scan.files),
    ):
        if series and isinstance(form, SeriesFormat):
            return form.read_series(scan.files, values)
        return form.read(path, volume, values)


def _expect_fetched(path: Path) -> None:
    """UserError for a link that leads nowhere, and for a file that stands for one of git-annex or git
    LFS that was not fetched.
    """
    remedy = "fetch its content: `git annex get`, `datalad get` or `git lfs pull`"
    if _leads_nowhere(path):
        raise UserError(
            f"'{path}' is a link to a missing file, '{os.readlink(path)}'",
            remedy=f"{remedy}; or leave it out",
        )
    if os.path.isfile(path) and os.path.getsize(path) <= MAX_POINTER_BYTES:
        with reading_file(path), open(path, "rb") as file:
            if POINTER.match(file.read(MAX_POINTER_BYTES)):
                raise UserError(
                    f"'{path}' is a pointer of git-annex or git LFS, not the image itself",
                    remedy=remedy,
                )


def scan_of(path: Path) -> Scan:
    """The scan of a path: a file, or the only series of a folder; UserError for other folders."""
    if not os.path.isdir(path):  # unlike Path.is_dir, it never raises
        form = None if is_image(path) else series_format(path)
        frames = form.group(path.parent, [path]) if form else []
        return frames[0] if len(frames) == 1 else Scan(path)

    series = [scan for scan in scans(path, recursive=False) if not is_image(scan.path)]
    if len(series) != 1:
        what = f"'{path}' is a folder"
        if series:
            names = join_first([f"'{scan.name}'" for scan in series], most=3)
            what += f" with {len(series)} DICOM series ({names})"

        raise UserError(
            what,
            allowed="one image file, or a folder that holds one DICOM series",
            remedy="name one file, or move each series to a folder of its own",
        )

    return series[0]


def _group_into_scans(
    form: SeriesFormat, folder: Path, files: list[Path], relative: Path
) -> list[Scan]:
    """Group a series format's files of one folder into scans; `relative` is the folder's path in
    their names.
    """
    try:
        groups = form.group(folder, files)
    except UserError as error:  # its library is not installed: `read` will report that
        raise_if_of_machine(error)
        groups = [Scan(file) for file in files]

    only = sum(scan.path == folder for scan in groups) == 1
    named = []
    for scan in groups:
        # one series gets the folder's name
        name = relative if only and scan.path == folder else relative / scan.name
        named.append(replace(scan, name=name.as_posix(), is_series=True))

    return named


def _series_formats() -> list[SeriesFormat]:
    return [form for form in dict.fromkeys(formats().values()) if isinstance(form, SeriesFormat)]


def files_below(folder: Path, recursive: bool, wanted: Callable[[Path], object]) -> list[Path]:
    """The visible files below a folder that `wanted` accepts, in natural order; no pipes and
    devices, which may block. Links that lead nowhere are among them, so that they are reported; of
    folders that cannot be listed a line warns.

    Links to folders are followed, unless they lead to a parent of their own. Runs in it are left
    out: their samples are no data; so are recycle bins. UserError for folders so deep, or linked to so often, that the
    listing would not end.
    """
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise UserError(f"the folder '{folder}' {what}", remedy="check the spelling of the path")

    walked = _once((str(folder), recursive), lambda: sorted(_walk(folder, recursive), key=natural))
    return [file for file in walked if wanted(file)]


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield the visible files of `files_below`, in any order."""

    def name_folder(error: OSError) -> None:
        what = f"the folder '{error.filename}' cannot be listed: {error.strerror}"
        if error.filename == os.fspath(folder):
            raise UserError(what, remedy="check its permissions")
        warn(f"{what}. Nothing in it is used")

    visits: Counter[str] = Counter()
    for place, folders, names in os.walk(folder, onerror=name_folder, followlinks=True):
        parents = [os.path.realpath(place)]
        parents += [os.path.realpath(parent) for parent in Path(place).absolute().parents]
        visits[parents[0]] += 1
        if len(parents) > MAX_FOLDER_DEPTH or visits[parents[0]] > MAX_FOLDER_VISITS:
            raise UserError(
                f"the folders below '{folder}' are more than {MAX_FOLDER_DEPTH} levels deep, or more"
                f" than {MAX_FOLDER_VISITS} links lead to one of them",
                remedy="remove links from folders to folders",
            )

        is_run = place != str(folder) and "recipe.toml" in names and "checkpoints" in folders
        if is_run:
            folders.clear()  # os.walk does not visit them
            continue

        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and (os.path.isfile(path) or _leads_nowhere(path)):
                yield path

        folders[:] = [name for name in folders if recursive and _may_enter(place, name, parents)]


def _leads_nowhere(path: Path) -> bool:
    """Whether a path is a link to a file that does not exist."""
    return os.path.islink(path) and not os.path.exists(path)


def _may_enter(place: str, name: str, parents: Sequence[str]) -> bool:
    """Whether a folder is visible, no recycle bin and no link to one of its own parents."""
    if name.startswith(".") or SYSTEM_FOLDERS.fullmatch(name):
        return False
    return os.path.realpath(os.path.join(place, name)) not in parents


@contextmanager
def listed_once() -> Iterator[None]:
    """Cache the listings of folders and the outlines of images within a block, the outermost one: each
    data source that is tried lists the same folder, and asks who made its images.
    """
    if _known.get() is not None:
        yield
        return
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def _once(key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """What `make()` returns, or returned for this key before within `listed_once`."""
    known = _known.get()
    if known is None:
        return make()
    if key not in known:
        known[key] = make()
    return known[key]


def unread_error(path: Path) -> UserError:
    """The error for a file that `read` does not take: its kind, and what to do."""
    kind = unread_kind(path)
    if kind is None:
        return _unknown_suffix(path, "read")
    what = f"cannot read '{path}' ({kind.name})"
    return UserError(what, allowed=readable(), remedy=kind.remedy)


def _unknown_suffix(path: Path, verb: str) -> UserError:
    return UserError(
        f"cannot {verb} '{path}': unknown suffix '{suffix_of(path)}'", allowed=readable()
    )
