"""All tasks of a run in their order. Nothing heavy is imported: the process that hands them out computes nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from gpu import cases
from gpu.checkout import ROOT

PRECISIONS = ("bf16", "fp32")
OWN, PLAIN = "gantk", "gantk plain"  # its default path, and the one with everything turned off
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
    yield from ({"part": "ceiling", "tiny": tiny} | task for task in ceilings(2))
    yield {"part": "environment", "when": "under load", "command": command}
    for task in cases.tasks(tiny, chosen):
        if task["part"] == "step":
            yield task | {"tiny": tiny}
        elif task["part"] in ("target", "peer"):
            yield from ({"part": "peer", "tiny": tiny} | each for each in comparisons(tiny, task["part"], paths))
        elif task["part"] == "ceiling":
            yield from ({"part": "ceiling", "tiny": tiny} | each for each in ceilings(3))
        elif task["part"] == "cost":
            yield from ({"part": "cost", "tiny": tiny, "what": what} for what in COSTS)
        else:
            yield {"part": task["part"], "tiny": tiny}


def ceilings(dims: int) -> Iterator[dict[str, Any]]:
    """What is measured of the device itself: convolutions of so many dimensions, with 2 of them the rest too."""
    yield from ({"kind": "conv", "precision": precision, "dims": dims} for precision in PRECISIONS)
    if dims == 2:
        yield from ({"kind": "matmul", "precision": precision} for precision in PRECISIONS)
        yield {"kind": "copy", "precision": "bf16"}


def comparisons(tiny: bool, which: str, paths: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Cells of cases.toml that are compared: `which` is "target" or "peer"; in the latter all toolkits take part."""
    table = cases.tables()["peers"]
    sides = table["sides"] if which == "target" else [OWN, *peer_names()]
    for cell in table[f"tiny_{which}" if tiny else which]:
        yield cell | {"sides": sides, "folders": paths}


def peer_names() -> list[str]:
    """What the adapters of benchmarks/peers are called: their NAME, read without importing them."""
    names = []
    for path in sorted((ROOT / "benchmarks" / "peers").glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NAME":
                names.append(ast.literal_eval(node.value))
    return names
