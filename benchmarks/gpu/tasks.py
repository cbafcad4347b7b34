"""What a run measures, in its order: read from cases.toml. Nothing heavy is imported: this process computes nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("cases.toml")
MODES = {  # of a step -> what a recipe sets for it
    "captured": (),  # the default
    "eager": ("train.fast.cuda_graph=false",),
    "compiled": ("train.fast.cuda_graph=false", "train.fast.compile=true"),
}
PARTS = ("environment", "ceiling", "step", "peer")
PRECISIONS = ("bf16", "fp32")
OWN, PLAIN = "gantk", "gantk plain"  # its default path, and the one with everything turned off
TOOLKITS = ("reference", "cut", "monai", "konfai")  # of benchmarks/peers, whose modules are heavy
Task = dict[str, Any]


def tables() -> dict[str, Any]:
    """The file's tables."""
    return tomllib.loads(FILE.read_text("utf-8"))


def labels() -> list[str]:
    """The names of all cases."""
    return [case["label"] for case in tables()["case"]]


def tasks(tiny: bool, chosen: list[str] | None, peers: dict[str, str], command: str) -> Iterator[Task]:
    """The machine and its ceilings, then what cases.toml lists, the most important first and each cell once.

    Args:
        tiny: the shortened form with networks of a few filters.
        chosen: the cases of part "step"; None: all.
        peers: where toolkits lie, by their names.
        command: what was typed, for the row about the machine.
    """
    file = tables()
    cases = [case for case in file["case"] if not chosen or case["label"] in chosen]
    yield {"part": "environment", "when": "at rest", "command": command}
    yield from ceilings(2, tiny)
    yield {"part": "environment", "when": "under load", "command": command}
    seen = set()
    for each in file["tiny" if tiny else "round"]:
        for part in each.get("then", ()):
            if part in ("target", "peer"):
                sides = file["peers"]["sides"] if part == "target" else [OWN, *TOOLKITS]
                for cell in file["peers"][f"tiny_{part}" if tiny else part]:
                    yield {"part": "peer", "tiny": tiny, "sides": sides, "folders": peers} | cell
            elif part == "ceiling":
                yield from ceilings(3, tiny)
        for task in cells(each, cases, tiny):
            key = tuple(str(task[name]) for name in ("case", "size", "batch", "precision", "mode"))
            if key not in seen:
                seen.add(key)
                yield task


def ceilings(dims: int, tiny: bool) -> Iterator[Task]:
    """What is measured of the device itself: convolutions of so many dimensions, with 2 of them the rest too."""
    kinds = [("conv", precision) for precision in PRECISIONS]
    if dims == 2:
        kinds += [*(("matmul", precision) for precision in PRECISIONS), ("copy", "bf16")]
    for kind, precision in kinds:
        about = {"dims": dims} if kind == "conv" else {}
        yield {"part": "ceiling", "tiny": tiny, "kind": kind, "precision": precision} | about


def cells(each: dict[str, Any], cases: list[dict[str, Any]], tiny: bool) -> Iterator[Task]:
    """The steps of one round, a case's cells of one size together: they share the kernels that were chosen for it."""
    for side, case in product(each.get("sides", ()), cases):
        dims, label = case.get("dims", 2), case["label"]
        if dims != each["dims"] or (not tiny and side not in case.get("sides", [side])):
            continue
        if label not in each.get("cases", [label]):
            continue
        for precision, batch, mode in product(each["precisions"], each["batches"], each["modes"]):
            size, own = [side] * dims, [*case.get("settings", ()), *(case["tiny"] if tiny else ())]
            settings = [setting.replace("{batch}", str(batch)) for setting in own]
            yield {
                "part": "step", "tiny": tiny, "case": label, "recipe": case["recipe"], "dims": dims, "size": size,
                "settings": [f"data.dims={dims}", f"data.size={size}", *settings],
                "batch": batch, "precision": precision, "mode": mode,
            }  # fmt: skip
