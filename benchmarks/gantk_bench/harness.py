"""The harness of all benchmarks: warm-up, rounds in turns, medians and bootstrap intervals,
Markdown and JSON records.

Every side of a comparison takes one turn per round, and the order is reversed every other round, so
that other load on the machine falls on all of them alike. The device is synchronised before and
after each timed stretch. All samples stay in the record: a ratio is the median over rounds of the
ratio within a round, with a bootstrap 95 % interval.
"""

import argparse
import contextlib
import ctypes
import json
import os
import re
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from gantk.data.preparation import contrast_names
from gantk.errors import GantkError
from gantk.files import write_output
from gantk.machine import device as machine
from gantk.machine.runtime import Runtime, describe, start
from gantk.method import Batch, Method, Stage, domain_letters
from gantk.recipe.load import Recipe, load_recipe
from gantk.recipe.tables import FastTable, Model
from gantk.runs.trained import build_method
from gantk.training.accelerate import accelerate
from gantk.training.accelerate.cuda_graph import WARM_UP
from gantk.training.engine import Engine
from gantk_bench.rows import commit, without_paths

T = TypeVar("T")
CPU = torch.device("cpu")
WARM_UP_STEPS = 2  # untimed steps first: memory is allocated, kernels are chosen
ROUNDS = (4, 60)  # fewest rounds for an interval, and most rounds
MIN_SAMPLE_SECONDS = 0.25  # so that the clock's resolution does not matter
MAX_STEPS_PER_SAMPLE = 20
BOOTSTRAP_DRAWS = 2000
TRAINING_STEPS = 100_000  # so long that schedules are at their beginning
# label -> setting that switches one part of the fast path off
SWITCHES = {"without bf16": 'train.precision="fp32"'} | {
    f"without {name}": f"train.fast.{name}=false" for name in FastTable.model_fields
}
# no effect on other devices
ONLY = {
    "cpu": ("kernels", "keep_memory"),
    "cuda": ("cuda_graph", "benchmark", "pin"),
}
OPTIONS: dict[str, dict[str, Any]] = {  # of the command lines
    "device": {"help": "cpu, cuda, cuda:1; default %(default)s (None: the best there is)"},
    "set": {"action": "append", "metavar": "KEY=VALUE", "help": "over the recipe; repeatable"},
    "rounds": {"type": int, "help": "default %(default)s"},
    "seconds": {"type": float, "help": "of timed steps for a case; default %(default)g"},
}
PLAIN = ("train.fast=false", 'train.precision="fp32"')  # everything switched off

_keeps_memory = False  # current state of this process


def switches(device: torch.device) -> dict[str, tuple[str]]:
    """label -> (setting,) that switches one part of the fast path; only the parts with an effect on
    this device.
    """
    elsewhere = {name for kind, names in ONLY.items() if kind != device.type for name in names}
    return {
        label: (setting,)
        for label, setting in SWITCHES.items()
        if label.split()[1] not in elsewhere
    }


def keep_memory(keep: bool) -> bool:
    """Handle freed memory as train.fast.keep_memory = `keep` does; returns whether that changes the
    current state.

    On a change all free memory is returned to the system, so that no side reuses memory that
    another has kept.
    """
    global _keeps_memory
    machine.keep_memory(keep)
    changed = keep != _keeps_memory
    _keeps_memory = keep
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if changed else None
    if trim is not None:
        trim(0)
    return changed


class Turn:
    """One side of a comparison: times `step`, with the device synchronised before and after.

    `keep`: whether this side keeps freed memory. `settling`: untimed steps before its first turn,
    such as those before a CUDA graph is captured. `digest`: hash of the side's batches; sides with
    different ones cannot be compared.
    """

    digest = ""

    def __init__(
        self,
        step: Callable[[], object],
        device: torch.device = CPU,
        keep: bool = False,
        settling: int = 0,
    ):
        self.step = step
        self.device = device
        self.keep = keep
        self._settling = settling

    def settle(self) -> None:
        """Take untimed steps: before the first turn, and one whenever the side before handled
        memory differently.
        """
        changed = keep_memory(self.keep)
        for _ in range(max(int(changed), self._settling)):
            self.step()
        self._settling = 0

    def calls(self, steps: int) -> list[Callable[[], object]]:
        """The calls that one sample times; preparing them here is not timed."""
        return [self.step] * steps

    def take(self, steps: int = 1) -> float:
        """Take `steps` steps; returns their mean time in seconds."""
        calls = self.calls(steps)
        synchronize(self.device)
        began = time.perf_counter()
        for call in calls:
            call()
        synchronize(self.device)
        return (time.perf_counter() - began) / steps


