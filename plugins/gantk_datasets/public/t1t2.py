"""Prepares the training pairs of the shipped model `t1t2` from public repositories: aligned headers.

No voxel is changed, resampled or removed: where T2 is not aligned with its T1, only its header is
corrected. The 3 T slices are published as arrays without a header; their orientation, pixel size
and distance are nominal.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

# Lesjak's patients and studies, whole heads
STUDIES = [("01", 1), ("01", 2), ("03", 2), ("04", 1), ("12", 1), ("12", 2)]
# Figure that shows a patient at 3 T -> shift of T2 in mm to the right and to the front, then its
# rotation in degrees, clockwise seen from above. They maximise the normalised mutual information of
# T1 and T2 over four slices.
FIGURES = {
    "6A": (-1.3619006, 0.8398098, 2.6454813),
    "6B": (0.8201201, 8.3610770, 0.0486001),
    "7A": (2.7115532, 6.2058923, -0.1194461),
    "7B": (0.4261358, 0.4333945, 0.0505304),
    "S6A": (0.2380941, 0.6013856, -0.0520647),
    "S6B": (-1.5265234, 0.3280134, -0.1129118),
}
# a 3 T slice: field of view in mm, number of rows, mm between slices
FIELD = 230.0
ROWS = 490
THICK = 10.0


def prepare(folder: Path) -> None:
    """Align the pairs in the folder of the downloads.

    Tables, one row for each pair: whole.csv: whole heads. whole_train.csv, hku.csv: its training
    pairs, of both sources and of one, so that a mixed source can draw the latter more often.
    stripped.csv: heads without skull. tumour.csv: gliomas, without skull too.
    """
    for patient, number in STUDIES:
        align_study(folder, patient, number)
    for figure in FIGURES:
        write_slices(folder, figure)


def align_study(folder: Path, patient: str, number: int) -> None:
    """Align T2 to T1 of a study by Lesjak et al. by the authors' transforms of both to FLAIR."""
    start = f"open_ms_data/longitudinal/raw/patient{patient}/study{number}_"
    to_flair = [transform(folder / f"{start}{c}_intrastudy_to_FLAIR.txt") for c in ("T1W", "T2W")]
    published = nib.load(folder / f"{start}T2W.nii.gz")
    affine = to_flair[0] @ np.linalg.inv(to_flair[1]) @ published.affine
    save(folder / f"{start}T2W_fitted.nii.gz", np.asanyarray(published.dataobj), affine)


def transform(path: Path) -> np.ndarray:
    """Read an affine transform from an ITK text file; returns the 4 x 4 matrix between points in mm
    (RAS).
    """
    import SimpleITK as sitk

    read = sitk.ReadTransform(str(path))
    numbers = np.array(read.GetParameters())
    centre = np.array(read.GetFixedParameters())
    # ITK's axes point to the left and the back
    matrix = np.eye(4)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix[:3, :3] = numbers[:9].reshape(3, 3)
    matrix[:3, 3] = numbers[9:] + centre - matrix[:3, :3] @ centre
    return flip @ matrix @ flip


def write_slices(folder: Path, figure: str) -> None:
    """Write T1 and T2 of a 3 T patient as NIfTI, axes to the patient's left, back and feet."""
    import scipy.io

    source = "Supplementary Figure " + figure[1:] if figure[0] == "S" else "Figure " + figure
    source = folder / "ulf/Data for Figures in the Manuscript" / source / "3T"
    x, y, degrees = FIGURES[figure]
    cos = np.cos(np.deg2rad(degrees))
    sin = np.sin(np.deg2rad(degrees))
    move = np.eye(4)
    move[:2, :2] = [[cos, sin], [-sin, cos]]
    move[:2, 3] = move[:2, :2] @ (x, y)
    paths = folder / f"ulf/{figure}_T1.nii.gz", folder / f"ulf/{figure}_T2_fitted.nii.gz"
    for path, contrast, matrix in zip(paths, ("T1w", "T2w"), (np.eye(4), move), strict=True):
        # rows, columns, slices
        values = np.abs(scipy.io.loadmat(source / f"3T_{contrast}.mat")["image"])
        # 6B's T1 has a larger field of view at the pixel size of its T2; the others differ only in
        # pixel size.
        pixel = FIELD / (ROWS if figure == "6B" else values.shape[0])
        scaled = np.round(values * 1000 / np.percentile(values, 99.9))
        voxels = np.clip(scaled, 0, 32767).astype(np.int16).transpose(1, 0, 2)
        spacing = np.array([pixel, pixel, THICK])
        affine = np.diag([*-spacing, 1.0])
        affine[:3, 3] = spacing * (np.array(voxels.shape) - 1) / 2  # origin in the centre
        save(path, voxels, matrix @ affine.astype(np.float32))


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI file with mm as its unit."""
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
