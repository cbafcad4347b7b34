"""Translates single images with one model, and prepares what the page shows. The queue, the uploads
and their end are Gradio's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gantk import translate, unpack
from gantk.errors import UserError, join_first, reading_file
from gantk.files import make_folder, write_file
from gantk.formats.files import (
    files_of,
    read,
    scans,
    series_format,
    sidecar_of,
    stem_of,
    suffix_of,
)
from gantk.formats.image import nifti_of_levels
from gantk.inference.frame import FITS
from gantk.metrics.rows import judgement

MAX_VIEW_VOXELS = 2**25  # above it the viewer gets every n-th voxel, and the page says so
ALLOWED_ZIP = "a zip of one DICOM series, or of one image"


class Check(NamedTuple):
    """Whether an image fits the training data of a direction."""

    source: Path  # the image, alone in its folder with what is made of it
    to: str
    fits: str  # one of FITS
    said: list[tuple[str, str]]  # (warning or note, text)


class Result(NamedTuple):
    """The result of one translation."""

    file: Path  # the translated image, or the zip of a derived series
    sidecar: Path | None  # the JSON file about it; a picture has none, a zip holds its own
    notes: list[tuple[str, str]]  # (warning, note or clipped; text), beside those of the check
    view: dict[str, Any]  # for the viewer, see `view`


class Service:
    """One trained model that translates one image to another."""

    def __init__(self, run: str, max_bytes: int, device: str | None = None):
        """`max_bytes`: of an upload, also after unzipping. UserError for a model of another kind."""
        from gantk import load

        self.run = run
        self.max_bytes = max_bytes
        self.model = load(run, device=device)
        try:
            frames = [*self.model.frames.values()]
        except UserError:  # it makes images from noise
            frames = []
        if not frames or any(len(frame.sources) > 1 for frame in frames):
            raise UserError(
                f"'{run}' does not translate one image to another",
                where="RUN",
                remedy="use `gantk sample` for images from noise, and `gantk translate` for a model"
                " that needs several contrasts of a patient",
            )
        self.directions = {frame.target: frame.source for frame in frames}

    def verdict(self) -> tuple[str, str]:
        """The first sentence of the report on the model, and its tone; "" where it was not scored."""
        return judgement(self.model.run) if self.model.run else ("", "")

    def take(self, sent: Path, folder: Path) -> Path:
        """The image of an upload, in a new folder: a copy of a file; of a zip, its one image or the
        folder of its one series that the model translates. UserError for other zips.
        """
        sent = Path(shutil.copy(sent, folder))
        if sent.suffix.lower() != ".zip":
            return sent

        content = make_folder(folder / "content of the zip", private=True)
        with reading_file(sent.name, "a zip file", allowed=ALLOWED_ZIP, remedy="pack it again"):
            unpack(sent, content, most=self.max_bytes)
        found = [self.model.images_in(content, to) for to in self.directions]
        single = next((images for images in found if len(images) == 1), None)
        if single is None:
            names = [f"'{scan.name}'" for scan in found[0]]
            raise UserError(
                f"'{sent.name}' holds {join_first(names) or 'no image for this model'}",
                allowed=ALLOWED_ZIP,
            )

        (scan,) = single
        if len(scan.files) == 1:
            return [Path(shutil.move(file, folder)) for file in files_of(scan.path)][0]
        series = make_folder(folder / stem_of(sent), private=True)
        for file in scan.files:
            shutil.move(file, series)
        return series

    def check(self, source: Path, to: str = "") -> Check:
        """Whether an image fits the training data of the direction to `to`, or, where that is "", of
        the one that it fits best.
        """
        image = read(source)
        checks = []
        for way in [to] if to else self.directions:
            _, found = self.model.check(image, way)
            checks.append(Check(source, way, found.fits, found.said))
        return min(checks, key=lambda check: FITS.index(check.fits))

    def translate(
        self,
        check: Check,
        label: str | None = None,
        tell: Callable[[float, str], None] = lambda share, what: None,
    ) -> Result:
        """Translate an image that was checked; the result is written beside it in place of an earlier
        one. `tell` receives the share that is done, and what is being done. UserError for a bad file.
        """
        source = check.source
        to = check.to
        said = []
        folder = source.parent / "result"
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder, private=True)
        name = f"{stem_of(source) if source.is_file() else source.name}_synthetic_{to}"
        is_series = source.is_dir() or series_format(source) is not None
        target = folder / (name if is_series else f"{name}{suffix_of(source)}")

        tell(0.0, "Reading the scan")
        translate(self.model, source, target, to=to, label=label, say=said.append, progress=tell)
        tell(1.0, "Preparing the pictures")
        shown = view(source, target, folder)
        sidecar = sidecar_of(target)
        file = Path(shutil.make_archive(str(target), "zip", target)) if is_series else target
        known = {text for _, text in check.said}
        notes = []
        for line in said:
            kind, _, text = line.partition(" ")
            if (kind in ("warning", "note", "clipped")) and text.strip() not in known:
                notes.append((kind, text.strip()))
        return Result(file, sidecar if sidecar.exists() else None, notes, shown)


def view(source: Path, result: Path, folder: Path) -> dict[str, Any]:
    """Write NIfTI files of input, output and their difference in %; returns their names and
    windows.
    """
    image = read(source)
    output = read(scans(result)[0] if result.is_dir() else result)
    sides = (-1, *image.pixels.shape[-2:])
    volumes = {
        "input": image.pixels.mean(axis=0).reshape(sides),
        "output": output.pixels.mean(axis=0).reshape(sides),
    }
    windows = {}
    scaled = []
    for kind, volume in volumes.items():
        low, high = (float(value) for value in np.percentile(volume, [0.5, 99.5]))
        windows[kind] = [low, high]
        scaled.append((volume - low) / ((high - low) or 1.0))
    volumes["difference"] = 100 * abs(scaled[1] - scaled[0])
    windows["difference"] = [0.0, 100.0]

    thin = int(np.ceil((scaled[0].size / MAX_VIEW_VOXELS) ** (1 / 3)))
    z, y, x = (1.0, *image.spacing)[-3:]
    # array axes point to the patient's left, back and head
    affine = np.diag([-x, -y, z, 1.0])
    for kind, volume in volumes.items():
        content = nifti_of_levels(volume.transpose(2, 1, 0), affine, thin)
        write_file(folder / f"{kind}.nii", content)

    return {
        "folder": str(folder),
        "slices": len(scaled[0]),
        "thin": thin,
        "oriented": image.states_orientation and image.dims == 3,
        "windows": windows,
    }
