"""Some steps of a training traced with torch.profiler: a trace to look at, and what the time went to in words.

What a step consists of is marked with named ranges while it is traced. They are laid around the methods of one
training's own objects, and taken away again: a training that is not traced pays nothing for them, and one that is
computes the same bits.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from gantk.costs import step_costs as ranges
from gantk.costs.step_advice import Facts, lines, summary
from gantk.errors import UserError
from gantk.files import write_file
from gantk.machine.runtime import Runtime, describe
from gantk.training.accelerate.cuda_graph import WARM_UP

if TYPE_CHECKING:
    from gantk.training.loop import Training

SETTLING = 3  # steps before anything is timed: memory is claimed, kernels are chosen, readers fill their queues
PACED = 2  # steps timed without tracing, to say how much longer tracing makes them
FOLDER = "profile"


def check_steps(count: int, left: int, runtime: Runtime) -> None:
    """UserError where a training of `left` more steps is too short for `count` traced ones."""
    first = _untraced(runtime)
    if count < 1:
        raise UserError(f"{count} is no number of steps", where="--profile-steps", allowed="1 or more")
    if left < first + count:
        what = f"{count} traced steps come after {first} others, and this training has {left}"
        raise UserError(what, where="--profile-steps", remedy=f"set train.steps to {first + count} or more")


class Profile:
    """Traces `count` steps of a training, once it has settled, and writes FOLDER into its run folder.

    `watch` is entered around the training's loop; where `due(step)`, `turn(step)` is called behind that step, and gives
    the lines to print once all is written.
    """

    def __init__(self, count: int):
        self.count = count
        self._tracer: profile | None = None

    @contextmanager
    def watch(self, training: Training):
        """Ready to trace from here on; whatever happens, nothing of it is left behind."""
        self._training, self.runtime = training, training.runtime
        self._first = training.engine.step + _untraced(training.runtime)
        self._apart = self._paced = 0.0
        with ExitStack() as marks:
            self._mark(marks)
            try:
                yield
            finally:
                if self._tracer is not None:
                    self._end()

    def due(self, step: int) -> bool:
        """Whether there is something to do after this step."""
        return step in (self._first - PACED, self._first, self._first + self.count)

    def turn(self, step: int) -> list[str]:
        """Begin, or end and write: to be called with all work of the device finished."""
        if step == self._first - PACED:
            self._apart, self._began = 0.0, time.perf_counter()
        elif step == self._first:
            self._paced = (time.perf_counter() - self._began - self._apart) / PACED
            self._begin()
        else:
            return self._written(self._end())
        return []

    def _begin(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self.runtime.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        else:
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it prints that there is no GPU
        self._tracer = profile(activities=activities, record_shapes=True, acc_events=True)
        self._tracer.start()
        self._hooks = self._name_modules()
        self._before = processor_use()
        self._steps = record_function(ranges.MARK + ranges.STEPS)
        self._steps.__enter__()

    def _end(self) -> profile:
        self.runtime.synchronize()
        self._steps.__exit__(None, None, None)
        self._spent = [now - before for now, before in zip(processor_use(), self._before, strict=True)]
        for hook in self._hooks:
            hook.remove()
        tracer, self._tracer = self._tracer, None
        tracer.stop()
        return tracer

    def _written(self, tracer: profile) -> list[str]:
        """The trace and its summary in the run folder; the summary in lines."""
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "trace.json"
            tracer.export_chrome_trace(str(file))
            content = file.read_bytes()
        folder = self._training.run.path / FOLDER
        folder.mkdir(exist_ok=True)
        path = write_file(folder / "trace.json.gz", gzip.compress(content, 5))
        found = ranges.costs(json.loads(content)["traceEvents"], self.count)
        facts = self._facts()
        machine = describe(self.runtime)
        self._training.run.write_json(f"{FOLDER}/summary.json", summary(found, facts) | {"machine": machine})
        return [*lines(found, facts), f"trace    {path}: open it at ui.perfetto.dev or chrome://tracing"]

    def _facts(self) -> Facts:
        training, (user, system, faults) = self._training, self._spent
        return Facts(
            table=training.table,
            workers=training.parts.model.data.workers,
            device=self.runtime.device.type,
            precision=self.runtime.precision,
            world=self.runtime.world,
            untraced=self._paced,
            notes=tuple(training.engine.notes),
            threads=torch.get_num_threads(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            system=system / max(1e-9, user + system),
            faults=faults / self.count,
        )

    # ---- marks

    def _mark(self, marks: ExitStack) -> None:
        training, engine = self._training, self._training.engine
        self._around(marks, training, "_batch_at", ranges.PREPARE)
        self._around(marks, training.parts.batches, "at", ranges.WAIT)
        self._around(marks, training, "_log", ranges.LOGGING)
        self._around(marks, training, "_samples", ranges.APART)
        self._around(marks, training, "_save", ranges.APART)
        self._around(marks, engine, "_closure", ranges.LOSSES)
        for name, optimizer in engine.optimizers.items():
            self._around(marks, optimizer, "step", ranges.PHASE + name)
        if engine.ema is not None:
            self._around(marks, engine.ema, "average_in", ranges.AVERAGE)
        plain = list(engine.phases)
        engine.phases[:] = [replace(p, loss=self._ranged(p.loss, ranges.FORWARD)) for p in plain]
        marks.callback(engine.phases.__setitem__, slice(None), plain)

    def _around(self, marks: ExitStack, owner: Any, name: str, label: str) -> None:
        """Shadow a method of one object by the same with a range around it."""
        before = vars(owner).get(name)
        marks.callback(delattr, owner, name) if before is None else marks.callback(setattr, owner, name, before)
        setattr(owner, name, self._ranged(getattr(owner, name), label))

    def _ranged(self, function: Callable, label: str) -> Callable:
        def ranged(*args, **kwargs):
            began = time.perf_counter()
            try:
                if self._tracer is None:
                    return function(*args, **kwargs)
                with record_function(ranges.MARK + label):
                    return function(*args, **kwargs)
            finally:
                if label == ranges.APART:
                    self._apart += time.perf_counter() - began

        return ranged

    def _name_modules(self) -> list[Any]:
        """Ranges with the names of the modules that are run through; what takes them away again."""
        paths = {module: path for path, module in self._training.parts.method.named_modules() if path}
        entered: list[record_function] = []

        def enter(module: nn.Module, inputs: Any) -> None:
            if module in paths:
                entered.append(record_function(f"{ranges.MARK}{ranges.MODULE}{paths[module]} {type(module).__name__}"))
                entered[-1].__enter__()

        def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if module in paths:
                entered.pop().__exit__(None, None, None)

        around = nn.modules.module
        before = around.register_module_forward_pre_hook(enter)
        return [before, around.register_module_forward_hook(leave, always_call=True)]


def processor_use() -> tuple[float, float, int]:
    """Of this process so far: seconds of its own code, seconds of the system for it, pages of memory first touched."""
    try:
        import resource
    except ImportError:  # Windows
        return time.process_time(), 0.0, 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime, used.ru_minflt


def _untraced(runtime: Runtime) -> int:
    """Steps that come before the traced ones: on a GPU the first ones are recorded as a graph too."""
    return SETTLING + PACED + (WARM_UP if runtime.device.type == "cuda" else 0)
