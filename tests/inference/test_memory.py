"""What Python holds goes through a model and comes back as the same kind, is trained on, and is
shown in a notebook.
"""

import ast
import copy
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import PATCHGAN, TINY, UNET, draw_pictures, small_run, train_without_scores

import gantk as toolkit
from gantk.errors import UserError
from gantk.formats import files

PIX2PIX = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
RNG = np.random.default_rng(0)
SCAN = RNG.integers(0, 700, (6, 40, 36)).astype(np.int16)  # (D, H, W)


@pytest.fixture(scope="module")
def model(tiny_run):
    return toolkit.load(toolkit.Run(tiny_run), device="cpu")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    data = {"dims": 3, "size": [16, 16, 16]}
    return toolkit.load(
        small_run(folder, PIX2PIX, source={"slices": 16, "subjects": 4}, **data), device="cpu"
    )


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((40, 36), 2),
        ((6, 40, 36), 2),
        ((1, 40, 36), 2),
        ((9, 20, 17), 3),
    ],
)
def test_arrays_come_back_in_their_shape_and_kind(model, deep, shape, dims):
    used = {2: model, 3: deep}[dims]
    array = RNG.uniform(0, 600, shape)
    plain = used.translate(array)

    assert plain.shape == shape
    assert plain.dtype == np.float64
    assert np.isfinite(plain).all()
    assert np.ptp(plain) > 0
    (listed,) = used.translate([array])
    assert np.array_equal(listed, plain)

    readonly = np.asfortranarray(array)
    readonly.flags.writeable = False

    assert np.array_equal(used.translate(readonly), plain)

    for dtype, made in (
        (np.uint8, np.float32),
        (np.float16, np.float16),
        (">i2", np.float32),
        (bool, np.float32),
    ):
        assert used.translate(array.astype(dtype)).dtype == made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int16])
def test_a_tensor_stays_a_tensor_on_its_device(model, dtype):
    images = torch.from_numpy(SCAN).to(dtype)
    made = model.translate(images)

    assert made.device == images.device
    assert made.dtype == (dtype if dtype.is_floating_point else torch.float32)
    assert made.shape == images.shape
    assert not made.requires_grad
    expected = torch.from_numpy(model.translate(images.double().numpy()))
    torch.testing.assert_close(made.double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("size", "fit"),
    [((32, 32), "pad"), ((19, 43), "pad"), ((40, 37), "crop")],
)
def test_gradients_flow_through_the_whole_translation(tmp_path, size, fit):
    model = toolkit.load(small_run(tmp_path, PIX2PIX, fit=fit), device="cpu")
    weights = torch.randn(2, *size)
    change = torch.randn(2, *size)
    images = (torch.rand(2, *size) * 600).requires_grad_()
    made = model.translate(images)

    torch.testing.assert_close(
        made.detach(), model.translate(images.detach()), rtol=1e-4, atol=1e-2
    )

    ((made * weights).sum()).backward()

    def value(step: float) -> float:
        return float((model.translate(images.detach() + step * change).double() * weights).sum())

    slopes = [(value(h) - value(-h)) / (2 * h) for h in (0.02, 0.05)]
    expected = float((images.grad.double() * change).sum())

    assert min(abs(slope - expected) for slope in slopes) < 0.05 * abs(expected) + 0.05 * float(
        weights.norm()
    )


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PIR"])
def test_nibabel_and_simpleitk_images_match_their_files(model, tiny_run, tmp_path, codes):
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt(codes)
    )
    scan = nib.Nifti1Image(SCAN.T.astype(np.int16), np.diag([1, 1, 2, 1.0])).as_reoriented(turn)
    scan.header.set_slope_inter(0.5, -10)
    nib.save(scan, tmp_path / "in.nii")
    toolkit.translate(
        tiny_run, tmp_path / "in.nii", tmp_path / "out.nii", device="cpu", say=lambda line: None
    )
    given = nib.load(tmp_path / "in.nii")
    expected = nib.load(tmp_path / "out.nii")
    made, image, many = model.translate([given, tmp_path / "in.nii", [given]])

    assert type(made) is nib.Nifti1Image
    assert np.array_equal(made.affine, given.affine)
    assert np.array_equal(made.get_fdata(), expected.get_fdata())
    assert len(many) == 1
    assert np.array_equal(image.pixels, files.read(tmp_path / "out.nii").pixels)
    assert len(repr(image)) < 200


