"""Measures a device, its peak rates, and training steps alone and in turns with other toolkits,
task by task.
"""

import contextlib
import gc
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import PLAIN as SWITCHED_OFF
from harness import RecipeStep, Turn, ratio, reason, samples, summary, take_turns
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gantk.machine.runtime import describe, start
from gantk.runs.folder import environment as software
from gantk_bench.rows import commit
from gpu.rows import FAILED, MEMORY, SKIPPED, Row, row
from gpu.tasks import MODES, OWN, PLAIN

EFFORT = {"seconds": 0.6, "least": 3, "most": 40}  # samples of one row
# samples of a step with a target, whose spread is measured
BAR = {"seconds": 1.5, "least": 40, "most": 80}
TINY = {"seconds": 0.0, "least": 2, "most": 2}
TURNS = 8.0  # seconds of steps in turns
WAITS = 20, 2.0  # most steps and seconds in which the host's waits are counted
# asked of nvidia-smi: watts, MHz and degrees Celsius
QUERY = ("power.limit", "power.draw", "clocks.sm", "clocks.mem", "temperature.gpu")
LOADED = 1.5  # seconds of matrix products during which nvidia-smi is asked for clocks and power
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SIDE = 8192  # rows and columns of the matrices
COPIED = 1 << 30  # bytes
# dims -> channels -> (N, *size) of the 3x3(x3) convolutions: as in networks, more channels at
# smaller sizes
SHAPES = {
    2: {64: (32, 256, 256), 128: (32, 128, 128), 256: (32, 64, 64), 512: (32, 32, 32)},
    3: {32: (2, 96, 96, 96), 64: (2, 96, 96, 96), 128: (2, 48, 48, 48)},
}
SYNCHRONIZING = "called a synchronizing CUDA operation"


def measure(task: dict[str, Any], device: str) -> Iterator[Row]:
    """The rows of one task."""
    parts = {"environment": environment, "ceiling": ceilings, "peer": peers}
    yield from parts.get(task["part"], step)(task, device)


def environment(task: dict[str, Any], device: str) -> Iterator[Row]:
    """One row: the machine at rest, or during matrix products if task["when"] is "under load"."""
    place = torch.device(device)
    values = {}
    if place.type == "cuda":
        if task["when"] == "under load":
            _queue_work(LOADED, place)
        values = _gpu_properties(place)
    values |= describe(start(device)) | software() | {key: task[key] for key in ("when", "command")}
    del values["folder"]  # rows reveal no folders of the machine
    yield row("environment", **values, git=commit())


def _gpu_properties(device: torch.device) -> dict[str, Any]:
    """Properties of the GPU from torch and nvidia-smi; selected by UUID, as the two may number GPUs
    differently.
    """
    properties = torch.cuda.get_device_properties(device)
    card = f"GPU-{uuid}" if (uuid := getattr(properties, "uuid", None)) else str(device.index or 0)
    command = [
        "nvidia-smi",
        f"--id={card}",
        f"--query-gpu={','.join(QUERY)}",
        "--format=csv,noheader,nounits",
    ]
    values: dict[str, Any] = dict.fromkeys(QUERY)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        output = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False
        ).stdout
        for key, cell in zip(QUERY, output.split(","), strict=False):
            with contextlib.suppress(ValueError):  # "[N/A]"
                values[key] = float(cell)
    return values | {
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
    }


def _queue_work(seconds: float, device: torch.device) -> None:
    """Queue about `seconds` of matrix products on the GPU without waiting for them."""
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(min(2000, int(seconds / Turn(lambda: a @ b, device).take()) + 1)):
        a @ b


def ceilings(task: dict[str, Any], device: str) -> Iterator[Row]:
    """Rows of peak rates: one for a matrix product or a copy; for convolutions, two for each number
    of channels.
    """
    place = torch.device(device)
    tiny = task["tiny"]
    precision = task["precision"]
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = place.type == "cuda"

    def rate(
        kind: str, shape: tuple[int, ...], work: int, call: Callable[[], Any], unit: str = "TFLOP/s"
    ) -> Row:
        for _ in range(3):
            call()
        timing = summary(samples(call, place, seconds=0.3, least=5, most=30))
        about = {
            "kind": kind,
            "precision": precision,
            "dims": task.get("dims"),
            "shape": shape,
            "work": work,
        }
        return row(
            "ceiling", **about, unit=unit, **timing, reached=work / timing["median_s"] / 1e12
        )

    if task["kind"] == "matmul":
        # random numbers: on zeros a card draws less power and runs faster than on any real data
        side = 64 if tiny else SIDE
        a, b = (torch.randn(side, side, device=place, dtype=DTYPES[precision]) for _ in range(2))
        yield rate("matmul", (side, side, side), 2 * side**3, lambda: a @ b)
    elif task["kind"] == "copy":
        source = torch.randint(
            255, ((1 << 16) if tiny else COPIED,), device=place, dtype=torch.uint8
        )
        target = torch.empty_like(source)
        yield rate(
            "copy", tuple(source.shape), 2 * len(source), lambda: target.copy_(source), "TB/s"
        )
    else:
        dims = task["dims"]
        shapes = {4: (1, *[8] * dims)} if tiny else SHAPES[dims]
        for width, shape in shapes.items():
            forward, both = _convolutions(dims, width, shape, DTYPES[precision], place)
            flops = 2 * width**2 * 3**dims * prod(shape)
            yield rate("conv", (width, *shape), flops, forward)
            yield rate("conv with its backward", (width, *shape), 3 * flops, both)


