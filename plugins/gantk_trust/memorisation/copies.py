"""Saves the generated images nearest to training images in memorisation.json and shows them in the
report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gantk import ReportSection
from gantk.report.pictures import enlarged_preview
from gantk.runs.folder import RunFolder
from gantk.runs.results import Results, Score, Table
from gantk.runs.schemas import Preview

# Alarm: `copied` > MAX_COPIED with its whole interval, or with the ratio's < MIN_DISTANCE_RATIO (of
# fewer than six patients, who have no interval, with the ratio itself); or the whole of
# `membership`'s > MAX_MEMBERSHIP.
MAX_COPIED = 0.1
MIN_DISTANCE_RATIO = 0.8
MAX_MEMBERSHIP = 0.6
KINDS = ("made", "training", "held out")


class Case(Table):
    """A generated image beside its nearest training image."""

    ratio: float
    patient: str = ""
    pictures: dict[str, Preview]


class Copies(Table):
    """The content of memorisation.json."""

    cases: list[Case]


def keep(run: Path, results: Results, scorer: Any, metric: Any) -> None:
    """Add the alarm to the result, and write memorisation.json."""
    scores = results.metrics["image"]
    if what := copying(scores):
        results.alarms["image"] = f"{what}: check for copies before you share the model"

    cases = [
        {"ratio": round(one["ratio"], 4), "patient": one["patient"]}
        | {
            "pictures": {
                kind: _picture(x / scorer.span)
                for kind, x in zip(KINDS, one["images"], strict=True)
            }
        }
        for one in metric.nearest
    ]
    RunFolder(run).write_json("memorisation.json", {"cases": cases})


def copying(scores: dict[str, Score]) -> str:
    """What the scores of `memorisation` say of a model that copies its training images, or ""."""
    copied = scores.get("copied", Score())
    ratio = scores.get("distance_ratio", Score())
    if copied.value is not None and copied.value > MAX_COPIED:
        surely = copied.ends is not None and copied.ends[0] > MAX_COPIED
        largest_ratio = ratio.ends[1] if ratio.ends else ratio.value
        nearer = largest_ratio is not None and largest_ratio < MIN_DISTANCE_RATIO
        if surely or nearer:
            return (
                f"{copied.value:.0%} of the generated images are nearer to a training image than"
                " chance explains"
            )

    member = scores.get("membership", Score())
    if member.ends and member.ends[0] > MAX_MEMBERSHIP:
        return (
            "training images are nearer to generated images than held-out images are (AUC"
            f" {member.text()})"
        )

    return ""


def _picture(image: Tensor) -> str:
    """An image (C, *size) in 0..1 as a data URI: mean of the channels, a volume's middle plane."""
    plane = image.float().cpu().mean(0)
    plane = plane[len(plane) // 2] if plane.ndim == 3 else plane
    return enlarged_preview(plane.numpy(), max(1, 128 // len(plane)))


@dataclass(frozen=True, kw_only=True)
class CopiesSection(ReportSection):
    """The section `Nearest training images`."""

    cases: list[Case]


def section(record) -> CopiesSection | None:
    """The section of the report; None where no copies were saved."""
    found = record.read("memorisation.json", Copies)
    if not found:
        return None
    return CopiesSection(
        folder=Path(__file__).parent,
        template="copies.html.j2",
        styles=("copies.css",),
        cases=found.cases,
    )
