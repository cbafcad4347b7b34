"""Scores a model that makes missing contrasts of people with all four of them, in all 28 cases.

    python benchmarks/missing_contrasts.py MODEL PEOPLE [--train FOLDER] [--names NAME ...]
        [--inputs N ...] [--alone] [--curves] [--json FILE] [--out FOLDER]

A case is a contrast to make and the contrasts that are there: 4 x 7. For each person and case
`gantk.load(MODEL)` makes the contrast from NIfTI files, and `score_volumes.py`, which shares no
code with gantk, scores the file on its axial slices with tissue: PSNR in dB and SSIM of whole
slices. `lesion` is the PSNR over the voxels of the expert's label in these slices. `factor` is the
PSNR if the volume is multiplied by the factor that suits the truth best: what remains without the
error of tone, which no other contrast of a person shows.

With --curves `curve` is the PSNR after the best monotone map of the made volume itself, fitted on
the truth, and `field` after a smooth field of factors too (Gaussian, 12 voxels): what a method
reaches that makes no error of tone, and none of tone and shading.

Beside the model stand

* `map`: the best monotone map of the intensities of one contrast that is there, fitted on the
  person's own truth;
* `mean`: the mean of the training people of --train, voxel by voxel (BraTS lie on one grid), each
  divided by its 99.5th percentile.

`enhancing` judges the contrast agent by itself: the share of the label's enhancing voxels that are
found in T1CE - T1 (`recall`), and the share of found voxels that are enhancing (`precision`), among
the voxels of the tumour. Both scans are divided by the median of their healthy tissue. The threshold
is the one that suits the person's true T1CE best.

Means over people have 95 % intervals of Student's t.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import score_volumes
from scipy import stats
from scipy.ndimage import gaussian_filter
from score_volumes import load, onto, scaled, slices_with_tissue
from sklearn.isotonic import IsotonicRegression

import gantk

CONTRASTS = ("T1", "T1CE", "T2", "FLAIR")
# by contrast, the endings of BraTS up to 2021 and from 2023 on
ENDINGS = {
    "T1": ("_t1", "-t1n"),
    "T1CE": ("_t1ce", "-t1c"),
    "T2": ("_t2", "-t2w"),
    "FLAIR": ("_flair", "-t2f"),
}
LABEL_ENDINGS = ("_seg", "-seg")
ENHANCING = (3, 4)  # 4 in BraTS up to 2021
# of each score in the table
DIGITS = {
    "psnr": 2,
    "ssim": 3,
    "factor": 2,
    "curve": 2,
    "field": 2,
    "lesion": 2,
    "recall": 2,
    "precision": 2,
}
FIELD_SIGMA = 12.0  # voxels
THRESHOLDS = np.linspace(0.02, 1.2, 60)  # of T1CE - T1, in medians of healthy tissue


@dataclass(frozen=True)
class Person:
    """The files of one person."""

    name: str
    scans: dict[str, Path]  # by contrast
    label: Path | None  # the expert's label


@dataclass(frozen=True)
class Case:
    """What is there, and what is made."""

    given: tuple[str, ...]
    to: str

    @property
    def name(self) -> str:
        """Such as `T1+T2_to_FLAIR`."""
        return f"{'+'.join(self.given)}_to_{self.to}"


def cases(inputs: Sequence[int] = (3, 2, 1)) -> Iterator[Case]:
    """The cases with these numbers of inputs; all 28 unless told."""
    for to in CONTRASTS:
        others = [name for name in CONTRASTS if name != to]
        for count in inputs:
            for given in combinations(others, count):
                yield Case(given, to)


def people(folder: Path, names: Sequence[str] = ()) -> list[Person]:
    """The people in the folders of `folder`; only these, if names are given."""
    found = []
    for own in sorted(folder.iterdir()):
        scans = {name: _file(own, endings) for name, endings in ENDINGS.items()}
        chosen = not names or own.name in names
        if chosen and all(scans.values()):
            found.append(Person(own.name, scans, _file(own, LABEL_ENDINGS)))

    if not found:
        raise SystemExit(f"no folder in {folder} holds T1, T1CE, T2 and FLAIR")
    return found


def _file(folder: Path, endings: Sequence[str]) -> Path | None:
    """The NIfTI file of a folder whose name ends in one of these."""
    for ending in endings:
        for file in sorted(folder.glob(f"*{ending}.nii*")):
            return file
    return None


def mean_of(training: Sequence[Person], to: str) -> np.ndarray:
    """The mean of the training people, each scaled to [0, 1]: (W, H, D)."""
    volumes = [scaled(load(str(one.scans[to])).get_fdata(dtype=np.float32)) for one in training]
    return np.mean(volumes, axis=0)


def truth_and_made(truth: Path, made: Path) -> tuple[np.ndarray, np.ndarray]:
    """Both volumes on the grid of the truth, each scaled to [0, 1]: (W, H, D)."""
    grid = load(str(truth))
    real = scaled(grid.get_fdata(dtype=np.float32))
    return real, scaled(onto(load(str(made)), grid)[0])


def slices_of(truth: Path, made: Path) -> tuple[np.ndarray, np.ndarray]:
    """The axial slices with tissue of both volumes, each scaled to [0, 1]: (W, H, slices)."""
    real, found = truth_and_made(truth, made)
    used = slices_with_tissue(real)
    return real[..., used], found[..., used]


def lesion_psnr(made: Path, truth: Path, label: Path) -> float:
    """PSNR in dB over the voxels of the label, in the slices with tissue."""
    real, found = truth_and_made(truth, made)
    inside = load(str(label)).get_fdata() > 0
    inside &= slices_with_tissue(real)
    return float(-10 * np.log10(max(((found - real)[inside] ** 2).mean(), 1e-10)))


def best_factor_psnr(made: Path, truth: Path) -> float:
    """Mean PSNR in dB of the slices with tissue, after the factor with the least mean square error."""
    real, found = slices_of(truth, made)
    factor = (found * real).sum() / max((found * found).sum(), 1e-10)
    return mean_psnr(factor * found, real)


def curve_and_field_psnr(made: Path, truth: Path) -> tuple[float, float]:
    """Mean PSNR in dB of the slices with tissue, after the best monotone map, and after a smooth
    field of factors too.
    """
    real, found = slices_of(truth, made)
    fit = IsotonicRegression(out_of_bounds="clip")
    mapped = fit.fit_transform(found.ravel(), real.ravel()).reshape(real.shape)

    product = gaussian_filter(mapped * real, FIELD_SIGMA)
    square = gaussian_filter(mapped * mapped, FIELD_SIGMA)
    field = product / np.maximum(square, 1e-6)
    return mean_psnr(mapped, real), mean_psnr(field * mapped, real)


def mean_psnr(made: np.ndarray, real: np.ndarray) -> float:
    """Mean PSNR in dB over the axial slices of scaled volumes (W, H, D)."""
    errors = ((made - real) ** 2).mean((0, 1))
    return float(np.mean(-10 * np.log10(np.maximum(errors, 1e-10))))


def enhancement(person: Person, t1ce: Path) -> tuple[float, float, float]:
    """(threshold, recall, precision) of the enhancing tumour in a T1CE; NaN without one."""
    label = load(str(person.label)).get_fdata()
    tumour = label > 0
    enhancing = np.isin(label, ENHANCING)
    if not enhancing.any():
        return np.nan, np.nan, np.nan

    t1 = over_healthy_median(person.scans["T1"], tumour)
    agent = over_healthy_median(person.scans["T1CE"], tumour) - t1
    dice = [_dice((agent > level) & tumour, enhancing) for level in THRESHOLDS]
    threshold = float(THRESHOLDS[int(np.argmax(dice))])

    own = over_healthy_median(t1ce, tumour) - t1
    found = (own > threshold) & tumour
    both = (found & enhancing).sum()
    return threshold, float(both / enhancing.sum()), float(both / max(found.sum(), 1))


def over_healthy_median(path: Path, tumour: np.ndarray) -> np.ndarray:
    """A volume divided by the median of its tissue outside of the tumour."""
    volume = load(str(path)).get_fdata(dtype=np.float32)
    return volume / np.median(volume[(volume > 0) & ~tumour])


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / max(one.sum() + other.sum(), 1)


def scores(made: Path, person: Person, case: Case, curves: bool = False) -> dict[str, float]:
    """The scores of one file that a model or a baseline has made."""
    truth = person.scans[case.to]
    psnr, ssim, _ = score_volumes.score(str(made), str(truth))["prediction"]
    row = {"psnr": psnr, "ssim": ssim, "factor": best_factor_psnr(made, truth)}
    if curves:
        row["curve"], row["field"] = curve_and_field_psnr(made, truth)
    if person.label:
        row["lesion"] = lesion_psnr(made, truth, person.label)
        if case.to == "T1CE":
            _, row["recall"], row["precision"] = enhancement(person, made)
    return row


def best_map(person: Person, case: Case) -> dict[str, float]:
    """PSNR and SSIM of the best monotone map from one of the contrasts that are there."""
    found = [map_scores(person.scans[name], person.scans[case.to]) for name in case.given]
    return max(found, key=lambda row: row["psnr"])


@cache
def map_scores(source: Path, truth: Path) -> dict[str, float]:
    """PSNR and SSIM of the best monotone map of the intensities of one scan."""
    psnr, ssim, _ = score_volumes.score(str(source), str(truth), str(source))["map"]
    return {"psnr": psnr, "ssim": ssim}


def make(model: Any, person: Person, case: Case, out: Path) -> Path:
    """The file of what the model makes of a person in a case; one that is there is kept."""
    path = out / person.name / f"{case.name}.nii.gz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        images = {name: nib.load(person.scans[name]) for name in case.given}
        nib.save(model.translate(images, to=case.to), path)
    return path


def write_mean(person: Person, to: str, mean: np.ndarray, out: Path) -> Path:
    """The mean of the training people on the grid of a person."""
    path = out / person.name / f"mean_{to}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mean.astype(np.float32), load(str(person.scans[to])).affine), path)
    return path


def over_people(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, half of the 95 % interval and number of people, by score; NaN is left out."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = np.array([row[name] for row in rows if np.isfinite(row.get(name, np.nan))])
        if not len(values):
            continue
        half = np.nan
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        found[name] = {"mean": float(values.mean()), "half": float(half), "n": len(values)}
    return found


def line(name: str, row: dict[str, dict[str, float]]) -> str:
    """A line of a Markdown table."""
    cells = []
    for score, digits in DIGITS.items():
        known = row.get(score)
        cells.append(f"{known['mean']:.{digits}f} ± {known['half']:.{digits}f}" if known else "")
    return f"| {name} | {' | '.join(cells)} |"


def rows_of(
    case: Case,
    chosen: Sequence[Person],
    model: Any,
    means: dict[str, np.ndarray],
    options: argparse.Namespace,
) -> dict[str, list[dict[str, float]]]:
    """The scores of a case, a row for each person: of the model (under the case's name) and of the
    baselines.
    """
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    from_all_others = len(case.given) == len(CONTRASTS) - 1
    for person in chosen:
        made = make(model, person, case, options.out)
        rows[case.name].append(scores(made, person, case, options.curves))
        if not options.alone:
            rows[f"{case.name} (map)"].append(best_map(person, case))
        if means and from_all_others:
            path = write_mean(person, case.to, means[case.to], options.out)
            rows[f"{case.name} (mean)"].append(scores(path, person, case))

    return rows


def means_of(folder: Path, chosen: Sequence[Person]) -> dict[str, np.ndarray]:
    """The mean of each contrast over the people of a folder who are not scored."""
    names = {one.name for one in chosen}
    training = [one for one in people(folder) if one.name not in names]
    return {to: mean_of(training, to) for to in CONTRASTS}


def print_enhancement(chosen: Sequence[Person]) -> None:
    """Print what the true T1CE of each person with a label shows of the enhancing tumour."""
    for person in chosen:
        if person.label:
            threshold, recall, precision = enhancement(person, person.scans["T1CE"])
            print(f"{person.name}: true T1CE at {threshold:.2f}: {recall:.2f} / {precision:.2f}")


def main(options: argparse.Namespace) -> None:
    """Score all cases; each line is printed when all people of the case are scored."""
    model = gantk.load(options.model)
    chosen = people(options.people, options.names)
    means = means_of(options.train, chosen) if options.train else {}
    results: dict[str, Any] = {"people": [one.name for one in chosen], "cases": {}}
    print(f"| case | {' | '.join(DIGITS)} |")
    print("| --- " * (len(DIGITS) + 1) + "|")
    for case in cases(options.inputs):
        for name, rows in rows_of(case, chosen, model, means, options).items():
            mean = over_people(rows)
            results["cases"][name] = {"people": rows, "mean": mean}
            print(line(name, mean), flush=True)

        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")

    print_enhancement(chosen)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser of the options that choose model, people and cases."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("people", type=Path, help="a folder for each person")
    parser.add_argument("--names", nargs="+", default=(), help="only these people")
    parser.add_argument("--inputs", type=int, nargs="+", default=(3, 2, 1), help="only these cases")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    parser = parser_of(__doc__)
    parser.add_argument("--train", type=Path, help="people whose mean is a baseline")
    parser.add_argument("--alone", action="store_true", help="without the map, which takes longest")
    parser.add_argument("--curves", action="store_true", help="score what tone and shading cost")
    parser.add_argument("--out", type=Path, default=Path("runs/missing-contrasts"))
    main(parser.parse_args())
