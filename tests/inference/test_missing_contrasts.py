"""What a patient lacks is made from what there is, however the files are named, and lies where it is
looked for.
"""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_files import head, series
from tiny import PATCHGAN, UNET, read_json, small_run

import gantk as toolkit
from gantk.catalog.contrasts import (
    USUAL_WORDS,
    usual_contrast,
)
from gantk.errors import UserError
from gantk.formats.image import Image
from gantk.inference.case import stack_on_one_grid

NAMES = ("T1", "T1CE", "T2", "FLAIR")
BRATS = dict(zip(NAMES, ("t1", "t1ce", "t2", "flair"), strict=True))
SHAPE = (32, 32, 4)
GRID = np.diag([2.0, 2.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run that makes each of four contrasts from any others; its weights are those drawn."""
    return small_run(
        tmp_path_factory.mktemp("complete"),
        {"name": "anytoany", "generator": UNET, "discriminator": PATCHGAN},
        domains=["+".join(NAMES)] * 2,
        missing="mask",
    )


def volume(path: Path, seed: int, shape=SHAPE, affine=GRID) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).uniform(0, 600, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def patient(folder: Path, stems: dict[str, str], names=NAMES) -> Path:
    for number, name in enumerate(NAMES):
        if name in names:
            volume(folder / f"{stems[name]}.nii.gz", number)
    return folder


def translate(run, source, target, **options) -> list[str]:
    """The results' paths relative to the folder of results."""
    written = toolkit.translate(run, source, target, device="cpu", say=lambda line: None, **options)
    return [path.relative_to(target).as_posix() for path in written]


def values(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def test_a_tree_of_patients_gives_the_same_tree(run, tmp_path, gantk):
    for number, names in enumerate((("T1", "T2"), ("FLAIR", "T1CE", "T2"), NAMES)):
        stems = {name: f"p{number}_{word}" for name, word in BRATS.items()}
        patient(tmp_path / "in" / "site" / f"p{number}", stems, names)

    done = gantk("translate", run, tmp_path / "in", tmp_path / "out")

    made = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/**/*.gz")}
    assert done.code == 0
    assert made == {
        "site/p0/p0_t1ce.nii.gz",
        "site/p0/p0_flair.nii.gz",
        "site/p1/p1_t1.nii.gz",
    }
    assert "left out, because no contrast is missing (1 of 3 patients: site/p2)" in done.out


def test_what_is_there_is_made_only_if_asked_and_without_itself(run, tmp_path, gantk):
    source = patient(tmp_path / "p", BRATS)
    refused = gantk("translate", run, source, tmp_path / "out")
    asked = gantk("translate", run, source, tmp_path / "out", "--to", "flair")
    before = values(tmp_path / "out" / "flair.nii.gz")
    volume(source / "flair.nii.gz", 99)
    gantk("translate", run, source, tmp_path / "again", "--to", "FLAIR")

    assert refused.code == 2
    assert "'p' has T1, T1CE, T2, FLAIR, so no contrast is missing" in refused.err
    assert asked.code == 0
    assert "FLAIR is there, but is made from the others" in asked.out
    assert np.array_equal(before, values(tmp_path / "again" / "flair.nii.gz"))


def test_files_named_by_contrast_give_what_their_folder_gives(run, tmp_path, gantk):
    source = patient(tmp_path / "p", BRATS, ("T1", "T2"))
    a, b = source / "t1.nii.gz", source / "t2.nii.gz"
    translate(run, source, tmp_path / "out")
    truth = values(tmp_path / "out" / "flair.nii.gz")

    options = {
        "short.nii.gz": ("--t2w", b, f"--t1={a}"),
        "long.nii.gz": ("--from", f"T1={a}", "--from", f"t2={b}"),
    }
    for name, files in options.items():
        gantk("translate", run, *files, "--to", "FLAIR", tmp_path / name).ok()
        assert np.array_equal(values(tmp_path / name), truth)

    toolkit.translate(
        run, {"T1": a, "T2": b}, tmp_path / "py.nii.gz", to="FLAIR", say=lambda line: None
    )
    assert np.array_equal(values(tmp_path / "py.nii.gz"), truth)


def test_a_mistake_in_named_files_is_one_error(run, tmp_path, gantk):
    source = patient(tmp_path / "p", BRATS)
    a = source / "t1.nii.gz"
    out = tmp_path / "flair.nii.gz"
    cases = {
        "this model has no contrast 'pd'": ("--pd", a, "--to", "FLAIR", out),
        "two images are given for T1": ("--t1", a, "--from", f"T1w={a}", "--to", "FLAIR", out),
        "OUTPUT is the same as INPUT": ("--t1", a, "--t2", source / "t2.nii.gz", "--to", "FLAIR")
        + (source / "t2.nii.gz",),
        "the only contrast given is T1": ("--t1", a, "--to", "T1", out),
        "does not exist": ("--t1", tmp_path / "no.nii.gz", "--to", "FLAIR", out),
        "is not of the form NAME=FILE": ("--from", "T1", "--to", "FLAIR", out),
        "cannot be combined": ("--t1", a, source, out),
        "requires a file": ("--to", "FLAIR", out, "--t1"),
        "No such option '--t9'": ("--t9", a, out),
    }
    for text, arguments in cases.items():
        told = gantk("translate", run, *arguments).refused()
        assert text in told
        assert not out.exists()


def test_two_candidates_of_a_patient_are_asked_about(run, tmp_path, gantk):
    stems = {name: f"p1_{word}" for name, word in BRATS.items()}
    source = patient(tmp_path / "in" / "p1", stems, ("T1", "T2"))
    volume(source / "second_t1.nii.gz", 5)
    patient(tmp_path / "in" / "p2", BRATS, ("T1", "T2"))

    done = gantk("translate", run, tmp_path / "in", tmp_path / "out", "--to", "FLAIR")

    assert done.code == 2
    assert "'p1' has 2 files of T1" in done.err
    assert "--layout" in done.err


def test_images_without_skull_are_used_for_a_model_of_such(run, tmp_path, gantk):
    run = shutil.copytree(run, tmp_path / "run")
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("stripped = false", "stripped = true"))
    for number, name in enumerate(("T1_to_SRI", "T2_to_SRI", "T1_to_SRI_brain", "T2_to_SRI_brain")):
        volume(tmp_path / "p1" / f"{name}.nii.gz", number)
    volume(tmp_path / "p1" / "T1_to_SRI_brain_mask.nii.gz", 9)

    done = gantk("translate", run, tmp_path / "p1", tmp_path / "out", "--to", "FLAIR")

    assert (tmp_path / "out" / "FLAIR_to_SRI_brain.nii.gz").exists()
    assert "2 images not used (with skull): 'T1_to_SRI.nii.gz'" in done.out
    assert "T1: nothing is masked out of the input" in done.out  # these have no air at all


def test_files_of_another_contrast_than_named_are_warned_of(run, tmp_path, gantk):
    folder = patient(tmp_path / "p1", BRATS, ("T1", "T2"))
    swapped = ("--t1", folder / "t2.nii.gz", "--t2", folder / "t1.nii.gz")

    done = gantk("translate", run, *swapped, "--to", "FLAIR", tmp_path / "flair.nii.gz")

    assert "warning  T1: the header or the name says T2" in done.out
    assert "warning  T2: the header or the name says T1" in done.out


def test_only_what_a_contrast_is_made_from_is_compared(run, tmp_path, gantk):
    folder = patient(tmp_path / "p1", BRATS, NAMES)

    done = gantk("translate", run, folder, tmp_path / "out", "--to", "T2")

    assert "T1: fits the training data" in done.out
    assert "T2: fits the training data" not in done.out
    assert "T2 is there, but is made from the others" in done.out
    # T1CE is one of the contrasts of the training
    assert "contrast agent" not in done.out


def test_other_grids_are_resampled_onto_the_first_one(run, tmp_path, gantk):
    volume(tmp_path / "p" / "t1.nii.gz", 0)
    finer = np.diag([1.0, 1.0, 1.5, 1.0])
    volume(tmp_path / "p" / "t2.nii.gz", 1, (48, 40, 6), finer)

    done = gantk("translate", run, tmp_path / "p", tmp_path / "out", "--to", "FLAIR")

    made = nib.load(tmp_path / "out" / "flair.nii.gz")
    assert made.shape == SHAPE
    assert np.array_equal(made.affine, GRID)
    assert "T2 is resampled onto the grid of T1 by the headers" in done.out


def test_what_is_made_has_the_header_of_the_first_contrast():
    given = {
        name: Image(np.full((1, 2, 8, 8), number, np.float32), GRID, Path(name), header=name)
        for number, name in enumerate(("T1", "T2"))
    }
    stacked, resampled = stack_on_one_grid(given, NAMES)

    assert (stacked.header, stacked.path, stacked.made_of) == ("T1", Path("T1"), ("T1", "T2"))
    assert not resampled
    np.testing.assert_array_equal(stacked.pixels[:, 0, 0, 0], [0, np.nan, 1, np.nan])


def test_grids_that_do_not_meet_are_an_error(run, tmp_path, gantk):
    volume(tmp_path / "p" / "t1.nii.gz", 0)
    far = GRID.copy()
    far[0, 3] = 500.0
    volume(tmp_path / "p" / "t2.nii.gz", 1, SHAPE, far)

    done = gantk("translate", run, tmp_path / "p", tmp_path / "out")

    assert "T2 and T1 do not overlap, by their headers" in done.err
    assert not [*tmp_path.glob("out/**/*.gz")]


def test_bids_gives_derivatives_of_each_subject(run, tmp_path):
    for number in (1, 2):
        folder = tmp_path / "in" / f"sub-0{number}" / "anat"
        volume(folder / f"sub-0{number}_T1w.nii.gz", 0)
        volume(folder / f"sub-0{number}_ce-gadolinium_T1w.nii.gz", 1)
        volume(folder / f"sub-0{number}_FLAIR.nii.gz", 2)

    made = translate(run, tmp_path / "in", tmp_path / "out")

    assert made == [f"sub-0{n}/anat/sub-0{n}_space-T1w_desc-gantk_T2w.nii.gz" for n in (1, 2)]


def test_a_derivative_refers_to_the_input_whose_grid_it_has(run, tmp_path):
    folder = tmp_path / "in" / "sub-01" / "anat"
    sides = {"T1w": 32, "ce-gadolinium_T1w": 30, "FLAIR": 28}
    for seed, (suffix, side) in enumerate(sides.items()):
        volume(folder / f"sub-01_{suffix}.nii.gz", seed, (side, side, 4))

    (made,) = translate(run, tmp_path / "in", tmp_path / "out", to="T1")
    beside = read_json(tmp_path / "out" / made.replace(".nii.gz", ".json"))

    suffix = beside["SpatialReference"].split("sub-01_")[1].removesuffix(".nii.gz")
    assert suffix == "T1w"
    assert nib.load(tmp_path / "out" / made).shape[0] == sides[suffix]
    assert not any("anat/sub-01_T1w" in source for source in beside["Sources"])


def test_derivatives_in_the_data_set_are_not_read_as_inputs(run, tmp_path):
    folder = tmp_path / "in" / "sub-01" / "anat"
    for seed, suffix in enumerate(("T1w", "ce-gadolinium_T1w", "FLAIR")):
        volume(folder / f"sub-01_{suffix}.nii.gz", seed)
    translate(run, tmp_path / "in", tmp_path / "in" / "derivatives" / "gantk")

    made = translate(run, tmp_path / "in", tmp_path / "elsewhere")

    assert made == ["sub-01/anat/sub-01_space-T1w_desc-gantk_T2w.nii.gz"]


def test_a_native_t1_is_not_labelled_as_enhanced(run, tmp_path):
    folder = tmp_path / "in" / "sub-01" / "anat"
    volume(folder / "sub-01_ce-gadolinium_T1w.nii.gz", 0)
    volume(folder / "sub-01_FLAIR.nii.gz", 1)

    made = translate(run, tmp_path / "in", tmp_path / "out", to="T1")

    assert made == ["sub-01/anat/sub-01_space-T1w_desc-gantk_T1w.nii.gz"]


def test_series_of_a_dicom_study_give_a_derived_series(run, tmp_path):
    for number, words in enumerate(("t1_se_tra", "t1_se_tra KM", "t2_tse_tra")):
        series(
            tmp_path / "study" / f"{number}",
            head(4, 24, 20, seed=number),
            SeriesInstanceUID=f"1.2.3.{number}",
            SeriesDescription=words,
            ProtocolName=words,
        )

    assert translate(run, tmp_path / "study", tmp_path / "out") == ["FLAIR"]
    files = [*(tmp_path / "out" / "FLAIR").iterdir()]
    assert len(files) == 4
    for file in files:
        made = pydicom.dcmread(file)
        for words in ("t1_se_tra", "t1_se_tra KM", "t2_tse_tra"):
            assert f"({words})" in made.DerivationDescription


@pytest.mark.parametrize("by", ["rows", "columns"])
def test_a_table_says_whose_images_these_are(run, tmp_path, by):
    patient(tmp_path / "data", {name: f"a-{n}" for n, name in enumerate(NAMES)}, ("T1", "T2"))
    table = tmp_path / "scans.csv"
    if by == "rows":
        lines = ["path,domain,patient", "data/a-0.nii.gz,T1,p1", "data/a-2.nii.gz,T2w,p1"]
    else:
        lines = ["patient,T1,t2w,FLAIR", "p1,data/a-0.nii.gz,data/a-2.nii.gz,"]
    table.write_text("\n".join(lines))

    assert translate(run, table, tmp_path / "out", to="FLAIR") == ["data/a-0_FLAIR.nii.gz"]


def test_usual_words_of_columns_mean_contrasts(run, tmp_path):
    patient(tmp_path / "data", {name: f"a-{n}" for n, name in enumerate(NAMES)}, ("T1", "T2"))
    table = tmp_path / "scans.csv"
    table.write_text("patient,T1,T1_protocol,CT1\np1,data/a-0.nii.gz,se,data/a-2.nii.gz\n")

    made = translate(run, table, tmp_path / "out")

    assert made == ["data/a-0_T2.nii.gz", "data/a-0_FLAIR.nii.gz"]

    table.write_text("patient,T1Gd,T1_post\np1,data/a-0.nii.gz,data/a-2.nii.gz\n")
    with pytest.raises(UserError, match="two columns of T1CE: 't1gd' and 't1_post'"):
        translate(run, table, tmp_path / "two")


def test_a_second_call_makes_only_what_is_left(run, tmp_path, gantk):
    for number in range(3):
        folder = tmp_path / "in" / f"sub-{number}" / "anat"
        volume(folder / "t1.nii.gz", number)
    (tmp_path / "in" / "sub-1" / "anat" / "t1.nii.gz").write_bytes(b"broken")

    first = gantk("translate", run, tmp_path / "in", tmp_path / "out", "--to", "T2")
    volume(tmp_path / "in" / "sub-1" / "anat" / "t1.nii.gz", 1)
    second = gantk("translate", run, tmp_path / "in", tmp_path / "out", "--to", "T2")

    assert first.code == 1
    assert second.code == 0
    assert "2 of 3 inputs were already translated" in second.out


def test_a_masked_out_background_stays_so_in_what_is_made(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("masked = false", "masked = true"))
    for seed, name in enumerate(("t1", "t2")):
        path = volume(tmp_path / "p" / f"{name}.nii.gz", seed)
        stripped = values(path) + 1
        stripped[:8] = stripped[-8:] = stripped[:, :8] = stripped[:, -8:] = 0
        nib.save(nib.Nifti1Image(stripped.astype(np.float32), GRID), path)

    translate(run, tmp_path / "p", tmp_path / "out", to="FLAIR")
    made = values(tmp_path / "out" / "flair.nii.gz")

    assert len(np.unique(made[:8])) == 1
    assert abs(made[0, 0, 0]) < 1
    assert len(np.unique(made[8:-8, 8:-8])) > 100


# ---- in Python


@pytest.fixture(scope="module")
def model(run):
    return toolkit.load(run, device="cpu")


def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0, 600, SHAPE[::-1]).astype(np.float32) for name in NAMES[:2]}


