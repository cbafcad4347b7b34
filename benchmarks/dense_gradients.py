"""What becomes of the gradient on its way back to a generator's dense layer, at each checkpoint.

    gantk run dcgan_tumour --profile cpu --set train.keep=100 --out RUN
    python benchmarks/dense_gradients.py RUN [--json FILE]

For each checkpoint of a run from noise: the generator's loss on generated images, and for each layer
with weights |gradient| / |weights|, the relative size of a step. It is the mean over DRAWS batches of
IMAGES images. The last column divides the first layer's value by the last layer's. Far below 1 the
gradient fades before it reaches the dense layer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from gantk.machine.runtime import start
from gantk.method import Batch, Method
from gantk.recipe.load import load_recipe
from gantk.runs import checkpoint
from gantk.runs.trained import load_method

IMAGES = 16
DRAWS = 8
LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for step in checkpoint.steps_saved(options.run / "checkpoints"):
        method = method_at(options.run, step)
        sizes = relative_gradients(method)
        first, *_, last = sizes.values()
        rows.append({"step": step, "layers": sizes, "first_to_last": first / last})

    names = list(rows[0]["layers"])
    print("| step | " + " | ".join(f"`{name}`" for name in names) + " | first / last |")
    print("|---" * (len(names) + 2) + "|")
    for row in rows:
        values = " | ".join(f"{row['layers'][name]:.2e}" for name in names)
        print(f"| {row['step']:,} | {values} | {row['first_to_last']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def method_at(run: Path, step: int) -> Method:
    """The run's method with the weights of a checkpoint, ready for a training step."""
    model = load_recipe(run / "recipe.toml").check()
    saved = checkpoint.path_of(run / "checkpoints", step)
    meta = checkpoint.load_meta(saved)
    ends = tuple(model.data.intensity().range)
    method = load_method(model, saved, meta, ends, start("cpu"))
    return method.train().requires_grad_(True)


def layers_of(generator: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and dense layers by name, first to last."""
    return {name: each for name, each in generator.named_modules() if isinstance(each, LAYERS)}


def relative_gradients(method: Method) -> dict[str, float]:
    """|gradient| / |weights| of each layer of the generator, first to last."""
    phase = next(phase for phase in method.phases() if phase.name == "generator")
    layers = layers_of(method.generator)
    found: dict[str, list[float]] = {name: [] for name in layers}
    channels = method.geometry.channels["image"]
    for _ in range(DRAWS):
        images = torch.zeros(IMAGES, channels, *method.geometry.size)
        labels = torch.arange(IMAGES) % max(1, len(method.geometry.classes))
        method.zero_grad()
        sum(phase.loss(Batch(image=images, label=labels)).values()).backward()
        for name, layer in layers.items():
            found[name].append(float(layer.weight.grad.norm() / layer.weight.detach().norm()))

    return {name: fmean(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
