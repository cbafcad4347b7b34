"""Quality on whole real patients: every run given translates patients that it may never have seen, and is scored.

    python benchmarks/patients.py RUN [RUN ...] --data FOLDER --json benchmarks/results/patients.json

FOLDER holds open_ms/ and brats/. Truth and result are brought to [0, 1] by the run's own intensity mapping: the truth
by its own percentiles, the result by those that it was written with; the data range is 1, and nothing is clipped.
Scores are means over the axial planes that the run was trained on, on the files' own grid and averaged down to 96 rows;
over lesion voxels apart. The interval is over patients.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch

import gantk
from gantk.data.resample import Resize
from gantk.formats.files import read
from gantk.metrics.intervals import estimate
from gantk.metrics.pairs import MAE, PSNR, SSIM
from gantk.runs.folder import environment

OPEN_MS = "open_ms/patient{0}/{1}_N4_noneck_reduced_winsor_regtoFLAIR{2}_regtoMNI.nii.gz"
BRATS = "brats/Brats18_2013_2_1/Brats18_2013_2_1_{0}.nii.gz"
PATIENTS = {  # name: T1, T2, lesion mask
    "open_ms 07": tuple(
        OPEN_MS.format("07", *part) for part in (("T1", "_brain_N4"), ("T2", "_brain_N4"), ("GOLD_STANDARD", ""))
    ),
    "open_ms 19": tuple(
        OPEN_MS.format("19", *part) for part in (("T1", "_brain_N4"), ("T2", "_brain_N4"), ("GOLD_STANDARD", ""))
    ),
    "brats 2013_2_1": tuple(BRATS.format(part) for part in ("t1", "t2", "seg")),
}
ROWS = 96  # of the smaller size that is scored too
LEAST = 0.02  # share of a plane that shows tissue: emptier ones are not scored


def unit(pixels: np.ndarray, mapping) -> np.ndarray:
    """Native intensities to [0, 1] of a mapping."""
    low, high = mapping.range
    return (np.asarray(mapping.forward(pixels), dtype=np.float32) - low) / (high - low)


def planes(volume: np.ndarray, shares: tuple[float, float]) -> list[int]:
    """The planes of (1, D, H, W) in [0, 1] that are scored."""
    count = volume.shape[1]
    chosen = range(int(shares[0] * count), int(shares[1] * count))
    return [k for k in chosen if (volume[0, k] > 0.05).mean() > LEAST]


def scored(made: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Mean scores of planes (N, 1, H, W) in [0, 1]."""
    one, other, inside = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in (made, truth, mask))
    found = {metric.name: metric(one, other).mean().item() for metric in (PSNR(1.0, 2), SSIM(1.0, 2), MAE(1.0, 2))}
    held = inside.flatten(1).any(1)
    if held.any():
        for metric in (PSNR(1.0, 2), MAE(1.0, 2)):
            found[f"{metric.name}_lesion"] = metric(one[held], other[held], inside[held]).mean().item()
    return {name: round(value, 4) for name, value in found.items()}


def judged(model, source: Path, truth: Path, mask: Path, to: str, shares: tuple[float, float]) -> dict[str, dict]:
    """Scores of one patient in one direction, the model's and the source's own, at both sizes."""
    pipeline = model.pipeline(to)
    image, target = read(source), read(truth)
    made = unit(pipeline.images(image)[0].pixels, pipeline.target)
    there = pipeline.own_scale(image.pixels)
    true = unit(target.pixels, model.pipeline({"a": "b", "b": "a"}[to]).own_scale(target.pixels))
    chosen, lesions = planes(true, shares), (read(mask).pixels > 0).astype(np.float32)
    made, true, own, lesions = (
        np.moveaxis(each, 1, 0)[chosen] for each in (made, true, unit(image.pixels, there), lesions)
    )
    height, width = made.shape[2:]
    fit = Resize((height, width), (ROWS, round(ROWS * width / height)), "stretch")
    small = [np.stack([fit.forward(plane) for plane in each]) for each in (made, true, own, lesions)]
    small[3] = (small[3] > 0.5).astype(np.float32)
    return {
        size: {"model": scored(one, other, inside), "identity": scored(source, other, inside)}
        for size, (one, other, source, inside) in {"full": (made, true, own, lesions), "96 rows": small}.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument("--planes", type=float, nargs=2, default=(0.2, 0.72))
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    result = {"date": str(date.today()), "planes": list(options.planes), "environment": environment(), "runs": {}}
    for run in options.runs:
        model = gantk.load(run, device="cpu")
        rows = result["runs"][Path(run).name] = {"patients": {}, "mean": {}}
        for name, files in PATIENTS.items():
            t1, t2, mask = (Path(options.data) / file for file in files)
            for to, source, truth in (("b", t1, t2), ("a", t2, t1)):
                found = judged(model, source, truth, mask, to, options.planes)
                rows["patients"].setdefault(f"to_{to}", {})[name] = found
                for size, scores in found.items():
                    print(f"{Path(run).name}  {name:15} to {to}  {size:8} {scores}", flush=True)
        for to, patients in rows["patients"].items():
            for size in ("full", "96 rows"):
                for metric in ("psnr", "ssim", "mae"):
                    values = [found[size]["model"][metric] for found in patients.values()]
                    e = estimate(values, list(patients))
                    rows["mean"].setdefault(to, {}).setdefault(size, {})[metric] = {
                        "value": e.value,
                        "ci95": e.ci95,
                        "n": e.n,
                    }
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
