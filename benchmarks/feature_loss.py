"""Measures the gain of the losses `feature` and `body_l1`: an independent segmenter's Dice, and
error inside the body.

    python benchmarks/feature_loss.py [--seeds 0 1 2] [--out DIR] [--json FILE]

T1 -> T2 of synthetic heads with one U-Net, equal steps. The loss uses a segmenter trained on the
training patients; another one, of other heads and another seed, scores. Intervals (95 %): bootstrap
of patients, on means over seeds.
"""

from pathlib import Path

import harness
import numpy as np
import torch

from gantk.data.dataset import Data
from gantk.metrics.references import RealImages
from gantk_feature_loss.losses import body_of
from gantk_feature_loss.segmenter import dice_by_image

HEADS = {"name": "phantom", "lesions": 2, "radius": [8, 20]}
SHARED = {
    "data.source": HEADS,
    "data.size": [64, 64],
    "data.split": {"test": 0.3, "validation": 0.15},
}
SHARED |= {"data.augment": ["hflip"], "train.save_every": 2000, "train.sample_every": 2000}
METHOD = {
    "name": "regression",
    "generator": {"name": "unet", "width": 16, "depth": 3, "stem": 1, "head": 2},
}
LAYERS, BODY = ["encoder.0", "encoder.1", "encoder.2", "output"], {"reconstruction": "body_l1"}


def trained(recipe, out, changes, seed=0):
    return harness.trained(recipe, out, set=SHARED | changes, seed=seed)


def scored(run, judge):
    """(patients, 2): Dice of the lesions found by the segmenter `judge`, mean absolute error in the
    body.
    """
    model, method = run.recipe().check(), run.load("cpu").method
    reals = RealImages(Data(model.data, model.method.target, run.split()), "cpu")
    pairs = reals.data.pairs("test")
    sources, real = (reals.seen([pair[letter] for pair in pairs]) for letter in "ab")
    made = torch.cat([method.translate(images, "b") for images in sources.split(16)])
    patients, body = np.array([pair["b"].subject for pair in pairs]), body_of(real, -0.8)
    error = (((made - real).abs() * body).flatten(1).sum(1) / body.flatten(1).sum(1)).numpy()
    dice = dice_by_image(judge, made, reals.masks_of([pair["b"] for pair in pairs]), patients)
    return np.array(
        [[each[patients == who].mean() for each in (dice, error)] for who in np.unique(patients)]
    )


if __name__ == "__main__":
    options = harness.parser(__doc__, out=Path("runs/feature_loss"), seeds=(0, 1, 2)).parse_args()
    rows, scores = [], {}
    others = {"train.steps": 600, "data.source": HEADS | {"seed": 1}}
    judge = trained("segmenter", options.out / "judge", others, 1).load("cpu").method
    own = trained("segmenter", options.out / "own", {"train.steps": 600})
    feature = {
        "target_losses": [
            {"name": "feature", "network": str(own.path), "weight": 0.3, "layers": LAYERS}
        ]
    }
    for name, more in {
        "L1": {},
        "body": BODY,
        "feature": feature,
        "body + feature": BODY | feature,
    }.items():
        changes = {"data.domains": ["T1", "T2"], "train.steps": 400, "method": METHOD | more}
        runs = [
            trained("pix2pix_lesion", options.out / f"{name}-{seed}", changes, seed)
            for seed in options.seeds
        ]
        scores[name] = np.stack([scored(run, judge) for run in runs])
        means, first = (scores[each].mean(0).T for each in (name, "L1"))
        rows.append(
            [name, *(harness.with_interval(each, 3) for each in (*means, *(means - first)))]
        )
    heads = ["losses", "Dice", "MAE in the body", "Dice gained", "MAE gained"]
    harness.finish(
        options.json, heads, rows, scores={name: each.tolist() for name, each in scores.items()}
    )
