"""What a scanner sees of a tissue: the spin-echo equation for MR, Hounsfield units for CT."""

from __future__ import annotations

import numpy as np

from gantk.errors import UserError

UNITS = 1000.0  # MR intensity of a tissue with proton density 1 and no relaxation

# At 1.5 T: T1 in ms, T2 in ms, proton density relative to water.
RELAXATION = {
    "csf": (4000.0, 2000.0, 1.00),
    "gray": (1000.0, 100.0, 0.86),
    "white": (650.0, 80.0, 0.77),
    "lesion": (1300.0, 160.0, 0.90),
    "bone": (250.0, 5.0, 0.15),
    "scalp": (280.0, 80.0, 0.80),
}
# TR, TE and inversion time in ms. FLAIR's inversion time is where CSF crosses zero: T1 ln(2 / (1 + exp(-TR / T1))).
SEQUENCES = {
    "T1": (500.0, 15.0, None),
    "T2": (4000.0, 100.0, None),
    "PD": (4000.0, 15.0, None),
    "FLAIR": (9000.0, 100.0, 2371.0),
    "T1CE": (500.0, 15.0, None),
}
ENHANCED = {"T1CE": {"lesion": 0.25}}  # a contrast agent shortens T1 to this share where it leaks out of the vessels
HOUNSFIELD = {"csf": 8.0, "gray": 37.0, "white": 28.0, "lesion": 20.0, "bone": 1000.0, "scalp": -20.0}
AIR = -1000.0  # HU
CT_NOISE = 150.0  # HU per unit of the phantom's `noise`: 4.5 HU at its default
CONTRASTS = (*SEQUENCES, "CT")  # their order numbers the noise: a new one goes to the end
ALIASES = {"MR": "T1", "MRI": "T1", "T1C": "T1CE", "T1GD": "T1CE"}


def signal(contrast: str, t1: np.ndarray | float, t2: np.ndarray | float, density: np.ndarray | float) -> np.ndarray:
    """What an MR scanner sees: PD (1 - exp(-TR/T1)) exp(-TE/T2), or its inversion-recovery form for FLAIR.

    Times in ms; the result is relative to a proton density of 1.
    """
    tr, te, ti = SEQUENCES[contrast]
    recovered = 1 - np.exp(-tr / t1) if ti is None else np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))
    return density * recovered * np.exp(-te / t2)


def strengths(contrast: str, tissues: tuple[str, ...], factors: np.ndarray) -> np.ndarray:
    """The MR signal of each tissue, float32; `factors` (2, tissues) multiply T1 and T2."""
    t1, t2, density = np.array([RELAXATION[tissue] for tissue in tissues]).T
    enhanced = ENHANCED.get(contrast, {})
    shortened = np.array([enhanced.get(tissue, 1.0) for tissue in tissues])
    return signal(contrast, t1 * factors[0] * shortened, t2 * factors[1], density).astype(np.float32)


def magnitude(contrast: str, tissues: tuple[str, ...], shares: np.ndarray, gain: np.ndarray, factors: np.ndarray,
              noise: float, rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    """An MR image of tissue shares (tissues, *spatial): positive, `noise` in both channels makes it Rician."""
    clean = np.tensordot(strengths(contrast, tissues, factors), shares, axes=1) * gain
    deviation = np.float32(noise * signal("T1", *RELAXATION["white"]))
    real, imaginary = deviation * rng.standard_normal((2, *clean.shape), dtype=np.float32)
    return UNITS * np.hypot(clean + real, imaginary)


def attenuation(tissues: tuple[str, ...], shares: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """A CT image of tissue shares in Hounsfield units, signed: what no tissue fills is air."""
    above_air = np.array([HOUNSFIELD[tissue] - AIR for tissue in tissues], dtype=np.float32)
    clean = AIR + np.tensordot(above_air, shares, axes=1)
    return clean + np.float32(CT_NOISE * noise) * rng.standard_normal(clean.shape, dtype=np.float32)


def contrast_of(name: str) -> str:
    """The contrast that a human name means: `"t1"`, `"T1w"` and `"MR"` are all T1."""
    contrast = name.strip().upper().removesuffix("W")
    contrast = ALIASES.get(contrast, contrast)
    if contrast not in CONTRASTS:
        raise UserError(
            f"the phantom has no contrast '{name}'",
            where="data.domains",
            allowed=CONTRASTS,
            remedy="name the domains after contrasts, or point data.source at images",
        )
    return contrast


def contrasts_of(domain: str) -> tuple[str, ...]:
    """The contrasts of a domain, one a channel: `"T1+PD+FLAIR"` has three."""
    return tuple(contrast_of(name) for name in domain.split("+"))
