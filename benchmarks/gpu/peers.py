"""Other toolkits' training steps, by the adapters of benchmarks/peers, and gantk's on the same case: rows "peer"."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gantk.method import Batch
from gpu import timing
from gpu.catalogue import OWN
from gpu.flops import counted
from gpu.rows import SKIPPED, row
from gpu.steps import EFFORT, TINY, WARM_UP, Subject, attempt, captured_row, eager_row, memory_watched, peak_memory


def measure(task: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """gantk's step eager and captured, or one row of the toolkit; skipped where it is not there or cannot."""
    from peers.cases import CASES

    case = CASES[task["case"]]
    if task["tiny"]:
        case = dataclasses.replace(case, size=128, batch=1, width=4, judge=4)
    about = {"case": case.name, "dims": 2, "size": [case.size] * 2, "batch": case.batch, "method": case.method}
    with memory_watched(device):
        yield from (_own if task["peer"] == OWN else _other)(task, case, about, device)


def _own(task: dict[str, Any], case: Any, about: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """gantk's default path: bf16 where the device is good at it."""
    subject = Subject.build(case.tables(), [], case.batch, "auto", device)
    about |= {"precision": subject.engine.runtime.precision, "parameters": subject.parameters, "recipe": case.name}
    effort, counts = (TINY if task["tiny"] else EFFORT), {}
    for measured in (eager_row, captured_row):
        found = measured(subject, about, counts, effort)
        status, why = found.pop("status"), found.pop("why")
        yield row("peer", status, why, peer=OWN, **{key: found[key] for key in found if key != "part"})


def _other(task: dict[str, Any], case: Any, about: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """The toolkit's own step at its own precision, from images that lie in the host's memory, as it takes them."""
    from peers.adapters import asked_for
    from peers.side import Setup

    named = f"{task['peer']}={task['folder']}" if task["folder"] else task["peer"]
    about |= {"peer": task["peer"], "precision": "fp32", "mode": "eager"}
    peer, wrong = attempt(lambda: asked_for([named])[0])
    why = wrong or ((SKIPPED, absent) if (absent := peer.reason or peer.unable(case)) else None)
    if why is not None:
        yield row("peer", *why, **about)
        return
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, 1, case.size, case.size)
    batch = Batch({name: torch.rand(shape, generator=generator) * 2 - 1 for name in "ab"})
    place = torch.device(device)

    def work() -> dict[str, Any]:
        side = peer.module.build(peer.folder, Setup(case, {"a": 1, "b": 1}, place), dict(batch))
        return _timed(side, batch, place, TINY if task["tiny"] else EFFORT) | {"parameters": side.weights}

    found, why = attempt(work)
    where = [f"{peer.found.where} {peer.found.version}"]
    yield row("peer", *(why or ("ok", None)), **about, settings=where, **(found or {}))


def _timed(side: Any, batch: dict[str, Tensor], device: torch.device, effort: dict[str, Any]) -> dict[str, Any]:
    step = lambda: side.step(dict(batch))  # noqa: E731
    first = timing.once(step, device)
    for _ in range(WARM_UP - 1):
        step()
    values = timing.summary(timing.samples(step, device, **effort))
    peak = peak_memory(device)
    flops, operators = attempt(lambda: counted(step))[0] or (None, None)
    count, median = len(batch["a"]), values["median_s"]
    return values | {
        "first_step_s": first,
        "images_per_s": count / median,
        "flops": flops,
        "operators": operators,
        "tflops_per_s": flops / median / 1e12 if flops else None,
        "peak_memory_gib": peak,
    }
