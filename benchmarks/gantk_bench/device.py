"""Measures a device for a bench of a fixed length: its peak rates, and trainings of a given time.

All of it happens in a `Worker`, a process of its own: the device stays warm from case to case, and
a crash ends one case only.
"""

import contextlib
import gc
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import gantk
from gantk.errors import GantkError, UserError
from gantk.machine.runtime import describe, start
from gantk.recipe.load import load_recipe
from gantk_bench.harness import RecipeStep, reason, samples, summary

EFFORT = {"seconds": 0.6, "least": 3, "most": 40}  # samples of one step
TINY = {"seconds": 0.0, "least": 2, "most": 2}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SIDE = 8192  # rows and columns of the matrices
# channels -> (N, height, width) of the 3x3 convolutions: as in networks, more channels at smaller
# sizes
SHAPES = {64: (32, 256, 256), 128: (32, 128, 128), 256: (32, 64, 64), 512: (32, 32, 32)}
ON_CPU = 1024, {64: (1, 64, 64), 256: (1, 32, 32)}
ON_TINY = 64, {4: (1, 8, 8)}
POINTS = 6  # validations in a training, for the plot of quality against time
LONGEST_START = 120.0  # seconds that the process may take to start
MIN_STEPS = 2
CARD = ("power.limit", "power.draw", "clocks.sm", "temperature.gpu")  # asked of nvidia-smi


# ---- the process


def serve(connection: Connection, device: str | None) -> None:
    """Loop of the measuring process: sends its device, then answers requests until None."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - trainings print their progress
    try:
        connection.send(describe(start(device, "fp32")))
    except UserError as error:
        connection.send(error)
        return
    while (request := connection.recv()) is not None:
        work, arguments = request
        try:
            answer = work(device=device, **arguments)
        except Exception as error:  # any failure of one case becomes its row
            answer = GantkError(reason(error))
        connection.send(answer)


class Worker:
    """A process that measures on a device. Raises UserError where the device cannot be used."""

    def __init__(self, device: str | None):
        context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, device), daemon=True)
        self.process.start()
        theirs.close()
        self.machine = self._answer(LONGEST_START)

    def ask(self, work: Callable[..., Any], limit: float, **arguments: Any) -> Any:
        """What `work` returns in the process; GantkError if it fails, ends it or is too slow."""
        with contextlib.suppress(OSError):  # `_answer` says how the process ended
            self.connection.send((work, arguments))
        return self._answer(limit)

    def _answer(self, limit: float) -> Any:
        try:
            if not self.connection.poll(limit):
                raise GantkError(f"took longer than {limit:.0f} s")
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(30)
            code = self.process.exitcode
            raise GantkError(f"the measuring process ended with code {code}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        """End the process; it is killed if it still works after 2 seconds."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(2.0)
        self.process.kill()
        self.process.join(10)
        self.connection.close()


# ---- peak rates


def peak_rates(device: str | None, tiny: bool) -> dict[str, Any]:
    """The highest rates of 3x3 convolutions (with their gradients) and matrix products in TFLOP/s
    by precision, that of a copy in TB/s, and the card's power and clocks after them.
    """
    place = start(device).device
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = place.type == "cuda"
    side, shapes = SIDE, SHAPES
    if tiny:
        side, shapes = ON_TINY
    elif place.type == "cpu":
        side, shapes = ON_CPU
    rates: dict[str, Any] = {"conv": {}, "matmul": {}}
    for name, dtype in DTYPES.items():
        rates["conv"][name] = max(
            _rate(_convolution(width, shape, dtype, place), 6 * 9 * width**2 * prod(shape), place)
            for width, shape in shapes.items()
        )
        # random numbers: on zeros a card draws less power and runs faster than on any real data
        a, b = (torch.randn(side, side, device=place, dtype=dtype) for _ in range(2))
        rates["matmul"][name] = _rate(lambda a=a, b=b: a @ b, 2 * side**3, place)
    source = torch.empty(
        (1 << 30) if shapes is SHAPES else (1 << 16), device=place, dtype=torch.uint8
    )
    target = torch.empty_like(source)
    rates["copy_tb_s"] = _rate(lambda: target.copy_(source), 2 * len(source), place)
    return rates | _card(place)


def _rate(call: Callable[[], Any], work: int, place: torch.device) -> float:
    """Tera-operations a second of a call that has `work` operations."""
    for _ in range(3):
        call()
    return work / summary(samples(call, place, seconds=0.3, least=5, most=30))["median_s"] / 1e12


