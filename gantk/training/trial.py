"""Measures the memory and time of a training with real steps, in this process (`gantk run --try`).

Memory depends on kernels, allocators and memory layouts, so it is measured. Only what weights,
batches and image pools need at least is computed beforehand, and refused where it is too much.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from gantk.data.check.check import warnings_about
from gantk.data.recipe_data import checked_recipe
from gantk.errors import count_noun
from gantk.formats.files import listed_once
from gantk.guest import Say
from gantk.machine.runtime import Runtime, start
from gantk.machine.usage import free_memory, peak_memory
from gantk.progress import Work
from gantk.recipe.load import Recipe, Settings
from gantk.recipe.tables import CheckedRecipe
from gantk.terminal import duration
from gantk.training.assemble import assemble, prepare_batches
from gantk.training.begin import try_outputs
from gantk.training.memory import in_gib, is_out_of_memory, least_memory, lighter

STEPS_PER_STAGE = 4  # steps of each stage; the first one, which loads and compiles, is not timed
MAX_STAGE_S = 15  # seconds of a stage after which two steps are enough


@dataclass(frozen=True)
class Trial:
    """Memory and time of a training on this machine, measured with up to four steps of each stage.

    Attributes:
        fits: whether the training fits into the memory.
        device: the device of the trial.
        available_gib: free memory before the trial, in GiB.
        peak_gib: peak memory in GiB: of this process on a CPU, of its tensors on a GPU.
        step_s: seconds per step at the size of the last stage.
        hours: time for all steps, without samples, scores and checkpoints.
        images_per_s: images per second at the size of the last stage.
        lighter: if it does not fit: `--set` texts that need less memory, the mildest first.
        counted: the lower bound of the memory, in words. If it exceeds the memory, no step was run.
    """

    fits: bool
    device: str
    available_gib: float | None
    peak_gib: float | None = None
    step_s: float | None = None
    hours: float | None = None
    images_per_s: float | None = None
    lighter: tuple[tuple[str, ...], ...] = ()
    counted: str = ""

    def lines(self) -> Iterator[str]:
        """Yield the result as lines for a terminal."""
        if self.counted:
            yield f"counted  {self.counted} (without activations)"

        free = f"{self.available_gib:.1f} GiB free" if self.available_gib else "memory"
        memory = f"more than the {free}"
        if self.peak_gib is not None:
            memory = f"{self.peak_gib:.2f} GiB of {free}"
        yield f"memory   {memory} on {self.device}" + ("" if self.fits else ": it does not fit")
        if self.step_s is not None and self.hours is not None:
            yield f"step     {1000 * self.step_s:.0f} ms, {self.images_per_s:.1f} images/s"
            yield f"training about {duration(3600 * self.hours)}; samples, checkpoints and scores come on top"
            yield "quality  unknown: these steps show only whether and how fast the recipe trains"

        for settings in self.lighter:
            yield f"less     {' '.join(f'--set {each}' for each in settings)}"
        if not self.fits and not self.lighter:
            yield "less     narrower or shallower networks: no batch or size makes it fit"


@listed_once()
def predict(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    data: Any = None,
    set: Settings = (),
    profile: str | None = None,
    device: str | None = None,
    say: Say | None = None,
) -> Trial:
    """Measure memory, time per step and hours of a training with a few real steps; no file is
    written.

    Example:

        trial = gantk.predict("dualgan_t1t2", data="SCANS")
        trial.fits, trial.peak_gib, trial.hours

    Args:
        recipe, data, set, profile, device: as in `gantk.run`.
        say: called with a line of output when a stage or a long step begins. Default: no output.

    Returns:
        The trial. If the training does not fit, `lighter` names settings that need less memory.

    Raises:
        UserError: the recipe or its data are wrong.
    """
    _, model = checked_recipe(recipe, data, set, profile)
    runtime = start(device, model.train.precision, model.train.fast.channels_last)
    free = free_memory(runtime.device)
    least = least_memory(model)
    counted = in_gib(least)
    name = str(runtime.device)
    weights = next(iter(least.values()))
    less = tuple((setting,) for setting in lighter(model, name) if not free or weights <= free)
    too_large = Trial(False, name, free, lighter=less, counted=counted)
    if free is not None and sum(least.values()) > free:
        return too_large

    try:
        with _memory_limit(free if runtime.device.type == "cpu" else None):
            step_s, seconds = _time_stages(model, runtime, say)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return too_large

    return Trial(
        fits=True,
        device=name,
        available_gib=free,
        peak_gib=peak_memory(runtime.device),
        step_s=step_s,
        hours=seconds / 3600,
        images_per_s=model.train.batch / step_s,
        counted=counted,
    )


def _time_stages(model: CheckedRecipe, runtime: Runtime, say: Say | None) -> tuple[float, float]:
    """Seconds of a step of the last stage, and of the whole training, from some steps of each."""
    tell = say or (lambda line: None)
    tell("trial    reading the images; Ctrl-C stops the trial")
    parts = assemble(model, runtime)
    if say:
        for line in warnings_about(parts.data):
            tell(line)
        tell("trial    scoring a few images")
        try_outputs(parts, of_sets=True)

    prepare_batches(parts)
    engine = parts.engine
    first = 0
    seconds = 0.0
    step_s = 0.0
    for stage in parts.method.stages(engine.steps):
        engine.step = first
        count = min(STEPS_PER_STAGE, stage.steps)
        size = " x ".join(map(str, stage.size))
        about = f"{size}, batch {model.train.batch}: {count_noun(count, 'step')} at most"
        tell(f"trial    stage '{stage.name}', {about}")
        took = []
        began = time.perf_counter()
        with Work(f"timing training steps of {size}"):
            for _ in islice(engine.fit(parts.batch_at), count):
                runtime.synchronize()
                took.append(time.perf_counter() - began)
                began = time.perf_counter()
                if len(took) > 1 and sum(took) > MAX_STAGE_S:
                    break

        step_s = median(took[1:] or took)
        seconds += stage.steps * step_s
        first += stage.steps

    parts.batches.close()
    return step_s, seconds


@contextmanager
def _memory_limit(gib: float | None) -> Iterator[None]:
    """Let allocations of `gib` more than now fail, before the system ends some process (Linux)."""
    before = None
    with suppress(ImportError, ValueError, OSError):  # not on this system; a stricter limit is set
        import resource

        before = resource.getrlimit(resource.RLIMIT_DATA)
        pages_now = int(Path("/proc/self/statm").read_text().split()[5])
        most = pages_now * resource.getpagesize() + round((gib or 0) * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most if gib else before[0], before[1]))
    try:
        yield
    finally:
        if before is not None:
            resource.setrlimit(resource.RLIMIT_DATA, before)
