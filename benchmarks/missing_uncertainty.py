"""How well the uncertainty of made contrasts shows where, and in which cases, they are wrong.

    python benchmarks/missing_uncertainty.py MODEL PEOPLE [--names NAME ...] [--inputs N ...]
        [--kinds KIND ...] [--json FILE] [--out FOLDER]

Each person's contrasts are made from the numbers of others that --inputs names, with each kind of
`gantk translate --uncertainty`. Truth and result are scaled as in `score_volumes.py`, and the error
is their absolute difference in the tissue of every fourth slice with tissue.

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
from pathlib import Path

import numpy as np
from missing_contrasts import CONTRASTS, Case, Person, cases, over_people, people
from scipy.stats import spearmanr
from score_volumes import load, onto, scaled, slices_with_tissue
from sklearn.metrics import roc_auc_score

import gantk

LARGE_ERROR = 0.1  # of the range
EVERY = 4  # slices
SCALE_PERCENTILE = 99.5  # as in score_volumes


def maps_of(person: Person, case: Case, kind: str, options: argparse.Namespace) -> tuple:
    """(error, uncertainty) of the voxels of tissue, (P,) each; both as shares of the range."""
    made = options.out / kind / person.name / f"{case.name}.nii.gz"
    uncertain = made.with_name(f"{case.name}_uncertainty.nii.gz")
    if not uncertain.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        images = {name: person.scans[name] for name in case.given}
        gantk.translate(
            options.model, images, made, to=case.to, uncertainty=kind, say=lambda line: None
        )

    grid = load(str(person.scans[case.to]))
    real = scaled(grid.get_fdata(dtype=np.float32))
    result = onto(load(str(made)), grid)[0]
    spread = onto(load(str(uncertain)), grid)[0] / np.percentile(result, SCALE_PERCENTILE)
    used = slices_with_tissue(real)
    real = real[..., used][..., ::EVERY]
    inside = real > 0
    error = np.abs(scaled(result)[..., used][..., ::EVERY] - real)
    return error[inside], spread[..., used][..., ::EVERY][inside]


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
    results: dict[str, dict] = {}
    print("| kind | AUROC | rank correlation, voxels | rank correlation, cases |")
    print("| --- | --- | --- | --- |")
    for kind in options.kinds:
        rows: dict[str, dict] = {}
        for person in people(options.people, options.names):
            rows[person.name] = {
                case.name: scores(*maps_of(person, case, kind, options))
                for case in cases(options.inputs)
            }
        mean = over_people([of_person(own) for own in rows.values()])
        results[kind] = {"people": rows, "mean": mean}
        cells = [f"{each['mean']:.3f} ± {each['half']:.3f}" for each in mean.values()]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("people", type=Path, help="a folder for each person")
    parser.add_argument("--names", nargs="+", default=(), help="only these people")
    parser.add_argument("--inputs", type=int, nargs="+", default=(3, 2, 1), help="only these cases")
    parser.add_argument("--kinds", nargs="+", default=("auto", "flips", "inputs", "suspicion"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/missing-uncertainty"))
    main(parser.parse_args())
