"""Scores of fixed images are what they have always been; so are intensities, by test_files.py.

`GANTK_RECORD=1 pytest tests/promises/test_scores.py` writes scores.json anew; a score that changes
is another score, so its definition has to say so, and read the difference before you keep it.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import files
import numpy as np
import pytest
from tiny import read_json

FILE = Path(__file__).with_name("scores.json")
RECORD = os.environ.get("GANTK_RECORD") == "1"
PAIRS = "psnr,ssim,ms_ssim,mae,rmse,nrmse"
SETS = [
    "kid",
    "fid",
    "prdc",
    "diversity",
    {"name": "prdc", "k": 3},
]
PATIENT = r"(\d+)"  # in a file's name
EXACT = 1e-6  # of the value, or absolute
NETWORKS = 1e-5  # the same of what convolutions in float32 see: processors add up in other orders


def expect_recorded(name: str, found: object, tolerance: float = EXACT) -> None:
    """The same keys, words and whole numbers as in scores.json, and the same numbers to the
    tolerance.
    """
    kept = read_json(FILE) if FILE.exists() else {}
    if RECORD:
        text = json.dumps(dict(sorted((kept | {name: found}).items())), indent=1)
        FILE.write_text(text + "\n", "utf-8")
        return

    assert list(differences(json.loads(json.dumps(found)), kept[name], tolerance)) == []


def differences(found: object, kept: object, tolerance: float, where: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(kept, dict) and found.keys() == kept.keys():
        for name in found:
            yield from differences(found[name], kept[name], tolerance, f"{where}/{name}")
    elif isinstance(found, list) and isinstance(kept, list) and len(found) == len(kept):
        for place, pair in enumerate(zip(found, kept, strict=True)):
            yield from differences(*pair, tolerance, f"{where}/{place}")
    elif isinstance(found, float) and isinstance(kept, float):
        if not abs(found - kept) <= tolerance * max(1.0, abs(kept)):
            yield f"{where}: {found} is not {kept}"
    elif found != kept:
        yield f"{where}: {found!r} is not {kept!r}"


def rows_of(result: dict) -> dict:
    """Of each score its value, interval, number and definition."""
    assert list(result["metrics"]) == ["pred_to_truth"]
    kept = (
        "value",
        "ci95",
        "range",
        "n",
        "images",
        "unit",
        "definition",
        "higher_is_better",
        "corrected",
    )
    rows = result["metrics"]["pred_to_truth"]
    return {name: {key: row[key] for key in kept if key in row} for name, row in rows.items()}


def pair(
    folder: Path, name: str, count: int, shape: tuple[int, ...], low: float, high: float, kind: type
) -> Path:
    """`pred` and `truth` with `count` images each: what is predicted is the truth, dimmer, with
    another image in it.
    """
    for k in range(count):
        truth = files.numbers(k, shape, low, high, np.float64)
        other = files.numbers(k + 50, shape, low, high, np.float64)
        for side, values in (("truth", truth), ("pred", 0.8 * truth + (0.1 + 0.02 * k) * other)):
            stored = (values.round() if np.issubdtype(kind, np.integer) else values).astype(kind)
            write = files.nifti if ".nii" in name else files.picture
            write(folder / side / name.format(k), stored)

    return folder


FOLDERS = {
    "png of 8 bits": ("{}.png", 12, (32, 32), 0, 255, np.uint8),
    "png of 16 bits": ("{}.png", 4, (40, 32), 0, 60000, np.uint16),
    "colour": ("{}.png", 4, (32, 32, 3), 0, 255, np.uint8),
    "tiff of floats": ("{}.tif", 4, (33, 47), -0.5, 3, np.float32),
    "volumes of floats": ("p{}.nii.gz", 3, (24, 22, 20), -100, 900, np.float32),
    "volumes of whole numbers": ("p{}.nii.gz", 3, (20, 20, 12), -1000, 1500, np.int16),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_scores_of_pairs_are_equal_to_those_recorded(name, tmp_path):
    folder = pair(tmp_path, *FOLDERS[name])
    sides = ["--pred", folder / "pred", "--truth", folder / "truth"]
    asked = ["--metrics", PAIRS, "--patient", PATIENT, "--json", tmp_path / "s.json"]
    files.gantk("eval", *sides, *asked, "--device", "cpu").ok()

    expect_recorded(name, rows_of(read_json(tmp_path / "s.json")))


@pytest.mark.parametrize("metric", SETS, ids=json.dumps)
def test_scores_of_sets_are_equal_to_those_recorded(metric, tmp_path):
    import gantk

    # half of the images that are made are dim, and so outside of what the real ones are like
    for k in range(24):
        files.picture(tmp_path / "truth" / f"{k}.png", files.numbers(k, (32, 32)))
        files.picture(
            tmp_path / "pred" / f"{k}.png", files.numbers(k + 50, (32, 32), 0, 255 if k % 2 else 60)
        )

    sides = tmp_path / "pred", tmp_path / "truth"
    result = gantk.compare(
        *sides, metrics=[metric], patient=PATIENT, device="cpu", say=lambda line: None
    )
    expect_recorded(f"{json.dumps(metric)} of pictures", rows_of(result), NETWORKS)