class ScalarImage:
    """What gantk needs of an image of torchio."""

    def __init__(self, tensor, affine):
        self.data = tensor
        self.affine = affine

    def __array__(self, *about, **options):
        return self.data.numpy()


def test_an_image_of_torchio_is_translated_as_that_of_nibabel(model):
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    voxels = SCAN.T.astype(np.float32)
    expected = model.translate(nib.Nifti1Image(voxels, affine)).get_fdata()

    made = model.translate(ScalarImage(torch.from_numpy(voxels.copy())[None], affine))

    assert type(made) is ScalarImage
    assert np.array_equal(made.data[0].numpy(), expected.astype(np.float32))
    assert np.array_equal(made.affine, affine)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((0, 32, 32)), r"shape \(0, 32, 32\)"),
        (np.zeros((2, 3, 32, 32)), r"shape \(2, 3, 32, 32\).*\(H, W\) or \(D, H, W\)"),
        (np.zeros((1, 1, 4, 32, 32)), "images one by one"),
        (np.full((32, 32), np.nan), "the array contains 1024 values that are NaN"),
        (np.full((32, 32), np.inf, np.float16), "1024 values that are NaN, infinite"),
        (np.zeros((32, 32), complex), "type complex128"),
        (
            nib.Nifti1Image(np.zeros((16, 16, 4, 2)), np.eye(4)),
            r"shape is \(16, 16, 4, 2\).*slicer\[..., 0\]",
        ),
        ({"T1": 1}, "an input of type int cannot be translated"),
        ("nowhere.nii", "'nowhere.nii' does not exist"),
    ],
)
def test_what_cannot_be_translated_is_refused_in_words(model, given, words):
    with pytest.raises(UserError, match=words):
        model.translate(given)


def slices(count: int = 24) -> np.ndarray:
    """(N, H, W), no two alike."""
    rows, columns = np.mgrid[:40, :36]
    y, x = np.random.default_rng(5).uniform(6, 30, (2, 3, 24, 1, 1))
    return 900 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 30).sum(0)[:count]


IMAGES = slices()


