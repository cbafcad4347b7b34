"""Measures the memory and time of a training with real steps (`gantk run --try`), and tries
settings that need less memory.

No formula is used, because memory depends on kernels, allocators and memory layouts. Each trial
runs in its own process: its peak is measured separately, and lack of memory ends only the trial.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.data.recipe_data import checked_recipe
from gantk.errors import GantkError, UserError, count_noun
from gantk.machine.device import choose
from gantk.machine.usage import free_memory, peak_memory
from gantk.recipe.load import Recipe, Settings, resolved
from gantk.terminal import duration
from gantk.training.memory import cost_of, is_out_of_memory, lighter, most_memory

if TYPE_CHECKING:
    from gantk.machine.runtime import Runtime
    from gantk.recipe.tables import CheckedRecipe

STEPS_PER_STAGE = 3  # steps of each stage; the first one, which loads and compiles, is not timed
# bytes below the limit at which starting a library or a thread may already fail
SPARE_BYTES = 128 * 2**20
PROGRESS = "progress "  # begins the child's lines that are shown while it works
WARNING = "warning "  # begins the child's warnings about the data


@dataclass(frozen=True)
class Trial:
    """Memory and time of a training on this machine, measured with three steps of each stage.

    Attributes:
        fits: whether the training fits into the memory.
        device: the device of the trial.
        available_gib: free memory before the trial, in GiB.
        peak_gib: peak memory in GiB: of the process on a CPU, of its tensors on a GPU.
        step_s: seconds per step at the size of the last stage.
        hours: time for all steps, without samples, scores and checkpoints.
        images_per_s: images per second at the size of the last stage.
        settings: the `--set` texts of this trial.
        ways: trials of settings that need less memory, if this one did not fit.
        counted: the lower bound of the memory, in words. If it exceeds the memory, no step was run.
    """

    fits: bool
    device: str
    available_gib: float | None
    peak_gib: float | None = None
    step_s: float | None = None
    hours: float | None = None
    images_per_s: float | None = None
    settings: tuple[str, ...] = ()
    ways: tuple[Trial, ...] = ()
    counted: str = ""

    def lines(self) -> Iterator[str]:
        """Yield the result as lines for a terminal."""
        if self.counted:
            yield f"counted  {self.counted} (without activations)"

        free = f"{self.available_gib:.1f} GiB free" if self.available_gib else ""
        if self.peak_gib is not None:
            memory = f"{self.peak_gib:.2f} GiB" + (f" of {free}" if free else "")
        elif self.fits:
            memory = "unknown"
        else:
            memory = f"more than the {free}" if free else "too much"
        yield f"memory   {memory} on {self.device}" + ("" if self.fits else ": it does not fit")
        if self.step_s is not None and self.hours is not None:
            yield f"step     {1000 * self.step_s:.0f} ms, {self.images_per_s:.1f} images/s"
            yield f"training {duration(3600 * self.hours)} in total, without samples and scores"

        for way in self.ways:
            if way.fits and way.step_s is not None:
                took = f"{way.peak_gib:.2f} GiB, {1000 * way.step_s:.0f} ms per step"
            else:
                took = "does not fit either"
            yield f"with     {' '.join(f'--set {each}' for each in way.settings)}: {took}"


def predict(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    data: Any = None,
    set: Settings = (),
    profile: str | None = None,
    device: str | None = None,
    memory: float | None = None,
    say: Callable[[str], None] | None = None,
) -> Trial:
    """Measure memory, time per step and hours of a training with three real steps; no file is
    written.

    Example:

        trial = gantk.predict("dualgan_t1t2", data="SCANS")
        trial.fits, trial.peak_gib, trial.hours

    Args:
        recipe, data, set, profile, device: as in `gantk.run`.
        memory: memory in GiB that may be used on a CPU. Default: the free memory.
        say: called with a line of output when a trial, a stage or a long step begins. Default: no
            output.

    Returns:
        The trial. If the training does not fit, `ways` holds trials of settings that need less
        memory, up to the first that fits.

    Raises:
        UserError: the recipe or its data are wrong.
    """
    loaded, model = checked_recipe(recipe, data, set, profile)
    if device is not None:
        choose(device)  # UserError where it is missing or cannot compute

    warn = say is not None
    say = say or (lambda line: None)
    trial = _in_child(loaded, (), device, memory, say, warn=warn)
    ways = []
    if not trial.fits:
        say("trial    the training does not fit; settings that need less memory are tried")

    for settings in () if trial.fits else lighter(model, trial.device):
        with suppress(UserError):  # networks that do not take so small an image
            ways.append(_in_child(loaded, settings, device, memory, say, warn=False))
            if ways[-1].fits:
                break

    return replace(trial, ways=tuple(ways))


def _in_child(
    recipe: Recipe,
    settings: tuple[str, ...],
    device: str | None,
    memory: float | None,
    say: Callable[[str], None] = lambda line: None,
    *,
    warn: bool = False,
) -> Trial:
    """Run one trial in its own process; its UserError or GantkError is raised here.

    `warn`: whether to say what a run would warn of in its data.
    """
    model = recipe.override(settings).check()
    cost = cost_of(model)
    most = memory or (free_memory(device) if device else most_memory())
    if most is not None and cost.gib > most:
        return Trial(False, device or "cpu", most, settings=settings, counted=str(cost))

    changed = "".join(f" with --set {each}" for each in settings)
    say(f"trial    {STEPS_PER_STAGE} steps{changed}; Ctrl-C stops the trial")
    arguments = {"tables": resolved(model), "device": device, "memory": memory, "warn": warn}
    exit_code, lines, failure = _run_child(arguments, say)
    if exit_code < 0:  # killed by the system
        return Trial(False, device or "cpu", memory, settings=settings, counted=str(cost))

    if exit_code > 0:
        raise GantkError(f"the trial failed: {failure or 'no output'}")

    result = json.loads(lines[-1])
    if "what" in result:
        raise UserError(**result)

    return Trial(**result | {"settings": settings, "ways": (), "counted": str(cost)})


def _run_child(arguments: dict[str, Any], say: Callable[[str], None]) -> tuple[int, list[str], str]:
    """Run `main` in a process of its own; returns its exit code, its lines and its last error line.

    The child ends with this process, however this one ends: its standard input closes then.
    """
    # -P: no random.py of the working folder
    command = [sys.executable, "-P", "-m", "gantk.training.trial"]
    lines = []
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # names in its lines may be anything, and the terminal's encoding ASCII
            env=os.environ | {"PYTHONIOENCODING": "utf-8:surrogateescape"},
            encoding="utf-8",
            errors="surrogateescape",
        ) as child,
    ):
        assert child.stdin is not None and child.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it ended at once; its errors say why
                child.stdin.write(json.dumps(arguments) + "\n")
                child.stdin.flush()
            for line in child.stdout:
                if line.startswith(WARNING):
                    say(line.strip())
                elif line.startswith(PROGRESS):
                    say(f"trial    {line.removeprefix(PROGRESS).strip()}")
                else:
                    lines.append(line)
        except BaseException:
            child.kill()
            raise

        exit_code = child.wait()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [""])[-1]

    return exit_code, lines, last


def _measure(
    tables: dict[str, Any],
    device: str | None,
    memory: float | None,
    warn: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Trial:
    """Run `STEPS_PER_STAGE` steps of every stage in this process."""
    from gantk.machine.runtime import start

    model = Recipe(tables).check()
    runtime = start(device, model.train.precision, model.train.fast.channels_last)
    on_cpu = runtime.device.type == "cpu"
    free = memory or free_memory(runtime.device)
    if on_cpu and free:
        _limit(free)

    try:
        step_s, seconds = _time_stages(model, runtime, warn, say)
    except UserError:
        raise
    except Exception as error:
        if not (is_out_of_memory(error) or _is_at_limit()):
            raise
        return Trial(False, str(runtime.device), free)

    peak = peak_memory(runtime.device)
    fits = peak is None or free is None or peak <= free
    speed = model.train.batch / step_s
    return Trial(fits, str(runtime.device), free, peak, step_s, seconds / 3600, speed)


def _time_stages(
    model: CheckedRecipe, runtime: Runtime, warn: bool, say: Callable[[str], None]
) -> tuple[float, float]:
    """Seconds of a step of the last stage, and of the whole training, from some steps of each."""
    from gantk.data.check.check import warnings_about
    from gantk.training.assemble import assemble, prepare_batches
    from gantk.training.loop import Training

    say("reading the images")
    parts = assemble(model, runtime)
    for line in warnings_about(parts.data) if warn else ():
        say(line)

    prepare_batches(parts)
    training = Training(parts, None)
    engine = parts.engine
    first = 0
    seconds = 0.0
    step_s = 0.0
    for stage in parts.method.stages(engine.steps):
        engine.step = first
        count = min(STEPS_PER_STAGE, stage.steps)
        size = " x ".join(map(str, stage.size))
        say(f"stage '{stage.name}', {size}, batch {model.train.batch}: {count_noun(count, 'step')}")
        took = []
        began = time.perf_counter()
        for _ in islice(engine.fit(training.batch_at), count):
            runtime.synchronize()
            took.append(time.perf_counter() - began)
            began = time.perf_counter()

        step_s = min(took[1:] or took)
        seconds += stage.steps * step_s
        first += stage.steps

    training.parts.batches.close()
    return step_s, seconds


def _limit(gib: float) -> None:
    """Make allocations beyond `gib` fail in this process, before the system kills some process."""
    with suppress(ImportError, ValueError, OSError):  # Windows; a stricter limit is in force
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (round(gib * 2**30),) * 2)


def _is_at_limit() -> bool:
    """Whether this process is within `SPARE_BYTES` of its limit: any failure is then taken as lack
    of memory.

    A refused allocation has many symptoms: a library that cannot be mapped or seems broken, or a
    thread that cannot be started.
    """
    with suppress(ImportError, OSError, KeyError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        return (
            limit != resource.RLIM_INFINITY
            and limit - 1024 * int(status["VmData"].split()[0]) < SPARE_BYTES
        )

    return False


def _end_with_parent() -> None:
    """End this process when its standard input closes: its parent has ended, perhaps killed."""
    sys.stdin.read()
    os._exit(1)


def _print_progress(line: str) -> None:
    """Print what begins now, or a warning."""
    print(line if line.startswith(WARNING) else f"{PROGRESS}{line}", flush=True)


def main() -> None:
    """The child process: reads arguments as a line of JSON from standard input, prints progress,
    and the result as JSON in its last line.
    """
    arguments = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = asdict(_measure(**arguments, say=_print_progress))
    except UserError as error:
        answer = {name: getattr(error, name) for name in ("what", "where", "allowed", "remedy")}
    print(json.dumps(answer), flush=True)
    os._exit(0)  # the thread that waits for the parent holds standard input


if __name__ == "__main__":
    main()