def in_turns(ways: dict[str, Callable[[], T]], rounds: int, warm: int = 0) -> dict[str, list[T]]:
    """name -> results of its calls, one per round; each round calls every function, every other one
    in reverse.
    """
    for way in ways.values():
        for _ in range(warm):
            way()
    samples: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(ways):
            samples[name].append(ways[name]())
    return samples


def take_turns(turns: dict[str, Turn], seconds: float = 40.0) -> dict[str, list[float]]:
    """name -> samples in seconds per step, one per round: at least four rounds, about `seconds` in
    all.

    Raises GantkError if the sides received different batches.
    """
    guess = {}
    for name, turn in turns.items():
        turn.settle()
        guess[name] = [turn.take() for _ in range(WARM_UP_STEPS)][-1]
    steps = int(np.clip(MIN_SAMPLE_SECONDS / max(guess.values()), 1, MAX_STEPS_PER_SAMPLE))
    rounds = int(np.clip(seconds / (steps * max(1e-9, sum(guess.values()))), *ROUNDS))

    def sample(turn: Turn) -> float:
        turn.settle()
        return turn.take(steps)

    samples = in_turns(
        {name: lambda turn=turn: sample(turn) for name, turn in turns.items()}, rounds
    )
    if len({turn.digest for turn in turns.values()}) > 1:
        raise GantkError(
            "the sides were handed different batches, so their times cannot be compared"
        )
    return samples


