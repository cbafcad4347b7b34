"""What a generated image of a patient is made of: a JSON file beside it, and a line for the user."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gantk import __version__
from gantk.files import json_object, write_output
from gantk.formats.files import sidecar_of
from gantk.inference.frame import fit_mark
from gantk.runs.results import Score


def facts_of(
    contrast: str,
    sources: Sequence[str],
    model: Mapping[str, str],
    score: Score | None,
    *,
    is_uncertainty: bool = False,
    warnings: Sequence[str] = (),
    fits: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """What the JSON file beside a generated image says of it, without the names of files.

    Args:
        contrast: what the image shows, or whose uncertainty.
        sources: the contrasts that it is made of.
        model: as of `TrainedModel.identity`.
        score: the PSNR of such images on held-out patients, as in metrics.json; None if unknown.
        is_uncertainty: whether the image is a map of the uncertainty.
        warnings: about the images that it is made of.
        fits: for each of `sources`, whether it fits the training data ("Fits") and what was said
            about it ("Reasons").
    """
    shown = f"uncertainty of {contrast}" if is_uncertainty else contrast
    taken_for = [
        f"what was taken for {each}" if fits.get(each, {}).get("Fits") == "no" else each
        for each in sources
    ]
    description = f"{shown} generated from {', '.join(taken_for)} by a neural network; not acquired"
    mark = fit_mark([fit["Fits"] for fit in fits.values()])
    if mark:
        description += f"; {mark}"
    facts: dict[str, Any] = {
        "Description": description,
        "SyntheticData": True,
        "Intensities": (
            f"in the units of the training images of {contrast}: Hounsfield units for CT; MR has no"
            " physical units"
        ),
    }
    if model.get("limits"):
        facts["Limits"] = model["limits"]
    if score:
        facts["HeldOutPatients"] = {"PSNR": score.value, "Number": score.n}
    if fits:
        facts["FitsTrainingData"] = {**fits}
    if warnings:
        facts["Warnings"] = [*warnings]
    return facts


def sidecar_content(
    path: Path, sources: Sequence[Path], model: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of the JSON file beside an image, with the keys of a BIDS derivative's.

    Args:
        path: the image.
        sources: the images that it is made of.
        model: as of `TrainedModel.identity`.
        facts: as of `facts_of`.
    """
    folder = path.absolute().parent
    places = [os.path.relpath(source.absolute(), folder) for source in sources]
    by = f"{model['name']}, weights sha256 {model['sha256']}"
    return {
        **facts,
        "Sources": [Path(place).as_posix() for place in places],
        "GeneratedBy": [{"Name": "gantk", "Version": __version__, "Description": by}],
    }


def write_sidecar(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON file beside an image."""
    text = json.dumps(content, indent=2) + "\n"  # ASCII: names need not be UTF-8
    write_output(sidecar_of(path), text.encode())


def is_generated(path: Path) -> bool:
    """Whether the JSON file beside an image says that gantk generated the image."""
    return json_object(sidecar_of(path)).get("SyntheticData") is True


def score_in_words(contrast: str, sources: Sequence[str], score: Score) -> str:
    """`FLAIR from T1, T2: PSNR 23.1 dB on 5 held-out patients`."""
    return f"{contrast} from {', '.join(sources)}: PSNR {score.text()} on {score.held_out()}"
