"""What a training will take before it begins: memory beside what the device has, seconds a step, hours in all.

Memory is counted (see `gantk.costs.budget`), time is measured (see `gantk.costs.step_time`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gantk.costs.budget import Need, Shape, need_of, shape_of
from gantk.costs.step_time import hours_of, step_seconds
from gantk.errors import GantkError
from gantk.machine.allocator import use_allocator
from gantk.machine.runtime import Runtime
from gantk.machine.usage import resident
from gantk.recipe.tables import Model

if TYPE_CHECKING:
    from gantk.training.loop import Training

GIB = 2**30
LOADED = 80 << 20  # bytes that torch loads, compiles and keeps in its first steps on a CPU; see benchmarks/memory.py
WORTH = 240.0  # seconds of training from which on a prediction, which takes 5 to 10, is made to compare with
# Bytes of memory for each byte of tensors that live at once, by (train.allocator, train.recompute); measured, see
# benchmarks/memory.py. Where freed memory stays with glibc it leaves gaps, most where blocks come in another order.
SPARE = {("keep", False): 1.55, ("keep", True): 1.8, ("system", False): 1.2, ("system", True): 1.4}
SPARE_CUDA = 1.05  # not measured yet


@dataclass(frozen=True)
class Way:
    """Settings, as `--set` takes them, and the peak in bytes that they lead to."""

    settings: tuple[str, ...]
    peak: int
    fits: bool


@dataclass(frozen=True)
class Forecast:
    """What is predicted of a training. Bytes and seconds."""

    need: Need
    process: int  # Python, torch and what they load; 0 where tensors live on a GPU
    capture: int  # copies of the state while a step is recorded as a CUDA graph
    device: str
    available: int | None  # bytes; None: the system does not tell
    step_s: float  # at the largest images
    hours: float | None  # None: the recipe counts in epochs
    timed: str  # how the step was timed, in words
    spare: float  # bytes of memory for each byte of tensors
    ways: tuple[Way, ...] = ()  # what would lower the peak, where it does not fit

    @property
    def peak(self) -> int:
        """Bytes at the peak: what `peak_memory_gib` of usage.json measures."""
        return round(self.process + self.capture + self.need.total * self.spare)

    @property
    def fits(self) -> bool:
        return self.available is None or self.peak <= self.available

    def state(self) -> dict[str, Any]:
        """For usage.json, metrics.json and --json: GiB, seconds, hours."""
        parts = {f"{name}_gib": value / GIB for name, value in asdict(self.need).items() if name != "flops"}
        return {
            "peak_memory_gib": self.peak / GIB,
            "step_s": self.step_s,
            "hours": self.hours,
            "timed": self.timed,
            "process_gib": self.process / GIB,
            "capture_gib": self.capture / GIB,
            "memory_per_tensor": self.spare,
            **parts,
            "tflops_per_step": self.need.flops / 1e12,
            "device": self.device,
            "available_gib": None if self.available is None else self.available / GIB,
            "fits": self.fits,
            "ways": [{"set": list(w.settings), "peak_memory_gib": w.peak / GIB, "fits": w.fits} for w in self.ways],
        }


def forecast(
    model: Model, runtime: Runtime, *, process: int | None = None, shape: Shape | None = None
) -> Forecast:
    """What a training of this recipe takes here; UserError where the recipe does not fit itself.

    `process`: bytes that the process has without any tensors of the training; None: what this one has now. `shape`:
    what is known of the data; None: what the recipe tells.
    """
    shape, device = shape or shape_of(model), runtime.device.type
    available = memory_of(runtime.device, shared=process is not None)
    process = LOADED + (process or resident() or 0)
    use_allocator(model.train.allocator, device)  # as a training has it
    need = need_of(model, runtime, shape=shape)
    capture = 2 * need.state if device == "cuda" and model.train.capture == "auto" else 0
    seconds, how = step_seconds(model, runtime, need, shape, available)
    hours = hours_of(model, runtime, need, seconds, shape)
    process = 0 if device == "cuda" else process
    return Forecast(need, process, capture, device, available, seconds, hours, how, spare_of(model, device))


def spare_of(model: Model, device: str) -> float:
    """Bytes of memory for each byte of tensors."""
    return SPARE[model.train.allocator, model.train.recompute] if device == "cpu" else SPARE_CUDA


def look_back(training: Training) -> None:
    """Put beside what a training used what would have been predicted of it, after a training that was long enough."""
    if training.seconds < WORTH:
        return
    parts = training.parts
    shape = Shape(parts.data.channels, parts.data.classes, parts.data.range)
    try:
        found = forecast(parts.model, parts.runtime, process=training.used.process, shape=shape)
    except (GantkError, RuntimeError, ValueError) as error:  # no reason to lose what was trained
        training.run.log({"step": training.engine.step, "note": f"no prediction to compare with: {error}"})
        return
    said = {"peak_memory_gib": found.peak / GIB, "step_s": found.step_s, "timed": found.timed}
    training.run.write_json("usage.json", training.run.usage() | {"predicted": said})


def memory_of(device: torch.device, shared: bool = False) -> int | None:
    """Bytes that a process may have on the device: a GPU's memory, or what the system can give now.

    `shared`: what this process holds already is in use, and does not count.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] if shared else torch.cuda.get_device_properties(device).total_memory
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return free if shared else free + (resident() or 0)
