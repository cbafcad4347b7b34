"""Which cells there are, and in which order: read from cases.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("cases.toml")
MODES = {  # of a step -> what a recipe sets for it
    "captured": (),  # the default
    "eager": ("train.fast.cuda_graph=false",),
    "compiled": ("train.fast.cuda_graph=false", "train.fast.compile=true"),
}


@dataclass(frozen=True)
class Case:
    """A recipe's method at the networks that are timed."""

    label: str
    recipe: str
    dims: int = 2
    settings: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()  # settings over those, for --tiny
    sides: tuple[int, ...] | None = None  # the only ones that its networks take; None: any


def tables() -> dict[str, Any]:
    """The file's tables."""
    return tomllib.loads(FILE.read_text("utf-8"))


def all_cases() -> list[Case]:
    """Every case, in the file's order."""
    lists = ("settings", "tiny", "sides")
    return [Case(**{k: tuple(v) if k in lists else v for k, v in each.items()}) for each in tables()["case"]]


def tasks(tiny: bool, chosen: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """All that is to be timed, the most important first; each setting once. `chosen` names the cases; None: all.

    A task of part "step" is one case at one size, batch, precision and mode; others only name their part.
    """
    seen = set()
    cases = [case for case in all_cases() if not chosen or case.label in chosen]
    for each in tables()["tiny" if tiny else "round"]:
        yield from ({"part": part} for part in each.get("then", ()))
        for task in _of_round(each, cases, tiny):
            key = tuple(str(task[name]) for name in ("case", "size", "batch", "precision", "mode"))
            if key not in seen:
                seen.add(key)
                yield task


def training(tiny: bool) -> dict[str, Any]:
    """The recipe, settings and steps of the short training."""
    table = tables()["training"]
    return {
        "recipe": table["recipe"],
        "settings": [*table["settings"], *(table["tiny"] if tiny else ())],
        "steps": table["tiny_steps" if tiny else "steps"],
    }


def _of_round(each: dict[str, Any], cases: list[Case], tiny: bool) -> Iterator[dict[str, Any]]:
    """Cell by cell, a case's cells of one size together: they share the kernels that were chosen for it."""
    for side in each.get("sides", ()):
        for case in cases:
            if case.dims != each["dims"] or (not tiny and case.sides and side not in case.sides):
                continue
            if case.label not in each.get("cases", [case.label]):
                continue
            for precision, batch, mode in product(each["precisions"], each["batches"], each["modes"]):
                size = [side] * case.dims
                wanted = [f"data.dims={case.dims}", f"data.size={size}", *case.settings, *(case.tiny if tiny else ())]
                yield {
                    "part": "step",
                    "case": case.label,
                    "recipe": case.recipe,
                    "settings": [setting.replace("{batch}", str(batch)) for setting in wanted],
                    "dims": case.dims,
                    "size": size,
                    "batch": batch,
                    "precision": precision,
                    "mode": mode,
                }
