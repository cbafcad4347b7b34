"""The shipped model `missing`: contrasts of people and of synthetic heads that it has not seen."""

import nibabel as nib
import numpy as np
import pytest
from page_data import volumes

import gantk

CONTRASTS = ("T1", "T1CE", "T2", "FLAIR")
GRID = np.diag([-1.0, -1.0, 2.0, 1.0])
MARGIN = 32  # pixels


@pytest.fixture(scope="module")
def model():
    return gantk.load("missing", device="cpu")


@pytest.fixture(scope="module")
def person(shared_data) -> dict[str, nib.Nifti1Image]:
    """Slices of a person with glioma, by contrast."""
    scans = {}
    for contrast in CONTRASTS:
        path = next(shared_data.glob(f"brats/*/*_{contrast.lower()}.nii.gz"), None)
        if path is None:
            pytest.skip("no BraTS among the real images")
        scans[contrast] = nib.load(path).slicer[:, :, 60:84]
    return scans


def scaled(image: nib.Nifti1Image) -> np.ndarray:
    """Values divided by their 99.5th percentile, at most 1."""
    values = image.get_fdata(dtype=np.float32)
    return (values / np.percentile(values, 99.5)).clip(0, 1)


@pytest.mark.parametrize(("to", "least"), [("T1", 27), ("T1CE", 17.5), ("T2", 22), ("FLAIR", 21.5)])
def test_a_missing_contrast_is_close_to_the_truth(model, person, to, least):
    given = {name: scan for name, scan in person.items() if name != to}

    made = model.translate(given, to=to)

    error = np.mean((scaled(made) - scaled(person[to])) ** 2)
    assert made.shape == person[to].shape
    assert -10 * np.log10(error) > least


def test_a_wider_margin_does_not_change_a_head(model):
    heads = {
        domain: np.pad(volume.T, ((16, 16), (16, 16), (0, 0)))
        for domain, _, volume in volumes(("T1", "T2"), ["p1"])
    }
    wide = {
        domain: np.pad(head, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
        for domain, head in heads.items()
    }
    inside = slice(MARGIN, -MARGIN)

    made, again = (
        model.translate({k: nib.Nifti1Image(v, GRID) for k, v in given.items()}, to="FLAIR")
        for given in (heads, wide)
    )

    one = made.get_fdata()
    other = again.get_fdata()[inside, inside]
    difference = np.abs(one - other)[one > 0] / one.max()
    assert difference.mean() < 0.005
    assert difference.max() < 0.05
