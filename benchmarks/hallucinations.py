"""Measures how well hallucination maps detect discs planted into outputs of T1 -> T2 models, by
size and contrast.

    python benchmarks/hallucinations.py RUN... [--json FILE] [--discs 8]

An invention is a disc in the output alone; an erasure is a disc in input and truth that the output
lacks. Each lies in the tissue of a test image of the run. A disc's score is the highest value of a
map within 6 pixels of its centre; the negative is the score at the same place without the disc:
AUROC with a 95 % interval from drawing subjects. The maps: against the truth, and `suspicion` from
input and output alone. The spread over flips is computed on the clean image, as if the network drew
the disc for every flip: otherwise the flips without the disc would reveal it.
"""

from itertools import product
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from gantk.metrics.intervals import drawn_interval
from gantk.plugin.loader import registry
from gantk_hallucination.maps import FINE, blurred, suspicion
from gantk_hallucination.sfrc import SFRC, against_truth

# pixels; share of range
SIZES, CONTRASTS, KINDS = (4, 6, 8, 10, 12), (0.05, 0.1, 0.2, 0.4), ("invention", "erasure")
REACH, FINER = 6, 4  # pixels around a centre; samples per pixel along each axis


def disc(side: int, row: float, column: float, diameter: float) -> Tensor:
    """(side, side): the share of each pixel that the disc covers."""
    at = (torch.arange(side * FINER) + 0.5) / FINER - 0.5
    inside = (at[:, None] - row).square() + (at - column).square() <= diameter**2 / 4
    return inside.float().reshape(side, FINER, side, FINER).mean((1, 3))


def measured(path: str, discs: int, seed: int) -> dict[str, Any]:
    """Planted discs of one run, their scores (with disc, without disc) in each map, and their
    patients.
    """
    model, data = harness.opened(Path(path))
    pairs, (low, high) = data.pairs("test"), data.range
    inputs, truths = (torch.stack([data.image(pair[letter]) for pair in pairs]) for letter in "ab")
    span, side, rng = high - low, inputs.shape[-1], np.random.default_rng(seed)
    with torch.no_grad():
        outputs = model.method.translate(inputs, "b").float()
        flips = registry().get("uncertainty", "flips").load()()
        spread = blurred(flips.spread(model.method, "b", inputs, outputs, ()), FINE)
        tissue = blurred((inputs > low + 0.1 * span).float(), 3.0) > 0.97
        plants, rows = [], {name: [] for name in ("inputs", "truths", "outputs")}
        for (number, kind), diameter, contrast in product(
            enumerate(KINDS * discs), SIZES, CONTRASTS
        ):
            image = (len(plants) * 7 + number) % len(pairs)
            places = np.argwhere(tissue[image, 0].numpy())
            places = places[(places.min(1) >= 10) & (places.max(1) < side - 10)]
            row, column = places[rng.integers(len(places))]
            drawn = disc(side, row, column, diameter) * contrast * span * rng.choice([-1, 1])
            plants.append((kind, diameter, contrast, image, row, column))
            invented = kind == "invention"
            rows["inputs"].append(inputs[image] + (0 if invented else drawn))
            rows["truths"].append(truths[image] - (0 if invented else drawn))
            rows["outputs"].append(outputs[image] + (drawn if invented else 0))
        x, y, made = (torch.stack(each) for each in rows.values())
        of = [plant[3] for plant in plants]
        parts = list(zip(x.split(64), made.split(64), strict=True))
        suspect = torch.cat([suspicion(model.method, "b", *part) for part in parts]) + spread[of]
        clean = suspicion(model.method, "b", inputs, outputs) + spread
        error = [blurred(one - other, FINE).abs() for one, other in ((made, y), (outputs, truths))]
        maps = {"with truth": (against_truth(made, y, span), against_truth(outputs, truths, span))}
        maps |= {"without truth": (suspect, clean), "absolute error, smoothed": tuple(error)}

    def peak(found: Tensor, row: int, column: int) -> float:
        return float(
            found[0, row - REACH : row + REACH + 1, column - REACH : column + REACH + 1].max()
        )

    scores = {
        name: [(peak(planted[i], *p[4:]), peak(plain[p[3]], *p[4:])) for i, p in enumerate(plants)]
        for name, (planted, plain) in maps.items()
    }
    patients = [f"{Path(path).name} {pairs[p[3]]['a'].subject}" for p in plants]
    share = float(SFRC(span, 2)(outputs - low, truths - low).mean())
    return {"plants": plants, "scores": scores, "patients": patients, "sfrc": share}


def auroc(scores: np.ndarray, patients: list[str]) -> str:
    """AUROC of scores (n, 2), with the disc and without, and its 95 % interval, as text."""
    value = lambda at: roc_auc_score(np.repeat([1, 0], len(at)), scores[at].T.ravel())  # noqa: E731
    return harness.with_ends(
        value(np.arange(len(scores))), drawn_interval(value, patients, draws=500), 3
    )


if __name__ == "__main__":
    parser = harness.parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument(
        "--discs", type=int, default=8, help="of each kind, size and contrast, for each run"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [measured(run, options.discs, seed) for seed, run in enumerate(options.runs)]
    plants, patients = (sum((one[key] for one in found), []) for key in ("plants", "patients"))
    groups = {"all": lambda p: True} | {kind: lambda p, k=kind: p[0] == k for kind in KINDS}
    groups |= {f"{size} px": lambda p, s=size: p[1] == s for size in SIZES}
    groups |= {f"{contrast:.0%}": lambda p, c=contrast: p[2] == c for contrast in CONTRASTS}
    rows = []
    for name, chosen in groups.items():
        at = [i for i, plant in enumerate(plants) if chosen(plant)]
        cells = [
            np.array(sum((one["scores"][key] for one in found), []))[at]
            for key in found[0]["scores"]
        ]
        rows.append([name, len(at), *(auroc(cell, [patients[i] for i in at]) for cell in cells)])
    shares = [one["sfrc"] for one in found]
    harness.finish(options.json, ["discs", "n", *found[0]["scores"]], rows, sfrc=shares)
    print("sfrc of the runs:", *(f"{share:.3f}" for share in shares))
