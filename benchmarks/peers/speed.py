"""Seconds per training step of several sides in one process: warm-up, turns, order swapped, all samples kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from gantk.errors import GantkError
from peers.side import Side

WARM = 2  # steps before anything is timed: memory is claimed, kernels are chosen
ROUNDS = (4, 60)  # the fewest that an interval can be had of, and more than are ever needed
SAMPLE = 0.25  # seconds that one sample should last, so that the clock is no part of it
STEPS = 20  # in a sample, at most
DRAWS = 2000  # bootstrap samples of an interval


class Turn:
    """A side's place in the rounds: hands it clones of the batches in order, and remembers by a hash which."""

    def __init__(
        self,
        side: Side,
        batches: Sequence[dict[str, Tensor]],
        synchronize: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.side, self.batches, self.synchronize, self.clock = side, batches, synchronize, clock
        self.taken, self._digest, self._settled = 0, hashlib.sha256(), False

    def settle(self) -> None:
        """What comes before a turn and is not timed: the first time what the side needs, and a step where memory is
        handled otherwise than in the turn before, so that it is claimed anew outside the timing."""
        changed = self.side.enter()
        for _ in range(max(changed, 0 if self._settled else self.side.settling)):
            self.side.step({name: image.clone() for name, image in self.batches[0].items() if name in ("a", "b")})
        self._settled = True

    def take(self, steps: int = 1) -> float:
        """Mean seconds of so many steps: handing over is outside, bringing the batch to the device inside."""
        handed = [self._hand() for _ in range(steps)]
        self.side.enter()
        self.synchronize()
        began = self.clock()
        for batch in handed:
            self.side.step(batch)
        self.synchronize()
        return (self.clock() - began) / steps

    @property
    def digest(self) -> str:
        """sha256 of every batch that the side was handed, in order."""
        return self._digest.hexdigest()

    def _hand(self) -> dict[str, Tensor]:
        batch = self.batches[self.taken % len(self.batches)]
        handed = {name: batch[name].clone() for name in ("a", "b")}
        for image in handed.values():
            self._digest.update(image.numpy().tobytes())
        self.taken += 1
        return handed


def take_turns(turns: dict[str, Turn], seconds: float = 40.0) -> dict[str, list[float]]:
    """name -> samples in seconds per step.

    Each round takes every side once, in an order that turns around from round to round; all rounds together may take
    about `seconds`, or four rounds where that is more. GantkError where the sides were not handed the same.
    """
    guess = {}
    for name, turn in turns.items():
        turn.settle()
        guess[name] = [turn.take() for _ in range(WARM)][-1]
    steps = int(np.clip(SAMPLE / max(guess.values()), 1, STEPS))
    rounds = int(np.clip(seconds / (steps * max(1e-9, sum(guess.values()))), *ROUNDS))
    samples: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name in list(turns) if number % 2 == 0 else reversed(turns):
            turns[name].settle()
            samples[name].append(turns[name].take(steps))
    if len({turn.digest for turn in turns.values()}) > 1:
        raise GantkError("the sides were handed different batches, so their times cannot be compared")
    return samples


def ratio(longer: Sequence[float], shorter: Sequence[float], seed: int = 0) -> dict[str, object]:
    """How many times as long a step of the first takes: the median over rounds, with a bootstrap 95 % interval."""
    ratios = np.asarray(longer) / np.asarray(shorter)
    draws = np.random.default_rng(seed).choice(ratios, (DRAWS, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "ci95": [float(low), float(high)], "rounds": len(ratios)}
