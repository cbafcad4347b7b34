"""Quality of a recipe over several seeds: trains, scores on held-out images, writes mean, spread and every score.

    python benchmarks/quality.py dualgan_t1t2 --seeds 0 1 2 --json benchmarks/results/quality-phantom.json
    python benchmarks/quality.py dualgan_t1t2 --data FOLDER --set data.split.validation=0.0 --json FILE
    python benchmarks/quality.py dualgan_t1t2 --paired          # the ceiling: a Pix2Pix on the true pairs, same data

The split stays the same for all seeds. --plain sets structure, flatness, defense and coarse to 0: the published method.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import gantk
from gantk.plugins import load
from gantk.registry import Entry
from gantk.spec import AdversarialLoss, Discriminator, Generator

PLAIN = ("method.structure=0.0", "method.flatness=0.0", "method.defense=0.0", "method.coarse=0.0")


class PairedCeiling(gantk.Method):
    """Pix2Pix (Isola et al. 2017) both ways at once, on true pairs: a ceiling for unpaired methods."""

    paired = True

    def __init__(
        self,
        geometry: gantk.Geometry,
        *,
        generator: Generator = "unet",
        discriminator: Discriminator = "patchgan",
        adversarial: AdversarialLoss = "ls",
        l1: float = 100.0,  # weight of the L1 loss, as published
    ):
        super().__init__(geometry)
        a, b, dims = geometry.channels["a"], geometry.channels["b"], geometry.dims
        self.g_ab, self.g_ba = generator(a, b, dims), generator(b, a, dims)
        self.d_ab, self.d_ba = discriminator(a + b, dims), discriminator(a + b, dims)
        self.adversarial, self.l1 = adversarial(), l1

    def phases(self) -> list[gantk.Phase]:
        """Both generators, then both discriminators."""
        return [
            gantk.Phase("generators", (self.g_ab, self.g_ba), self.generator_losses, ema=True),
            gantk.Phase("discriminators", (self.d_ab, self.d_ba), self.discriminator_losses),
        ]

    def generator_losses(self, batch: gantk.Batch) -> dict[str, Tensor]:
        """Adversarial and L1, both ways."""
        a, b = batch["a"], batch["b"]
        fake_b, fake_a = self.g_ab(a), self.g_ba(b)
        batch["fake_a"], batch["fake_b"] = fake_a.detach(), fake_b.detach()
        return {
            "adversarial_b": self.adversarial.generator(self.d_ab(torch.cat([a, fake_b], 1))),
            "adversarial_a": self.adversarial.generator(self.d_ba(torch.cat([b, fake_a], 1))),
            "l1": self.l1 * ((fake_b - b).abs().mean() + (fake_a - a).abs().mean()),
        }

    def discriminator_losses(self, batch: gantk.Batch) -> dict[str, Tensor]:
        """Real pairs against half-fake ones."""
        a, b = batch["a"], batch["b"]
        real, fake = torch.cat([a, b], 1), torch.cat([a, batch["fake_b"]], 1)
        losses = {"d_ab": self.adversarial.discriminator(*self.together(self.d_ab, real, fake))}
        real, fake = torch.cat([b, a], 1), torch.cat([b, batch["fake_a"]], 1)
        return losses | {"d_ba": self.adversarial.discriminator(*self.together(self.d_ba, real, fake))}

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Either way."""
        return self.g_ab(image) if to == "b" else self.g_ba(image)


def settings_of(options: argparse.Namespace, seed: int) -> dict:
    """The recipe's tables for one seed."""
    tables = gantk.load_recipe(options.recipe).override([*options.set, *(PLAIN if options.plain else ())]).tables
    if options.paired:
        method = tables["method"]
        kept = {key: method[key] for key in ("generator", "discriminator") if key in method}
        tables["method"] = {"name": "paired_ceiling"} | kept
    return tables | {"train": tables["train"] | {"seed": seed}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", metavar="PATH")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--paired", action="store_true", help="train the paired ceiling instead of the recipe's method")
    parser.add_argument("--plain", action="store_true", help="the published method without what gantk adds")
    parser.add_argument("--out", default="runs", help="where the run folders go")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    load().registry.add(Entry("method", "paired_ceiling", PairedCeiling, "benchmarks"))

    rows = []
    for seed in options.seeds:
        kind = "paired" if options.paired else "plain" if options.plain else "run"
        data = Path(options.data).name if options.data else "own"
        out = Path(options.out) / f"quality-{options.recipe}-{data}-{kind}-{seed}"
        run = gantk.run(settings_of(options, seed), data=options.data, out=out)
        rows.append({"seed": seed} | json.loads((run.path / "metrics.json").read_text()))
        environment = json.loads((run.path / "environment.json").read_text())
    record = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": {key: environment[key] for key in ("device", "cpu", "threads", "precision", "torch", "gantk")},
        "summary": summarise(rows),
        "runs": rows,
    }
    print(json.dumps(record["summary"], indent=1))
    if options.json:
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def summarise(rows: list[dict]) -> dict:
    """direction -> metric -> mean, lowest, highest over seeds, and the baselines' values."""
    found: dict = {"seconds": [row["speed"]["seconds"] for row in rows]}
    for direction, metrics in rows[0]["metrics"].items():
        found[direction] = {}
        for name in metrics:
            values = [row["metrics"][direction][name]["value"] for row in rows]
            baselines = {key: row[direction][name]["value"] for key, row in rows[0]["baselines"].items()}
            found[direction][name] = {
                "mean": float(np.mean(values)),
                "lowest": min(values),
                "highest": max(values),
                "baselines": baselines,
            }
    return found


if __name__ == "__main__":
    main()
