"""Files against files: names that fit, and one clear message where two folders cannot be compared."""

from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
from PIL import Image
from tiny import read_json

import gantk


def silent(line: object) -> None:
    """Say nothing."""


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
        name = f"case-{number}.nii.gz"
        truth = volume(tmp_path / "truth" / name, rng.random((12, 13, 14)) * 900 - 300)
        predicted = volume(tmp_path / "pred" / name, truth + 30 * rng.random(truth.shape))
        made.append((predicted, truth))

    return made


def rows_of(folder: Path, *metrics: str) -> dict:
    compared = gantk.compare(folder / "pred", folder / "truth", metrics=metrics, say=silent)
    return compared["metrics"]["pred_to_truth"]


def test_files_are_matched_by_name_where_folders_differ(tmp_path, volumes):
    before = rows_of(tmp_path, "mae")["mae"]
    truth = tmp_path / "truth"
    files = sorted(truth.glob("*.nii.gz"))
    (truth / "sorted").mkdir()
    for path in files:
        path.rename(truth / "sorted" / path.name)

    # what rounding does to a grid
    volume(tmp_path / "pred" / "case-1.nii.gz", volumes[1][0], shift=1e-4)

    assert rows_of(tmp_path, "mae")["mae"] == before


def test_scores_are_of_the_range_of_the_truth(tmp_path, volumes):
    volumes[0][0][0, 0, 0] = 9000
    volume(tmp_path / "pred" / "case-0.nii.gz", volumes[0][0])
    real = np.stack([truth for _, truth in volumes])
    errors = np.stack([made - truth for made, truth in volumes])
    expected = 10 * np.log10(np.ptp(real) ** 2 / np.square(errors).mean((1, 2, 3)))

    assert rows_of(tmp_path, "psnr")["psnr"]["value"] == pytest.approx(expected.mean(), rel=1e-4)


def test_other_contrasts_and_masks_of_the_truth_are_left_out(tmp_path, volumes):
    for number, (made, real) in enumerate(volumes):
        volume(tmp_path / "made" / f"p{number}" / "ct.nii.gz", made)
        patient = tmp_path / "scans" / f"p{number}"
        volume(patient / "ct.nii.gz", real)
        volume(patient / "mr.nii.gz", real + 500)
        volume(patient / "mask.nii.gz", real > 0)
    lines: list[str] = []

    compared = gantk.compare(
        tmp_path / "made", tmp_path / "scans", metrics=["mae"], say=lines.append
    )
    scores = compared["metrics"]["pred_to_truth"]

    assert scores["mae"] == rows_of(tmp_path, "mae")["mae"]
    assert not any("without a prediction" in line for line in lines)


def test_slices_of_one_name_are_matched_within_patients(tmp_path):
    draw = np.random.default_rng(0)
    for patient in ("p1", "p2"):
        for name in ("001.png", "002.png"):
            for folder in (f"made/{patient}", f"scans/{patient}/CT", f"scans/{patient}/MR"):
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(draw.integers(0, 255, (16, 16), np.uint8)).save(path)
    compared = gantk.compare(
        tmp_path / "made",
        tmp_path / "scans",
        metrics=["mae"],
        truth_layout="{patient}/CT/{name}",
        say=silent,
    )
    mae = compared["metrics"]["pred_to_truth"]["mae"]
    assert (mae["n"], mae["images"]) == (2, 4)


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
    ).ok()

    assert ("add --match: truth = " in said.out) is another
    assert "no baseline: score the unchanged inputs too" in said.out
    assert (
        gantk("eval", *folders, "--data", tmp_path).code
        == gantk("eval", "RUN", "--patient", "p").code
        == 2
    )

    matched = gantk("eval", *folders, "--match", "--json", tmp_path / "scores.json")
    result = read_json(tmp_path / "scores.json")

    assert "rescaled alike, to the mean and standard deviation of the truth" in matched.out
    assert "(no least-squares fit, so scores may fall): truth = " in matched.out
    assert result["scale"]["matched"]
    row = result["metrics"]["pred_to_truth"]["mae"]
    assert row["value"] == pytest.approx(4, rel=0.1)
    assert row["definition"].endswith("matched-linearly")
    assert result["scale"]["slope"] * slope == pytest.approx(1, rel=0.02)


def test_patients_of_compared_files_come_from_a_pattern(tmp_path, volumes):
    sides = (tmp_path / "pred", tmp_path / "truth")
    said = []
    options = {"metrics": ["mae", "kid"], "say": said.append}
    one_patient = gantk.compare(*sides, patient="(case)", **options)
    rows = one_patient["metrics"]["pred_to_truth"]
    row = rows["mae"]

    assert row["n"] == rows["kid_random"]["n"] == 1
    assert row["images"] == rows["kid_random"]["images"] == 3
    assert row["ci95"] is None
    assert row["value"] == pytest.approx(rows_of(tmp_path, "mae")["mae"]["value"])


