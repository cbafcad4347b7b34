"""What the section `Test patients` of report.html shows: scores.csv and samples/test of the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from gantk.errors import one_line
from gantk.formats.files import read
from gantk.metrics.rows import patients_are_known
from gantk.metrics.table import MODEL, owners
from gantk.report.figures import (
    LESION,
    Pictures,
    TitledPictures,
    largest_error,
    picture_row,
    windows_of,
)
from gantk.report.run_record import RunRecord
from gantk.report.words import ARROW
from gantk.runs.results import Score, ScoresByMetric, StoredImage
from gantk.runs.schemas import is_inside

HOW_KEPT = (
    "A run saves images at the size of its network: first the worst image of its worst patients. Then it saves a middle image of other patients,"
    " who are chosen without looking at scores. Of three images or more it also saves the median."
)
NO_ERRORS = (
    "No errors are shown: these images have no registered real counterpart. The outputs of one input are"
    " shown from their darkest to their brightest gray values, whatever these are in real images."
)
OF_WINDOW = "from black to white"  # of an image whose gray values have no unit
HOW_UNPAIRED_KEPT = (
    "A run without registered test pairs saves images that are spread over the patients, or over the"
    " names where patients are not known, chosen without looking at scores."
)


@dataclass(frozen=True)
class ShownImage:
    """A test image with its pictures."""

    label: str  # of its patient, as of `label_patients`
    pictures: Pictures
    titles: Mapping[str, str]  # of the pictures, by kind
    unit: str  # of the output, as in the index
    stored: StoredImage | None = None  # its entry of the index
    scores: Mapping[str, float] = field(default_factory=dict)  # by metric; NaN where it has none

    @property
    def windows(self) -> str:
        """`0 to 338, 0 to 545`: the values in black and in white of the input, and of the others."""
        return ", ".join(f"{low:.4g} to {high:.4g}" for low, high in windows_of(self.pictures))


@dataclass(frozen=True)
class Rows:
    """Test images of a direction, each with titled pictures, and the largest error that these show; ""
    where no truth is known.
    """

    cases: list[tuple[ShownImage, TitledPictures]]
    largest: str

    @property
    def scale(self) -> str:
        """The windows of the pictures, the scale of the errors and the outlines, in words."""
        scale = NO_ERRORS
        if self.largest:
            scale = (
                "Generated and real images have the same window. The error is |generated − real|: black is 0,"
                f" the palest yellow is {self.largest}."
            )
        outlined = any(np.any(image.pictures.get(LESION, False)) for image, _ in self.cases)
        return f"{scale} Outline: the lesion." if outlined else scale


def rows_of(images: Iterable[ShownImage]) -> Rows:
    """Test images with their pictures, those with truth if some have it; all errors have one scale, in
    gray values of files that of each image's window, because scanners share none.
    """
    shown = [*images]
    with_truth = [image for image in shown if "truth" in image.pictures]
    shown = with_truth or shown
    unit = shown[0].unit
    of_window = unit == "file's"
    spans = [_span(image.pictures) if of_window else 1.0 for image in shown]
    largest = 0.0
    if with_truth:
        both = zip(shown, spans, strict=True)
        largest = max(largest_error(image.pictures) / span for image, span in both)
    cases = [
        (image, picture_row(image.pictures, image.titles, largest * span))
        for image, span in zip(shown, spans, strict=True)
    ]
    words = f"{largest:.0%} {OF_WINDOW}" if of_window else f"{largest:.4g} {unit}".rstrip()
    return Rows(cases, words if with_truth else "")


def _span(pictures: Pictures) -> float:
    """From black to white of the real image, or of the outputs."""
    (black, white) = windows_of(pictures)[-1]
    return max(white - black, float(np.finfo(np.float32).tiny))


@dataclass(frozen=True)
class ShownPatients:
    """The test patients of a direction, as the page shows them."""

    key: str
    label: str
    metrics: ScoresByMetric  # the scores of all patients; none where no test pairs are known
    # a row for each scored patient, the worst by the first metric first: `label`, `images` and scores
    patients: pd.DataFrame
    cases: list[ShownImage]
    noun: str  # of what a row is: "patient", or "image" where patients are not known

    @property
    def rows(self) -> Rows | None:
        """The stored images, if there are any."""
        return rows_of(self.cases) if self.cases else None


def shown_patients(record: RunRecord) -> list[ShownPatients]:
    """The test patients of each direction; none where the run has none (yet)."""
    lines = record.lines[(record.lines.system == MODEL) & (record.lines.image != "")]
    labels = label_patients(record)
    found = [
        _direction(record, key, lines[lines.direction == key], labels) for key in record.stored
    ]
    return [each for each in found if each.metrics or each.cases]


def label_patients(*runs: RunRecord) -> dict[str, str]:
    """Test patient -> `test patient 3`, or `test image 3` where patients are not known: what figures
    show in place of names. Numbers follow the names, so runs with the same test patients have the same ones.
    """
    are_known = all(patients_are_known(run.results) for run in runs)
    names = {name for run in runs for name in owners(run.lines)}
    names |= {x.patient for run in runs for images in run.stored.values() for x in images}
    return number_names(names - {""}, are_known)


def number_names(names: Iterable[str], are_patients: bool) -> dict[str, str]:
    """`test patient 3` for the third name, of images `test image 3`."""
    noun = "patient" if are_patients else "image"
    return {name: f"test {noun} {number}" for number, name in enumerate(sorted(names), 1)}


def titles_of(label: str, outputs: Mapping[str, str]) -> dict[str, str]:
    """The titles of the pictures of a direction in words, by kind; `outputs`: those of the outputs."""
    source, _, target = label.partition(ARROW)
    return {"input": f"Input: {source}", "truth": f"Real {target}", **outputs}


def how_kept(*runs: RunRecord) -> str:
    """How the runs chose the test images that they saved."""
    has_truth = any(
        image.truth for run in runs for images in run.stored.values() for image in images
    )
    return HOW_KEPT if has_truth else HOW_UNPAIRED_KEPT


def _direction(
    record: RunRecord, key: str, lines: pd.DataFrame, labels: Mapping[str, str]
) -> ShownPatients:
    """A direction's scores and stored images, with labels and pictures."""
    label = record.label(key)
    of_all = record.results.metrics.get(key, {})
    metrics = {name: of_all.get(name, Score()) for name in lines.metric.unique()}
    of_images = patients = pd.DataFrame()
    if metrics:
        first, of_first = next(iter(metrics.items()))
        finite = lines["value"].replace([np.inf, -np.inf], np.nan)
        of_images = finite.groupby([lines.image, lines.metric], sort=False).mean()
        of_images = of_images.unstack(sort=False)
        owner = owners(lines.drop_duplicates("image")).to_numpy()
        by_patient = of_images.groupby(owner, sort=False)
        patients = by_patient.mean().assign(images=by_patient.size(), label=pd.Series(labels))
        is_lower_better = of_first.higher_is_better is False
        worst_first = {"ascending": not is_lower_better, "na_position": "first", "kind": "stable"}
        patients = patients.sort_values(first, **worst_first)
    titles = titles_of(label, {"output": f"Generated {label.rpartition(ARROW)[2]}"})
    cases = []
    for stored in record.stored[key]:
        shown = pictures(record, stored)
        is_scored = stored.image in of_images.index and stored.patient in patients.index
        if shown and (is_scored or not metrics):
            scores = of_images.loc[stored.image] if metrics else {}
            label_of = labels[stored.patient]
            cases.append(ShownImage(label_of, shown, titles, stored.units[1], stored, scores))
    noun = "patient" if patients_are_known(record.results) else "image"
    return ShownPatients(key, label, metrics, patients, cases, noun)


def pictures(record: RunRecord, stored: StoredImage) -> Pictures:
    """Kind, as they are shown, -> the pixels (C, H, W) of a stored image, of a volume its middle plane;
    {} unless all are there.

    Files outside the run folder and damaged files are left out; the latter are named in the
    record's problems.
    """
    found = {}
    kinds = ("input", "truth", "output") if stored.truth else ("input", "output")
    if stored.lesion:
        kinds = (*kinds, LESION)
    for kind in kinds:
        colour = record.path / "samples" / "test" / f"{stored.stem}-{kind}.png"
        path = colour if colour.exists() else colour.with_suffix(".nii.gz")
        try:
            if is_inside(record.path, path):
                found[kind] = read(path).middle_plane
        except Exception as error:  # damaged bytes can raise any exception
            record.problems.append(f"samples/test/{path.name} is left out: {one_line(error)}")
    return found if len(found) == len(kinds) else {}
