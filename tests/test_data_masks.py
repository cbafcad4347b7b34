"""Lesion masks find their images, lie on the same grid, and move with them through fitting and augmentation."""

import json

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import torch

from gantk.data.augment import Affine, Brightness, HFlip, Noise, augmented
from gantk.data.batches import Batches
from gantk.data.dataset import Data
from gantk.data.sources.folders import Folders, Images
from gantk.errors import UserError
from gantk.method import Batch, Method
from gantk.recipe.tables import DataTable

SIZE = (32, 32)


class Paired(Method):
    """A method that learns from pairs."""

    paired = True


def draw(path, number=0, shape=(16, 16), lesion=False):
    """A picture, or with `lesion` its mask: a square whose place is the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(number).integers(1, 99, shape, dtype=np.uint8)
    square = np.zeros(shape, np.uint8)
    square[number % 8 : number % 8 + 4, 2:6] = 3
    PIL.Image.fromarray(square if lesion else np.where(square > 0, 255, image).astype(np.uint8)).save(path)


def table(source, **options):
    keys = {"domains": ("T1", "T2"), "size": SIZE, "split": {"test": 0.2, "validation": 0.2}, "mask": True} | options
    return DataTable.model_validate_json(json.dumps({"source": source, **keys}))


def lesions(records):
    """Where each record's mask starts, None without one."""
    return {(r.domain, r.key): r.mask and int(np.argmax(r.mask()[0].any(1))) for r in records}


@pytest.mark.parametrize(
    "name, masks",
    [
        ("seg", "p{n}/scan_seg.png"),
        ("seg", "p{n}/other-SEG-by-hand.png"),
        ("mask", "masks/p{n}/scan.png"),
        ("mask*", "p{n}/mask_scan.png"),
        ("*_roi.png", "p{n}/scan_roi.png"),
    ],
)
def test_a_mask_belongs_to_the_images_of_its_patient(tmp_path, name, masks):
    for n in range(5):
        draw(tmp_path / f"p{n}" / "scan_T1.png", n)
        draw(tmp_path / f"p{n}" / "scan_T2.png", n)
        if n != 3:
            draw(tmp_path / masks.format(n=n), n, lesion=True)
    records = Folders(("T1", "T2"), 2, SIZE, path=str(tmp_path), mask=name).records()
    assert len(records) == 10
    found = lesions(records)
    for n in range(5):
        for letter, kind in (("a", "T1"), ("b", "T2")):
            assert found[letter, f"p{n}/scan_{kind}.png"] == (None if n == 3 else n)


@pytest.mark.parametrize("masks", ["masks/{n}.png", "labels/mask/{n}.png", "train{d}/{n}_mask.png"])
def test_a_mask_belongs_to_the_image_of_its_stem(tmp_path, masks):
    for n in range(4):
        for letter in "AB":
            draw(tmp_path / f"train{letter}" / f"{n}.png", n)
            draw(tmp_path / masks.format(n=n, d=letter), n, lesion=True)
    records = Folders(("A", "B"), 2, SIZE, path=str(tmp_path), mask="mask").records()
    assert len(records) == 8
    assert lesions(records) == {(d, f"train{d.upper()}/{n}.png"): n for d in "ab" for n in range(4)}


def test_masks_of_one_domain_have_their_masks_and_are_no_images(tmp_path):
    for n in range(4):
        draw(tmp_path / f"{n}.png", n)
        draw(tmp_path / f"{n}_seg.png", n, lesion=True)
    records = Images(("MR",), 2, SIZE, path=str(tmp_path), mask="seg").records()
    assert lesions(records) == {("image", f"{n}.png"): n for n in range(4)}
    assert len(Images(("MR",), 2, SIZE, path=str(tmp_path)).records()) == 8


def test_a_mask_on_another_grid_is_named_before_anything_is_decoded(tmp_path):
    for n in range(3):
        for kind in ("T1", "T2"):
            draw(tmp_path / f"p{n}" / f"{kind}.png", n)
        draw(tmp_path / f"p{n}" / "seg.png", n, shape=(16, 20) if n == 1 else (16, 16), lesion=True)
    with pytest.raises(UserError, match=r"p1/seg.png' is on another grid than .*p1/T1.png': 16 x 20 against 16 x 16"):
        Folders(("T1", "T2"), 2, SIZE, path=str(tmp_path), mask="seg").records()


def test_a_volume_mask_elsewhere_in_the_scanner_is_refused(tmp_path):
    for n, shift in ((0, 0.0), (1, 7.0)):
        for kind in ("T1", "T2", "seg"):
            affine = np.eye(4)
            affine[0, 3] = shift if kind == "seg" else 0.0
            (tmp_path / f"p{n}").mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(np.ones((9, 10, 11), np.float32), affine), tmp_path / f"p{n}" / f"{kind}.nii")
    with pytest.raises(UserError, match=r"p1/seg.nii.*other places"):
        Folders(("T1", "T2"), 3, (16, 16, 16), path=str(tmp_path), mask="seg").records()