def ratio(longer: Sequence[float], shorter: Sequence[float]) -> dict[str, Any]:
    """The median over rounds of longer / shorter, with a bootstrap 95 % interval."""
    ratios = np.asarray(longer) / np.asarray(shorter)
    draws = np.random.default_rng(0).choice(ratios, (BOOTSTRAP_DRAWS, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {
        "median": float(np.median(ratios)),
        "ci95": [float(low), float(high)],
        "rounds": len(ratios),
    }


def interval_text(value: float, ends: Sequence[float] | None, places: int = 2) -> str:
    """`1.42 [1.39, 1.57]`, or the value alone where there is no interval."""
    text = f"{value:.{places}f}"
    if not ends:
        return text
    low, high = ends
    return f"{text} [{low:.{places}f}, {high:.{places}f}]"


def ratio_text(found: dict[str, Any] | None) -> str:
    """A ratio as text: `1.42 [1.39, 1.57]`; "" for None."""
    return interval_text(found["median"], found["ci95"]) if found else ""


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def samples(
    work: Callable[[], object],
    device: torch.device = CPU,
    *,
    seconds: float = 1.0,
    least: int = 5,
    most: int = 50,
) -> list[float]:
    """Seconds of single calls, back to back: as many as fit into `seconds`, from `least` to `most`.
    No warm-up.

    On a GPU they are measured by events on the stream: waiting after each call would hide that
    Python runs ahead.
    """

    def timed(count: int) -> list[float]:
        if device.type != "cuda":
            return [Turn(work, device).take() for _ in range(count)]
        torch.cuda.synchronize(device)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            work()
            event.record()
        torch.cuda.synchronize(device)
        return [
            first.elapsed_time(second) / 1e3
            for first, second in zip(events[:-1], events[1:], strict=True)
        ]

    pilot = timed(min(3, least))
    count = int(seconds / max(statistics.median(pilot), 1e-9))
    return pilot if least <= len(pilot) >= count else timed(max(least, min(most, count)))


def summary(samples: list[float]) -> dict[str, Any]:
    """The samples, their median, and their interquartile range and 5th to 95th percentile, both
    over the median.
    """
    low, middle, high = statistics.quantiles(samples if len(samples) > 1 else samples * 2, n=4)
    ends = np.percentile(samples, [5, 95])
    spread_90 = float(ends[1] - ends[0]) / middle
    return {
        "samples_s": samples,
        "median_s": middle,
        "spread": (high - low) / middle,
        "spread_90": spread_90,
    }


def reason(error: BaseException) -> str:
    """Class and first line of an error and the place of its origin: `ValueError: no such luck
    (model.py:12)`.
    """
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = without_paths(f"{type(error).__name__}: {first}".rstrip(": "))
    return f"{text[:300]}  ({Path(at.filename).name}:{at.lineno})"


def table(heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    lines = [
        heads,
        ["---"] * len(heads),
        *([str(cell).replace("|", "\\|") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def parser(doc: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with --json, and with those of OPTIONS that are given a default."""
    options = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="the record: machine, command, commit, all samples",
    )
    for name, default in defaults.items():
        options.add_argument(f"--{name}", default=default, **OPTIONS[name])
    return options


def command(arguments: Sequence[str] | None = None) -> str:
    """The command line for the record, with paths shortened to file names."""
    words = sys.argv[1:] if arguments is None else arguments
    plain = [re.sub(r"(^|=)[^=]*/", r"\1", each.rstrip("/")) for each in words]
    return f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(plain)}".strip()


def record(runtime: Runtime, **values: Any) -> dict[str, Any]:
    """A record for JSON: date, command, machine and commit, followed by `values`."""
    machine = describe(runtime) | {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    return {
        "date": date.today().isoformat(),
        "command": command(),
        "machine": machine,
        "git": commit(),
    } | values


def write(file: Path | None, content: dict[str, Any]) -> None:
    """Write the record atomically; does nothing if `file` is None."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_output(file, (json.dumps(content, indent=1, default=float) + "\n").encode())


# ---- a training step of any recipe, on a batch of noise that stays on the device


@dataclass
class RecipeStep:
    """A recipe's engine with one batch; a call takes one training step."""

    model: Model
    engine: Engine
    batch: Batch
    device: torch.device

    @classmethod
    def build(
        cls,
        recipe: str | dict[str, Any] | Recipe,
        settings: Sequence[str] = (),
        device: str | None = None,
    ) -> Self:
        """Build the recipe's method and engine as a training does."""
        loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        model = loaded.override(list(settings)).check()
        runtime = start(device, model.train.precision, model.train.fast.channels_last)
        method, channels = method_of(model, runtime)
        stage = method.stages(TRAINING_STEPS)[-1]  # full image size, without fade-in
        images = noise(model, channels, stage, runtime)
        sets = {letter: batch.float().cpu() for letter, batch in images.items()}
        for letter, companion in method.companions(sets).items():
            near = [companion(index, sets) for index in range(model.train.batch)]
            images[f"near_{letter}"] = runtime.place(torch.stack(near), model.data.dims)
        method.begin(stage, images)
        engine = Engine(method, model.train, TRAINING_STEPS, runtime)
        accelerate(method, runtime, model.train)
        return cls(model, engine, images, runtime.device)

    def __call__(self) -> dict[str, Tensor]:
        """Take one training step as `Engine.fit` does; returns its losses."""
        engine = self.engine
        engine.runtime.seed(engine.table.seed, engine.step)
        losses = engine.train_step(Batch(self.batch))  # a copy, as phases add their fakes to it
        engine.step += 1
        return losses

    def turn(self) -> Turn:
        """This step as a side of a comparison."""
        cpu = self.device.type == "cpu"
        return Turn(
            self,
            self.device,
            cpu and self.model.train.fast.keep_memory,
            0 if cpu else self.settling,
        )

    @property
    def settling(self) -> int:
        """Warm-up steps until every kind of step has been captured as a CUDA graph, where capture
        is possible.
        """
        return (WARM_UP + 1) * max(phase.every for phase in self.engine.phases)

    @property
    def notes(self) -> list[str]:
        """Settings that the step could not apply, with the reasons."""
        engine = self.engine
        notes = list(engine.notes)
        capture = engine.capture
        if capture and not notes and not capture.graphs:
            notes.append(f"not captured: {capture.obstacle}")
        return notes

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.engine.method.parameters())


def method_of(model: Model, runtime: Runtime) -> tuple[Method, dict[str, int]]:
    """(the recipe's method, channels of each domain): one channel for each contrast, two classes
    for labels.

    On a GPU the initial weights are drawn there if the method allows it, which saves seconds.
    """
    table = model.data
    each = (table.channels or 1) * (2 * table.neighbours + 1)
    letters = domain_letters(table.domains)
    channels = {
        letter: each * len(contrast_names(name))
        for letter, name in zip(letters, table.domains, strict=True)
    }
    low, high = table.intensity().range
    arguments = (
        model,
        channels,
        ("0", "1") if table.labels else (),
        (float(low), float(high)),
        runtime,
    )
    if runtime.device.type == "cuda":
        with contextlib.suppress(Exception), runtime.device:
            return build_method(*arguments), channels
    return build_method(*arguments), channels


def noise(model: Model, channels: dict[str, int], stage: Stage, runtime: Runtime) -> Batch:
    """A batch of uniform noise in [-1, 1] at the stage's size, with labels and masks if the recipe
    has them.
    """
    table = model.data
    count = model.train.batch
    batch = Batch()
    for name in model.method.target.reads:
        batch[name] = torch.rand(count, channels[name], *stage.size) * 2 - 1
        if table.mask:
            batch[f"mask_{name}"] = torch.zeros(count, 1, *stage.size)
    placed = Batch({name: runtime.place(image, table.dims) for name, image in batch.items()})
    if table.labels:
        placed["label"] = runtime.place(torch.arange(count) % 2, table.dims)
    return placed
