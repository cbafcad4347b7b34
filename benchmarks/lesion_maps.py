"""Does a map show the errors of `t1t2` in people with a tumour, and in the tumour itself?

    python benchmarks/lesion_maps.py DATA [--json FILE]

DATA holds brats2d and brats (`../shared/data`): nine people with glioma, none of them trained on.
Truth and result are divided by the 99.5th percentile of their tissue, and an error is large above
10 % of that. The AUROC is the probability that a pixel with a large error is brighter in the map
than one without, person by person: in all tissue, and in the tumour alone. 1 perfect, 0.5 chance.

Besides the kinds of `gantk translate --uncertainty`, three maps that no command writes are judged:
`two models` is the difference from the model `missing`; `curve` is the difference from the tone that
the input's value has in the other eight people; `patch` is the distance of the 5 x 5 patch to the
nearest patches of the other eight.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from missing_contrasts import over_people
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import uniform_filter
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import gantk
from gantk.inference.frame import TranslateOptions

KINDS = ("auto", "flips", "cycle", "suspicion")
LARGE_ERROR = 0.1  # of the range
SLICES = range(66, 104, 8)  # of BraTS's 155 axial ones: those with tumour
FIRST_TUMOUR_LABEL = {"brats2d": 4, "brats": 1}  # brats2d: 1 to 3 are fluid, gray and white matter
NEAREST = 15
PATCHES = 30_000


@dataclass
class Slice:
    """One axial slice of a person: both contrasts, the tumour, and what was made of the input."""

    person: str
    scans: dict[str, np.ndarray]  # (H, W) by contrast
    tumour: np.ndarray
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    made: np.ndarray | None = None  # scaled
    error: np.ndarray | None = None

    @property
    def tissue(self) -> np.ndarray:
        """Where both contrasts show tissue."""
        return (self.scans["T1"] > 0) & (self.scans["T2"] > 0)


def slices_of(data: Path) -> list[Slice]:
    """All slices of the nine people."""
    found = []
    for folder in sorted(data.glob("brats2d/*Data/BRATS*")):
        scans = {name: pixels_of(next(folder.glob(f"*_{name}_slice*"))) for name in ("T1", "T2")}
        labels = pixels_of(next(folder.glob("*_atropos_truth_*")))
        found.append(Slice(folder.name, scans, labels >= FIRST_TUMOUR_LABEL["brats2d"]))

    folder = next((data / "brats").iterdir())
    volumes = {name: pixels_of(folder / f"{folder.name}_{name}.nii.gz") for name in ("t1", "t2")}
    labels = pixels_of(folder / f"{folder.name}_seg.nii.gz")
    for place in SLICES:
        scans = {name.upper(): volume[..., place] for name, volume in volumes.items()}
        found.append(Slice(folder.name, scans, labels[..., place] >= FIRST_TUMOUR_LABEL["brats"]))
    return found


def pixels_of(path: Path) -> np.ndarray:
    """The values of a NIfTI file, without axes of length 1."""
    return np.squeeze(nibabel.load(path).get_fdata(dtype=np.float32))


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Values from 0, divided by the 99.5th percentile of the tissue."""
    return np.clip(pixels, 0, None) / np.percentile(pixels[pixels > 0], 99.5)


def translate(model: Any, given: np.ndarray, source: str, to: str, kind: str = "") -> list:
    """The translation of a slice, and its map of a kind of uncertainty if one is named."""
    image = nibabel.Nifti1Image(np.ascontiguousarray(given)[..., None], np.eye(4))
    scans = {source: image} if model.frames["b"].targets[1:] else image
    made = model.translate(scans, to=to, options=TranslateOptions(uncertainty=kind or None))
    parts = made if kind else [made]
    return [np.squeeze(part.get_fdata(dtype=np.float32)) for part in parts]


def patches(pixels: np.ndarray) -> np.ndarray:
    """The 5 x 5 patch around each pixel: (H, W, 25)."""
    return sliding_window_view(np.pad(pixels, 2), (5, 5)).reshape(*pixels.shape, 25)


def judge(slices: list[Slice], source: str, to: str) -> dict[str, list[dict[str, float]]]:
    """By map, the AUROC in both regions of each person."""
    model = gantk.load("t1t2")
    other_model = gantk.load("missing")
    for one in slices:
        given, truth = one.scans[source], one.scans[to]
        (made,) = translate(model, given, source, to)
        for kind in KINDS:
            one.maps[kind] = translate(model, given, source, to, kind)[1]

        (other,) = translate(other_model, given, source, to)
        one.made = scaled(made)
        one.error = np.abs(one.made - scaled(truth))
        one.maps["two models"] = np.abs(one.made - scaled(other))

    for one in slices:
        others = [each for each in slices if each.person != one.person]
        add_maps_from_others(one, others, source, to)

    found: dict[str, list[dict[str, float]]] = {name: [] for name in slices[0].maps}
    for person in sorted({one.person for one in slices}):
        for name, people in found.items():
            regions = ("tissue", "tumour")
            people.append({region: auroc(slices, person, name, region) for region in regions})
    return found


def add_maps_from_others(one: Slice, others: list[Slice], source: str, to: str) -> None:
    """Add the maps that compare a person with other people: `curve` and `patch`."""
    inputs, truths, seen = [], [], []
    for each in others:
        tissue = each.tissue
        inputs.append(scaled(each.scans[source])[tissue])
        truths.append(scaled(each.scans[to])[tissue])
        seen.append(patches(scaled(each.scans[source]))[tissue])

    x, y = np.concatenate(inputs), np.concatenate(truths)
    edges = np.quantile(x, np.linspace(0, 1, 65))[1:-1]
    places = np.searchsorted(edges, x)
    curve = np.array([np.median(y[places == place]) for place in range(64)])
    own = scaled(one.scans[source])
    expected = curve[np.searchsorted(edges, own)]
    one.maps["curve"] = uniform_filter(np.abs(one.made - expected), 3)

    chosen = np.random.default_rng(0).permutation(len(x))[:PATCHES]
    nearest = NearestNeighbors(n_neighbors=NEAREST).fit(np.concatenate(seen)[chosen])
    tissue = one.tissue
    one.maps["patch"] = np.zeros_like(own)
    one.maps["patch"][tissue] = nearest.kneighbors(patches(own)[tissue])[0].mean(1)


def auroc(slices: list[Slice], person: str, name: str, region: str) -> float:
    """How well a map finds a person's large errors in a region; nan where all or none are large."""
    errors, values = [], []
    for one in slices:
        if one.person == person:
            inside = one.tissue & (one.tumour | (region == "tissue"))
            errors.append(one.error[inside] > LARGE_ERROR)
            values.append(one.maps[name][inside])

    large = np.concatenate(errors)
    mixed = large.any() and not large.all()
    return float(roc_auc_score(large, np.concatenate(values))) if mixed else float("nan")


def main(options: argparse.Namespace) -> None:
    """Print and keep the mean over people for each direction and map."""
    rows = []
    print("| direction | map | tissue | tumour |\n| --- | --- | --- | --- |")
    for source, to in (("T1", "T2"), ("T2", "T1")):
        for name, people in judge(slices_of(options.data), source, to).items():
            row = over_people(people)
            rows.append({"direction": f"{source} to {to}", "map": name} | row)
            cells = [f"{each['mean']:.3f} ± {each['half']:.3f}" for each in row.values()]
            print(f"| {source} to {to} | {name} | {' | '.join(cells)} |", flush=True)

    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    main(parser.parse_args())
