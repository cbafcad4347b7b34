"""Files against files: right numbers, and one clear message for each way in which two folders do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from gantk.errors import UserError
from gantk.metrics.baselines import linearly_corrected
from gantk.metrics.compare_folders import compare_folders
from gantk.metrics.pairs import MAE, PSNR, RMSE, SSIM


def volume(path: Path, pixels: np.ndarray, spacing: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """A NIfTI file of float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[0, 3] = shift
    nibabel.save(nibabel.Nifti1Image(pixels.astype(np.float32), affine), path)
    return pixels


def noise(seed: int, scale: float = 900.0) -> np.ndarray:
    return np.random.default_rng(seed).random((12, 13, 14)) * scale - 300


@pytest.fixture
def volumes(tmp_path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three volumes in pred/ and truth/, as (predicted, truth)."""
    made = []
    for number in range(3):
        truth = volume(tmp_path / "truth" / f"case-{number}.nii.gz", noise(number))
        shown = truth + 30 * (noise(number + 10, scale=1.0) + 300)
        made.append((volume(tmp_path / "pred" / f"case-{number}.nii.gz", shown), truth))
    return made


def rows_of(folder: Path, *metrics: str) -> dict:
    return compare_folders(folder / "pred", folder / "truth", list(metrics))["metrics"]["pred_to_truth"]


def refused(folder: Path, *metrics: str) -> str:
    with pytest.raises(UserError) as error:
        rows_of(folder, *(metrics or ("psnr", "mae")))
    return str(error.value)


def test_volumes_are_scored_by_the_range_of_the_whole_set_of_truths(tmp_path, volumes):
    low, high = min(t.min() for _, t in volumes), max(t.max() for _, t in volumes)
    rows = rows_of(tmp_path, "psnr", "mae", "rmse", "ssim")
    # the files' axes are (right, anterior, superior): what the metrics make of them does not depend on the order
    both = [torch.from_numpy(np.stack(side)[:, None].astype(np.float32)) - low for side in zip(*volumes, strict=True)]
    for metric in (PSNR, MAE, RMSE, SSIM):
        expected = metric(high - low, 3)(*both).mean().item()
        assert rows[metric.name]["value"] == pytest.approx(expected, rel=1e-4)
    assert rows["psnr"]["n"] == rows["psnr"]["per"]["volume"]["n"] == 3
    assert f"fixed-range-{high - low:g}" in rows["psnr"]["definition"]
    corrected = (linearly_corrected(*both) - both[1]).abs().mean().item()
    assert rows["mae"]["corrected"] == pytest.approx(corrected, rel=1e-3)


def test_sets_are_compared_whatever_their_names_but_at_one_size(tmp_path, pictures):
    pictures(tmp_path / "pred", 6)
    for path in pictures(tmp_path / "truth", 8, seed=9):
        path.rename(path.with_name(f"other-{path.name}"))
    rows = rows_of(tmp_path, "kid", "diversity")
    assert set(rows) == {"kid_random", "diversity"} and "n=6,real=8" in rows["kid_random"]["definition"]
    assert "same names" in refused(tmp_path, "kid", "psnr")
    pictures(tmp_path / "pred", 4, size=(48, 48))
    assert "one size" in refused(tmp_path, "kid")


def test_names_below_the_folder_are_matched_and_alone_where_only_the_folders_differ(tmp_path, volumes):
    deep = tmp_path / "deep"
    for number, (made, truth) in enumerate(volumes):
        volume(deep / "pred" / f"p{number}" / "t2.nii.gz", made)
        volume(deep / "truth" / f"p{number}" / "t2.nii.gz", truth)
    assert rows_of(deep, "psnr")["psnr"]["value"] == pytest.approx(rows_of(tmp_path, "psnr")["psnr"]["value"])
    volume(deep / "pred" / "p1" / "t2.nii", volumes[0][0])
    assert "several images of one name: p1/t2.nii" in refused(deep)
    (tmp_path / "truth" / "sorted").mkdir()
    for path in sorted((tmp_path / "truth").glob("*.nii.gz")):
        path.rename(path.parent / "sorted" / path.name)
    volume(tmp_path / "pred" / "case-1.nii.gz", volumes[1][0], shift=1e-4)  # what rounding does to a grid
    assert rows_of(tmp_path, "mae")["mae"]["n"] == 3
    files = tmp_path / "pred" / "case-0.nii.gz", tmp_path / "truth" / "sorted" / "case-1.nii.gz"
    row = compare_folders(*files, ["mae"])["metrics"]["pred_to_truth"]["mae"]  # one file needs no name
    assert row["value"] == pytest.approx(np.abs(volumes[0][0] - volumes[1][1]).mean(), rel=1e-4)
    for number in range(7):
        volume(tmp_path / "pred" / f"extra-{number}.nii", noise(1))
    message = refused(tmp_path)
    assert f"7 only in {tmp_path / 'pred'}: extra-0, extra-1" in message and "extra-6" not in message
    volume(tmp_path / "pred" / "case-0.nii.gz", volumes[0][0], spacing=1.5)
    shutil.copytree(tmp_path / "pred", tmp_path / "truth", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "truth" / "sorted")
    volume(tmp_path / "pred" / "case-0.nii.gz", volumes[0][0])
    volume(tmp_path / "pred" / "case-1.nii.gz", volumes[0][0], shift=4)
    assert "affines differ)" in refused(tmp_path)


@pytest.mark.parametrize(("side", "metric"), [("pred", "kid"), ("truth", "psnr")])
def test_values_that_are_no_numbers_broken_files_and_empty_folders_are_refused(tmp_path, volumes, side, metric):
    path, broken = tmp_path / side / "case-2.nii.gz", volumes[2][0].copy()
    broken[3, 4, 5:9] = np.nan, np.inf, -np.inf, np.nan
    volume(path, broken)
    assert str(path) in refused(tmp_path, metric) and "4 values that are not finite" in refused(tmp_path, metric)
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in refused(tmp_path, metric)
    shutil.rmtree(tmp_path / side)
    assert "does not exist" in refused(tmp_path, metric)
    (tmp_path / side).mkdir()
    assert f"no images in the folder '{tmp_path / side}'" in refused(tmp_path, metric)


@pytest.mark.parametrize("metric", ["psnr", "kid"])
def test_a_constant_truth_is_refused_for_no_score_is_defined(tmp_path, volumes, metric):
    for number in range(3):
        volume(tmp_path / "truth" / f"case-{number}.nii.gz", np.full((12, 13, 14), 7.0))
    message = refused(tmp_path, metric)
    assert "7 throughout" in message and "3 images" in message and str(tmp_path / "truth" / "case-0.nii.gz") in message
    volume(tmp_path / "truth" / "case-1.nii.gz", noise(1))  # one that is not gives the set a range
    assert rows_of(tmp_path, metric)
