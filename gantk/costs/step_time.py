"""How long a step of a recipe takes here: timed on noise, at its own size or at smaller ones.

A few steps are taken at the recipe's own size where that takes seconds, else at two smaller sizes, from which the time
of larger steps follows by what they compute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gantk.costs.budget import Need, Shape, batch_of, build, largest, need_of, same_random_numbers, steps_of
from gantk.errors import GantkError
from gantk.machine.runtime import Runtime
from gantk.recipe.tables import Model
from gantk.training.accelerate.cuda_graph import WARM_UP
from gantk.training.engine import Engine
from gantk.training.loop import plan_of

SECONDS = 4.0  # that a timed step may take, and all of a size together but the second
FIRST, LEAP = 1 / 64, 8  # share of the recipe's pixels that is timed first; how many times as many come next
TIMED = 3  # steps after the first, of which the fastest counts


def smaller(model: Model) -> Iterator[Model]:
    """The recipe with fewer images a step, then with ever smaller ones, as far as its networks can take them."""
    while model.train.batch > 1:
        model = _with(model, "train", batch=model.train.batch // 2)
        yield model
    while min(model.data.size) >= 8:
        sides = {"size": tuple(side // 2 for side in model.data.size)}
        if model.data.patch:
            sides["patch"] = tuple(side // 2 for side in model.data.patch)
        model = _with(model, "data", **sides)
        yield model


def _with(model: Model, table: str, **values: Any) -> Model:
    return model.model_copy(update={table: getattr(model, table).model_copy(update=values)})


def step_seconds(
    model: Model, runtime: Runtime, need: Need, shape: Shape, available: int | None
) -> tuple[float, str]:
    """Seconds of a step of the largest images, and how they were found."""
    trials = _trials(model, runtime, shape)
    timed: list[tuple[Model, float]] = []
    now: Model | None = trials[-1]
    while now is not None:
        timed.append((now, _timed(now, runtime, shape)))
        fit = [t for t in trials if available is None or _share(t, model) * need.total < available / 2]
        now = _next(fit, timed)
    now, seconds = timed[-1]
    if now is model:
        return seconds, "timed at its own size"
    its = need_of(now, runtime, shape=shape).flops
    slope = seconds / max(1.0, its)
    if len(timed) > 1:
        before, fewer = timed[-2]
        steeper = (seconds - fewer) / max(1.0, its - need_of(before, runtime, shape=shape).flops)
        slope = min(max(slope / 2, steeper), slope)  # noise could make it anything
    size = " x ".join(map(str, now.data.patch or now.data.size))
    return seconds + slope * (need.flops - its), f"reckoned from steps of {now.train.batch} at {size}"


def _next(trials: list[Model], timed: list[tuple[Model, float]]) -> Model | None:
    """The largest recipe whose timing is short as far as can be told; None where that is the last one, or none is."""
    last, seconds = timed[-1]
    if len(timed) == 1:  # what it takes however small the images are is not known: no great leap
        within = [t for t in trials if 1 < _share(t, last) <= LEAP and seconds * _share(t, last) <= SECONDS]
        return within[0] if within else None
    before, fewer = timed[-2]
    rise = max(0.0, seconds - fewer) / (1 - _share(before, last))  # seconds for as many pixels as the last one's
    return next(
        (t for t in trials
         if _share(t, last) > 1 and seconds + rise * (_share(t, last) - 1) <= SECONDS),
        None,
    )  # fmt: skip


def _trials(model: Model, runtime: Runtime, shape: Shape) -> list[Model]:
    """The recipe and smaller ones that can be built, largest first."""
    found = [model]
    for trial in smaller(model):
        try:
            with same_random_numbers():
                build(trial, shape, runtime)
        except (GantkError, RuntimeError, ValueError):  # too small for its networks
            break
        found.append(trial)
        if _share(trial, model) <= FIRST:
            break
    return found


def _share(model: Model, of: Model) -> float:
    """How many pixels a step sees, for one of another recipe."""
    seen, whole = (math.prod(each.data.patch or each.data.size) * each.train.batch for each in (model, of))
    return seen / whole


def _timed(model: Model, runtime: Runtime, shape: Shape) -> float:
    """Seconds of a step on noise, the fastest of a few."""
    with same_random_numbers():
        method = build(model, shape, runtime)
        stage = largest(method.stages(steps_of(model)))
        batch = batch_of(model, shape, stage, runtime)
        method.begin(stage, batch)
        engine = Engine(method, plan_of(model.train, steps_of(model)), replace(runtime, rank=0, world=1, ranks=None))
        samples: list[float] = []
        for number in range(1 + TIMED + (WARM_UP + 1 if runtime.device.type == "cuda" else 0)):
            fresh = type(batch)(batch)
            runtime.synchronize()
            began = time.perf_counter()
            engine.train_step(fresh)
            runtime.synchronize()
            samples.append(time.perf_counter() - began)
            if number and sum(samples) > SECONDS:
                break
    return min(samples[1:])


def hours_of(model: Model, runtime: Runtime, need: Need, seconds: float, shape: Shape) -> float | None:
    """Hours of all stages, each step in proportion to what it computes; None where the recipe counts epochs."""
    if model.train.steps is None:
        return None
    with same_random_numbers():
        stages = build(model, shape, runtime).stages(model.train.steps)
    total, of_size = 0.0, {}
    for stage in stages:
        if stage.size not in of_size:
            whole = math.prod(stage.size) == math.prod(largest(stages).size)
            flops = need.flops if whole else need_of(model, runtime, stage, shape).flops
            of_size[stage.size] = flops / max(1.0, need.flops)
        total += stage.steps * of_size[stage.size] * seconds
    return total / 3600

