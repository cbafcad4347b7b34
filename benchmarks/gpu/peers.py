"""Other toolkits' training steps beside gantk's on the same case: rows "peer", each alone, and "ratio", in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from gpu import timing
from gpu.catalogue import OWN, PLAIN
from gpu.rows import SKIPPED, row
from gpu.steps import EFFORT, TINY, Subject, attempt, memory_watched, own_values, values

BAR = {"seconds": 1.5, "least": 40, "most": 80}  # single steps of gantk: their spread is looked at
TURNS = 8.0  # seconds of steps that are taken in turns


@dataclass
class Entry:
    """One of those that are compared: takes a step, and measures its own."""

    step: Callable[[], object]
    values: Callable[[], dict[str, Any]]
    about: dict[str, Any]


def measure(task: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """A row for each side of task["sides"] by itself, then one for all that could, taking turns."""
    from peers.cases import CASES

    case = replace(CASES[task["case"]], batch=task["batch"], size=task["size"])
    case = replace(case, width=4, judge=4) if task["tiny"] else case
    about = {"case": case.name, "dims": 2, "size": [case.size] * 2, "batch": case.batch, "method": case.method}
    ready: dict[str, Entry] = {}
    for name in task["sides"]:
        with memory_watched(device) as peak:
            entry, why = _entry(name, case, task, device)
            found = None
            if entry is not None:
                found, why = attempt(entry.values)
            known = (entry.about if entry else {}) | (found or {})
            memory = peak() if found else None
            yield row("peer", *(why or ("ok", None)), **about, peer=name, **known, peak_memory_gib=memory)
            if found:
                ready[name] = entry
            entry = None  # one that failed gives its memory back before the next is built
    yield _in_turns(ready, about, torch.device(device), 0.0 if task["tiny"] else TURNS)


def _entry(name: str, case: Any, task: dict[str, Any], device: str) -> tuple[Entry | None, tuple[str, str] | None]:
    """What takes part under that name, or (status, reason) where it does not."""
    from peers.adapters import asked_for

    if name in (OWN, PLAIN):
        return attempt(lambda: _own(name, case, task, device))
    folder = task["folders"].get(name)
    peer, why = attempt(lambda: asked_for([f"{name}={folder}" if folder else name])[0])
    absent = peer and (peer.reason or peer.unable(case))
    if peer is None or absent:
        return None, why or (SKIPPED, absent)
    return attempt(lambda: _other(peer, case, task, device))


def _own(name: str, case: Any, task: dict[str, Any], device: str) -> Entry:
    """gantk's default path, or the one with all that can be turned off turned off."""
    from peers import switches

    settings = list(switches.PLAIN) if name == PLAIN else []
    subject = Subject.build(case.tables(), settings, case.batch, None, device)
    effort = TINY if task["tiny"] else EFFORT if name == PLAIN else BAR
    mode = "eager" if name == PLAIN else "captured"
    about = {"mode": mode, "precision": subject.engine.runtime.precision, "parameters": subject.parameters}
    return Entry(subject.step, lambda: own_values(subject, effort), about | {"recipe": case.name, "settings": settings})


def _other(peer: Any, case: Any, task: dict[str, Any], device: str) -> Entry:
    """The toolkit's own step at its own precision, on the same device and from the same kind of noise."""
    from peers.side import Setup

    generator, place = torch.Generator().manual_seed(0), torch.device(device)
    shape = (case.batch, 1, case.size, case.size)
    batch = {domain: torch.rand(shape, generator=generator) * 2 - 1 for domain in "ab"}
    side = peer.module.build(peer.folder, Setup(case, {"a": 1, "b": 1}, place), dict(batch))
    placed = {domain: images.to(place) for domain, images in batch.items()}
    step = lambda: side.step(dict(placed))  # noqa: E731
    where = [f"{peer.found.where} {peer.found.version}"]
    about = {"mode": "eager", "precision": "fp32", "parameters": side.weights, "settings": where}
    return Entry(step, lambda: values(step, case.batch, place, TINY if task["tiny"] else EFFORT, 4), about)


def _in_turns(ready: dict[str, Entry], about: dict[str, Any], device: torch.device, seconds: float) -> dict[str, Any]:
    from peers.speed import ratio, take_turns

    if OWN not in ready or len(ready) < 2:
        return row("ratio", SKIPPED, "gantk has nobody beside it" if OWN in ready else "gantk's step failed", **about)
    turns = {name: timing.Turn(entry.step, device) for name, entry in ready.items()}
    found, why = attempt(lambda: take_turns(turns, seconds))
    if found is None:
        return row("ratio", *why, **about)
    times = {name: ratio(longer, found[OWN]) for name, longer in found.items() if name != OWN}
    return row("ratio", **about, turns_s=found, times=times)