@pytest.mark.parametrize(
    ("name", "patients"),
    [
        ("HG{}/T2.nii.gz", 7),
        ("HG{}/image.nii.gz", 7),
        ("HG{}_T2.nii.gz", 7),
        ("HG{}/{}.png", 7),
        ("{}.png", None),  # may be slices of one head
        ("slice_{}.nii.gz", None),
        ("HG1/slice_{}.nii.gz", None),
    ],
)
def test_patients_of_compared_files_are_those_of_scans(tmp_path, gantk, name, patients):
    for number in range(1, 8):
        pixels = np.random.default_rng(number).integers(0, 250, (16, 16))
        for side in ("pred", "truth"):
            path = tmp_path / side / name.format(number, number)
            if path.suffix == ".png":
                path.parent.mkdir(parents=True, exist_ok=True)
                changed = pixels + (side == "pred") * number
                Image.fromarray(changed.astype(np.uint8)).save(path)
            else:
                volume(path, pixels[..., None] + (side == "pred") * number)
    sides = ("--pred", tmp_path / "pred", "--truth", tmp_path / "truth")

    said = gantk("eval", *sides, "--metrics", "psnr", "--json", tmp_path / "scores.json").ok()

    row = read_json(tmp_path / "scores.json")["metrics"]["pred_to_truth"]["psnr"]
    assert (row["n"], row["images"]) == (patients or 1, 7)
    assert (row["ci95"] is None) == (patients is None)
    assert said.out.count("the patients are not known") == (patients is None)


def test_single_files_and_sets_need_no_equal_names(tmp_path, volumes):
    predicted = tmp_path / "pred" / "case-0.nii.gz"
    truth = tmp_path / "truth" / "case-1.nii.gz"
    row = gantk.compare(predicted, truth, metrics=["mae"], say=silent)["metrics"]["pred_to_truth"][
        "mae"
    ]
    error = np.abs(volumes[0][0] - volumes[1][1]).mean()

    assert row["value"] == pytest.approx(error, rel=1e-4)
    predicted.rename(tmp_path / "pred" / "another.nii.gz")
    assert rows_of(tmp_path, "kid")["kid_random"]["n"] == 3


def test_matching_does_not_flatter_unrelated_images(tmp_path):
    rng = np.random.default_rng(0)
    predicted = tmp_path / "pred"
    truth = tmp_path / "truth"
    for side in (predicted, truth):
        volume(side / "a.nii.gz", rng.normal(100, 20, (12, 13, 14)))

    plain = gantk.compare(predicted, truth, metrics=["rmse"], match=False, say=silent)
    matched = gantk.compare(predicted, truth, metrics=["rmse"], match=True, say=silent)
    before, after = (each["metrics"]["pred_to_truth"]["rmse"]["value"] for each in (plain, matched))

    assert after == pytest.approx(before, rel=0.1)
    assert not plain["scale"]["another"]


@pytest.mark.parametrize(("largest", "expected"), [(4095, 4095.0), (65535, 65535.0)])
def test_scans_of_12_bits_are_scored_on_their_own_range(tmp_path, largest, expected):
    for name, error in (("truth", 0), ("pred", 40)):
        pixels = np.arange(16 * 16, dtype=np.uint16).reshape(16, 16) + error
        pixels[0, 0] = 0
        pixels[-1, -1] = largest
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.png")

    wrong = (16 * 16 - 2) / (16 * 16) * 40.0**2  # two of the pixels are the same
    found = rows_of(tmp_path, "psnr")["psnr"]["value"]
    assert found == pytest.approx(10 * np.log10(expected**2 / wrong), abs=1e-3)


def test_two_predictions_of_one_truth_are_refused_by_name(tmp_path, volumes):
    for number, (made, real) in enumerate(volumes):
        volume(tmp_path / "scans" / f"p{number}.nii.gz", real)
        volume(tmp_path / "made" / f"p{number}_first.nii.gz", made)
    options = {"metrics": ["mae"], "patient": r"(p\d)", "say": silent}
    sides = (tmp_path / "made", tmp_path / "scans")

    found = gantk.compare(*sides, **options)["metrics"]["pred_to_truth"]
    assert found["mae"]["value"] == rows_of(tmp_path, "mae")["mae"]["value"]

    volume(tmp_path / "made" / "p1_second.nii.gz", volumes[0][0])
    with pytest.raises(
        gantk.UserError, match=r"not every prediction has one truth of its own.*p1_first.*p1_second"
    ):
        gantk.compare(*sides, **options)


@pytest.mark.parametrize("value", [30_000, -30_000])
def test_a_few_pixels_that_set_the_gray_range_are_named(tmp_path, volumes, value):
    lines: list[str] = []
    sides = (tmp_path / "pred", tmp_path / "truth")
    before = gantk.compare(*sides, metrics=["psnr"], say=lines.append)
    assert not any("gray values" in str(line) for line in lines)

    volumes[1][1][3, 4, 5] = value
    volume(tmp_path / "truth" / "case-1.nii.gz", volumes[1][1])
    volumes[1][0][3, 4, 5] = value
    volume(tmp_path / "pred" / "case-1.nii.gz", volumes[1][0])
    after = gantk.compare(*sides, metrics=["psnr"], say=lines.append)

    warned = " ".join("\n".join(map(str, lines)).split())
    assert "a few pixels of" in warned
    assert "case-1.nii.gz' set the range of gray values" in warned
    first, second = (each["metrics"]["pred_to_truth"]["psnr"]["value"] for each in (before, after))
    assert float(warned.partition(", and PSNR ")[2].split()[0]) == pytest.approx(
        second - first, abs=0.1
    )


@pytest.mark.parametrize("case", ["a prediction too many", "two truths of one name"])
def test_every_prediction_has_one_truth_or_none_is_scored(tmp_path, volumes, case):
    made, real = volumes[0]
    if case == "a prediction too many":
        volume(tmp_path / "pred" / "case-9.nii.gz", made)
    else:
        for path in sorted((tmp_path / "truth").iterdir()):
            (tmp_path / "truth" / "first").mkdir(exist_ok=True)
            path.rename(tmp_path / "truth" / "first" / path.name)
        volume(tmp_path / "truth" / "second" / "case-0.nii.gz", real + 100)

    with pytest.raises(gantk.UserError, match="not every prediction has one truth of its own"):
        rows_of(tmp_path, "mae")
