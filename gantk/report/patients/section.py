"""Builds the section `Test patients` of report.html from patients.json and samples/test of the run
folder.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image as Picture
from pydantic import Field, RootModel, create_model

from gantk.errors import argument, one_line
from gantk.formats.nifti import Nifti
from gantk.report.words import ARROW
from gantk.runs.results import Step
from gantk.runs.schemas import Part, by_name, is_inside, list_of, read, table

HERE = Path(__file__).parent
KINDS = ("input", "output", "truth")
UNITS = Annotated[list[str], Field(min_length=3, max_length=3)]
SCORES = dict[str, float | None]
PATIENT = table(
    "patient",
    "images",
    "scores",
    patient=(str, "Name of the patient, or of the image if the patient is unknown."),
    images=(list[Step], "Numbers of the patient's test images, from 0."),
    scores=(SCORES, "Mean score by metric."),
)
CASE = table(
    "patient",
    "stem",
    "scores",
    "rank",
    "input",
    "truth",
    "image",
    patient=(str, "Name of the patient."),
    stem=(Part, "First part of the names of its files in samples/test."),
    scores=(SCORES, "Score by metric."),
    rank=(Step, "Rank of the patient by the first metric; 1 is the worst."),
    place=(Step, "Number of the test image, from 0."),
    input=(str, "Path of the input."),
    truth=(str, "Path of the truth."),
    image=(str, "Name of the input in split.json (`key`)."),
    units=(UNITS, "Units of input, output and truth."),
    cycle=(float | None, "MAE between the input and its reconstruction; of earlier versions."),
)
VOLUME = table(
    "patient",
    "stem",
    patient=(str, "Name of the patient."),
    stem=(Part, "First part of the names of its files in samples/test."),
)
DIRECTION = table(
    "patients",
    "cases",
    patients=(list_of(PATIENT), "The patients, the worst by the first metric first."),
    cases=(list_of(CASE), "The images that the report shows."),
    volumes=(list_of(VOLUME), "The scans that are stored as volumes."),
    higher=(bool, "Whether higher values of the first metric are better."),
)
PATIENTS = create_model("Patients", __base__=RootModel, root=(by_name(DIRECTION, key=Part), ...))
BRIGHTEST_DIFFERENCE = 99.5  # percentile of the differences that is drawn brightest
MAX_VISIBLE_ROWS = 12  # of the table, at first


def section(record) -> dict[str, Any] | None:
    """The section of the page; None where the run has no test patients (yet)."""
    found = record.read("patients.json", PATIENTS)
    directions = [_direction(record, key, one) for key, one in found.items() if one["patients"]]
    if not directions:
        return None

    return {
        "folder": HERE,
        "template": "patients.html.j2",
        "styles": ["patients.css"],
        "scripts": ["patients.js"],
        "directions": directions,
        "rows": MAX_VISIBLE_ROWS,
        "error_window": error_window([case for one in directions for case in one["cases"]]),
    }


def error_window(cases: Sequence[dict[str, Any]]) -> int:
    """The difference that is drawn brightest, in % of the truth's range: few pixels exceed it."""
    largest = 0.0
    for case in cases:
        shown = case["pictures"]
        for kind in (kind for kind in shown if kind.startswith("output")):
            truth = shown["truth"]
            difference = np.abs(shown[kind]["pixels"] - truth["pixels"])
            span = (truth["high"] - truth["low"]) or 1.0
            largest = max(largest, float(np.percentile(difference, BRIGHTEST_DIFFERENCE)) / span)
    return min(100, max(5, 5 * math.ceil(20 * largest)))


def _direction(record, key: str, found: dict[str, Any]) -> dict[str, Any]:
    """A direction's entry of patients.json with its labels and pictures."""
    label = record.label(key)
    source, _, target = label.partition(ARROW)
    return found | {
        "key": key,
        "label": label,
        "source": source,
        "target": target,
        "metrics": list(found["patients"][0]["scores"]),
        "cases": [case | {"pictures": pictures(record, case["stem"])} for case in found["cases"]],
    }


def read_patients(run: Path) -> dict[str, Any]:
    """Read patients.json; {} where it is absent, UserError where it does not fit the schema."""
    return read(run, "patients.json", PATIENTS, f"write it again: gantk eval {argument(run)}")


def pictures(record, stem: str) -> dict[str, dict[str, Any]]:
    """Kind -> a picture for the page's script: an image, or a volume's middle plane, in 16 bits
    from `low` to `high`.

    Files outside the run folder and damaged files are left out; the latter are named in the
    record's problems.
    """
    found = {}
    for kind in KINDS:
        path = record.path / "samples" / "test" / f"{stem}-{kind}.nii.gz"
        try:
            if is_inside(record.path, path):
                pixels = Nifti().read(path).pixels[0]
                found[kind] = encode_pixels(
                    pixels if pixels.ndim == 2 else pixels[len(pixels) // 2]
                )
        except Exception as error:  # damaged bytes can raise any exception
            record.problems.append(f"samples/test/{path.name} is left out: {one_line(error)}")

    if not all(kind in found for kind in KINDS):  # a case is shown whole or not at all
        return {}
    return found


def encode_pixels(pixels: np.ndarray) -> dict[str, Any]:
    """Pixels (H, W) and a PNG of them in a data URI: the high byte in red, the low byte in
    green.
    """
    low = float(pixels.min())
    high = float(pixels.max())
    levels = np.round((pixels - low) / ((high - low) or 1) * 65535).astype(np.uint16)
    bytes_ = np.stack([levels >> 8, levels & 255, np.zeros_like(levels)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Picture.fromarray(bytes_).save(buffer, "png", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return {
        "uri": uri,
        "low": low,
        "high": high,
        "height": len(pixels),
        "width": len(pixels[0]),
        "pixels": pixels,
    }