def _convolutions(
    dims: int, width: int, shape: tuple[int, ...], dtype: torch.dtype, place: torch.device
) -> tuple[Callable[[], Tensor], Callable[[], tuple[Tensor, ...]]]:
    """(function that computes a 3x3(x3) convolution, function that computes it with both
    gradients).
    """
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    convolve = F.conv2d if dims == 2 else F.conv3d
    x = torch.randn(shape[0], width, *shape[1:], device=place, dtype=dtype)
    w = torch.randn(width, width, *[3] * dims, device=place, dtype=dtype) / width
    x, w = (tensor.contiguous(memory_format=last).requires_grad_() for tensor in (x, w))
    gradient = torch.randn_like(x)

    forward = torch.no_grad()(lambda: convolve(x, w, padding=1))
    return forward, lambda: torch.autograd.grad(convolve(x, w, padding=1), (x, w), gradient)


def step(task: dict[str, Any], device: str) -> Iterator[Row]:
    """One row: a case in one mode. An error becomes a row "failed" or "out of memory"; nothing is
    raised.
    """
    about = {
        key: task[key]
        for key in ("case", "recipe", "settings", "dims", "size", "batch", "precision", "mode")
    }
    own = [f"train.batch={task['batch']}", f'train.precision="{task["precision"]}"']
    with peak_memory(device) as peak:
        subject, why = attempt(
            lambda: RecipeStep.build(
                task["recipe"], [*task["settings"], *MODES[task["mode"]], *own], device
            )
        )
        if subject is None:
            yield row("step", *why, **about)
            return
        about |= {"method": subject.model.method.name, "parameters": subject.parameters}
        effort = TINY if task.get("tiny") else EFFORT
        result, why = attempt(
            lambda: own_values(subject, effort, countable=task["mode"] != "compiled")
        )
        values = result | {"peak_memory_gib": peak()} if result else {"notes": subject.notes}
        yield row("step", *(why or ()), **about, **values)


def own_values(
    subject: RecipeStep, effort: dict[str, Any], countable: bool = True
) -> dict[str, Any]:
    """The values of `values` for gantk's step, how often the host waits for the device, and the
    engine's notes.
    """
    images = len(next(iter(subject.batch.values())))
    result = values(subject, images, subject.device, effort, subject.settling, countable)
    subject.engine.check_finite("")  # computing with NaN or infinity may take another time
    steps = max(2, min(WAITS[0], int(WAITS[1] / result["median_s"])))
    places = host_waits(subject, subject.device, steps)
    notes = subject.notes + [
        f"the host waits at {place}" for place in list(dict.fromkeys(places or ()))[:5]
    ]
    return result | {"host_waits": None if places is None else len(places) / steps, "notes": notes}


