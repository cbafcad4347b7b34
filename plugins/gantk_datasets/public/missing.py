"""Prepares the set `missing` from public repositories, four contrasts of people with glioma: one
folder for each person, and a table of the split.

No voxel of an image is changed. The repositories name contrasts in two ways, and number the
enhancing tumour in two ways. Here both are as in BraTS 2021.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from gantk.catalog.tables import csv_text
from gantk.files import make_folder, write_file

# Contrasts in the file names of BraTS 2023, and their names in BraTS 2021.
CONTRASTS_OF_2023 = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
# Labels of enhancing tumour: BraTS 2023, BraTS 2021.
ENHANCING_OF_2023 = 3
ENHANCING = 4
PATIENT_LENGTH = len("BraTS2021_00000")  # also of BraTS-GLI-00000

# Test patients, never trained on. Of the first twelve with labels, ordered by the volume of the
# tumour, one is of the smallest four, two of the middle four, one of the largest four. Two of the
# five are held out from `t1t2` as well.
HELD_OUT = {
    "BraTS-GLI-00028",
    "BraTS2021_00006",
    "BraTS2021_01481",
    "BraTS2021_01484",
    "BraTS2021_01485",
}


def prepare(folder: Path) -> None:
    """Prepare people and split in the folder of the downloads.

    PATIENT/PATIENT_CONTRAST.nii.gz: t1, t1ce, t2, flair of each person on one grid, and seg, the
    labels of the tumour (1 necrosis, 2 oedema, 4 enhancing), of all but two. split.csv: who is held
    out.
    """
    published = sorted(folder.rglob("*.nii.gz"))
    repositories = list(folder.iterdir())
    patients = set()
    for path in published:
        patient = path.name[:PATIENT_LENGTH]
        contrast = contrast_of(path)
        patients.add(patient)
        target = folder / patient / f"{patient}_{contrast}.nii.gz"
        make_folder(target.parent)
        path.rename(target)
        if contrast == "seg":
            renumber_enhancing(target)

    for repository in repositories:
        shutil.rmtree(repository)

    rows = []
    for patient in sorted(patients):
        rows.append((patient, "test" if patient in HELD_OUT else "train"))
    write_file(folder / "split.csv", csv_text(("patient", "split"), rows).encode())


def contrast_of(path: Path) -> str:
    """The contrast that a file's last word names, as BraTS 2021 calls it; seg for labels."""
    word = path.name.removesuffix(".nii.gz").replace("-", "_").rpartition("_")[2].lower()
    return CONTRASTS_OF_2023.get(word, word)


def renumber_enhancing(path: Path) -> None:
    """Rewrite labels of BraTS 2023 as those of BraTS 2021; other files stay as they are."""
    published = nib.load(path)
    labels = np.asanyarray(published.dataobj)
    of_2023 = labels == ENHANCING_OF_2023
    if of_2023.any():
        renumbered = np.where(of_2023, ENHANCING, labels).astype(np.uint8)
        nib.save(nib.Nifti1Image(renumbered, published.affine), path)
