"""How well the uncertainty of made contrasts shows where, and in which cases, they are wrong.

    python benchmarks/missing_uncertainty.py MODEL PEOPLE [--names NAME ...] [--inputs N ...]
        [--kinds KIND ...] [--json FILE]

In the middle slices of each person contrasts are made from the numbers of others that --inputs
names, with each kind of `gantk translate --uncertainty`. Truth and result are divided by the 99.5th
percentile of these slices, and the error is their absolute difference in tissue.

* `auroc`: the probability that a voxel with an error above 10 % of the range is more uncertain than
  a voxel below, in the mean over people and cases. 1 perfect, 0.5 guessing.
* `rank`: rank correlation of uncertainty and error over the voxels, in the mean.
* `cases`: rank correlation of the mean uncertainty and the mean error over people and cases of one
  contrast, in the mean over contrasts: whether the map tells results from few contrasts from
  better ones.

Intervals of 95 % are Student's t over people.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from missing_contrasts import CONTRASTS, Case, Person, cases, over_people, parser_of, people
from scipy.stats import spearmanr
from score_volumes import load, scaled
from sklearn.metrics import roc_auc_score

import gantk
from gantk.inference.frame import TranslateOptions

LARGE_ERROR = 0.1  # of the range
SLICES = slice(60, 84)  # of BraTS's 155 axial ones, through ventricles and basal ganglia
SCALE_PERCENTILE = 99.5  # as in score_volumes


def maps_of(model: Any, person: Person, case: Case, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(error, uncertainty) of the voxels of tissue, (P,) each; both as shares of the range."""
    scans = {name: load(str(path)).slicer[:, :, SLICES] for name, path in person.scans.items()}
    given = {name: scans[name] for name in case.given}
    options = TranslateOptions(uncertainty=kind)
    made, uncertain = model.translate(given, to=case.to, options=options)

    real = scaled(scans[case.to].get_fdata(dtype=np.float32))
    result = made.get_fdata(dtype=np.float32)
    spread = uncertain.get_fdata(dtype=np.float32) / np.percentile(result, SCALE_PERCENTILE)
    tissue = real > 0
    return np.abs(scaled(result) - real)[tissue], spread[tissue]


def scores(error: np.ndarray, spread: np.ndarray) -> dict[str, float]:
    """The scores of one person and case."""
    return {
        "auroc": float(roc_auc_score(error > LARGE_ERROR, spread)),
        "rank": float(spearmanr(error, spread).statistic),
        "error": float(error.mean()),
        "spread": float(spread.mean()),
    }


def of_person(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """One person's means over the cases, and the correlation over cases."""
    found = {}
    for name in ("auroc", "rank"):
        found[name] = float(np.mean([row[name] for row in rows.values()]))

    correlations = []
    for to in CONTRASTS:
        own = [row for case, row in rows.items() if case.endswith(f"_to_{to}")]
        errors = [row["error"] for row in own]
        correlations.append(spearmanr(errors, [row["spread"] for row in own]).statistic)
    found["cases"] = float(np.mean(correlations))
    return found


def main(options: argparse.Namespace) -> None:
    """Print a line for each kind of uncertainty."""
    model = gantk.load(options.model)
    results: dict[str, dict] = {}
    print("| kind | AUROC | rank correlation, voxels | rank correlation, cases |")
    print("| --- | --- | --- | --- |")
    for kind in options.kinds:
        rows: dict[str, dict] = {}
        for person in people(options.people, options.names):
            rows[person.name] = {
                case.name: scores(*maps_of(model, person, case, kind))
                for case in cases(options.inputs)
            }
        mean = over_people([of_person(own) for own in rows.values()])
        results[kind] = {"people": rows, "mean": mean}
        cells = [f"{each['mean']:.3f} ± {each['half']:.3f}" for each in mean.values()]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = parser_of(__doc__)
    parser.add_argument("--kinds", nargs="+", default=("auto", "flips"))
    main(parser.parse_args())
