"""Measures how much adjacent slices of translated volumes differ, before and after the post-step
`slices`.

    python benchmarks/slice_jumps.py RECIPE [--set KEY=VALUE] [--seeds 0 1] [--json FILE]

Trains the recipe once for each seed, unless --out has that run. `jump` is the mean absolute second
difference along the slice axis, in tissue, divided by that of the truth; PSNR is of whole volumes.
Both are means over test volumes and seeds, with 95 % intervals from drawing volumes.
"""

import argparse
from itertools import groupby
from pathlib import Path

import harness
import numpy as np
import torch

from gantk.runs.trained import Examples
from gantk_post.slices import AgreeingSlices, jump
from gantk_post.volumes import spot


def scored(run: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(direction, "made" or "slices") -> (jump, PSNR) of each test volume."""
    (model, data), found = harness.opened(run), {}
    for to, of in (letters for letters in ("ba", "ab") if letters[0] in model.method.directions()):
        for _, group in groupby(
            sorted(data.pairs("test"), key=lambda p: spot(p[to])), key=lambda p: spot(p[to])[0]
        ):
            pairs = list(group)
            given, truth = (
                torch.stack([data.image(pair[letter]) for pair in pairs]) for letter in (of, to)
            )
            with torch.no_grad():
                made = torch.cat(
                    [model.method.translate(part, to).float() for part in given.split(16)]
                )
            examples, post = Examples(lambda: data, to, "cpu", given), AgreeingSlices(2, data.range)
            span, level = data.range[1] - data.range[0], post.level
            real = jump(truth.transpose(0, 1), level)
            for name, image in {"made": made, "slices": post(made, examples)}.items():
                psnr = -10 * np.log10(float((image - truth).square().mean()) / span**2)
                found.setdefault((f"{of}_to_{to}", name), []).append(
                    (jump(image.transpose(0, 1), level) / real, psnr)
                )
    return found


if __name__ == "__main__":
    parser = harness.parser(__doc__, set=[], out=Path("runs/slice-jumps"), seeds=(0,))
    parser.add_argument("recipe")
    options: argparse.Namespace = parser.parse_args()
    found, rows = {}, []
    for seed in options.seeds:
        run = options.out / f"{options.recipe}-{seed}"
        harness.trained(options.recipe, run, seed=seed, set=options.set)
        for key, values in scored(run).items():
            found.setdefault(key, []).append(values)
    for (direction, name), values in found.items():
        rows.append([direction, name, *map(harness.with_interval, np.mean(values, axis=0).T)])
    scores = {" ".join(key): values for key, values in found.items()}
    heads = ["direction", "volume", "jump / the truth's", "PSNR"]
    harness.finish(options.json, heads, rows, recipe=options.recipe, scores=scores)
