"""Saves an evaluation's test patients in the run folder: all scores, and some images in the files'
units.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.data.preparation import Record
from gantk.data.spread import spread
from gantk.files import expect_inside, make_folder, whole_folder
from gantk.formats.image import UPRIGHT, Image
from gantk.formats.nifti import Nifti
from gantk.formats.pictures import Picture
from gantk.metrics.evaluate import Tested
from gantk.metrics.intervals import patient_numbers
from gantk.metrics.pair_scores import ImageScores
from gantk.metrics.references import OTHER, units_of
from gantk.report.patients.section import KINDS
from gantk.runs.folder import RunFolder
from gantk.runs.results import HeldOutPatients, PatientScores, StoredImage, StoredVolume

MIN_SLICES = 8  # of a scan that is saved as a volume
MAX_VOLUMES = 2  # of one direction
# by dims: images of the worst patients, and as many of patients chosen without scores
IMAGES_OF_WORST = {2: 3, 3: 1}


def keep_test_patients(run: Path, tested: dict[str, Tested]) -> None:
    """Write patients.json and samples/test/NAME-KIND.nii.gz, a colour picture as .png; kinds are
    input, output and truth.

    NAME is DIRECTION-NUMBER for an image, DIRECTION-scan-NUMBER for the slices of a whole scan.
    """
    make_folder(expect_inside(run, run / "samples"))
    with whole_folder(run / "samples" / "test", private=True) as made:
        entries = {
            direction: _keep_direction(direction, one, made).dump()
            for direction, one in tested.items()
        }

    RunFolder(run).write_json("patients.json", entries)


def _keep_direction(direction: str, one: Tested, folder: Path) -> HeldOutPatients:
    """Write a direction's images to `folder`; returns its entry of patients.json."""
    rows = by_patient(one)
    cases = []
    volumes: list[StoredVolume] = []
    median, of_images = _median_image(one)
    for number, (place, row) in enumerate(_images_to_keep(one, rows, median).items()):
        stem = f"{direction}-{number}"
        units = _write_kinds(one, [place], folder / stem)
        case = _case(one, place, row, 1 + rows.index(row), stem, units)
        if place == median:
            case.median_of = of_images
        cases.append(case)
        places, voxel = _scan(one, place)
        known = [volume.patient for volume in volumes]
        if places and row.patient not in known and len(volumes) < MAX_VOLUMES:
            stem = f"{direction}-scan-{number}"
            volumes.append(StoredVolume(patient=row.patient, stem=stem))
            _write_kinds(one, places, folder / stem, voxel)

    if not volumes and one.made.ndim == 5:
        volumes += [StoredVolume(patient=case.patient, stem=case.stem) for case in cases]

    return HeldOutPatients(patients=rows, cases=cases, volumes=volumes)


def _write_kinds(
    one: Tested, places: list[int], stem: Path, voxel: tuple[float, ...] = ()
) -> list[str]:
    """Write input, output and truth as STEM-KIND.nii.gz or .png; returns their units."""
    return [
        _write(one, places, kind, stem.with_name(f"{stem.name}-{kind}"), voxel) for kind in KINDS
    ]


def by_patient(tested: Tested) -> list[PatientScores]:
    """A row for each patient, the worst by the first metric first: name, indices of the images,
    mean of every score, also of the baselines.

    An image without a known patient has a row of its own under the image's key.
    """
    raw = tested.scores.raw
    numbers = patient_numbers(tested.scores.patients)
    rows = []
    for number in range(numbers.max() + 1):
        own = np.flatnonzero(numbers == number).tolist()
        record = tested.pairs[own[0]][tested.to]
        row = PatientScores(
            patient=record.subject or record.key,
            images=own,
            scores=_means(tested.scores, own),
            baselines={name: _means(of, own) for name, of in tested.baselines.items()},
        )
        rows.append(row)

    return sorted(rows, key=lambda row: _rank(tested, row.scores[next(iter(raw))]))