def test_arrays_by_contrast_give_an_array_of_one(model):
    given = images()
    made = model.translate(given, to="FLAIR")
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    stacked = np.full((4, *SHAPE[::-1]), np.nan, np.float32)
    stacked[:2] = list(given.values())

    assert made.shape == SHAPE[::-1]
    assert made.dtype == np.float32
    assert torch.equal(model.translate(tensors, to="flair"), torch.from_numpy(made))
    by_slice = [model.translate(stacked[:, k])[3] for k in range(SHAPE[2])]
    np.testing.assert_allclose(np.stack(by_slice), made, rtol=1e-3, atol=0.5)


def test_images_of_nibabel_by_contrast_lie_on_the_first_grid(model):
    given = {name: nib.Nifti1Image(array.transpose(), GRID) for name, array in images().items()}
    given["T2"] = nib.Nifti1Image(np.ones((20, 20, 5), np.float32), np.diag([3.0, 3, 3, 1]))

    made = model.translate(given, to="FLAIR")

    assert made.shape == SHAPE
    assert np.array_equal(made.affine, given["T1"].affine)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "no image is given"),
        ({"PD": np.zeros((32, 32))}, "no contrast 'PD'"),
        ({"T1": np.zeros((32, 32)), "T2": np.zeros((32, 30))}, "different sizes"),
        ({"T1": np.zeros((32, 32)), "T2": "t2.nii.gz"}, "some contrasts are arrays"),
        ({"T1": np.zeros((2, 2, 32, 32))}, r"shape \(2, 2, 32, 32\).*\(D, H, W\)"),
        ({"FLAIR": np.zeros((32, 32))}, "only contrast given is FLAIR"),
    ],
)
def test_a_wrong_dict_is_one_error(model, given, text):
    with pytest.raises(UserError, match=text):
        model.translate(given, to="FLAIR")