def values(
    work: Callable[[], object],
    images: int,
    device: torch.device,
    effort: dict,
    settling: int,
    countable: bool = True,
) -> dict[str, Any]:
    """Time, throughput and floating-point operations of a step over `images` images of each domain.

    Args:
        settling: steps before the first timed one.
        countable: whether operations can be counted in those steps; not possible for a compiled
          step.
    """
    first = Turn(work, device).take()
    flops = attempt(lambda: count_flops(work))[0] if countable else None
    for _ in range(settling - 1 - countable):
        work()
    timing = summary(samples(work, device, **effort))
    rates = {"images_per_s": images / timing["median_s"], "first_step_s": first, "flops": flops}
    return timing | rates | {"tflops_per_s": flops / timing["median_s"] / 1e12 if flops else None}


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of convolutions, matrix products and attention by
    torch's own formulas.

    torch's FlopCounterMode also installs module hooks, which fail for a loss that computes a
    gradient itself.
    """

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def count_flops(work: Callable[[], object]) -> int:
    """Call `work` once; returns its floating-point operations."""
    with Counter() as counter:
        work()
    return counter.flops


def host_waits(work: Callable[[], object], device: torch.device, steps: int) -> list[str] | None:
    """The places, `file.py:line`, at which the host waited for the device in `steps` steps; None
    without CUDA.
    """
    if device.type != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                work()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return [
        f"{Path(found.filename).name}:{found.lineno}"
        for found in caught
        if SYNCHRONIZING in str(found.message)
    ]


def peers(task: dict[str, Any], device: str) -> Iterator[Row]:
    """A row "peer" for each of task["sides"] alone, then one row "ratio" of all that ran, timed in
    turns.
    """
    from peers.cases import CASES

    case = replace(CASES[task["case"]], batch=task["batch"], size=task["size"])
    case = replace(case, width=4, d_width=4) if task["tiny"] else case
    about = {
        "case": case.name,
        "dims": 2,
        "size": [case.size] * 2,
        "batch": case.batch,
        "method": case.method,
    }
    ready: dict[str, Callable[[], object]] = {}
    for name in task["sides"]:
        with peak_memory(device) as peak:
            found, why = attempt(lambda name=name: _side(name, case, task, device))
            work, measured = found or (None, {})
            yield row(
                "peer",
                *(why or ()),
                **about,
                peer=name,
                **measured,
                peak_memory_gib=peak() if work else None,
            )
            if work:
                ready[name] = work
            # frees the memory of a side that cannot take turns before the next is built
            found = work = None
    if OWN not in ready or len(ready) < 2:
        yield row(
            "ratio",
            SKIPPED,
            "gantk has nobody beside it" if OWN in ready else "gantk's step failed",
            **about,
        )
        return
    turns = {name: Turn(work, torch.device(device)) for name, work in ready.items()}
    samples, why = attempt(lambda: take_turns(turns, 0.0 if task["tiny"] else TURNS))
    times = {
        name: ratio(longer, samples[OWN]) for name, longer in (samples or {}).items() if name != OWN
    }
    yield row("ratio", *(why or ()), **about, turns_s=samples, times=times)


def _side(
    name: str, case: Any, task: dict[str, Any], device: str
) -> tuple[Callable[[], object], dict[str, Any]]:
    """(step of a side, what was measured of it by itself); Absent if it cannot run."""
    if task["tiny"]:
        effort = TINY
    elif name == OWN:
        effort = BAR
    else:
        effort = EFFORT
    if name in (OWN, PLAIN):
        settings = list(SWITCHED_OFF) if name == PLAIN else []
        subject = RecipeStep.build(case.tables(), [*settings, f"train.batch={case.batch}"], device)
        about = {"recipe": case.name, "settings": settings, "parameters": subject.parameters}
        about |= {
            "mode": "eager" if name == PLAIN else "captured",
            "precision": subject.engine.runtime.precision,
        }
        return subject, about | own_values(subject, effort)
    from peers.run import parse_peers
    from peers.sides import Setup, clone

    folder = task["folders"].get(name)
    peer = parse_peers([f"{name}={folder}" if folder else name])[0]
    if absent := peer.unable(case):
        raise Absent(absent)
    generator = torch.Generator().manual_seed(0)
    place = torch.device(device)
    shape = (case.batch, 1, case.size, case.size)
    batch = {domain: torch.rand(shape, generator=generator) * 2 - 1 for domain in "ab"}
    side = peer.build(Setup(case, {"a": 1, "b": 1}, place), clone(batch))
    placed = {domain: images.to(place) for domain, images in batch.items()}
    work = lambda: side.step(dict(placed))  # noqa: E731
    about = {
        "mode": "eager",
        "precision": "fp32",
        "parameters": side.weights,
        "settings": [" ".join(peer.found)],
    }
    return work, about | values(work, case.batch, place, effort, 4)


class Absent(Exception):
    """A toolkit is not here, or cannot run a case."""


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], float | None]]:
    """Yields a function that returns the peak memory since entry in GiB, None on a CPU; empties the
    cache at exit.
    """
    cuda = torch.device(device).type == "cuda"
    gc.collect()
    before = 0
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    yield lambda: (torch.cuda.max_memory_allocated() - before) / 2**30 if cuda else None
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()


def attempt(work: Callable[[], Any]) -> tuple[Any, tuple[str, str] | None]:
    """(result, None), or (None, (status, reason)) after an exception, whose frames (and their
    tensors) are freed.
    """
    try:
        return work(), None
    except Absent as error:
        return None, (SKIPPED, str(error))
    except Exception as error:  # any failure of one cell becomes a row and does not end the run
        text = str(error).lower()
        full = (
            isinstance(error, torch.OutOfMemoryError)
            or "out of memory" in text
            or "can't allocate memory" in text
        )
        return None, (MEMORY if full else FAILED, reason(error))


def healthy(device: str) -> bool:
    """Whether the device still computes: an interrupted graph capture may leave its generator or
    memory unusable.
    """
    if torch.device(device).type != "cuda":
        return True
    try:
        x = torch.randn(64, 64, device=device)
        total = float((x @ x).sum())
        torch.cuda.synchronize()
        return total == total
    except Exception:
        return False
