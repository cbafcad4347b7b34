"""Saves some test images of an evaluation in the run folder, in the files' units."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.preparation import Record
from gantk.data.spread import spread_over_owners
from gantk.files import expect_inside, make_folder, whole_folder, write_file
from gantk.formats.image import UPRIGHT, Image
from gantk.formats.nifti import Nifti
from gantk.formats.pictures import Picture
from gantk.method import OTHER
from gantk.metrics.evaluate import Tested, unpaired_places
from gantk.metrics.references import image_with_mask, of_all_scans, units_of
from gantk.metrics.table import MODEL, owners
from gantk.report.figures import LESION
from gantk.runs.results import Results, Score, StoredImage

# by dims: images of the worst patients, and as many of patients chosen without scores
IMAGES_OF_WORST = {2: 3, 3: 1}


def keep_test_images(run: Path, tested: dict[str, Tested], results: Results) -> None:
    """Write samples/test/DIRECTION-NUMBER-KIND.nii.gz, a colour picture as .png, and their index;
    kinds are input, output and, where they are known, truth and lesion (its mask).
    """
    make_folder(expect_inside(run, run / "samples"))
    with whole_folder(run / "samples" / "test", private=True) as made:
        index = {
            direction: [
                image.dump()
                for image in _keep_direction(
                    direction, one, results.metrics.get(direction, {}), made
                )
            ]
            for direction, one in tested.items()
        }
        write_file(made / "index.json", json.dumps(index).encode(), private=True)


def _keep_direction(
    direction: str, one: Tested, scores: Mapping[str, Score], folder: Path
) -> Iterator[StoredImage]:
    """Write a direction's images to `folder`; yields their entries of the index."""
    images = {"input": one.inputs, "output": one.made}
    medians: dict[int, int] = {}
    if one.references:
        images["truth"] = one.references.images
        places, medians = _images_to_keep(one, scores)
    else:
        sources = [pair[OTHER[one.to]] for pair in one.pairs]
        places = unpaired_places(sources, one.made.ndim - 2)
    for number, place in enumerate(places):
        stem = f"{direction}-{number}"
        pair = one.pairs[place]
        source = pair[OTHER[one.to]]
        truth = pair.get(one.to)
        units = []
        for kind, of_kind in images.items():
            letter = OTHER[one.to] if kind == "input" else one.to
            path = folder / f"{stem}-{kind}"
            units.append(_write(one.data, of_kind[place], letter, pair.get(letter), path))
        mask = one.data.preparation.mask(image_with_mask(pair, one.to))
        if mask is not None:
            _write_nifti(one.data, mask > 0.5, folder / f"{stem}-{LESION}")
        yield StoredImage(
            patient=(truth or source).subject or source.key,
            stem=stem,
            input=str(source.path or source.key),
            truth=str(truth.path or truth.key) if truth else "",
            image=source.key,
            units=units,
            median_of=medians.get(place),
            lesion=mask is not None,
        )


def _images_to_keep(
    tested: Tested, scores: Mapping[str, Score]
) -> tuple[list[int], dict[int, int]]:
    """The numbers of the worst image of the worst patients, of middle ones of patients spread by name,
    and of the median image, all by the first score; the median's with the number of scored images.

    The middle ones do not depend on scores, so that several runs on one split show the same images.
    """
    count = IMAGES_OF_WORST[tested.made.ndim - 2]
    model = tested.lines[tested.lines.system == MODEL]
    first = model.metric.iloc[0]
    lines = model[model.metric == first].reset_index(drop=True)
    sign = -1 if scores[first].higher_is_better is False else 1
    rank = (sign * lines.value).replace([np.inf, -np.inf], np.nan)  # higher for better ones
    ordered = rank.dropna().sort_values(kind="stable").index
    # of an even number of images the lower one; none where no image has a score
    medians = {place: len(ordered) for place in ordered[(len(ordered) - 1) // 2 :][:1]}
    patients = owners(lines)
    by_patient = rank.fillna(-np.inf).groupby(patients, sort=False)
    worst = by_patient.mean().sort_values(kind="stable").index[:count]
    middle = spread_over_owners(rank.index, [*patients], count)
    kept = dict.fromkeys([*by_patient.idxmin()[worst], *middle, *medians])
    return [int(place) for place in kept], medians


def _write(data: Data, pixels: Tensor, letter: str, record: Record | None, stem: Path) -> str:
    """Write an image (C, *size) in file intensities (of several contrasts the first, of colours their
    mean), a colour picture of 8 bits as PNG; returns their unit.
    """
    intensity = None
    if record is None:  # no truth: as results are mapped back, to files as those trained on
        record = next(each for each in data.training if each.domain == letter)
        intensity = of_all_scans(data.intensity[letter])
    units = units_of(data, [record], letter, intensity)
    native = pixels.float().cpu()
    unit = ""  # only network intensities are known
    if units is not None:
        native = units.native(native[None])[0]
        unit = "file's" if units.name == "native" else units.name
    if len(data.contrasts[letter]) > 1:
        native = native[:1]
    elif not _is_colour_picture(record):
        native = native.mean(0, keepdim=True)

    found = np.nan_to_num(native.numpy())
    if len(found) > 1:
        picture = Image(found.clip(0, 255), dtype=np.dtype(np.uint8))
        Picture().write(stem.with_suffix(".png"), picture)
        return unit
    _write_nifti(data, found, stem)
    return unit


def _write_nifti(data: Data, pixels: np.ndarray, stem: Path) -> None:
    """Write an image (1, *size) with the spacing of the data."""
    affine = None
    if pixels.ndim == 4:
        depth, row, column = (1.0, *(data.table.spacing or (1.0, 1.0)))[-3:]
        affine = UPRIGHT @ np.diag([column, row, depth, 1.0])

    image = Image(pixels.astype(np.float32), affine)
    Nifti().write(stem.with_suffix(".nii.gz"), image)


def _is_colour_picture(record: Record) -> bool:
    """Whether a record is a colour picture of 8 bits, whose values a PNG holds."""
    if record.file is None:
        return False
    image = record.file.read()
    return image.dims == 2 and image.channels == 3 and image.dtype == np.uint8
