"""Files to images and back: the suffix chooses the format, and a name appears only when its file is complete."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gantk.data.image import Image
from gantk.errors import UserError

# A format is a module with `read(path) -> Image` and `write(path, image)`, imported at first use.
FORMATS = {
    ".png": "gantk.data.png",
    ".jpg": "gantk.data.png",
    ".jpeg": "gantk.data.png",
    ".tif": "gantk.data.png",
    ".tiff": "gantk.data.png",
    ".bmp": "gantk.data.png",
    ".nii": "gantk.data.nifti",
    ".nii.gz": "gantk.data.nifti",
}
SUFFIXES = tuple(FORMATS)
VOLUMES = (".nii", ".nii.gz")  # those that may hold three axes
READABLE = "PNG, JPEG, TIFF, BMP, NIfTI (.nii, .nii.gz)"


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
    parts = re.split(r"(\d+)", str(path).casefold())
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts if part]


def list_images(folder: str | Path, *, recursive: bool = False) -> list[Path]:
    """The images of a folder, with `recursive` of its sub-folders too, in natural order. No such folder: UserError."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"the folder '{folder}' {what}", remedy="check the spelling of the path")
    found = folder.rglob("*") if recursive else folder.iterdir()
    visible = (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted((path for path in visible if is_image(path) and path.is_file()), key=natural)


def read(path: str | Path) -> Image:
    """The image in a file: float32 (C, *spatial), native intensities, upright.

    A file that is missing, empty, cut short, of another kind than its suffix, or not finite is a `UserError` naming it.
    """
    path = Path(path)
    form = _format(path, "read")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"'{path}' {what}", remedy="name one image file")
    if path.stat().st_size == 0:
        raise UserError(f"'{path}' is empty (0 bytes)", remedy="copy it again, or remove it")
    image = form.read(path)
    if not np.isfinite(image.pixels).all():
        wrong = int(np.size(image.pixels) - np.isfinite(image.pixels).sum())
        raise UserError(
            f"'{path}' holds {wrong} values that are not finite",
            remedy="replace them (NaN outside the head is usually 0), or leave the file out",
        )
    return image


def write(path: str | Path, image: Image) -> None:
    """Write an image in the suffix's format, never clipped or rescaled; UserError where the format cannot hold it."""
    path = Path(path)
    form = _format(path, "write")
    if not np.isfinite(image.pixels).all():
        raise UserError(f"'{path}' would hold values that are not finite", remedy="look for a diverged training")
    with replacing(path) as temporary:
        form.write(temporary, image)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix, that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{stem_of(path)}.{os.getpid()}{path.name[len(stem_of(path)) :]}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _format(path: Path, verb: str):
    suffix = suffix_of(path)
    if suffix not in FORMATS:
        raise UserError(f"cannot {verb} '{path}': unknown suffix '{suffix}'", allowed=READABLE)
    return importlib.import_module(FORMATS[suffix])
