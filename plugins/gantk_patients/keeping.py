"""What an evaluation keeps of the test patients: their scores, and a few of their images in the units of the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.data.preparation import Record
from gantk.formats.image import UPRIGHT, Image
from gantk.formats.nifti import Nifti
from gantk.metrics.evaluate import Tested
from gantk.metrics.intervals import patient_numbers
from gantk.metrics.references import OTHER, spread, units_of

SHOWN = {2: 3, 3: 1}  # by dims: images of the worst patients, and as many of patients that scores did not choose


def keep(run: Path, tested: dict[str, Tested]) -> None:
    """Writes patients.json and samples/test/DIRECTION-NUMBER-KIND.nii.gz; kinds are input, output and truth."""
    folder = run / "samples" / "test"
    shutil.rmtree(folder, ignore_errors=True)
    found = {}
    for direction, one in tested.items():
        rows = by_patient(one)
        cases = list(_cases(one, rows))
        for number, case in enumerate(cases):
            folder.mkdir(parents=True, exist_ok=True)
            case["units"] = [_write(one, case["place"], kind, folder / f"{direction}-{number}-{kind}.nii.gz")
                             for kind in ("input", "output", "truth")]  # fmt: skip
        found[direction] = {"patients": rows, "cases": cases, "higher": one.senses[next(iter(_raw(one)))] is not False}
    (run / "patients.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def by_patient(tested: Tested) -> list[dict[str, Any]]:
    """A row a patient, the worst by the first metric on top: name, places of the images, mean of every score.

    A patient who is not known is an image of its own, by its name.
    """
    raw, numbers = _raw(tested), patient_numbers(tested.scores.patients)
    rows = []
    for number in range(numbers.max() + 1):
        own = np.flatnonzero(numbers == number).tolist()
        record = tested.pairs[own[0]][tested.to]
        means = {name: _mean(values[own]) for name, values in raw.items()}
        rows.append({"patient": record.subject or record.key, "images": own, "scores": means})
    return sorted(rows, key=lambda row: _rank(tested, row["scores"][next(iter(raw))]))


def _cases(tested: Tested, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The images to show: of the worst patients the worst, of patients spread over their names one of the middle.

    The latter are the same whatever the scores, so that several runs on one split show the same.
    """
    (name, values), *_ = _raw(tested).items()
    count, by_name = SHOWN[tested.made.ndim - 2], sorted(rows, key=lambda row: row["patient"])
    places = {}
    for row in rows[:count]:
        places[min(row["images"], key=lambda place: _rank(tested, _mean(values[[place]])))] = row
    for row in spread(by_name, count):
        places.setdefault(row["images"][len(row["images"]) // 2], row)
    for place, row in places.items():
        source, truth = tested.pairs[place][OTHER[tested.to]], tested.pairs[place][tested.to]
        known = {"patient": row["patient"], "rank": 1 + rows.index(row), "place": place}
        known |= {"input": str(source.path or source.key), "truth": str(truth.path or truth.key), "image": source.key}
        yield known | {"scores": {metric: _mean(own[[place]]) for metric, own in _raw(tested).items()}}


def _raw(tested: Tested) -> dict[str, np.ndarray]:
    """Metric -> one score per image, whole images first."""
    return {name: values for (kind, name), values in tested.scores.values.items() if kind == "raw"}


def _rank(tested: Tested, value: float | None) -> float:
    """Where a score of the first metric stands, worse ones first; what could not be scored before all."""
    if value is None:
        return -np.inf
    return -value if tested.senses[next(iter(_raw(tested)))] is False else value


def _mean(values: np.ndarray) -> float | None:
    """The mean of the scores that are known; None where none is, or it is not finite."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) and np.isfinite(known).all() else None


def _write(tested: Tested, place: int, kind: str, path: Path) -> str:
    """One image in its file's intensities, upright, its colours averaged or its first contrast; their unit."""
    letter = OTHER[tested.to] if kind == "input" else tested.to
    image = {"input": tested.inputs, "output": tested.made, "truth": tested.references.images}[kind][place]
    native, unit = _native(tested, tested.pairs[place][letter], image, letter)
    pixels = (native.mean(0) if len(native) == 3 else native[0]).numpy().astype(np.float32)[None]
    spacing = tested.data.table.spacing or (1.0,) * (pixels.ndim - 1)
    affine = UPRIGHT @ np.diag([*spacing[::-1], *(1.0,) * (5 - pixels.ndim)]) if pixels.ndim == 4 else None
    Nifti().write(path, Image(np.nan_to_num(pixels), affine))
    return unit


def _native(tested: Tested, record: Record, image: torch.Tensor, letter: str) -> tuple[torch.Tensor, str]:
    """An image (C, *size) in its file's intensities, and what they are called; "" where networks' are all there is."""
    units = units_of(tested.data, [record], letter)
    if units is None:
        return image.float().cpu(), ""
    return units.native(image[None].float().cpu())[0], {"native": "file's"}.get(units.name, units.name)
