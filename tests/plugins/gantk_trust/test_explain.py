"""`gantk explain` finds what a region was made from, keeps the grid, and tells a learnt map from a
random one.
"""

from importlib.util import find_spec
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import gantk
from gantk.errors import UserError
from gantk.formats.files import read

pytestmark = pytest.mark.skipif(
    find_spec("captum") is None, reason="needs captum: pip install gantk[explain]"
)
quiet = {"say": lambda line: None, "device": "cpu"}


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_the_map_lies_where_the_region_came_from(tiny_run, picture):
    model = gantk.load(tiny_run, device="cpu")
    said = []
    model.method.translate = lambda image, to: 0.5 * image.roll(8, -1)  # whatever the weights are
    asked = {"region": "16:20,10:14", "device": "cpu"}
    found = gantk.explain(model, picture, **asked, say=said.append)

    assert found.random_correlation == 1
    assert "WARNING: this map is similar to the map of random weights" in said[1]
    map = np.abs(found.map.pixels[0])
    assert map[10:14, 8:12].sum() > 0.99 * map.sum()
    assert found.total == pytest.approx(found.difference, abs=1e-4)  # completeness


def test_a_learnt_map_is_told_from_that_of_random_weights(tiny_run, picture, tmp_path):
    said = []
    found = gantk.explain(
        tiny_run, picture, tmp_path / "why", region="8:24,8:24", device="cpu", say=said.append
    )

    assert abs(found.random_correlation) < 0.5
    assert "differs from the map of random weights" in said[1]
    model = gantk.load(tiny_run, device="cpu")
    assert (
        gantk.explain(model, picture, region="8:24,8:24", **quiet).random_correlation
        == found.random_correlation
    )
    assert found.picture.shape == (32, 96, 3)
    assert read(tmp_path / "why.png").channels == 3
    assert np.allclose(read(tmp_path / "why.nii.gz").pixels, found.map.pixels)


def test_a_volume_is_explained_in_one_slice_on_its_own_grid(tiny_run, tmp_path):
    affine = np.diag([-2.0, 1.5, 3.0, 1.0])
    voxels = np.random.default_rng(0).random((32, 30, 5)).astype(np.float32)
    inside = np.zeros_like(voxels)
    inside[10:20, 10:20, 3] = 1
    for name, each in (("scan", voxels), ("mask", inside)):
        nib.save(nib.Nifti1Image(each, affine), tmp_path / f"{name}.nii.gz")

    gantk.explain(
        tiny_run,
        tmp_path / "scan.nii.gz",
        tmp_path / "why.nii.gz",
        mask=tmp_path / "mask.nii.gz",
        **quiet,
    )
    made = nib.load(tmp_path / "why.nii.gz")

    assert made.shape == voxels.shape
    assert np.allclose(made.affine, affine)
    assert np.flatnonzero(np.abs(made.get_fdata()).sum(axis=(0, 1))).tolist() == [3]
    with pytest.raises(UserError, match="no slice 5.*0 to 4"):
        gantk.explain(tiny_run, tmp_path / "scan.nii.gz", slice=5, **quiet)


def test_what_cannot_be_explained_is_one_error(tiny_run, picture):
    for options, words in (
        ({"region": "0:99,0:4"}, r"'0:99,0:4' is not a valid region.*0:32,0:32"),
        ({"region": "4", "mask": picture}, "--region and --mask cannot be combined"),
        ({"slice": 1}, "no slices"),
        ({"out": "."}, "has no name of its own"),
        ({"out": "/"}, "has no name of its own"),
    ):
        with pytest.raises(UserError, match=words):
            gantk.explain(tiny_run, picture, **options, **quiet)

    table = SimpleNamespace(method=SimpleNamespace(name="dcgan"))
    noise = SimpleNamespace(method=SimpleNamespace(directions=tuple), recipe=table)

    with pytest.raises(UserError, match="'dcgan' generates images from noise"):
        gantk.explain(noise, picture, **quiet)
