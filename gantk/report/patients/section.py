"""What the section `Test patients` of report.html shows: scores.csv and samples/test of the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from gantk.errors import one_line
from gantk.formats.files import read
from gantk.metrics.rows import patients_are_known
from gantk.metrics.table import MODEL, owners
from gantk.report.pictures import mean_error, png_uri
from gantk.report.run_record import RunRecord
from gantk.report.words import ARROW
from gantk.runs.results import Score, StoredImage
from gantk.runs.schemas import is_inside

HERE = Path(__file__).parent
KINDS = ("input", "output", "truth")
BRIGHTEST_DIFFERENCE = 99.5  # percentile of the differences that is drawn brightest


@dataclass(frozen=True)
class EncodedPixels:
    """Pixels (C, H, W), and a PNG of them in a data URI, in 16 bits from `low` to `high`."""

    uri: str
    low: float
    high: float
    pixels: np.ndarray


Pictures = Mapping[str, EncodedPixels]  # by kind: "input", "truth", "output"; several outputs


@dataclass(frozen=True)
class ShownImage:
    """A test image in samples/test with its pictures."""

    stored: StoredImage
    pictures: Pictures
    scores: Mapping[str, float]  # by metric; NaN where it has none


@dataclass(frozen=True)
class ShownPatients:
    """The test patients of a direction, as the page shows them."""

    key: str
    label: str
    source: str
    target: str
    metrics: dict[str, Score]  # the scores of all patients
    # a row for each patient, the worst by the first metric first: its `images`, and its scores
    patients: pd.DataFrame
    cases: list[ShownImage]
    noun: str  # of what a row is: "patient", or "image" where patients are not known

    @property
    def titles(self) -> dict[str, str]:
        """The title of each kind of picture."""
        return {
            "input": f"Input: {self.source}",
            "truth": f"Real {self.target}",
            "output": f"Generated {self.target}",
        }


def shown_patients(record: RunRecord) -> list[ShownPatients]:
    """The test patients of each direction; none where the run has none (yet)."""
    lines = record.lines[record.lines.system == MODEL]
    of_direction = lines.groupby("direction", sort=False)
    return [
        _direction(record, key, of_direction.get_group(key))
        for key in record.stored
        if key in of_direction.groups
    ]


def error_window(cases: Sequence[Pictures]) -> int:
    """The difference that is drawn brightest, in % of the truth's range: few pixels of the pictures
    of cases exceed it.
    """
    largest = 0.0
    for shown in cases:
        for kind in (kind for kind in shown if kind.startswith("output")):
            truth = shown["truth"]
            difference = mean_error(shown[kind].pixels, truth.pixels)
            span = (truth.high - truth.low) or 1.0
            largest = max(largest, float(np.percentile(difference, BRIGHTEST_DIFFERENCE)) / span)
    return min(100, max(5, 5 * math.ceil(20 * largest)))


def _direction(record: RunRecord, key: str, lines: pd.DataFrame) -> ShownPatients:
    """A direction's scores and stored images, with labels and pictures."""
    label = record.label(key)
    source, _, target = label.partition(ARROW)
    of_all = record.results.metrics.get(key, {})
    metrics = {name: of_all.get(name, Score()) for name in lines.metric.unique()}
    first, of_first = next(iter(metrics.items()))
    finite = lines["value"].replace([np.inf, -np.inf], np.nan)
    of_images = finite.groupby([lines.image, lines.metric], sort=False).mean().unstack(sort=False)
    owner = owners(lines.drop_duplicates("image")).to_numpy()
    by_patient = of_images.groupby(owner, sort=False)
    patients = by_patient.mean().assign(images=by_patient.size())
    rank = -patients[first] if of_first.higher_is_better is False else patients[first]
    patients = patients.loc[rank.fillna(-np.inf).sort_values(kind="stable").index]
    cases = []
    for stored in record.stored[key]:
        shown = pictures(record, stored.stem)
        if shown and stored.image in of_images.index and stored.patient in patients.index:
            cases.append(ShownImage(stored, shown, of_images.loc[stored.image]))
    noun = "patient" if patients_are_known(record.results) else "image"
    return ShownPatients(
        key=key,
        label=label,
        source=source,
        target=target,
        metrics=metrics,
        patients=patients,
        cases=cases,
        noun=noun,
    )


def pictures(record: RunRecord, stem: str) -> Pictures:
    """Kind -> a picture for the page's script: an image, or a volume's middle plane, in 16 bits
    from `low` to `high`.

    Files outside the run folder and damaged files are left out; the latter are named in the
    record's problems.
    """
    found = {}
    for kind in KINDS:
        colour = record.path / "samples" / "test" / f"{stem}-{kind}.png"
        path = colour if colour.exists() else colour.with_suffix(".nii.gz")
        try:
            if is_inside(record.path, path):
                pixels = read(path).pixels
                found[kind] = encode_pixels(
                    pixels if pixels.ndim == 3 else pixels[:, pixels.shape[1] // 2]
                )
        except Exception as error:  # damaged bytes can raise any exception
            record.problems.append(f"samples/test/{path.name} is left out: {one_line(error)}")

    if not all(kind in found for kind in KINDS):  # a case is shown whole or not at all
        return {}
    return found


def encode_pixels(pixels: np.ndarray) -> EncodedPixels:
    """Encode pixels (C, H, W), the channels below each other: the high byte in red, the low byte in
    green.
    """
    low = float(pixels.min())
    high = float(pixels.max())
    levels = np.round((pixels - low) / ((high - low) or 1) * 65535).astype(np.uint16)
    levels = levels.reshape(-1, levels.shape[-1])
    bytes_ = np.stack([levels >> 8, levels & 255, np.zeros_like(levels)], axis=-1).astype(np.uint8)
    uri = png_uri(Image.fromarray(bytes_))
    return EncodedPixels(uri, low, high, pixels)
