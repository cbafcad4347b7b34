"""Exported files in use: what `gantk translate MODEL.onnx` writes is what the run writes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from page_data import volumes
from tiny import PATCHGAN, ROOT, UNET, small_run

import gantk as toolkit

pytestmark = pytest.mark.slow

SHIPPED = sorted(
    path.parent.name for path in ROOT.glob("plugins/gantk_models/shipped/*/recipe.toml")
)
GRID = np.diag([-1.1, -1.3, 2.0, 1.0])
PIX2PIX = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
ANY = {"name": "anytoany", "generator": UNET, "discriminator": PATCHGAN}
# method, [data] table, contrasts that are given
CASES = {
    "the file's spacing": (PIX2PIX, {}, ["T1"]),
    "spacing of two numbers": (PIX2PIX, {"spacing": [1.5, 1.5]}, ["T1"]),
    "spacing of three numbers": (PIX2PIX, {"spacing": [2.5, 1.5, 1.5], "neighbours": 1}, ["T1"]),
    "spacing of volumes": (
        PIX2PIX,
        {"dims": 3, "size": [24, 24, 24], "spacing": [3.0, 2.0, 2.0]},
        ["T1"],
    ),
    "several contrasts": (PIX2PIX, {"domains": ["T1+T2", "FLAIR+PD"], "fit": "crop"}, ["T1", "T2"]),
    "several contrasts with spacing": (
        PIX2PIX,
        {"domains": ["T1+T2", "FLAIR+PD"], "spacing": [2.5, 1.5, 1.5]},
        ["T1", "T2"],
    ),
    "contrasts from each other": (
        ANY,
        {"domains": ["T1+T2+FLAIR", "T1+T2+FLAIR"], "missing": "mask", "fit": "crop"},
        ["T1", "FLAIR"],
    ),
}


@pytest.fixture(scope="module", autouse=True)
def onnx():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """Four synthetic heads, a folder with NIfTI files for each."""
    folder = tmp_path_factory.mktemp("heads")
    for pair in (("T1", "T2"), ("FLAIR", "PD")):
        for contrast, patient, voxels in volumes(pair, ["p1", "p2", "p3", "p4"]):
            (folder / patient).mkdir(exist_ok=True)
            image = nib.Nifti1Image(voxels[:, 8:40, 8:40].T, GRID)
            nib.save(image, folder / patient / f"{contrast}.nii.gz")
    return folder


def expect_same_files(model, exported: Path, patient: Path, contrasts, out: Path) -> None:
    """Translate these contrasts with both, and compare what was written."""
    given = {name: patient / f"{name}.nii.gz" for name in contrasts}
    scan = given if len(given) > 1 else given[contrasts[0]]
    suffix = "" if len(given) > 1 else ".nii.gz"
    written = []
    for name, each in (("run", model), ("file", exported)):
        paths = toolkit.translate(
            each, scan, out / (name + suffix), device="cpu", say=lambda line: None
        )
        written.append(sorted(path for path in paths if path.name.endswith(".nii.gz")))

    assert len(written[0]) == len(written[1]) > 0
    for ours, theirs in zip(*written, strict=True):
        one, other = (nib.load(path) for path in (ours, theirs))
        expected = one.get_fdata()
        difference = np.abs(other.get_fdata() - expected) / np.ptp(expected)
        np.testing.assert_array_equal(one.affine, other.affine)
        assert difference.max() < 1e-3
        assert difference.mean() < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_an_exported_file_translates_as_its_run(case, patients, tmp_path):
    method, data, contrasts = CASES[case]
    source = {"name": "contrasts" if len(contrasts) > 1 else "nifti", "path": str(patients)}
    run = small_run(tmp_path, method, steps=2, source=source, **data)
    path = toolkit.export(run, out=tmp_path / "model.onnx", say=lambda line: None)

    expect_same_files(run, path, patients / "p1", contrasts, tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_an_exported_shipped_model_translates_as_itself(name, patients, tmp_path):
    path = toolkit.export(name, out=tmp_path / "model.onnx", say=lambda line: None)
    model = toolkit.load(name, device="cpu")
    model.recipe = model.recipe.model_copy(update={"post": []})  # an export says that it lacks them
    contrasts = ["T1", "T2"] if len(model.frames["b"].sources) > 1 else ["T1"]

    expect_same_files(model, path, patients / "p1", contrasts, tmp_path)
