"""All tasks of a run in their order. Nothing heavy is imported: the process that hands them out computes nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from gpu import cases
from gpu.checkout import ROOT

PRECISIONS = ("bf16", "fp32")
OWN = "gantk"
COSTS = ("psnr and ssim", "fid features")


def tasks(tiny: bool, chosen: list[str] | None, paths: dict[str, str], command: str) -> Iterator[dict[str, Any]]:
    """The machine and its ceilings, then what cases.toml lists.

    Args:
        tiny: the shortened form with networks of a few filters.
        chosen: the cases of part "step"; None: all.
        paths: where toolkits lie, by their names.
        command: what was typed, for the row about the machine.
    """
    yield {"part": "environment", "when": "at rest", "command": command}
    yield from ({"part": "ceiling", "tiny": tiny} | task for task in ceilings())
    yield {"part": "environment", "when": "under load", "command": command}
    for task in cases.tasks(tiny, chosen):
        if task["part"] == "step":
            yield task | {"tiny": tiny}
        elif task["part"] == "peer":
            yield from ({"part": "peer", "tiny": tiny} | each for each in comparisons(tiny, paths))
        elif task["part"] == "cost":
            yield from ({"part": "cost", "tiny": tiny, "what": what} for what in COSTS)
        else:
            yield {"part": task["part"], "tiny": tiny}


def ceilings() -> Iterator[dict[str, Any]]:
    """What is measured of the device itself."""
    yield from ({"kind": "matmul", "precision": precision} for precision in PRECISIONS)
    yield from ({"kind": "conv", "precision": precision, "dims": dims} for dims in (2, 3) for precision in PRECISIONS)
    yield {"kind": "copy", "precision": "bf16"}


def comparisons(tiny: bool, paths: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Every toolkit on every case that cases.toml names for it, case by case, gantk first."""
    for case in cases.tables()["peers"]["tiny" if tiny else "cases"]:
        for peer in (OWN, *peer_names()):
            yield {"case": case, "peer": peer, "folder": paths.get(peer)}


def peer_names() -> list[str]:
    """What the adapters of benchmarks/peers are called: their NAME, read without importing them."""
    names = []
    for path in sorted((ROOT / "benchmarks" / "peers").glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NAME":
                names.append(ast.literal_eval(node.value))
    return names
