"""Time and memory of a training, over its resumes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median
from typing import Any

from gantk.machine.usage import peak_memory
from gantk.runs.results import Speed
from gantk.runs.schemas import LogLine


class Used:
    """Time and memory of a training, over its resumes: usage.json of its run folder.

    `earlier` is that file's content so far.
    """

    def __init__(self, earlier: Speed, device: Any):
        self.earlier = earlier
        self.device = device
        self.first_step = earlier.first_step_s

    def seconds_at(self, step: int, logged: float) -> float:
        """Seconds of training up to a step: saved with its checkpoint, else logged before it."""
        if step and self.earlier.step == step:
            return self.earlier.seconds or logged
        return logged

    def state(self, step: int, seconds: float) -> Speed:
        """The content of usage.json after a step; the peak memory is that of all resumes."""
        peaks = [self.earlier.peak_memory_gib, peak_memory(self.device)]
        return Speed(
            step=step,
            seconds=seconds,
            first_step_s=self.first_step,
            peak_memory_gib=max((peak for peak in peaks if peak is not None), default=None),
        )


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
