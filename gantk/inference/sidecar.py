"""What a generated image of a patient is made of: a JSON file beside it, and a line for the user."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gantk import __version__
from gantk.errors import UserError, count_noun
from gantk.files import read_file, write_file
from gantk.formats.files import sidecar_of


def write_sidecar(
    path: Path,
    contrast: str,
    sources: Mapping[str, Path],
    model: Mapping[str, str],
    score: Mapping[str, Any] | None,
) -> None:
    """Write the JSON file beside an image, with the keys of a BIDS derivative's.

    Args:
        path: the image.
        contrast: what it shows.
        sources: the image of each contrast that it is made of.
        model: as of `TrainedModel.identity`.
        score: the PSNR of such images on held-out patients, as in metrics.json; None if unknown.
    """
    folder = path.absolute().parent
    places = [os.path.relpath(source.absolute(), folder) for source in sources.values()]
    by = f"{model['name']}, weights sha256 {model['sha256']}"
    content: dict[str, Any] = {
        "Description": (
            f"{contrast} generated from {', '.join(sources)} by a neural network; not acquired"
        ),
        "SyntheticData": True,
        "Sources": [Path(place).as_posix() for place in places],
        "GeneratedBy": [{"Name": "gantk", "Version": __version__, "Description": by}],
    }
    if model.get("limits"):
        content["Limits"] = model["limits"]
    if score:
        content["HeldOutPatients"] = {"PSNR": score["value"], "Number": score["n"]}

    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_file(sidecar_of(path), text.encode())


def is_generated(path: Path) -> bool:
    """Whether the JSON file beside an image says that gantk generated the image."""
    try:
        content = json.loads(read_file(sidecar_of(path)))
    except (OSError, ValueError, UserError):  # none, or no JSON file of gantk's
        return False
    return isinstance(content, dict) and content.get("SyntheticData") is True


def score_in_words(contrast: str, sources: Sequence[str], score: Mapping[str, Any]) -> str:
    """`FLAIR from T1, T2: PSNR 23.1 dB on 5 held-out patients`."""
    patients = count_noun(score["n"], "held-out patient")
    return f"{contrast} from {', '.join(sources)}: PSNR {score['value']:.1f} dB on {patients}"
