"""What `model.translate` says in Python about an input: as much as the command line says of a file."""

import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from page_data import volumes
from tiny import PATCHGAN, UNET, small_run, train_without_scores

import gantk
from gantk.errors import GantkWarning
from gantk.formats import files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    method = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
    return small_run(tmp_path_factory.mktemp("run"), method)


@pytest.fixture(scope="module")
def model(run):
    return gantk.load(run, device="cpu")


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """The T1 of a synthetic head, (planes, rows, columns)."""
    return next(voxels for domain, _, voxels in volumes(("T1", "T2"), ["p1"]) if domain == "T1")


def said(call) -> list[str]:
    """The texts of the GantkWarnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if each.category is GantkWarning]


@pytest.mark.parametrize("kind", ["path", "nibabel", "function"])
def test_a_file_of_another_contrast_warns_in_python(kind, run, model, head, tmp_path):
    path = tmp_path / "sub_T2.nii.gz"
    nib.save(nib.Nifti1Image(head.T, np.diag([-1.0, -1.0, 3.0, 1.0])), path)
    calls = {
        "path": lambda: model.translate(path),
        "nibabel": lambda: model.translate(nib.load(path)),
        "function": lambda: gantk.translate(run, path, tmp_path / "out.nii.gz"),
    }

    lines = said(calls[kind])

    assert "the header or the name says T2, but it is translated as T1" in lines


@pytest.mark.parametrize("folder", ["", "T1/study"])
def test_one_named_image_takes_the_direction_from_its_contrast(folder, tiny_run, head, tmp_path):
    path = tmp_path / folder / "sub_T2.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(head.T, np.diag([-1.0, -1.0, 3.0, 1.0])), path)
    both = gantk.load(tiny_run, device="cpu")

    made = both.translate(path)
    told: list[str] = []
    gantk.translate(both, path, tmp_path / "out", say=told.append)

    line = "header or name say T2, so the model makes T1"
    assert line in made.notes[0] and line in " ".join(told)
    assert np.array_equal(made.pixels, both.translate(path, to="T1").pixels)
    assert np.array_equal(
        files.read(tmp_path / "out" / "sub_T1.nii.gz").pixels, np.float32(made.pixels)
    )
    # what is asked for comes first
    asked = both.translate(path, to="T2")
    assert "the header or the name says T2, but it is translated as T1" in asked.notes


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_an_array_of_get_fdata_warns_of_its_axes(kind, model, head):
    turned = kind(np.ascontiguousarray(head.T))

    assert any(
        "translate the nibabel image itself" in line
        for line in said(lambda: model.translate(turned))
    )
    assert not [line for line in said(lambda: model.translate(kind(head))) if "axes" in line]


@pytest.mark.parametrize("shape", [(72, 64, 1), (5, 72, 64, 1), (2, 1, 72, 64), (1, 1, 1, 72, 64)])
def test_arrays_of_other_axes_are_refused(shape, model):
    with pytest.raises(
        gantk.UserError, match=r"(?s)no image of this model.*\(D, H, W\).*one by one"
    ):
        model.translate(torch.rand(shape))


def test_a_translation_on_a_cpu_is_in_float32(tiny_recipe, tmp_path):
    del tiny_recipe["train"]["precision"]
    tiny_recipe["train"]["steps"] = 0
    model = gantk.load(train_without_scores(tiny_recipe, tmp_path / "run"), device="cpu")

    image = torch.rand(1, 1, 32, 32)
    exact = model.method.translate(model.runtime.place(image, 2), "b")
    assert model.runtime.precision == "fp32"
    with model.runtime.autocast():
        assert torch.equal(model.method.translate(model.runtime.place(image, 2), "b"), exact)


@pytest.mark.parametrize("kind", ["array", "path", "nibabel"])
def test_a_single_slice_says_that_its_scale_is_its_own(kind, model, head, tmp_path):
    plane = (10_000 * head[len(head) // 2]).astype(np.float32)
    path = tmp_path / "slice_T1.nii.gz"
    nib.save(nib.Nifti1Image(plane.T[:, :, None], np.diag([-1.0, -1.0, 3.0, 1.0])), path)
    given = {"array": plane, "path": path, "nibabel": nib.load(path)}[kind]

    assert any(
        "one slice alone gets its own" in line for line in said(lambda: model.translate(given))
    )


@pytest.mark.parametrize("planes", [1, 3])
def test_a_model_of_single_slices_takes_slices_as_usual(planes, tmp_path):
    for patient in range(4):
        for contrast in ("T1", "T2"):
            voxels = np.random.default_rng(patient).uniform(0, 600, (32, 32, planes))
            path = tmp_path / "scans" / f"p{patient}" / f"p{patient}_{contrast}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([-1, -1, 3, 1])), path)
    method = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
    source = {"name": "files", "path": str(tmp_path / "scans")}
    per_scan = {"name": "percentile", "per": "volume"}
    model = gantk.load(small_run(tmp_path, method, source=source, intensity=per_scan), device="cpu")
    scan = nib.load(tmp_path / "scans" / "p0" / "p0_T1.nii.gz").slicer[:, :, :1]

    notes = [line for line in said(lambda: model.translate(scan)) if "one slice alone" in line]
    assert bool(notes) == (planes > 1)


def test_windows_of_a_patients_contrasts_are_told(tmp_path):
    method = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
    model = gantk.load(
        small_run(tmp_path, method, domains=["T1+FLAIR", "T2"], fit="crop"), device="cpu"
    )
    model.recipe.translate.memory = 1e-9
    volume = np.random.default_rng(0).uniform(0, 600, (2, 64, 48)).astype(np.float32)
    files = {}
    for name in ("T1", "FLAIR"):
        files[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(volume.T, np.eye(4)), files[name])
    lines = []

    gantk.translate(model, files, tmp_path / "T2.nii.gz", say=lines.append)

    assert any("translated in windows of 32 x 32" in line for line in lines)
    told = said(lambda: model.translate(dict.fromkeys(files, volume)))
    assert any("translated in windows of 32 x 32" in line for line in told)
