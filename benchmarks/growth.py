"""Whether cost grows as the work does: seconds of a training step and of a translation against counted operations.

A CycleGAN's step (all phases, optimizers, moving average) and the translation of as many images as a batch has, at
growing sizes of one thing at a time: pixels, width, batch, and depth or blocks. Batches are noise that lies ready. All
sizes of a series take turns, from small to large and back, so that every round has a slope of its own in log-log: the
exponent of time against work, 1 where time grows as the work does, less where something else costs at small sizes.

    python benchmarks/growth.py [--series 'unet*'] [--seconds 4] [--json FILE] [--plot FILE.png]

Work is counted twice: `flops` by torch's formulas of convolutions and products, and `numbers`, all that operators read
and wrote, weights in the optimizer's update too. A series is flagged where time grows faster than both: where against
either one the whole 95 % interval of the exponent is above 1.1, over all sizes or over the three largest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu.flops import Counter
from gpu.timing import once
from peers.switches import enter

from gantk.files import write_file
from gantk.machine.runtime import describe, start
from gantk.method import Batch
from gantk.recipe.load import load_recipe
from gantk.runs.trained import build_method
from gantk.training.assemble import plan_of
from gantk.training.engine import Engine
from gantk.training.loop import inference_weights

LIMIT = 1.1  # exponents above it are more than timing and caches explain
TAIL = 3  # the largest sizes of a series
WARM, ROUNDS = 2, (4, 30)
DRAWS = 2000  # bootstrap samples of an interval
BASE = {
    "unet": {"dims": 2, "side": 64, "width": 16, "depth": 5, "batch": 2},
    "resnet": {"dims": 2, "side": 64, "width": 16, "blocks": 6, "batch": 2},
    "unet-3d": {"dims": 3, "side": 32, "width": 8, "depth": 3, "batch": 1},
}
SERIES = {
    "unet, side": ("unet", "side", (32, 64, 96, 128, 192)),
    "unet, width": ("unet", "width", (8, 16, 32, 48, 64)),
    "unet, batch": ("unet", "batch", (1, 2, 4, 8, 16)),
    "unet, depth": ("unet", "depth", (2, 3, 4, 5, 6)),
    "resnet, side": ("resnet", "side", (32, 48, 64, 96, 128)),
    "resnet, width": ("resnet", "width", (8, 16, 24, 32, 48)),
    "resnet, batch": ("resnet", "batch", (1, 2, 4, 8)),
    "resnet, blocks": ("resnet", "blocks", (1, 3, 6, 9, 12)),
    "unet-3d, side": ("unet-3d", "side", (16, 24, 32, 48)),
    "unet-3d, width": ("unet-3d", "width", (4, 8, 16)),
}


class Work(Counter):
    """Counts the numbers that operators read and wrote too."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.operators
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.operators > before:
            parts = tree_flatten((args, kwargs, out))[0]
            self.numbers += sum(part.numel() for part in parts if isinstance(part, torch.Tensor))
        return out


class Point:
    """One size of a series: an engine with a batch."""

    def __init__(self, network: str, axis: str, value: int, device: str | None):
        known = BASE[network] | {axis: value}
        layers = {key: known[key] for key in ("width", "depth", "blocks") if key in known}
        recipe = {
            "format": 1,
            "method": {
                "name": "cyclegan",
                "generator": {"name": network.split("-")[0]} | layers,
                "discriminator": {"name": "patchgan", "width": known["width"], "receptive_field": 16},
            },
            "data": {"dims": known["dims"], "size": [known["side"]] * known["dims"]},
            "train": {"steps": 1_000_000, "batch": known["batch"]},
        }
        model = load_recipe(recipe).check()
        self.value, self.runtime = value, start(device, model.train.precision, model.train.fast.channels_last)
        self.method = build_method(model, {"a": 1, "b": 1}, (), (-1.0, 1.0), self.runtime)
        self.engine = Engine(self.method, plan_of(model.train, model.train.steps), self.runtime)
        noise = torch.Generator().manual_seed(0)
        images = (torch.rand(known["batch"], 1, *model.data.size, generator=noise) * 2 - 1 for _ in "ab")
        placed = [self.runtime.place(image, known["dims"]) for image in images]
        self.batch = dict(zip("ab", placed, strict=True))

    def step(self) -> None:
        """One training step."""
        self.engine.train_step(Batch(self.batch))
        self.engine.step += 1

    def translate(self) -> None:
        """The batch, from a to b, as inference runs it."""
        with inference_weights(self.method, self.engine), self.runtime.autocast():
            self.method.translate(self.batch["a"], "b")

    def works(self) -> dict[str, Any]:
        """name -> what is timed."""
        return {"step": self.step, "translation": self.translate}


