"""Whether a multimodal method's translations differ in style and agree in content.

    gantk run munit_t1t2 --profile cpu --out RUN
    python benchmarks/styles.py RUN --json benchmarks/results/munit-styles.json

Per direction, over the test images: how far the variants of one image lie apart (mean absolute difference of pairs, in
percent of the range; beside it that of translations of different images), and how much of the edges they share with
the source and with each other (1 - structure loss: 1 = the same edges, 0 = none in common).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from datetime import date
from pathlib import Path

import torch

import gantk
from gantk.data.dataset import Data
from gantk.losses.structure import local_ncc_and_flat_region

TEXTURE = 0.06  # as the recipe has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--variants", type=int, default=6)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    model = gantk.load(options.run)
    data = Data.load(model.model.data, type(model.method))
    found = {}
    for to in model.method.directions():
        found["a_to_b" if to == "b" else "b_to_a"] = measured(model, data, to, options.variants)
    print(json.dumps(found, indent=1))
    if options.json:
        environment = json.loads((Path(options.run) / "environment.json").read_text())
        record = {
            "date": date.today().isoformat(),
            "command": " ".join(["python", *sys.argv]),
            "trained": environment["command"],
            "machine": {key: environment[key] for key in ("device", "cpu", "threads", "precision", "torch", "gantk")},
            "styles": options.variants,
            "result": found,
        }
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


@torch.no_grad()
def measured(model, data: Data, to: str, count: int) -> dict[str, float]:
    """The figures of one direction."""
    other = "a" if to == "b" else "b"
    records = [pair[other] for pair in data.pairs("test")]
    data.intensity.update(model.intensity)
    source = torch.stack([data.image(record) for record in records])
    images = model.method.variants(source, to, count, seed=0).float()
    span = data.range[1] - data.range[0]
    pairs = list(itertools.combinations(range(count), 2))
    shifted = images[0].roll(1, 0)  # another image's translation
    return {
        "images": len(records),
        "variants_differ_percent": 100 / span * mean((images[i] - images[j]).abs().mean() for i, j in pairs),
        "images_differ_percent": 100 / span * float((images[0] - shifted).abs().mean()),
        "edges_shared_with_source": mean(shared(images[i], source) for i in range(count)),
        "edges_shared_between_variants": mean(shared(images[i], images[j]) for i, j in pairs),
        "edges_shared_with_another_image": float(shared(images[0], shifted)),
    }


def shared(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return 1 - local_ncc_and_flat_region(one, other, threshold=TEXTURE)[0]


def mean(values) -> float:
    return float(torch.stack(list(values)).mean())


if __name__ == "__main__":
    main()
