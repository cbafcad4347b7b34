"""Images from noise, as files."""

from __future__ import annotations

import csv
import io as text
from pathlib import Path

import numpy as np

from gantk.errors import UserError
from gantk.files import write_file
from gantk.formats.files import write
from gantk.formats.image import Image
from gantk.inference.translator import Translator, flat

LARGEST = {8: 255, 16: 65535}


def sample_to(model: Translator, n: int, out: Path, seed: int, label: str | None, post: bool) -> list[Path]:
    """Write `n` images from noise into the folder `out`; the paths written.

    Pictures are PNG with as few bits as hold the training images' range: whole numbers, cut at black. Where that range
    has values below 0 or is too fine for whole numbers, and for volumes, the files are NIfTI with decimals.
    `labels.csv` says which file shows which class, where the method was trained on classes.
    """
    if n < 1:
        raise UserError(f"n = {n} is no number of images", where="-n", allowed="1 or more")
    if out.exists() and not out.is_dir():
        raise UserError(f"'{out}' is a file", where="--out", remedy="name a folder")
    if out.is_dir() and any(out.glob("sample-*")):
        raise UserError(f"'{out}' holds samples already", where="--out", remedy="name another folder, or empty it")
    images = model.sample(n, seed, label, post)
    bits, kind = _bits(model, images)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for number, pixels in enumerate(images):
        path = out / f"sample-{number:04d}{'.png' if bits else '.nii.gz'}"
        if bits:
            pixels = np.clip(np.rint(pixels), 0, LARGEST[bits])
        write(path, Image(pixels, affine=None if bits else np.eye(4), dtype=kind))
        written.append(path)
    _write_labels(model, written, label)
    return written


def _bits(model: Translator, images: np.ndarray) -> tuple[int | None, np.dtype]:
    """8 or 16 where whole numbers from 0 hold the training images' range, else None."""
    mapping = model.intensity["image"]
    ends = [np.asarray(mapping.inverse(flat(images.shape[1], images.ndim - 2, end))) for end in mapping.range]
    low, high = float(ends[0].min()), float(ends[1].max())
    colours = (1, 3) if high <= LARGEST[8] else (1,)
    if images.ndim == 4 and images.shape[1] in colours and low >= -0.01 * high and 64 <= high <= LARGEST[16]:
        return (8, np.dtype(np.uint8)) if high <= LARGEST[8] else (16, np.dtype(np.uint16))
    return None, np.dtype(np.float32)


def _write_labels(model: Translator, files: list[Path], label: str | None) -> None:
    classes = model.method.geometry.classes
    if classes and model.method.conditional:
        table = text.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["file", "label"])
        rows.writerows((path.name, label or classes[i % len(classes)]) for i, path in enumerate(files))
        write_file(files[0].parent / "labels.csv", table.getvalue().encode())