# ---- names


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-01_space-T1w_FLAIR", "flair"),
        ("sub-01_space-T1w_desc-gantk_FLAIR", "flair"),
        ("sub-01_space-MNI152_T1w", "t1"),
        ("t2_space_flair", "flair"),  # a sequence
        ("SPACE_T2", "t2"),
        ("study1_FLAIR_reg_T1", "flair"),
        ("reg_T1", "t1"),
        ("p1_T1pre", "t1"),
        ("p1_T1post", "t1ce"),
        ("T1_pre_contrast", "t1"),
        ("sub-01_ses-pre_ce-gadolinium_T1w", "t1ce"),
        ("pre-op_T1_postcontrast", "t1ce"),
        ("T1 pre gd", "t1"),
    ],
)
def test_a_registrations_target_is_not_the_images_contrast(name, contrast):
    assert usual_contrast(name) == contrast
    assert {*map(str.lower, USUAL_WORDS.said(name))} == ({contrast} if contrast else set())


def test_detail_of_what_is_made_comes_from_no_truth(run, tmp_path):
    """Results are enlarged where scans have more pixels than the network sees."""
    made = []
    for seed in (1, 2):
        folder = tmp_path / f"p{seed}"
        volume(folder / "t1.nii.gz", 0, (64, 64, 4))
        for number, name in enumerate(("t1ce", "t2")):
            volume(folder / f"{name}.nii.gz", 10 + number, (64, 64, 4))
        volume(folder / "flair.nii.gz", seed, (64, 64, 4))
        translate(run, folder, tmp_path / f"out{seed}", to="FLAIR")
        made.append(values(tmp_path / f"out{seed}" / "flair.nii.gz"))

    assert np.array_equal(*made)
