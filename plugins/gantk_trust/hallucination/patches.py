"""Saves the most suspicious patches of the test images in hallucinations.json, and shows them in
the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import RootModel

from gantk import ReportSection
from gantk.metrics.evaluate import Tested
from gantk.report.pictures import enlarged_preview
from gantk.runs.folder import RunFolder
from gantk.runs.results import Part, Step, Table
from gantk.runs.schemas import Preview
from gantk_trust.hallucination.sfrc import against_truth, candidates, planes

MAX_LISTED_PATCHES = 20  # per direction
MAX_DRAWN_PATCHES = 4
REACH_PIXELS = 16  # pixels drawn on each side of a patch's centre
KINDS = ("input", "output", "truth")


class Patch(Table):
    """A suspicious patch of a test image."""

    patient: str
    image: Step = 0
    row: Step
    column: Step
    plane: Step = 0
    score: float
    pictures: dict[str, Preview] = {}


class Patches(RootModel[dict[Part, list[Patch]]]):
    """The content of hallucinations.json."""


def keep(run: Path, tested: dict[str, Tested]) -> None:
    """Write hallucinations.json: for each direction the patches that differ most from the truth,
    the worst first.
    """
    found = {direction: _patch_rows(one) for direction, one in tested.items()}
    RunFolder(run).write_json("hallucinations.json", found)


def _patch_rows(one: Tested) -> list[dict[str, Any]]:
    low, high = one.data.range
    images = [planes(each) for each in (one.inputs, one.made, one.references.images)]
    _, made, truth = images
    depth = len(made) // len(one.made)
    rows = []
    found = against_truth(made, truth, high - low)
    for patch in candidates(found, MAX_LISTED_PATCHES, REACH_PIXELS // 2):
        number, plane = divmod(patch["image"], depth)
        record = one.pairs[number][one.to]
        patch["patient"] = record.subject or record.key
        patch["image"] = number
        patch["plane"] = plane
        patch["score"] = round(patch["score"], 4)
        if len(rows) < MAX_DRAWN_PATCHES:
            pictures = {}
            for kind, each in zip(KINDS, images, strict=True):
                gray = each[number * depth + plane].mean(0).numpy()
                share = (gray - low) / (high - low)
                pictures[kind] = _picture(share, patch["row"], patch["column"])
            patch["pictures"] = pictures

        rows.append(patch)

    return rows


def _picture(image: np.ndarray, row: int, column: int) -> str:
    """Cut out the surroundings of a pixel of an image (H, W, 0 to 1), black beyond the border; an
    enlarged data URI.
    """
    padded = np.pad(image, REACH_PIXELS)[
        row : row + 2 * REACH_PIXELS + 1, column : column + 2 * REACH_PIXELS + 1
    ]
    return enlarged_preview(padded, 5)


@dataclass(frozen=True, kw_only=True)
class PatchesSection(ReportSection):
    """The section `Suspicious patches`."""

    patches: dict[str, list[Patch]]  # by direction in words


def section(record) -> PatchesSection | None:
    """The section of the report; None where no patches were saved."""
    found = record.read("hallucinations.json", Patches)
    by_direction = found.root if found else {}
    patches = {record.label(key): rows for key, rows in by_direction.items() if rows}
    if not patches:
        return None
    return PatchesSection(
        folder=Path(__file__).parent,
        template="patches.html.j2",
        styles=("patches.css",),
        patches=patches,
    )