def _median_image(tested: Tested) -> tuple[int | None, int]:
    """The image with the median of the first metric (of an even number the lower one), and the number
    of images with a score; None where no image has one.
    """
    values = next(iter(tested.scores.raw.values()))
    places = np.flatnonzero(np.isfinite(values))
    if not len(places):
        return None, 0
    ordered = places[np.argsort(values[places], kind="stable")]
    return int(ordered[(len(ordered) - 1) // 2]), len(places)


def _images_to_keep(
    tested: Tested, rows: list[PatientScores], median: int | None
) -> dict[int, PatientScores]:
    """Image -> its patient's row: the worst image of the worst patients, the middle one of patients
    spread by name, and the median image.

    The middle ones do not depend on scores, so that several runs on one split show the same images.
    """
    first_metric = next(iter(tested.scores.raw.values()))
    count = IMAGES_OF_WORST[tested.made.ndim - 2]
    rows_of_images = {}
    for row in rows[:count]:
        worst = min(row.images, key=lambda place: _rank(tested, _mean(first_metric[[place]])))
        rows_of_images[worst] = row

    for row in spread(sorted(rows, key=lambda row: row.patient), count):
        middle = row.images[len(row.images) // 2]
        rows_of_images.setdefault(middle, row)

    if median is not None:
        owner = next(row for row in rows if median in row.images)
        rows_of_images.setdefault(median, owner)

    return rows_of_images


def _case(
    tested: Tested, place: int, row: PatientScores, rank: int, stem: str, units: list[str]
) -> StoredImage:
    """The entry of an image in patients.json."""
    source = tested.pairs[place][OTHER[tested.to]]
    truth = tested.pairs[place][tested.to]
    return StoredImage(
        patient=row.patient,
        stem=stem,
        scores=_means(tested.scores, [place]),
        rank=rank,
        input=str(source.path or source.key),
        truth=str(truth.path or truth.key),
        image=source.key,
        units=units,
    )


def _rank(tested: Tested, value: float | None) -> float:
    """A sort key of scores of the first metric: worse ones are lower, and None is the lowest."""
    if value is None:
        return -np.inf
    return -value if tested.senses[next(iter(tested.scores.raw))] is False else value


def _means(scores: ImageScores, places: list[int]) -> dict[str, float | None]:
    """The mean of some images by each metric."""
    return {metric: _mean(values[places]) for metric, values in scores.raw.items()}


def _mean(values: np.ndarray) -> float | None:
    """The mean of the scores that are not NaN; None where there are none, or one is infinite."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) and np.isfinite(known).all() else None


def _scan(tested: Tested, place: int) -> tuple[list[int], tuple[float, ...]]:
    """Indices of all axial slices of an image's scan, in order, and their voxel (z, row, column) in
    mm; or [], ().
    """
    table = tested.data.table
    records = [pair[tested.to] for pair in tested.pairs]
    own = records[place]
    if not own.scan_key or table.plane != "axial" or own.file is None:
        return [], ()

    positions = {}
    for index, record in enumerate(records):
        if record.subject == own.subject and record.scan_key == own.scan_key:
            positions[index] = record.position or 0.0

    if len(positions) < MIN_SLICES:
        return [], ()

    scan: Image = own.file.read(next(filter(None, own.file.scans)))
    slices_apart = float(np.median(np.diff(sorted(positions.values()))))
    spacing = table.spacing or ()  # mm of rows and columns only, or of the slices too
    depth, *plane = (*scan.spacing[: 3 - len(spacing)], *spacing)
    voxel = (slices_apart * depth, *_pixel_of_network(scan, plane, table))
    return sorted(positions, key=lambda index: positions[index]), voxel


def _pixel_of_network(scan: Image, plane: Sequence[float], table: Any) -> list[float]:
    """mm of a pixel at the networks' size; `plane`: mm of rows and columns before the resize."""
    shrunk = []
    for side, native_mm, mm, to in zip(
        scan.pixels.shape[-2:], scan.spacing[-2:], plane, table.size, strict=True
    ):
        shrunk.append(side * native_mm / mm / to)
    factors = {"pad": [max(shrunk)] * 2, "crop": [1.0, 1.0], "resize": shrunk}[table.fit]
    return [mm * factor for mm, factor in zip(plane, factors, strict=True)]


def _write(
    tested: Tested, places: list[int], kind: str, stem: Path, voxel: tuple[float, ...] = ()
) -> str:
    """Write an image, or several as a volume, in file intensities (of several contrasts the first,
    of colours their mean), a colour picture of 8 bits as PNG; returns their unit.
    """
    letter = OTHER[tested.to] if kind == "input" else tested.to
    images = {"input": tested.inputs, "output": tested.made, "truth": tested.references.images}

    records = [tested.pairs[place][letter] for place in places]
    contrasts = tested.data.contrasts[letter]
    in_colour = len(records) == len(contrasts) == 1 and _is_colour_picture(records[0])
    slices = []
    units = []
    for place, record in zip(places, records, strict=True):
        native, unit = _native(tested, record, images[kind][place], letter)
        if len(contrasts) > 1:
            native = native[:1]
        elif not in_colour:
            native = native.mean(0, keepdim=True)
        slices.append(native.numpy().astype(np.float32))
        units.append(unit)

    pixels = np.nan_to_num(slices[0] if len(places) == 1 else np.stack(slices, axis=1))
    if len(pixels) > 1:
        picture = Image(pixels.clip(0, 255), dtype=np.dtype(np.uint8))
        Picture().write(stem.with_suffix(".png"), picture)
        return units[0]
    affine = None
    if pixels.ndim == 4:
        known = voxel or tested.data.table.spacing or ()
        depth, row, column = (*[1.0] * (3 - len(known)), *known)
        affine = UPRIGHT @ np.diag([column, row, depth, 1.0])

    Nifti().write(stem.with_suffix(".nii.gz"), Image(pixels, affine))
    return units[0]


def _is_colour_picture(record: Record) -> bool:
    """Whether a record is a colour picture of 8 bits, whose values a PNG holds."""
    if record.file is None:
        return False
    image = record.file.read()
    return image.dims == 2 and image.channels == 3 and image.dtype == np.uint8


def _native(
    tested: Tested, record: Record, image: torch.Tensor, letter: str
) -> tuple[torch.Tensor, str]:
    """An image (C, *size) in its file's intensities and their unit; "" where only network
    intensities are known.
    """
    units = units_of(tested.data, [record], letter)
    pixels = image.float().cpu()
    if units is None:
        return pixels, ""

    unit = "file's" if units.name == "native" else units.name
    return units.native(pixels[None])[0], unit
