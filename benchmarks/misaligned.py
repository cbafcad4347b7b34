"""What training pairs that do not lie on each other cost: RegGAN and Pix2Pix, scored on test pairs
that do.

    python benchmarks/misaligned.py [--pixels 0 2 4 8] [--seeds 0] [--data PAIRS.csv] [--methods
    reggan] [--json FILE]

They train with the networks, steps and augmentation of `reggan_t1t2 --profile cpu`; the T2 of each
training pair is moved by so many pixels in the mean (the source `misaligned`). `lost` is against
the same method and patients at the first of --pixels. Intervals (95 %) are of drawing patients,
each a mean of seeds. Runs in --out are not trained again.
"""

import argparse
from inspect import signature
from pathlib import Path

import numpy as np

import gantk
from gantk.plugin.loader import registry
from gantk_bench import harness


def scored(
    method: str, pixels: float, seed: int, options: argparse.Namespace
) -> tuple[dict[str, float], list[float]]:
    """Of a run, trained where it is not there, T1 -> T2: PSNR by patient; SSIM, NMI of output and
    input.
    """
    recipe = gantk.load_recipe("reggan_t1t2").override(
        ["train.sample_every=400", *options.set], "cpu"
    )
    if options.data:
        source = {"name": "manifest", "path": str(options.data.resolve())}
    else:
        source = "phantom"
    tables = recipe.tables | {"evaluate": {"metrics": ["psnr", "ssim", "nmi"]}}
    # Pix2Pix has fewer options
    known = signature(registry().get("method", method).load()).parameters
    tables["method"] = {
        key: x for key, x in tables["method"].items() if method == "reggan" or key in known
    }
    tables["method"]["name"] = method
    tables["data"] = tables["data"] | {
        "source": {"name": "misaligned", "source": source, "pixels": pixels}
    }
    run = harness.open_or_train(tables, options.out / f"{method}-{pixels:g}px-{seed}", seed=seed)
    psnr = {
        patient: scores["psnr"]
        for patient, scores in harness.scores_by_patient(run)["a_to_b"].items()
    }
    return psnr, [run.metrics["a_to_b"][name]["value"] for name in ("ssim", "nmi_input")]


if __name__ == "__main__":
    parser = harness.parser(__doc__, set=[], out=Path("runs/misaligned"), seeds=(0,))
    parser.add_argument("--pixels", type=float, nargs="+", default=[0.0, 2.0, 4.0, 8.0])
    parser.add_argument("--methods", nargs="+", default=["reggan", "pix2pix"])
    parser.add_argument("--data", type=Path, help="a CSV of pairs; default: synthetic heads")
    options = parser.parse_args()
    rows = []
    scores = {}
    aligned = {}
    for method in options.methods:
        for pixels in options.pixels:
            found = [scored(method, pixels, seed, options) for seed in options.seeds]
            psnr = np.mean([list(one[0].values()) for one in found], axis=0)
            ssim, nmi = np.mean([one[1] for one in found], axis=0)
            if aligned.setdefault(method, psnr) is psnr:
                lost = ""
            else:
                lost = harness.mean_text(aligned[method] - psnr)
            rows.append(
                [
                    method,
                    f"{pixels:g}",
                    harness.mean_text(psnr),
                    lost,
                    f"{ssim:.3f}",
                    f"{nmi:.3f}",
                ]
            )
            scores[f"{method} {pixels:g}"] = found
    heads = ["method", "pixels", "PSNR", "lost", "SSIM", "NMI of output and input"]
    harness.finish(options.json, heads, rows, scores=scores)
