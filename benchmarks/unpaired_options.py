"""Measures by how much options of unpaired training reduce a plain CycleGAN's error between CT and
MR.

    python benchmarks/unpaired_options.py [--systems plain recipe] [--seeds 0] [--data FOLDER]
    [--out DIR] [--json FILE]

All have the networks, optimizer, batch and steps of `cyclegan_ct_mr_matched --profile cpu`:
`recipe` is that recipe, `plain` is `cyclegan_ct_mr`, the others are `plain` with one option. Each
training patient contributes one domain; true pairs of other patients are used for scores only (mean
absolute error in network intensities, -1 to 1). `saved`: mean relative reduction of a patient's
error over seeds, with a 95 % interval from drawing patients. Skips runs in DIR.
"""

from pathlib import Path

import harness
import numpy as np

from gantk.metrics.intervals import estimate

LENGTH = ["train.steps=225", "train.batch=4"]  # the recipe's
SYSTEMS = {
    "plain": [],
    "recipe": [],
    "order": ["data.order='matched'"],
    "pairs": ["method.pairs='weak_pairs'"],
}
# of --data
OWN = [r"data.source.patient='(\d+)\d{3}[.]'", "data.split.test=0.34", "data.split.validation=0.0"]


def scored(system: str, seed: int, options) -> dict[str, dict[str, dict[str, float]]]:
    """Direction -> patient -> scores of a run, which is trained first if it is missing."""
    out, name = (
        options.out / f"{system}-{seed}",
        "cyclegan_ct_mr" + "_matched" * (system == "recipe"),
    )
    settings = [*LENGTH, *SYSTEMS[system], *(OWN if options.data else []), *options.set]
    run = harness.trained(name, out, profile="cpu", set=settings, data=options.data, seed=seed)
    return harness.patients_of(run)


if __name__ == "__main__":
    parser = harness.parser(__doc__, set=[], out=Path("runs/unpaired-options"), seeds=(0,))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["plain", "recipe"])
    parser.add_argument("--data", type=Path, help="CT and MR pictures; default: synthetic heads")
    options, rows, scores, plain = parser.parse_args(), [], {}, {}
    for system in options.systems:
        found = scores[system] = [scored(system, seed, options) for seed in options.seeds]
        for way, region in (
            (way, region) for way in found[0] for region in ("mae_foreground", "mae")
        ):
            each = np.mean([[each[region] for each in one[way].values()] for one in found], axis=0)
            saved = estimate(1 - each / plain.setdefault((way, region), each), [*found[0][way]])
            share = "{:.1%} [{:.1%}, {:.1%}]".format(saved.value, *saved.ci95)
            rows.append([system, way, region, f"{each.mean():.4f}", share])
    harness.finish(
        options.json, ["system", "direction", "score", "error", "saved"], rows, scores=scores
    )
