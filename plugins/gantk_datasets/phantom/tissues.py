"""What a head is made of, where it lies, and how bright each tissue is in a contrast."""

from __future__ import annotations

import numpy as np

# the middle of the brain, mm in MNI space (x right, y anterior, z superior)
CENTRE = (0.0, -18.0, 8.0)
CEREBRUM = (-20.0, 50.0)  # range of MNI z in mm for slices and lesions
TISSUES = ("csf", "gray", "white", "lesion")
SHELLS = ("bone", "scalp")  # around the brain, from the inside out

# At 1.5 T: T1 in ms, T2 in ms, proton density relative to water.
RELAXATION = {
    "csf": (4000.0, 2000.0, 1.00),
    "gray": (1000.0, 100.0, 0.86),
    "white": (650.0, 80.0, 0.77),
    "lesion": (1300.0, 160.0, 0.90),
    "bone": (250.0, 5.0, 0.15),
    "scalp": (280.0, 80.0, 0.80),
}
# TR, TE and inversion time in ms. FLAIR's inversion time is where CSF crosses zero: T1 ln(2 / (1 +
# exp(-TR / T1))).
SEQUENCES = {
    "T1": (500.0, 15.0, None),
    "T2": (4000.0, 100.0, None),
    "PD": (4000.0, 15.0, None),
    "FLAIR": (9000.0, 100.0, 2371.0),
    "T1CE": (500.0, 15.0, None),
}
# for sequences = "random": (from, to) of the times; T1 is a spin echo or, equally often, MPRAGE
RANDOM = {
    "T1": [((350.0, 8.0), (750.0, 20.0)), ((1700.0, 2.0, 750.0), (2500.0, 6.0, 1100.0))],
    "T2": [((3000.0, 80.0), (6500.0, 120.0))],
}
ENHANCED = {"T1CE": {"lesion": 0.25}}  # factor on T1 where contrast agent leaks out of the vessels
HOUNSFIELD = {
    "csf": 8.0,
    "gray": 37.0,
    "white": 28.0,
    "lesion": 20.0,
    "bone": 1000.0,
    "scalp": -20.0,
}
AIR_HOUNSFIELD = -1000.0  # HU
CT_NOISE = 150.0  # HU per unit of the phantom's `noise`: 4.5 HU at its default


def signal(
    sequence: str | tuple,
    t1: np.ndarray | float,
    t2: np.ndarray | float,
    density: np.ndarray | float,
) -> np.ndarray:
    """The MR signal of a tissue: PD (1 - exp(-TR/T1)) exp(-TE/T2), or its inversion-recovery form
    for FLAIR.

    Times in ms, `sequence` a contrast or its TR, TE and inversion time; relative to a proton
    density of 1.
    """
    tr, te, ti = SEQUENCES[sequence] if isinstance(sequence, str) else sequence
    if ti is None:
        recovered = 1 - np.exp(-tr / t1)
    else:
        recovered = np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))

    return density * recovered * np.exp(-te / t2)
