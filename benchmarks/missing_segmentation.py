"""How well a segmenter of four contrasts works when a model has made one of them.

    python benchmarks/missing_segmentation.py MODEL PEOPLE --test NAME ... [--names NAME ...]
        [--steps 3000] [--json FILE] [--out FOLDER]

`gantk run segmenter` learns whole tumour, core and enhancing tumour, one run each, from the four
real contrasts and the expert's labels of all people in PEOPLE that --test does not name. Then each
contrast of the test people is replaced

* by what MODEL makes of the three others (`made`),
* by zeros (`zeros`),
* by the mean of the training people, voxel by voxel (`mean`; BraTS lie on one grid),

and `gantk eval` gives the Dice over a person's slices, with all contrasts real beside it. Means
over people have 95 % intervals of Student's t. Runs and files in --out are kept for a next call.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from missing_contrasts import CONTRASTS, Case, Person, make, mean_of, over_people, people
from score_volumes import load

import gantk

REGIONS = {"whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": (3, 4)}  # labels of BraTS
KINDS = ("made", "zeros", "mean")
SETTINGS = [
    "data.source.name=files",
    "data.source.planes=[0.2, 0.85]",
    f'data.domains=["{"+".join(CONTRASTS)}"]',
    "data.size=[160, 192]",
    "data.fit=crop",
    'data.intensity={name="percentile", high=99.5, per="volume"}',
    "data.split={test=0.0, validation=0.0}",
    "method.width=24",
    "method.depth=4",
]


def write_person(person: Person, folder: Path, replaced: dict[str, Path]) -> Path:
    """A folder with the scans of a person, some replaced, and a mask for each region."""
    own = folder / person.name
    if own.exists():
        shutil.rmtree(own)
    own.mkdir(parents=True)
    for contrast in CONTRASTS:
        file = replaced.get(contrast, person.scans[contrast])
        (own / f"{person.name}_{contrast.lower()}.nii.gz").symlink_to(file.resolve())

    label = nib.load(person.label)
    values = np.asarray(label.dataobj)
    for region, wanted in REGIONS.items():
        mask = nib.Nifti1Image(np.isin(values, wanted).astype(np.uint8), label.affine)
        nib.save(mask, own / f"{person.name}_{region}.nii.gz")
    return folder


def train(region: str, folder: Path, steps: int, out: Path) -> Path:
    """The run of the segmenter of a region; trained where it is not there."""
    run = out / f"segmenter-{region}"
    if not (run / "metrics.json").exists():
        own = [f"data.source.mask={region}", f"train.steps={steps}"]
        gantk.run("segmenter", data=folder, set=SETTINGS + own, seed=0, out=run)
    return run


def replacements(
    person: Person, contrast: str, model: Any, means: dict[str, np.ndarray], out: Path
) -> Iterator[tuple[str, Path]]:
    """(kind, file) of each replacement of a contrast of a person."""
    others = tuple(name for name in CONTRASTS if name != contrast)
    yield "made", make(model, person, Case(others, contrast), out / "made")
    affine = load(str(person.scans[contrast])).affine
    for kind, values in (("zeros", np.zeros_like(means[contrast])), ("mean", means[contrast])):
        path = out / kind / person.name / f"{contrast}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, affine), path)
        yield kind, path


def variants_of(
    person: Person, model: Any, means: dict[str, np.ndarray], out: Path
) -> dict[str, dict[str, Path]]:
    """What replaces the scans of a person, by name: nothing (`real`), or one contrast."""
    variants: dict[str, dict[str, Path]] = {"real": {}}
    for contrast in CONTRASTS:
        for kind, file in replacements(person, contrast, model, means, out):
            variants[f"{contrast} {kind}"] = {contrast: file}
    return variants


def dice(run: Path, person: Person, replaced: dict[str, Path], out: Path) -> float:
    """The Dice of a segmenter on one person; NaN without the region."""
    folder = out / "evaluated" / person.name
    shutil.rmtree(folder, ignore_errors=True)
    write_person(person, folder, replaced)
    result = gantk.evaluate(run, data=folder, say=lambda line: None)
    lesions = result["metrics"].get("lesions")
    value = lesions and lesions["dice"]["value"]
    return np.nan if value is None else float(value)


def main(options: argparse.Namespace) -> None:
    """Train the segmenters, and print a table of Dice."""
    model = gantk.load(options.model)
    everybody = [one for one in people(options.people) if one.label]
    tested = [one for one in everybody if one.name in (options.names or options.test)]
    training = [one for one in everybody if one.name not in options.test]
    tree = options.out / "training"
    if not tree.exists():
        for person in training:
            write_person(person, tree, {})
    runs = {region: train(region, tree, options.steps, options.out) for region in REGIONS}
    means = {contrast: 1000 * mean_of(training, contrast) for contrast in CONTRASTS}

    rows: dict[str, list[dict[str, float]]] = {}
    for person in tested:
        for name, replaced in variants_of(person, model, means, options.out).items():
            found = {r: dice(run, person, replaced, options.out) for r, run in runs.items()}
            rows.setdefault(name, []).append(found)

        if options.json:
            names = [one.name for one in tested]
            record = {"people": names, "steps": options.steps, "dice": rows}
            options.json.write_text(json.dumps(record, indent=1) + "\n")

    print_table(rows)


def print_table(rows: dict[str, list[dict[str, float]]]) -> None:
    """Print mean and interval of Dice by region, of each variant."""
    print(f"| contrast | {' | '.join(REGIONS)} |")
    print(f"| --- |{' --- |' * len(REGIONS)}")
    for name, own in rows.items():
        mean = over_people(own)
        cells = [f"{mean[r]['mean']:.3f} ± {mean[r]['half']:.3f}" for r in REGIONS if r in mean]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("people", type=Path, help="a folder for each person")
    parser.add_argument("--test", nargs="+", required=True, help="names of the test people")
    parser.add_argument("--names", nargs="+", default=(), help="score only these of them")
    parser.add_argument("--steps", type=int, default=3000, help="default %(default)s")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/missing-segmentation"))
    main(parser.parse_args())
