"""Measures training steps, alone and in turns with other toolkits; `measure` yields the rows of one task."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from harness import PLAIN as SWITCHED_OFF
from harness import Turn, ratio, samples, summary, take_turns
from recipe_step import RecipeStep
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gpu import device as hardware
from gpu.rows import FAILED, MEMORY, SKIPPED, Row, first_line, row
from gpu.tasks import MODES, OWN, PLAIN

EFFORT = {"seconds": 0.6, "least": 3, "most": 40}  # samples of one row
BAR = {"seconds": 1.5, "least": 40, "most": 80}  # samples of a step with a target, whose spread is measured
TINY = {"seconds": 0.0, "least": 2, "most": 2}
TURNS = 8.0  # seconds of steps in turns
WAITS = 20, 2.0  # most steps and seconds in which the host's waits are counted
SYNCHRONIZING = "called a synchronizing CUDA operation"


def measure(task: dict[str, Any], device: str) -> Iterator[Row]:
    """The rows of one task."""
    parts = {"environment": hardware.environment, "ceiling": hardware.ceilings, "peer": peers}
    yield from parts.get(task["part"], step)(task, device)


def step(task: dict[str, Any], device: str) -> Iterator[Row]:
    """One row: a case in one mode. An error becomes a row "failed" or "out of memory"; nothing is raised."""
    about = {key: task[key] for key in ("case", "recipe", "settings", "dims", "size", "batch", "precision", "mode")}
    own = [f"train.batch={task['batch']}", f'train.precision="{task["precision"]}"']
    with peak_memory(device) as peak:
        subject, why = attempt(
            lambda: RecipeStep.build(task["recipe"], [*task["settings"], *MODES[task["mode"]], *own], device)
        )
        if subject is None:
            yield row("step", *why, **about)
            return
        about |= {"method": subject.model.method.name, "parameters": subject.parameters}
        effort = TINY if task.get("tiny") else EFFORT
        result, why = attempt(lambda: own_values(subject, effort, countable=task["mode"] != "compiled"))
        values = result | {"peak_memory_gib": peak()} if result else {"notes": subject.notes}
        yield row("step", *(why or ()), **about, **values)


def own_values(subject: RecipeStep, effort: dict[str, Any], countable: bool = True) -> dict[str, Any]:
    """The values of `values` for gantk's step, how often the host waits for the device, and the engine's notes."""
    images = len(next(iter(subject.batch.values())))
    result = values(subject, images, subject.device, effort, subject.settling, countable)
    subject.engine.check_finite("")  # computing with NaN or infinity may take another time
    steps = max(2, min(WAITS[0], int(WAITS[1] / result["median_s"])))
    places = host_waits(subject, subject.device, steps)
    notes = subject.notes + [f"the host waits at {place}" for place in list(dict.fromkeys(places or ()))[:5]]
    return result | {"host_waits": None if places is None else len(places) / steps, "notes": notes}


def values(
    work: Callable[[], object], images: int, device: torch.device, effort: dict, settling: int, countable: bool = True
) -> dict[str, Any]:
    """Time, throughput and floating-point operations of a step over `images` images of each domain.

    Args:
        settling: steps before the first timed one.
        countable: whether operations can be counted in those steps; not possible for a compiled step.
    """
    first = Turn(work, device).take()
    flops = attempt(lambda: count_flops(work))[0] if countable else None
    for _ in range(settling - 1 - countable):
        work()
    timing = summary(samples(work, device, **effort))
    rates = {"images_per_s": images / timing["median_s"], "first_step_s": first, "flops": flops}
    return timing | rates | {"tflops_per_s": flops / timing["median_s"] / 1e12 if flops else None}


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of convolutions, matrix products and attention by torch's own formulas.

    torch's FlopCounterMode also installs module hooks, which fail for a loss that computes a gradient itself.
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
    """The places, `file.py:line`, at which the host waited for the device in `steps` steps; None without CUDA."""
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
    return [f"{Path(found.filename).name}:{found.lineno}" for found in caught if SYNCHRONIZING in str(found.message)]


def peers(task: dict[str, Any], device: str) -> Iterator[Row]:
    """A row "peer" for each of task["sides"] alone, then one row "ratio" of all that ran, timed in turns."""
    from peers.cases import CASES

    case = replace(CASES[task["case"]], batch=task["batch"], size=task["size"])
    case = replace(case, width=4, d_width=4) if task["tiny"] else case
    about = {"case": case.name, "dims": 2, "size": [case.size] * 2, "batch": case.batch, "method": case.method}
    ready: dict[str, Callable[[], object]] = {}
    for name in task["sides"]:
        with peak_memory(device) as peak:
            entry, why = attempt(lambda name=name: _side(name, case, task, device))
            work, known, found = entry or (None, {}, None)
            if isinstance(work, str):
                why = SKIPPED, work
            elif work is not None:
                found, why = attempt(found)
            measured = known | found | {"peak_memory_gib": peak()} if isinstance(found, dict) else known
            yield row("peer", *(why or ()), **about, peer=name, **measured)
            if not why:
                ready[name] = work
            entry = work = found = None  # frees the memory of a failed side before the next is built
    if OWN not in ready or len(ready) < 2:
        yield row("ratio", SKIPPED, "gantk has nobody beside it" if OWN in ready else "gantk's step failed", **about)
        return
    turns = {name: Turn(work, torch.device(device)) for name, work in ready.items()}
    samples, why = attempt(lambda: take_turns(turns, 0.0 if task["tiny"] else TURNS))
    times = {name: ratio(longer, samples[OWN]) for name, longer in (samples or {}).items() if name != OWN}
    yield row("ratio", *(why or ()), **about, turns_s=samples, times=times)


def _side(name: str, case: Any, task: dict[str, Any], device: str) -> tuple[Any, dict[str, Any], Any]:
    """(step of a side, or the reason why it cannot run; known fields of its row; function that measures it)."""
    if name in (OWN, PLAIN):
        settings = list(SWITCHED_OFF) if name == PLAIN else []
        subject = RecipeStep.build(case.tables(), [*settings, f"train.batch={case.batch}"], device)
        effort = TINY if task["tiny"] else EFFORT if name == PLAIN else BAR
        known = {"recipe": case.name, "settings": settings, "parameters": subject.parameters}
        known |= {"mode": "eager" if settings else "captured", "precision": subject.engine.runtime.precision}
        return subject, known, lambda: own_values(subject, effort)
    from peers.run import parse_peers
    from peers.sides import Setup, clone

    folder = task["folders"].get(name)
    peer = parse_peers([f"{name}={folder}" if folder else name])[0]
    if absent := peer.reason or peer.unable(case):
        return absent, {}, None
    generator, place = torch.Generator().manual_seed(0), torch.device(device)
    shape = (case.batch, 1, case.size, case.size)
    batch = {domain: torch.rand(shape, generator=generator) * 2 - 1 for domain in "ab"}
    side = peer.build(Setup(case, {"a": 1, "b": 1}, place), clone(batch))
    placed = {domain: images.to(place) for domain, images in batch.items()}
    work = lambda: side.step(dict(placed))  # noqa: E731
    known = {"mode": "eager", "precision": "fp32", "parameters": side.weights, "settings": [" ".join(peer.found)]}
    return work, known, lambda: values(work, case.batch, place, TINY if task["tiny"] else EFFORT, 4)


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], float | None]]:
    """Yields a function that returns the peak memory since entry in GiB, None on a CPU; empties the cache at exit."""
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
    """(result, None), or (None, (status, reason)) after an exception, whose frames (and their tensors) are freed."""
    try:
        return work(), None
    except Exception as error:  # any failure of one cell becomes a row and does not end the run
        text = str(error).lower()
        full = isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
        return None, (MEMORY if full else FAILED, first_line(error))


def healthy(device: str) -> bool:
    """Whether the device still computes: an interrupted graph capture may leave its generator or memory unusable."""
    if torch.device(device).type != "cuda":
        return True
    try:
        x = torch.randn(64, 64, device=device)
        total = float((x @ x).sum())
        torch.cuda.synchronize()
        return total == total
    except Exception:
        return False
