"""Measures the Dice of segmenters trained on images generated from label maps, alone and together
with real images.

    python benchmarks/label_maps.py [--set KEY=VALUE] [--out DIR] [--json FILE]

`spade_tumour --profile cpu` trains on 8 slices per head and makes 200 images; tests on 20 other
heads, with intervals.
"""

from pathlib import Path

import harness
import numpy as np
import torch

import gantk
from gantk.inference.pipeline import Look
from gantk.metrics.intervals import drawn_interval
from gantk.plugin.spec import bind_or_raise
from gantk_label_maps.maps import moved, placed_anew
from gantk_tasks.segmentation import Segmenter

SOURCE, SIZE, LESION = {"name": "phantom", "lesions": 1, "radius": [8.0, 20.0]}, (64, 64), 4
PATIENTS, HEADS, NEW = 5, 20, 200  # heads to train on, heads to test, new images


def dice(seed: int, options) -> dict[str, list[float]]:
    """Training set -> Dice in each test head of a segmenter that is trained on it for 200 steps."""
    out, found, sets = options.out / f"spade-{PATIENTS}-{seed}", {}, []
    for source in (
        SOURCE | {"subjects": HEADS, "seed": 1000},
        SOURCE | {"subjects": PATIENTS, "seed": seed},
    ):
        records = bind_or_raise("source", source)(("map", "FLAIR"), 2, SIZE).records()
        sets.append(
            [
                np.stack([one.read()[0] for one in records if one.domain == x]).astype("f4")
                for x in "ab"
            ]
        )
    tables = gantk.load_recipe("spade_tumour").override(options.set, "cpu").tables
    tables |= {"data": tables["data"] | {"source": source, "split": {"test": 0, "validation": 0}}}
    run = harness.trained(tables | {"evaluate": {"metrics": ["mae"]}}, out, seed=seed)
    (truth, tested), pair, make = *sets, run.load("cpu")
    drawn, top = truth.reshape(HEADS, -1) == LESION, float(np.percentile(pair[1], 99.9))
    turned = [
        [moved(each[n % len(each)], np.random.default_rng(n), 10.0, 0.1) for n in range(NEW)]
        for each in pair
    ]
    new = placed_anew(pair[0].astype(int), LESION, NEW, np.random.default_rng(seed))
    made = [
        make.translate(x[None].astype("f4"), look=Look(variants=1, seed=n))[0, 0]
        for n, x in enumerate(new)
    ]
    for name, more in {
        "real": ([], []),
        "+ moved": turned,
        "made": (new, made),
        "+ made": (new, made),
    }.items():
        learn = (
            more
            if name == "made"
            else [[*each, *other] for each, other in zip(pair, more, strict=True)]
        )
        labels, images = (torch.from_numpy(np.stack(each)[:, None]).float() for each in learn)
        segmenter = Segmenter(2, 200, max(SIZE), seed, top).fit(images, labels == LESION)
        shown = segmenter(torch.from_numpy(tested[:, None])).numpy().reshape(HEADS, -1)
        found[name] = (2 * (shown & drawn).sum(1) / (shown.sum(1) + drawn.sum(1))).tolist()
    return found


parser, rows = harness.parser(__doc__, set=[], out=Path("runs/label-maps"), seeds=(0, 1, 2)), []
options = parser.parse_args()
scores = [dice(seed, options) for seed in options.seeds]
for name in scores[0]:
    own, real, one = (
        *(np.mean([each[key] for each in scores], axis=0) for key in (name, "real")),
        np.ones(HEADS),
    )
    ways = [
        lambda i, x=x, y=y: x[i].mean() / y[i].mean()
        for x, y in ((own, one), (own, real), (own - real, one))
    ]
    cells = [
        (way(np.arange(HEADS)), drawn_interval(way, [*map(str, range(HEADS))])) for way in ways
    ]
    rows.append([name, *(harness.with_ends(*each, 3) for each in cells)])
harness.finish(options.json, ["learned from", "Dice", "of real", "gain"], rows, scores=scores)
