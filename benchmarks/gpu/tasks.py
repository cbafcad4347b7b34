"""The tasks of a run, in order, read from cases.toml."""

import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from peers.cases import PEERS

FILE = Path(__file__).with_name("cases.toml")
MODES = {  # mode of a step -> settings of the recipe
    "captured": (),  # the default
    "eager": ("train.fast.cuda_graph=false",),
    "compiled": ("train.fast.compile=true", "train.fast.cuda_graph=false"),
}
PARTS = ("environment", "ceiling", "step", "peer")
PRECISIONS = ("bf16", "fp32")
# gantk's default path, and its path with all acceleration switched off
OWN = "gantk"
PLAIN = "gantk plain"
Task = dict[str, Any]


def tables() -> dict[str, Any]:
    """The tables of cases.toml."""
    return tomllib.loads(FILE.read_text("utf-8"))


def tasks(
    tiny: bool, chosen: list[str] | None, peers: dict[str, str], command: str
) -> Iterator[Task]:
    """Tasks in order of importance: the machine, its peak rates, then the rounds of cases.toml,
    each cell once.

    `tiny`: with networks of a few filters; `chosen`: the cases of part "step", None: all; `peers`:
    name of a toolkit -> its folder; `command`: the command line, for the row about the machine.
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
                sides = file["peers"]["sides"] if part == "target" else [OWN, *PEERS]
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
    """Tasks for the device's peak rates: convolutions in `dims` dimensions; for 2 also matrix
    products and a copy.
    """
    kinds = [("conv", precision) for precision in PRECISIONS]
    if dims == 2:
        kinds += [*(("matmul", precision) for precision in PRECISIONS), ("copy", "bf16")]
    for kind, precision in kinds:
        about = {"dims": dims} if kind == "conv" else {}
        yield {"part": "ceiling", "tiny": tiny, "kind": kind, "precision": precision} | about


def cells(entry: dict[str, Any], cases: list[dict[str, Any]], tiny: bool) -> Iterator[Task]:
    """The steps of one round, grouped by case and image size, so that consecutive steps reuse the
    chosen kernels.
    """
    for side, case in product(entry.get("sides", ()), cases):
        dims = case.get("dims", 2)
        label = case["label"]
        if dims != entry["dims"] or (not tiny and side not in case.get("sides", [side])):
            continue
        if label not in entry.get("cases", [label]):
            continue
        size = [side] * dims
        own = list(case.get("settings", ()))
        if tiny:
            own += case["tiny"]
        for precision, batch, mode in product(
            entry["precisions"], entry["batches"], entry["modes"]
        ):
            settings = [setting.replace("{batch}", str(batch)) for setting in own]
            yield {
                "part": "step",
                "tiny": tiny,
                "case": label,
                "recipe": case["recipe"],
                "dims": dims,
                "size": size,
                "settings": [f"data.dims={dims}", f"data.size={size}", *settings],
                "batch": batch,
                "precision": precision,
                "mode": mode,
            }
