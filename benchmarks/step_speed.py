"""Times a training step of a recipe against the same step with other settings, in one process and in
turns, and prints the record as JSON.

    python benchmarks/step_speed.py dualgan_t1t2                      # against all of train.fast off
    python benchmarks/step_speed.py pix2pix_t1t2 --against train.fast.kernels=false --seconds 60

The batch of noise is already on the device: reading and augmentation are not timed. Each side takes
one turn a round, in reverse order every other round, so that other load on the machine falls on both
alike. The ratio is the median over rounds of the ratio within a round, with a bootstrap 95 % interval.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.machine import device as machine
from gantk.machine.runtime import describe
from gantk.recipe.load import load_recipe
from gantk_bench.harness import RecipeStep, synchronize
from gantk_bench.rows import commit

PLAIN = ("train.fast=false", 'train.precision="fp32"')  # everything switched off
WARM_UP_STEPS = 2  # untimed steps first: memory is allocated, kernels are chosen
ROUNDS = (4, 60)  # fewest rounds for an interval, and most rounds
MIN_SAMPLE_SECONDS = 0.25  # so that the clock's resolution does not matter
MAX_STEPS_PER_SAMPLE = 20
BOOTSTRAP_DRAWS = 2000


def take_turn(step: RecipeStep, steps: int) -> float:
    """Mean seconds of `steps` steps, after one in which freed memory is handled as its recipe says."""
    machine.keep_memory(step.keeps_memory)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # no side reuses memory that the other has kept
    step()
    synchronize(step.device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(step.device)
    return (time.perf_counter() - began) / steps


def take_turns(sides: Sequence[RecipeStep], seconds: float) -> list[list[float]]:
    """Seconds per step of every side, one sample a round: at least four rounds, about `seconds` in
    all.
    """
    guess = [take_turn(side, WARM_UP_STEPS + side.settling) for side in sides]
    steps = int(np.clip(MIN_SAMPLE_SECONDS / max(guess), 1, MAX_STEPS_PER_SAMPLE))
    rounds = int(np.clip(seconds / (steps * sum(guess)), *ROUNDS))
    samples: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            samples[side].append(take_turn(sides[side], steps))
    return samples


def ratio(longer: Sequence[float], shorter: Sequence[float]) -> dict[str, Any]:
    """The median over rounds of longer / shorter, with a bootstrap 95 % interval."""
    ratios = np.asarray(longer) / np.asarray(shorter)
    draws = np.random.default_rng(0).choice(ratios, (BOOTSTRAP_DRAWS, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "ci95": [float(low), float(high)]}


def main() -> None:
    cli = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    setting = {"action": "append", "metavar": "KEY=VALUE", "default": []}
    cli.add_argument("recipe", metavar="RECIPE[@PROFILE]")
    cli.add_argument("--set", **setting, help="of both sides; repeatable")
    cli.add_argument("--against", **setting, help=f"of the other side; default {' '.join(PLAIN)}")
    cli.add_argument("--seconds", type=float, default=60.0, help="of timed steps")
    cli.add_argument("--device", help="cpu, cuda, cuda:1; default the best there is")
    options = cli.parse_args()
    name, _, profile = options.recipe.partition("@")
    recipe = load_recipe(name).override([], profile or None)
    against = options.against or [*PLAIN]
    sides = [
        RecipeStep.build(recipe, [*options.set, *own], options.device) for own in ([], against)
    ]
    one, other = take_turns(sides, options.seconds)
    for side in sides:
        side.engine.check_finite("")  # computing with NaN or infinity may take another time
    record = {
        "date": date.today().isoformat(),
        "recipe": options.recipe,
        "set": options.set,
        "against": against,
        "git": commit(),
        "machine": describe(sides[0].engine.runtime),
        "seconds_per_step": one,
        "seconds_per_step_against": other,
        "ratio": ratio(other, one),
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    try:
        main()
    except GantkError as error:
        sys.exit(f"error: {error}")
