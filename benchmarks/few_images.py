"""KID of what R3GAN, DCGAN and ProGAN make from noise after equal CPU time, by how many images they
are trained on.

Phantom heads at 32 px, 500 slices of others to test; recipes as they are but for the data. Steps
follow from the CPU time of 60 right before. Intervals (95 %): of seeds by Student's t, of one seed
of drawing heads. Runs that are there, in runs/few-images, are not trained again.
"""

import json
import time
from pathlib import Path

import harness
import numpy as np
from scipy.stats import sem, t

import gantk
from gantk.training.engine import Engine

DATA = [
    "data.domains=['T1']",
    "data.size=[32,32]",
    "data.labels=false",
    "data.intensity=percentile",
]
DATA += [
    "data.source={name='phantom',subjects=250,slices=10}",
    "evaluate.metrics=['kid']",
    "evaluate.images=500",
]
METHODS = {
    "r3gan": ("r3gan_tumour", "cpu"),
    "dcgan": ("dcgan_phantom", None),
    "progan": ("progan_phantom", None),
}
FITTED = {
    "r3gan": ["conditional=false"],
    "dcgan": ["conditional=false", "discriminator.depth=3"],
    "progan": [],
}
OUT, spent, step_of = Path("runs/few-images"), [0.0], Engine.train_step


def timed(engine: Engine, batch: dict) -> dict:
    """A training step whose CPU seconds are added to `spent`."""
    begun, losses = time.process_time(), step_of(engine, batch)
    spent[0] += time.process_time() - begun
    return losses


def scored(method: str, images: int, seed: int, options) -> list:
    """KID in random features, its interval, steps, CPU seconds; of a run that is trained where it
    is not there.
    """
    out, csv, steps = OUT / f"{method}-{images}-{seed}", OUT / f"{images}.csv", 60
    OUT.mkdir(parents=True, exist_ok=True)
    if not (out / "few.json").exists():
        rows = [
            f"subject-{k:03d},{'train' if k < images / 10 else 'none' if k < 200 else 'test'}"
            for k in range(250)
        ]
        harness.write_file(csv, "\n".join(["patient,split", *rows]).encode())
        own = [f"method.{setting}" for setting in FITTED[method]] + [
            f"data.split.file='{csv}'",
            *options.set,
        ]
        recipe = gantk.load_recipe(METHODS[method][0]).override(DATA + own, METHODS[method][1])
        for folder in (out / "pilot", out):
            spent[0], every = (
                0.0,
                [f"train.{name}={steps}" for name in ("steps", "sample_every", "save_every")],
            )
            run = gantk.run(
                recipe.override(every).tables, out=folder, device="cpu", seed=seed, say=str
            )
            taken, steps = steps, round(steps * options.seconds / spent[0])
        row = json.loads((run.path / "metrics.json").read_text("utf-8"))["metrics"]["image"][
            "kid_random"
        ]
        (out / "few.json").write_text(json.dumps([row["value"], row["ci95"], taken, spent[0]]))
    return json.loads((out / "few.json").read_text("utf-8"))


if __name__ == "__main__":
    parser, rows, scores, Engine.train_step = (
        harness.parser(__doc__, set=[], seconds=90.0),
        [],
        {},
        timed,
    )
    parser.add_argument("--images", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    options = parser.parse_args()
    for images, method in [(images, method) for images in options.images for method in METHODS]:
        found = scores[f"{method} {images}"] = [
            scored(method, images, seed, options) for seed in range(options.seeds)
        ]
        kid, steps, seconds = (np.array([one[place] for one in found]) for place in (0, 2, 3))
        ends = t.interval(0.95, len(kid) - 1, kid.mean(), sem(kid)) if len(kid) > 1 else found[0][1]
        value = harness.with_ends(kid.mean(), ends, 3)
        rows.append([images, method, value, round(steps.mean()), round(seconds.mean())])
    harness.finish(
        options.json, ["images", "method", "KID", "steps", "CPU seconds"], rows, scores=scores
    )
