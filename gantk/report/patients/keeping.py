"""Saves an evaluation's test patients in the run folder: all scores, and some images in the files'
units.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gantk.data.preparation import Record
from gantk.data.spread import spread
from gantk.files import expect_inside, make_folder, whole_folder
from gantk.formats.image import UPRIGHT, Image
from gantk.formats.nifti import Nifti
from gantk.formats.pictures import Picture
from gantk.method import OTHER
from gantk.metrics.evaluate import Tested
from gantk.metrics.intervals import patient_numbers
from gantk.metrics.pair_scores import ImageScores
from gantk.metrics.references import units_of
from gantk.report.patients.section import KINDS
from gantk.runs.folder import RunFolder
from gantk.runs.results import HeldOutPatients, PatientScores, StoredImage

# by dims: images of the worst patients, and as many of patients chosen without scores
IMAGES_OF_WORST = {2: 3, 3: 1}


def keep_test_patients(run: Path, tested: dict[str, Tested]) -> None:
    """Write patients.json and samples/test/DIRECTION-NUMBER-KIND.nii.gz, a colour picture as .png;
    kinds are input, output and truth.
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
    median, of_images = _median_image(one)
    for number, (place, row) in enumerate(_images_to_keep(one, rows, median).items()):
        stem = f"{direction}-{number}"
        units = [_write(one, place, kind, folder / f"{stem}-{kind}") for kind in KINDS]
        case = _case(one, place, row, 1 + rows.index(row), stem, units)
        if place == median:
            case.median_of = of_images
        cases.append(case)

    return HeldOutPatients(patients=rows, cases=cases)


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


def _write(tested: Tested, place: int, kind: str, stem: Path) -> str:
    """Write an image in file intensities (of several contrasts the first, of colours their mean), a
    colour picture of 8 bits as PNG; returns their unit.
    """
    letter = OTHER[tested.to] if kind == "input" else tested.to
    images = {"input": tested.inputs, "output": tested.made, "truth": tested.references.images}

    record = tested.pairs[place][letter]
    native, unit = _native(tested, record, images[kind][place], letter)
    if len(tested.data.contrasts[letter]) > 1:
        native = native[:1]
    elif not _is_colour_picture(record):
        native = native.mean(0, keepdim=True)

    pixels = np.nan_to_num(native.numpy().astype(np.float32))
    if len(pixels) > 1:
        picture = Image(pixels.clip(0, 255), dtype=np.dtype(np.uint8))
        Picture().write(stem.with_suffix(".png"), picture)
        return unit
    affine = None
    if pixels.ndim == 4:
        spacing = tested.data.table.spacing or ()
        depth, row, column = (*[1.0] * (3 - len(spacing)), *spacing)
        affine = UPRIGHT @ np.diag([column, row, depth, 1.0])

    Nifti().write(stem.with_suffix(".nii.gz"), Image(pixels, affine))
    return unit


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
