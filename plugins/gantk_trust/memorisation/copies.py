"""Saves the generated images nearest to training images in memorisation.json and shows them in the
report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk import ReportSection
from gantk.metrics.intervals import metric_score
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
    """Add `membership_d` and the alarm to the result, and write memorisation.json."""
    scores = results.metrics["image"]
    letter = metric.data.letters[0]
    train = metric.training()
    test = scorer.reals.sets(letter, tuple(scorer.method.geometry.size))[1]
    network = getattr(scorer.method, "discriminator", None)
    if network is not None and not scorer.method.conditional and "membership" in scores:
        low, high = scorer.data.range
        told = [
            _discriminator_scores(network, (group.images + low).clamp(low, high), scorer)
            for group in (train, test)
        ]
        score = metric.told_apart(*told, train, test, scores["membership"].definition)
        scores["membership_d"] = metric_score(metric, score, score.n, score.definition)

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
    for end in ("", "_features"):
        copied = scores.get(f"copied{end}", Score())
        ratio = scores.get(f"distance_ratio{end}", Score())
        if copied.value is None or copied.value <= MAX_COPIED:
            continue
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


@torch.no_grad()
def _discriminator_scores(network: Any, images: Tensor, scorer: Any) -> np.ndarray:
    """The discriminator's score of each image: its mean logit over patches."""
    parts = images.to(scorer.runtime.device).split(scorer.batch)
    return torch.cat([network(part).float().flatten(1).mean(1) for part in parts]).cpu().numpy()


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