class Items(torch.utils.data.Dataset):
    """Pairs as data sets have them, with what nobody asked for beside them."""

    def __len__(self):
        return 24

    def __getitem__(self, number):
        one = torch.from_numpy(IMAGES)[number, None]
        return {"A": one, "b": 900 - one, "A_paths": "x.png", "patient": number // 3}


def runs_on(data, folder, **options):
    said = []
    tables = copy.deepcopy(TINY)
    run = toolkit.run(
        tables,
        data=data,
        out=folder,
        device="cpu",
        set={"train.steps": 1},
        say=said.append,
        **options,
    )
    return run, "\n".join(said)


@pytest.mark.slow
def test_arrays_are_split_and_scored_like_files(
    tmp_path,
):
    one = IMAGES
    patients = [f"p{number // 3}" for number in range(24)]
    run, said = runs_on(
        {"T1": one, "T2": torch.from_numpy(900 - one), "patient": patients}, tmp_path / "arrays"
    )

    assert "images of one row are registered pairs" in said
    assert "by patient: 4 train" in said
    assert run.metrics["a_to_b"]["psnr"]["n"] == 2
    other, _ = runs_on(Items(), tmp_path / "items")
    assert other.metrics["a_to_b"]["psnr"]["value"] == run.metrics["a_to_b"]["psnr"]["value"]

    moved = shutil.move(run.path, tmp_path / "moved")
    (tmp_path / "moved" / "metrics.json").unlink()
    again = toolkit.resume(toolkit.Run(moved), device="cpu", say=lambda line: None)

    assert again.metrics["a_to_b"]["psnr"]["value"] == other.metrics["a_to_b"]["psnr"]["value"]


def test_unpaired_rows_and_tables_of_python_are_taken(tmp_path):
    one = IMAGES
    run, said = runs_on(
        {"T1": one.astype(np.uint8), "T2": 900 - one, "pair": False}, tmp_path / "unpaired"
    )

    assert "pairs" in said
    assert "test images without pairs" in said
    assert "psnr" not in run.metrics.get("a_to_b", {})

    rows = []
    for name, seed in (("T1", 0), ("T2", 1)):
        for k, path in enumerate(draw_pictures(tmp_path / name, 18, seed=seed)):
            rows.append({"path": path, "domain": name, "patient": k // 3})

    lines = []
    train_without_scores(
        TINY, tmp_path / "table", data=rows, set={"train.steps": 1}, say=lines.append
    )
    assert "by patient" in "\n".join(lines)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"CT": slices(4), "MR": slices(4)},
            "contain 'CT', 'MR', but the recipe's domains are T1 and T2",
        ),
        ({"T1": slices(4), "T2": slices(4), "patients": "abcd"}, "Did you mean 'patient'"),
        (
            {"T1": slices(4), "T2": slices(4), "patient": "abc"},
            "T1, T2, patient have different lengths",
        ),
        (
            {"T1": slices(4) * np.nan, "T2": slices(4)},
            "T1 of item 0 contains 1440 values that are NaN",
        ),
        ({"T1": slices(4)}, "no images of T2"),
        (3, "type int cannot be used for training"),
    ],
)
def test_untrainable_data_are_refused_and_leave_nothing(tmp_path, data, words):
    with pytest.raises(UserError, match=words):
        runs_on(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_give_their_report_samples_model_and_log(tiny_run):
    run = toolkit.Run(tiny_run)
    assert run.report.is_file()
    assert list(run.samples) == [0, 4]
    assert run.load("cpu").translate(SCAN).shape == SCAN.shape
    assert [row["step"] for row in run.log] == [0, 1, 2, 3, 4]
    assert isinstance(run.log[-1]["losses.generators/cycle_a"], float)
    assert "validation.a_to_b.psnr" in run.log[0]


def test_settings_are_given_as_a_mapping_of_pythons_values(tmp_path):
    asked = {
        "train.steps": np.int64(0),
        "data.size": (16, 16),
        "train.optimizer.lr": 1e-3,
        "data.patch": None,
    }
    run = train_without_scores(TINY, tmp_path / "run", set=asked)
    tables = toolkit.Run(run).recipe().tables

    assert tables["train"]["steps"] == 0
    assert tables["data"]["size"] == [16, 16]
    assert tables["train"]["optimizer"]["lr"] == 1e-3
    with pytest.raises(UserError, match="Did you mean 'steps'"):
        toolkit.run(copy.deepcopy(TINY), set={"train.stepz": 1})


def test_type_checkers_see_every_public_name():
    seen = ast.parse(Path(toolkit.__file__).with_suffix(".pyi").read_text("utf-8"))
    names = [
        alias.asname
        for node in seen.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]

    assert sorted(names) == toolkit.__all__
    said = {node.target.id for node in seen.body if isinstance(node, ast.AnnAssign)}
    assert said == {"__version__", "__all__"}


def test_an_array_hears_that_it_states_no_spacing():
    shipped = toolkit.load("t1t2", device="cpu")
    with pytest.warns(toolkit.GantkWarning, match="an array states none, and is taken as of 1 mm"):
        shipped.translate(np.random.default_rng(0).random((40, 36), np.float32))
