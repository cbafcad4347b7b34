"""Files against files: names that fit, and one clear message where two folders cannot be compared."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

import gantk
from gantk.metrics.compare_folders import compare_folders


def volume(path: Path, pixels: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """A NIfTI file of float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[0, 3] = shift
    nibabel.save(nibabel.Nifti1Image(pixels.astype(np.float32), affine), path)
    return pixels


@pytest.fixture
def volumes(tmp_path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three volumes in pred/ and truth/, as (predicted, truth)."""
    made = []
    for number in range(3):
        rng = np.random.default_rng(number)
        truth = volume(
            tmp_path / "truth" / f"case-{number}.nii.gz", rng.random((12, 13, 14)) * 900 - 300
        )
        shown = volume(
            tmp_path / "pred" / f"case-{number}.nii.gz", truth + 30 * rng.random(truth.shape)
        )
        made.append((shown, truth))
    return made


def rows_of(folder: Path, *metrics: str) -> dict:
    return compare_folders(folder / "pred", folder / "truth", list(metrics))["metrics"][
        "pred_to_truth"
    ]


def test_files_are_matched_by_name_and_sets_are_not(tmp_path, volumes):
    whole = rows_of(tmp_path, "mae")["mae"]
    (tmp_path / "truth" / "sorted").mkdir()
    for path in sorted((tmp_path / "truth").glob("*.nii.gz")):
        path.rename(path.parent / "sorted" / path.name)
    # what rounding does to a grid
    volume(tmp_path / "pred" / "case-1.nii.gz", volumes[1][0], shift=1e-4)
    assert rows_of(tmp_path, "mae")["mae"] == whole
    sides = (tmp_path / "pred", tmp_path / "truth")
    said = []
    one = gantk.compare(*sides, metrics=["mae"], patient="(case)", say=said.append)["metrics"][
        "pred_to_truth"
    ]["mae"]
    assert (one["n"], one["ci95"]) == (1, None)
    assert one["value"] == pytest.approx(whole["value"])
    gantk.compare(*sides, metrics=["mae"], say=said.append)
    assert "--patient" in said[-1]
    files = tmp_path / "pred" / "case-0.nii.gz", tmp_path / "truth" / "sorted" / "case-1.nii.gz"
    # one file needs no name
    row = compare_folders(*files, ["mae"])["metrics"]["pred_to_truth"]["mae"]
    assert row["value"] == pytest.approx(np.abs(volumes[0][0] - volumes[1][1]).mean(), rel=1e-4)
    files[0].rename(tmp_path / "pred" / "another.nii.gz")
    assert rows_of(tmp_path, "kid")["kid_random"]["n"] == 3


@pytest.mark.parametrize(
    ("slope", "offset", "another"),
    [(1, 0, False), (0.9, 10, False), (1 / 255, 0, True), (2, 99, True)],
)
def test_predictions_on_another_scale_can_be_matched(tmp_path, gantk, slope, offset, another):
    for number in range(3):
        rng = np.random.default_rng(number)
        truth = volume(tmp_path / "truth" / f"{number}.nii.gz", 100 * rng.gamma(2, 1, (12, 13, 14)))
        volume(
            tmp_path / "pred" / f"{number}.nii.gz",
            slope * (truth + rng.normal(0, 5, truth.shape)) + offset,
        )
    said = gantk(
        "eval",
        *(
            folders := [
                "--pred",
                tmp_path / "pred",
                "--truth",
                tmp_path / "truth",
                "--metrics",
                "mae",
            ]
        ),
    )
    assert said.code == 0
    assert ("another scale? --match takes truth = " in said.out) is another
    assert (
        gantk("eval", *folders, "--by", "sex").code
        == gantk("eval", "RUN", "--patient", "p").code
        == 2
    )
    matched = gantk("eval", *folders, "--match", "--json", tmp_path / "scores.json")
    result = json.loads((tmp_path / "scores.json").read_text())
    assert "matched  all predictions by one line: truth = " in matched.out
    assert result["scale"]["matched"]
    row = result["metrics"]["pred_to_truth"]["mae"]
    assert row["value"] == pytest.approx(4, rel=0.1)
    assert row["definition"].endswith("matched-linearly")
    assert result["scale"]["slope"] * slope == pytest.approx(1, rel=0.02)


def test_matching_does_not_flatter_unrelated_images(tmp_path):
    rng = np.random.default_rng(0)
    for side in ("pred", "truth"):
        volume(tmp_path / side / "a.nii.gz", rng.normal(100, 20, (12, 13, 14)))
    sides = tmp_path / "pred", tmp_path / "truth"
    plain, fitted = (compare_folders(*sides, ["rmse"], match=each) for each in (False, True))
    values = [each["metrics"]["pred_to_truth"]["rmse"]["value"] for each in (plain, fitted)]
    assert values[1] == pytest.approx(values[0], rel=0.1)
    assert not plain["scale"]["another"]
