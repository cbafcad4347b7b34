"""`gantk explain` finds what a region was made from."""

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
    model.method.translate = lambda image, to: 0.5 * image.roll(8, -1)  # whatever the weights are
    found = gantk.explain(model, picture, region="16:20,10:14", **quiet)

    strength = np.abs(found.map)
    assert strength[10:14, 8:12].sum() > 0.99 * strength.sum()
    assert found.map.sum() == pytest.approx(found.difference, abs=1e-4)  # completeness


def test_a_picture_shows_input_translation_and_map(tiny_run, picture, tmp_path):
    found = gantk.explain(tiny_run, picture, tmp_path / "why", region="8:24,8:24", **quiet)

    again = gantk.explain(gantk.load(tiny_run, device="cpu"), picture, region="8:24,8:24", **quiet)
    assert np.array_equal(again.map, found.map)
    assert len(found.picture.axes) == 3
    assert read(tmp_path / "why.png").channels == 3


def test_a_volume_is_explained_in_one_slice(tiny_run, tmp_path):
    voxels = np.random.default_rng(0).random((32, 32, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    model = gantk.load(tiny_run, device="cpu")
    shown = {}
    for number in (None, 2, 3):
        shown[number] = gantk.explain(model, tmp_path / "scan.nii.gz", slice=number, **quiet).map

    assert np.array_equal(shown[None], shown[2])
    assert not np.array_equal(shown[3], shown[2])
    with pytest.raises(UserError, match="no slice 5.*0 to 4"):
        gantk.explain(model, tmp_path / "scan.nii.gz", slice=5, **quiet)


def test_an_image_whose_sides_the_network_refuses_is_padded(tmp_path):
    voxels = np.random.default_rng(0).random((36, 42, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "t1.nii.gz")

    assert gantk.explain("t1t2", tmp_path / "t1.nii.gz", **quiet).map.shape == (42, 36)


def test_what_cannot_be_explained_is_one_error(tiny_run, picture):
    for options, words in (
        ({"region": "0:99,0:4"}, r"'0:99,0:4' is not a valid region.*0:32,0:32"),
        ({"region": "4"}, "'4' is not a valid region"),
        ({"slice": 1}, "no slice 1"),
        ({"out": "."}, "has no name of its own"),
        ({"out": "/"}, "has no name of its own"),
    ):
        with pytest.raises(UserError, match=words):
            gantk.explain(tiny_run, picture, **options, **quiet)

    with pytest.raises(UserError, match="an ensemble has no gradients"):
        gantk.explain(SimpleNamespace(run=None), picture, **quiet)
