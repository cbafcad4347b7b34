"""The speed of a training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median

from gantk.runs.results import Speed
from gantk.runs.schemas import LogLine


def speed_of(log: Sequence[LogLine], used: Speed) -> Speed:
    """Speed of a training, from log.jsonl and usage.json; empty if nothing was logged."""
    points = [
        (line.step, line.seconds, line.images_per_s)
        for line in log
        if line.seconds is not None and line.images_per_s is not None
    ]
    if not points:
        return Speed()

    spans = [
        (step - first, later - began)
        for (first, began, _), (step, later, _) in itertools.pairwise([(0, 0.0, 0.0), *points])
    ]
    steps, seconds, _ = points[-1]
    return Speed(
        images_per_s=round(median(speed for *_, speed in points), 2),
        seconds=seconds,
        steps=steps,
        step_seconds=[round(span / count, 6) for count, span in spans if count > 0],
        first_step_s=used.first_step_s,
        peak_memory_gib=used.peak_memory_gib,
    )