def _convolution(
    width: int, shape: tuple[int, ...], dtype: torch.dtype, place: torch.device
) -> Callable[[], tuple[Tensor, ...]]:
    """A 3x3 convolution with both gradients, in channels-last memory."""
    count, *size = shape
    x = torch.randn(count, width, *size, device=place, dtype=dtype)
    w = torch.randn(width, width, 3, 3, device=place, dtype=dtype) / width
    x, w = (
        tensor.contiguous(memory_format=torch.channels_last).requires_grad_() for tensor in (x, w)
    )
    gradient = torch.randn_like(x)
    return lambda: torch.autograd.grad(F.conv2d(x, w, padding=1), (x, w), gradient)


def _card(place: torch.device) -> dict[str, Any]:
    """What nvidia-smi and torch know of a GPU; {} on other devices."""
    if place.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(place)
    values: dict[str, Any] = {"memory_gib": properties.total_memory / 2**30}
    uuid = getattr(properties, "uuid", None)
    command = [
        "nvidia-smi",
        f"--id={f'GPU-{uuid}' if uuid else place.index or 0}",
        f"--query-gpu={','.join(CARD)}",
        "--format=csv,noheader,nounits",
    ]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        for key, cell in zip(CARD, found.stdout.split(","), strict=False):
            with contextlib.suppress(ValueError):  # "[N/A]"
                values[key] = float(cell)
    return values


# ---- a case


def time_step(
    device: str | None, recipe: str, profile: str | None, settings: list[str], tiny: bool
) -> dict[str, Any]:
    """Time and floating-point operations of whole training steps of a recipe, on a batch that stays
    on the device.
    """
    with _emptied(device):
        loaded = load_recipe(recipe).override([], profile)
        subject = RecipeStep.build(loaded, settings, device)
        flops = count_flops(subject)  # before the step is recorded as a graph
        for _ in range(max(1, subject.settling)):
            subject()
        timing = summary(samples(subject, subject.device, **(TINY if tiny else EFFORT)))
        subject.engine.check_finite("")  # computing with NaN or infinity may take another time
        return timing | {
            "batch": subject.model.train.batch,
            "images_per_s": subject.model.train.batch / timing["median_s"],
            "flops": flops,
            "tflops_per_s": flops / timing["median_s"] / 1e12,
            "precision": subject.engine.runtime.precision,
            "parameters": subject.parameters,
        }


def train_for(
    device: str | None,
    recipe: str,
    profile: str | None,
    settings: list[str],
    run: str,
    seconds: float,
    step_seconds: float,
    full_steps: int | None,
) -> int:
    """Train as many steps as fit into `seconds`, with validations on the way; returns the steps."""
    steps = max(MIN_STEPS, int(seconds / step_seconds))
    steps = min(steps, full_steps or steps)
    every = max(1, steps // POINTS)
    # one save, at the end: that of a network of 440 million weights takes as long as 1,000 steps
    lengths = [f"train.steps={steps}", f"train.save_every={steps}", f"train.sample_every={every}"]
    lengths.append(f"train.log_every={max(1, every // 2)}")
    with _emptied(device):
        gantk.run(
            recipe,
            set=[*settings, *lengths],
            profile=profile,
            out=run,
            device=device,
            say=lambda line: None,
        )
    return steps


def time_reference(device: str | None, folder: str, case: str, tiny: bool) -> dict[str, Any]:
    """The step of a checkout of the reference implementation, at its own defaults; UserError where
    it cannot run. Only in a clone of gantk, which has benchmarks/reference_checkout.py.
    """
    try:
        from reference_checkout import reference_step
    except ImportError:
        remedy = "run it in a clone of gantk, with `make bench-gpu`"
        raise UserError("--reference needs the folder benchmarks/", remedy=remedy) from None
    place = start(device).device
    with _emptied(device):
        step, weights = reference_step(Path(folder), case, place, tiny)
        for _ in range(4):
            step()
        timing = summary(samples(step, place, **(TINY if tiny else EFFORT)))
    return timing | {"images_per_s": 1 / timing["median_s"], "parameters": weights}


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


@contextlib.contextmanager
def _emptied(device: str | None) -> Iterator[None]:
    """Free a GPU's memory afterwards, so that the next case has all of it."""
    cuda = start(device, "fp32").device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
