"""The shipped model `missing`: contrasts of people and of synthetic heads that it has not seen."""

import nibabel as nib
import numpy as np
import pytest
from page_data import volumes

import gantk

CONTRASTS = ("T1", "T1CE", "T2", "FLAIR")
GRID = np.diag([-1.0, -1.0, 2.0, 1.0])


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


@pytest.mark.slow
@pytest.mark.parametrize(("to", "least"), [("T1", 27), ("T1CE", 17.5), ("T2", 22), ("FLAIR", 21.5)])
def test_a_missing_contrast_is_close_to_the_truth(model, person, to, least):
    given = {name: scan for name, scan in person.items() if name != to}

    made = model.translate(given, to=to)

    error = np.mean((scaled(made) - scaled(person[to])) ** 2)
    assert made.shape == person[to].shape
    assert -10 * np.log10(error) > least


@pytest.fixture(scope="module")
def heads() -> dict[str, np.ndarray]:
    """T1 and T2 of a synthetic head with air of 0 around it, (slices, rows, columns)."""
    margins = ((0, 0), (16, 16), (16, 16))
    return {domain: np.pad(v, margins) for domain, _, v in volumes(("T1", "T2"), ["p1"])}


def z_scores_of_tissue(values: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 in the tissue, and 0 in the air."""
    tissue = values[values > 0]
    return np.where(values > 0, (values - tissue.mean()) / tissue.std(), 0)


def over_air(values: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Values from 0, of the air, which has one value, to 1, their maximum."""
    dark = values[air]
    assert np.ptp(dark) == 0
    return (values - dark[0]) / (values.max() - dark[0])


WRITTEN = {
    "z-scores of the tissue": z_scores_of_tissue,
    "z-scores of everything": lambda values: (values - values.mean()) / values.std(),
    "-1 to 1": lambda values: 2 * values / values.max() - 1,
    "0 to 1": lambda values: values / values.max(),
}


@pytest.mark.quick_cases("z-scores of the tissue")
@pytest.mark.parametrize("kind", WRITTEN)
def test_the_units_of_the_input_do_not_change_a_result(model, heads, kind):
    scaled_heads = {k: WRITTEN[kind](v.astype(np.float64)) for k, v in heads.items()}
    images = {k: nib.Nifti1Image(v.T.astype(np.float32), GRID) for k, v in scaled_heads.items()}
    air = (heads["T1"] == 0) & (heads["T2"] == 0)

    expected = over_air(model.translate(heads, to="FLAIR"), air)
    of_arrays = over_air(model.translate(scaled_heads, to="FLAIR"), air)
    of_images = over_air(model.translate(images, to="FLAIR").get_fdata().T, air)

    for made in (of_arrays, of_images):
        assert np.abs(made - expected).max() < 0.05
        assert np.abs(made - expected).mean() < 0.002