def test_a_name_that_no_mask_has_and_two_masks_for_one_image_are_said(tmp_path):
    for n in range(2):
        for kind in ("T1", "T2"):
            draw(tmp_path / f"p{n}" / f"{kind}.png", n)
    with pytest.raises(UserError, match="no file in .* is named 'seg'.*T1.png.*data.source.mask"):
        Folders(("T1", "T2"), 2, SIZE, path=str(tmp_path), mask="seg").records()
    for name in ("seg", "seg_T1_T2"):
        draw(tmp_path / "p0" / f"{name}.png", 0, lesion=True)
    with pytest.raises(UserError, match="p0/T1.png' has two masks"):
        Folders(("T1", "T2"), 2, SIZE, path=str(tmp_path), mask="seg").records()


def test_batches_carry_masks_as_the_images_are_fitted(tmp_path):
    for n in range(10):
        for kind in ("T1", "T2"):
            draw(tmp_path / f"p{n}" / f"{kind}.png", n, shape=(16, 8))
        if n % 2:
            draw(tmp_path / f"p{n}" / "seg.png", n, shape=(16, 8), lesion=True)
    source = {"name": "folders", "path": str(tmp_path), "mask": "seg"}
    data = Data.load(table(source), Paired)
    batch = Batches(data.training_sets(), 6, 0, paired=True).at(0)
    assert batch["mask_a"].shape == batch["mask_b"].shape == (6, 1, 32, 32) and batch["mask_a"].dtype == torch.float32
    assert torch.equal(batch["mask_a"], batch["mask_b"]) and 0 <= batch["mask_a"].min() < batch["mask_a"].max() == 1
    assert batch["mask_a"][..., :8].max() == batch["mask_a"][..., 24:].max() == 0, "the padding is no lesion"
    inside = batch["a"][batch["mask_a"] == 1]
    assert inside.numel() and inside.min() > 0.9, "lesions were drawn white"
    assert any(not mask.any() for mask in batch["mask_a"]) and any(mask.any() for mask in batch["mask_a"])
    assert "mask_a" not in Batches(Data.load(table(source, mask=False), Paired).training_sets(), 2, 0, True).at(0)


def test_asking_for_masks_where_there_are_none_is_an_error():
    with pytest.raises(UserError, match=r"no image of the source has a lesion mask.*data\.mask"):
        Data.load(table({"name": "phantom", "subjects": 6, "slices": 2}), Paired)


def test_the_phantoms_lesions_come_as_masks():
    data = Data.load(table({"name": "phantom", "subjects": 6, "slices": 2, "lesions": 3}), Paired)
    batch = Batches(data.training_sets(), 8, 0, paired=True).at(0)
    assert set(batch) == {"a", "b", "mask_a", "mask_b"} and batch["mask_a"].max() == 1


@pytest.mark.parametrize("paired", [True, False])
def test_what_moves_pixels_moves_the_mask_and_what_changes_brightness_does_not(paired):
    torch.manual_seed(0)
    mask = (torch.rand(6, 1, 16, 16) > 0.8).float()
    batch = Batch({"a": mask * 2 - 1, "b": mask * 2 - 1, "mask_a": mask, "mask_b": mask, "label": torch.arange(6)})
    moved = augmented(batch, [HFlip(2), Affine(2, degrees=40.0, p=1.0)], paired)
    for letter in "ab":
        torch.testing.assert_close(moved[letter], moved[f"mask_{letter}"] * 2 - 1, atol=1e-5, rtol=0)
    assert not torch.equal(moved["mask_a"], mask) and torch.equal(moved["label"], torch.arange(6))
    assert torch.equal(moved["mask_a"], moved["mask_b"]) == paired
    brighter = augmented(batch, [Brightness(2, p=1.0), Noise(2, p=1.0)], paired)
    assert torch.equal(brighter["mask_a"], mask) and not torch.equal(brighter["a"], batch["a"])
    assert torch.equal(brighter["label"], torch.arange(6))


def test_real_lesions_are_found_beside_their_scans(shared_data):
    records = Folders(("T1", "T2"), 2, SIZE, path=str(shared_data / "open_ms"), mask="GOLD_STANDARD").records()
    chosen = [record for record in records if record.subject == "patient19"]
    assert chosen and all(record.mask is not None for record in chosen)
    middle = chosen[len(chosen) // 4]
    assert middle.mask().shape == middle.read().shape and set(np.unique(middle.mask())) <= {0.0, 1.0}
    assert all("GOLD" not in record.key for record in records)
