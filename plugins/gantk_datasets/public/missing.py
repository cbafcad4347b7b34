"""Prepares the set `missing` from public repositories: four contrasts of people with glioma.

No voxel of an image is changed. The repositories number the enhancing tumour in two ways; here it
is as in BraTS 2021.

PATIENT/PATIENT_CONTRAST.nii.gz: t1, t1ce, t2, flair of each person on one grid, and seg, the labels
of the tumour (1 necrosis, 2 oedema, 4 enhancing), of all but two. patients.csv: the images of each
person, and who is held out. Of the first twelve with labels, ordered by the volume of the tumour, one
is of the smallest four, two of the middle four, one of the largest four; two of the five are held out
from `t1t2` as well.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

# labels of enhancing tumour: BraTS 2023, BraTS 2021
ENHANCING_OF_2023 = 3
ENHANCING = 4


def prepare(folder: Path) -> None:
    """Rewrite labels of BraTS 2023 as those of BraTS 2021; other files stay as they are."""
    for path in folder.rglob("*_seg.nii.gz"):
        published = nib.load(path)
        labels = np.asanyarray(published.dataobj)
        of_2023 = labels == ENHANCING_OF_2023
        if of_2023.any():
            renumbered = np.where(of_2023, ENHANCING, labels).astype(np.uint8)
            nib.save(nib.Nifti1Image(renumbered, published.affine), path)
