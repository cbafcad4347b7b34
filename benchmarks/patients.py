"""Quality on whole real patients: every run given translates patients that it may never have seen, and is scored.

    python benchmarks/patients.py RUN [RUN ...] --data FOLDER --json benchmarks/results/patients.json

FOLDER holds open_ms/ and brats/. Truth and result are brought to [0, 1] by the run's own intensity mapping: the truth
by its own percentiles, the result by those that it was written with; the data range is 1, and nothing is clipped.
Scores are means over the axial planes that the run was trained on, on the files' own grid and averaged down to 96 rows;
over lesion voxels apart. The interval is over patients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from harness import parser, record, write

import gantk
from gantk.data.resample import Resize
from gantk.formats.files import read
from gantk.machine.runtime import start
from gantk.metrics.intervals import estimate
from gantk.metrics.pairs import MAE, PSNR, SSIM

OPEN_MS = "open_ms/patient{0}/{1}_N4_noneck_reduced_winsor_regtoFLAIR{2}_regtoMNI.nii.gz"
BRATS = "brats/Brats18_2013_2_1/Brats18_2013_2_1_{0}.nii.gz"
PARTS = (("T1", "_brain_N4"), ("T2", "_brain_N4"), ("GOLD_STANDARD", ""))
PATIENTS = {  # name: T1, T2, lesion mask
    **{f"open_ms {number}": [OPEN_MS.format(number, *part) for part in PARTS] for number in ("07", "19")},
    "brats 2013_2_1": [BRATS.format(part) for part in ("t1", "t2", "seg")],
}
ROWS = 96  # of the smaller size that is scored too
LEAST = 0.02  # share of a plane that shows tissue: emptier ones are not scored
METRICS = (PSNR(1.0, 2), SSIM(1.0, 2), MAE(1.0, 2))


def unit(pixels: np.ndarray, mapping) -> np.ndarray:
    """Native intensities to [0, 1] of a mapping."""
    low, high = mapping.range
    return (np.asarray(mapping.forward(pixels), dtype=np.float32) - low) / (high - low)


def scored(made: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Mean scores of planes (N, 1, H, W) in [0, 1]; of lesion voxels apart."""
    one, other, inside = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in (made, truth, mask))
    found = {metric.name: metric(one, other).mean().item() for metric in METRICS}
    some = inside.flatten(1).any(1)
    if some.any():
        for metric in (METRICS[0], METRICS[2]):
            found[f"{metric.name}_lesion"] = metric(one[some], other[some], inside[some]).mean().item()
    return {name: round(value, 4) for name, value in found.items()}


def judged(model, source: Path, truth: Path, mask: Path, to: str, shares: tuple[float, float]) -> dict[str, dict]:
    """Scores of one patient in one direction, the model's and the source's own, at both sizes."""
    pipeline = model.pipeline(to)
    image, target = read(source), read(truth)
    made = unit(pipeline.images(image)[0].pixels, pipeline.target)
    own = unit(image.pixels, pipeline.own_scale(image.pixels))
    true = unit(target.pixels, model.pipeline({"a": "b", "b": "a"}[to]).own_scale(target.pixels))
    lesions = (read(mask).pixels > 0).astype(np.float32)
    first, last = (int(share * true.shape[1]) for share in shares)
    chosen = [k for k in range(first, last) if (true[0, k] > 0.05).mean() > LEAST]
    full = [np.moveaxis(each, 1, 0)[chosen] for each in (made, true, own, lesions)]
    height, width = full[0].shape[2:]
    fit = Resize((height, width), (ROWS, round(ROWS * width / height)), "stretch")
    small = [np.stack([fit.forward(plane) for plane in each]) for each in full]
    small[3] = (small[3] > 0.5).astype(np.float32)
    return {
        size: {"model": scored(made, true, inside), "identity": scored(own, true, inside)}
        for size, (made, true, own, inside) in {"full": full, f"{ROWS} rows": small}.items()
    }


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("runs", nargs="+")
    options.add_argument("--data", required=True, type=Path, metavar="FOLDER")
    options.add_argument("--planes", type=float, nargs=2, default=(0.2, 0.72))
    options = options.parse_args(arguments)
    runs: dict[str, dict] = {}
    for run in options.runs:
        model, patients, means = gantk.load(run, device="cpu"), {"to_b": {}, "to_a": {}}, {"to_b": {}, "to_a": {}}
        for name, files in PATIENTS.items():
            t1, t2, mask = (options.data / file for file in files)
            for to, source, truth in (("b", t1, t2), ("a", t2, t1)):
                found = patients[f"to_{to}"][name] = judged(model, source, truth, mask, to, options.planes)
                print(*(f"{Path(run).name}  {name:15} to {to}  {size:8} {s}" for size, s in found.items()), sep="\n")
        for way, of_patients in patients.items():
            for size in ("full", f"{ROWS} rows"):
                for metric in ("psnr", "ssim", "mae"):
                    values = [found[size]["model"][metric] for found in of_patients.values()]
                    e = estimate(values, list(of_patients))
                    means[way].setdefault(size, {})[metric] = {"value": e.value, "ci95": e.ci95, "n": e.n}
        runs[Path(run).name] = {"patients": patients, "mean": means}
    write(options.json, record(start("cpu"), planes=list(options.planes), runs=runs))


if __name__ == "__main__":
    main()
