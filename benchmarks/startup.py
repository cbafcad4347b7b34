"""How long gantk takes to start: what a user waits for before anything happens, beside the interpreter and torch alone.

    python benchmarks/startup.py [--rounds 10] [--only NAME]... [--json FILE]

Every sample is a process of its own; the processes take turns, in reversed order every other round, after one round
that does not count. Seconds are of the wall, from the start of the process to its end; "first step" is what usage.json
says of a small recipe: from the start of the process to the end of its first training step. CPU seconds, of all
threads, stand beside them: they suffer less from what else the machine does. Ratios are of samples of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np

RECIPE = """
[method]
name = "cyclegan"
generator = { name = "unet", width = 16, depth = 4 }
discriminator = { name = "patchgan", width = 16 }
[data]
source = { name = "phantom", subjects = 10, slices = 4 }
domains = ["T1", "T2"]
size = [96, 96]
[train]
steps = 1
batch = 2
[evaluate]
samples = 1
"""
GANTK = ["-m", "gantk"]
LOOKING = {
    "gantk --help": [*GANTK, "--help"],
    "gantk run --help": [*GANTK, "run", "--help"],
    "gantk list": [*GANTK, "list"],
    "gantk plugins": [*GANTK, "plugins"],
    "gantk recipes": [*GANTK, "recipes"],
}
BARE, TORCH, STEP = "python -c pass", "import torch", "first step"


def spent(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one Python process that ends well."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step(folder: Path) -> tuple[float, float]:
    """Seconds to the end of the first training step, and CPU seconds of the whole run of one step."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run = Path(out) / "run"
        cpu = spent([*GANTK, "run", str(folder / "small.toml"), "--out", str(run), "--device", "cpu"], folder)[1]
        return json.loads((run / "usage.json").read_text())["first_step_s"], cpu


def prepare(folder: Path) -> None:
    """The recipe, a run of it, a picture and a volume."""
    import nibabel as nib
    from PIL import Image

    (folder / "small.toml").write_text(RECIPE)
    spent([*GANTK, "run", str(folder / "small.toml"), "--out", str(folder / "run"), "--device", "cpu"], folder)
    values = np.random.default_rng(0).uniform(0, 800, (96, 96, 1)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "slice.nii.gz")
    Image.fromarray((values[..., 0] // 4).astype(np.uint8)).save(folder / "slice.png")


def measured(folder: Path) -> dict[str, Callable[[], tuple[float, float]]]:
    """What is measured, by name: each call gives wall and CPU seconds."""

    def of(arguments: list[str]) -> Callable[[], tuple[float, float]]:
        return lambda: spent(arguments, folder)

    ways = {BARE: of(["-c", "pass"]), TORCH: of(["-c", "import torch"])}
    ways |= {name: of(arguments) for name, arguments in LOOKING.items()}
    for kind in ("png", "nii.gz"):
        ends = [f"slice.{kind}", f"out.{kind}", "--device", "cpu"]
        ways[f"first slice ({kind})"] = of([*GANTK, "translate", "run", *ends])
    return ways | {STEP: lambda: first_step(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", action="append", metavar="NAME", help="beside the interpreter and torch; repeatable")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    from gantk.machine.runtime import describe, start

    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        ways = measured(Path(place))
        chosen = [name for name in ways if not options.only or name in (BARE, TORCH, *options.only)]
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        load = os.getloadavg()[0]
        for turn in range(options.rounds + 1):
            for name in chosen if turn % 2 else reversed(chosen):
                took = ways[name]()
                if turn:
                    samples[name].append(took)
    record = {
        "date": date.today().isoformat(),
        "machine": describe(start("cpu")),
        "load_before": load,
        "wall_s": {name: [wall for wall, _ in found] for name, found in samples.items()},
        "cpu_s": {name: [cpu for _, cpu in found] for name, found in samples.items()},
        "times_torch": {},
    }
    for name in chosen:
        ratios = np.divide(record["wall_s"][name], record["wall_s"][TORCH])
        low, middle, high = np.percentile(ratios, [2.5, 50, 97.5])
        record["times_torch"][name] = {"median": middle, "from": low, "to": high}
        wall, cpu = (np.median(record[kind][name]) for kind in ("wall_s", "cpu_s"))
        print(f"{name:<22} {wall:6.3f} s   cpu {cpu:6.3f} s   {middle:5.2f}x import torch [{low:.2f}, {high:.2f}]")
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