def measure(name: str, seconds: float, device: str | None = None) -> dict[str, Any]:
    """A series: counted work and all samples of each size, and the exponents."""
    network, axis, values = SERIES[name]
    points = [Point(network, axis, value, device) for value in values]
    rows, guess = [], 0.0
    for point in points:
        row: dict[str, Any] = {axis: point.value}
        for what, work in point.works().items():
            for _ in range(WARM):
                work()
            with Work() as counter:
                work()
            row[what] = {"flops": counter.flops, "numbers": counter.numbers, "samples_s": []}
            guess += once(work, point.runtime.device)
        rows.append(row)
    rounds = int(np.clip(seconds / guess, *ROUNDS))
    for number in range(rounds):
        for point, row in list(zip(points, rows, strict=True))[:: 1 if number % 2 == 0 else -1]:
            for what, work in point.works().items():
                row[what]["samples_s"].append(once(work, point.runtime.device))
    return {
        "series": name,
        "network": BASE[network],
        "axis": axis,
        "points": rows,
        "fits": {what: fit([row[what] for row in rows]) for what in ("step", "translation")},
    }


def fit(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Exponents of time against both kinds of work, over all sizes and over the largest; whether it is superlinear."""
    found: dict[str, Any] = {}
    for name, part in (("all", points), ("largest", points[-TAIL:])):
        samples = [point["samples_s"] for point in part]
        found[name] = {kind: exponent([point[kind] for point in part], samples) for kind in ("flops", "numbers")}
    least = [min(fitted["ci95"][0] for fitted in kinds.values()) for kinds in found.values()]
    return found | {"superlinear": max(least) > LIMIT}


def exponent(work: list[float], samples: list[list[float]], seed: int = 0) -> dict[str, Any]:
    """The slope of log time against log work: the median over rounds, with a bootstrap 95 % interval."""
    x, times = np.log(np.asarray(work, float)), np.log(np.asarray(samples, float))
    x = x - x.mean()
    slopes = x @ (times - times.mean(0)) / (x @ x)
    draws = np.random.default_rng(seed).choice(slopes, (DRAWS, len(slopes)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"exponent": float(np.median(slopes)), "ci95": [float(low), float(high)], "rounds": len(slopes)}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time against work, a panel for each network and each of step and translation; dashes have slope 1."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    networks = list(dict.fromkeys(row["series"].split(",")[0] for row in rows))
    figure, axes = plt.subplots(2, len(networks), figsize=(3.2 * len(networks), 5.4), squeeze=False, sharey="row")
    for column, network in enumerate(networks):
        for what, panel in zip(("step", "translation"), axes[:, column], strict=True):
            ends: list[tuple[float, float]] = []
            for row in (row for row in rows if row["series"].split(",")[0] == network):
                x = [point[what]["flops"] / 1e9 for point in row["points"]]
                y = [median(point[what]["samples_s"]) for point in row["points"]]
                label = f"{row['axis']}, exponent {row['fits'][what]['all']['flops']['exponent']:.2f}"
                panel.plot(x, y, "o-", markersize=3, linewidth=1.2, label=label)
                ends += zip(x, y, strict=True)
            right = max(ends)
            left = min(ends)[0]
            panel.plot([left, right[0]], [right[1] * left / right[0], right[1]], "--", color="0.6", linewidth=0.8)
            panel.set(xscale="log", yscale="log", title=f"{network}: {what}")
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.title.set_fontsize(9)
            panel.tick_params(labelsize=7)
            panel.legend(fontsize=6.5, frameon=False)
            panel.grid(True, which="major", linewidth=0.3, color="0.85")
    for panel in axes[-1]:
        panel.set_xlabel("counted operations, 10$^9$", fontsize=8)
    for panel in axes[:, 0]:
        panel.set_ylabel("seconds", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def lines(row: dict[str, Any]) -> Iterator[str]:
    """A series for the terminal."""
    for what, found in row["fits"].items():
        cells = []
        for name in ("all", "largest"):
            parts = ((kind, part["exponent"], *part["ci95"]) for kind, part in found[name].items())
            cells.append(f"{name}: " + ", ".join(f"{kind} {e:.2f} [{low:.2f}, {up:.2f}]" for kind, e, low, up in parts))
        yield f"{row['series']:<16} {what:<12} {'   '.join(cells)}{'   SUPERLINEAR' if found['superlinear'] else ''}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", action="append", default=[], metavar="PATTERN", help=f"of {', '.join(SERIES)}")
    parser.add_argument("--seconds", type=float, default=8.0, help="of timed work for each series; default 8")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the best there is")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="a small picture of all series that were measured")
    options = parser.parse_args(arguments)

    names = [name for name in SERIES if not options.series or any(fnmatch(name, part) for part in options.series)]
    if not names:
        parser.error(f"no series fits; there are {', '.join(SERIES)}")
    enter(start(options.device).device.type == "cpu")
    rows = []
    for name in names:
        rows.append(measure(name, options.seconds, options.device))
        print("\n".join(lines(rows[-1])), flush=True)
    if options.plot:
        plot(rows, Path(options.plot))
    if options.json:
        machine = describe(start(options.device))
        record = {"date": date.today().isoformat(), "machine": machine, "limit": LIMIT, "series": rows}
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        write_file(Path(options.json), (json.dumps(record, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
