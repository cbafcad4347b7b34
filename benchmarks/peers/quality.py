"""Held-out scores of sides that were trained on the same batches, for the same number of steps or of seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.machine.runtime import start
from gantk.metrics.evaluate import Scorer
from peers.own import Guest, Own
from peers.side import OTHER, Side
from peers.speed import WARM, Turn

INTERVALS = 20  # stretches of a training whose mean step times are kept
TRIAL = 4  # steps at least that say how long one takes, where seconds are given


@dataclass
class Trained:
    """What a training gave."""

    steps: int
    seconds: float  # of steps alone
    step_seconds: list[float]  # mean of each stretch
    batches: str  # sha256 of all that was handed over


class Stream:
    """A recipe's batches by step, as a sequence without end."""

    def __init__(self, own: Own):
        self.batches = own.parts.batches

    def __len__(self) -> int:
        return 1 << 60

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.batches.at(step)


def train(side: Side, host: Own, steps: int, seed: int) -> Trained:
    """Train a side on the host's batches, timing the steps alone; GantkError where its weights do not stay finite."""
    turn = Turn(side, Stream(host), host.parts.runtime.synchronize)
    fix_seeds(seed)
    edges = np.linspace(0, steps, min(INTERVALS, steps) + 1).round().astype(int)
    counts = [int(count) for count in np.diff(edges)]
    # one batch is handed over at a time: a whole stretch of them would not fit into memory
    times = [sum(turn.take() for _ in range(count)) / count for count in counts]
    side.check_finite()
    spent = sum(mean * count for mean, count in zip(times, counts, strict=True))
    return Trained(steps, spent, times, turn.digest)


def steps_for(side: Side, host: Own, seconds: float) -> int:
    """How many steps fit into `seconds`, by a tenth of them spent on a side that is then thrown away."""
    turn = Turn(side, Stream(host), host.parts.runtime.synchronize)
    turn.take(WARM)
    times = [turn.take() for _ in range(TRIAL)]
    while sum(times) < 0.1 * seconds:
        times.append(turn.take())
    return max(2, round(seconds / median(times)))


def scored(side: Side, host: Own) -> dict[str, Any]:
    """gantk's metrics, baselines and verdict of another side's translations of the host's test split, in fp32."""
    parts = host.parts
    runtime = start(str(parts.runtime.device), "fp32", False)
    return Scorer(host.model, parts.data, Guest(side, parts.method), runtime).test()


def held_out(side: Side, host: Own, to: str) -> tuple[Tensor, Tensor]:
    """(translations, truths) of the test split, (N, C, H, W) in network intensities."""
    data = host.parts.data
    pairs = data.pairs("test")
    sources = torch.stack([data.image(pair[OTHER[to]]) for pair in pairs])
    return side.translate(sources, to).float().cpu(), torch.stack([data.image(pair[to]) for pair in pairs])


def fix_seeds(seed: int) -> None:
    """All global generators: peers draw from any of them."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
