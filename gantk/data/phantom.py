"""Brain MR from nothing: seeded heads, imaged by the spin-echo equation; the data that needs no download."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gantk.data.anatomy import CENTRE, CEREBRUM, TISSUES, Subject
from gantk.data.records import Record, domain_letters
from gantk.errors import UserError

FIELD_OF_VIEW = 230.0  # mm, every side of the imaged cube
UNITS = 1000.0  # intensity of a tissue with proton density 1 and no relaxation

# At 1.5 T: T1 in ms, T2 in ms, proton density relative to water.
RELAXATION = {
    "csf": (4000.0, 2000.0, 1.00),
    "gray": (1000.0, 100.0, 0.86),
    "white": (650.0, 80.0, 0.77),
    "lesion": (1300.0, 160.0, 0.90),
}
# TR, TE and inversion time in ms. FLAIR's inversion time is where CSF crosses zero: T1 ln(2 / (1 + exp(-TR / T1))).
CONTRASTS = {
    "T1": (500.0, 15.0, None),
    "T2": (4000.0, 100.0, None),
    "PD": (4000.0, 15.0, None),
    "FLAIR": (9000.0, 100.0, 2371.0),
}


def signal(contrast: str, t1: np.ndarray | float, t2: np.ndarray | float, density: np.ndarray | float) -> np.ndarray:
    """What the scanner sees of a tissue: PD (1 - exp(-TR/T1)) exp(-TE/T2), or its inversion-recovery form for FLAIR.

    Times in ms; the result is relative to a proton density of 1.
    """
    tr, te, ti = CONTRASTS[contrast]
    recovered = 1 - np.exp(-tr / t1) if ti is None else np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))
    return density * recovered * np.exp(-te / t2)


def contrast_of(name: str) -> str:
    """The contrast that a domain's human name means: `"t1"`, `"T1w"` and `"T1"` are all T1."""
    contrast = name.strip().upper().removesuffix("W")
    if contrast not in CONTRASTS:
        raise UserError(
            f"the phantom has no contrast '{name}'",
            where="data.domains",
            allowed=CONTRASTS,
            remedy="name the domains after contrasts, or point data.source at images",
        )
    return contrast


class Phantom:
    """Registered brain MR of seeded subjects, computed when it is read: no download, ground truth for every pair.

    2-D records are axial slices (1, H, W), anterior up, the patient's right on the left; 3-D records are volumes
    (1, D, H, W), D from inferior to superior. Intensities are positive, 1000 x signal; air is noise alone.
    Subject k of a seed is the same whatever the number of subjects. An unknown contrast is a `UserError`.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        subjects: int = 40,  # how many heads
        slices: int = 8,  # axial slices of each head, spread over the cerebrum; 2-D only
        noise: float = 0.03,  # standard deviation of the noise in both channels, as a share of white matter's T1 signal
        jitter: float = 0.1,  # how far T1 and T2 of each tissue differ between subjects: up to this share, below 1
        deform: float = 2.0,  # mm, root mean square of the smooth deformation along each axis
        bias: float = 0.05,  # deviation over the head of the logarithm of the coil's uneven gain; 0 = even
        lesions: int = 0,  # lesions in each head, radius 4 to 12 mm; records then carry their mask
        seed: int = 0,  # another seed, other heads
    ):
        if dims not in (2, 3) or len(size) != dims or min(size) < 8:
            raise UserError(
                f"the phantom cannot be imaged with dims={dims} and size={list(size)}",
                where="data.size",
                allowed="dims 2 with size [H, W], dims 3 with size [D, H, W], each side 8 or more",
            )
        for name, value, least in (("subjects", subjects, 1), ("slices", slices, 1), ("noise", noise, 0),
                                   ("jitter", jitter, 0), ("deform", deform, 0), ("bias", bias, 0),
                                   ("lesions", lesions, 0), ("seed", seed, 0)):  # fmt: skip
            if value < least:
                raise UserError(f"{name} = {value} is too small", where="data.source", allowed=f"{least} or more")
        if jitter >= 1:
            raise UserError(f"jitter = {jitter} is too large", where="data.source", allowed="below 1")
        self.domains, self.dims, self.size = tuple(domains), dims, tuple(size)
        self.contrasts = tuple(contrast_of(name) for name in domains)
        self.subjects, self.noise, self.seed, self.lesions = subjects, noise, seed, lesions
        self.shape = dict(jitter=jitter, deform=deform, bias=bias, lesions=lesions)
        sides = tuple(FIELD_OF_VIEW / side for side in size)
        self.voxel = sides if dims == 3 else (1.0, *sides)  # mm: z, y, x
        half = FIELD_OF_VIEW / 2
        if dims == 2:
            self.levels = np.linspace(*CEREBRUM, slices) if slices > 1 else np.array([sum(CEREBRUM) / 2])
        else:
            self.levels = CENTRE[2] - half + self.voxel[0] * (np.arange(size[0]) + 0.5)
        self._heads: dict[int, Subject] = {}
        self._tissue: dict[int, torch.Tensor] = {}  # what a head's slices and contrasts share

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """None: a phantom is computed, no path leads to it."""
        return None

    def channels(self) -> dict[str, int]:
        """One gray channel in each domain."""
        return dict.fromkeys(domain_letters(self.domains), 1)

    def records(self) -> list[Record]:
        """Every domain of every subject, and in 2-D of every slice; domains of one place share their pair."""
        return [record for number in range(self.subjects) for record in self._records_of(number)]

    def _records_of(self, number: int) -> list[Record]:
        subject, found = f"subject-{number:03d}", []
        for level in range(len(self.levels)) if self.dims == 2 else (None,):
            key = subject if level is None else f"{subject}/slice-{level:03d}"
            mask: Callable | None = partial(self._mask, number, level) if self.lesions else None
            for letter, contrast in zip(domain_letters(self.domains), self.contrasts, strict=True):
                found.append(
                    Record(
                        domain=letter,
                        subject=subject,
                        key=key,
                        read=partial(self._read, number, level, contrast),
                        pair=key,
                        position=None if level is None else float(self.levels[level]),
                        mask=mask,
                    )
                )
        return found

    def _points(self) -> torch.Tensor:
        """MNI mm of every voxel, (D, H, W, 3) as x, y, z; rows run from anterior, columns from the patient's right."""
        height, width = self.size[-2:]
        half = FIELD_OF_VIEW / 2
        x = CENTRE[0] + half - self.voxel[2] * (torch.arange(width) + 0.5)
        y = CENTRE[1] + half - self.voxel[1] * (torch.arange(height) + 0.5)
        z = torch.tensor(self.levels, dtype=torch.float32)
        z, y, x = torch.meshgrid(z, y, x, indexing="ij")
        return torch.stack([x, y, z], dim=-1)

    def _subject(self, number: int) -> Subject:
        if number not in self._heads:
            self._heads[number] = Subject(self.seed, number, **self.shape)
        return self._heads[number]

    def _tissue_of(self, number: int) -> torch.Tensor:
        tissue = self._tissue.get(number)
        if tissue is None:
            tissue = self._subject(number).tissue(self._points(), self.voxel)
            room = max(1, int(2**28 / (tissue.numel() * 4)))  # 256 MB of heads, the oldest leaves first
            for oldest in list(self._tissue)[: max(0, len(self._tissue) + 1 - room)]:
                self._tissue.pop(oldest, None)  # another thread may have taken it away
            self._tissue[number] = tissue
        return tissue

    def _read(self, number: int, level: int | None, contrast: str) -> np.ndarray:
        tissue = self._tissue_of(number)
        tissue = (tissue if level is None else tissue[:, level]).numpy()
        shares, gain = tissue[:-1], tissue[-1]
        t1, t2, density = np.array([RELAXATION[tissue] for tissue in TISSUES]).T
        factors = self._subject(number).relaxation
        strengths = signal(contrast, t1 * factors[0], t2 * factors[1], density).astype(np.float32)
        clean = np.tensordot(strengths, shares, axes=1) * gain
        # Noise belongs to one acquisition: its own for each contrast and slice; the magnitude makes it Rician.
        place = [self.seed, number, 1 + list(CONTRASTS).index(contrast), 0 if level is None else 1 + level]
        rng = np.random.default_rng(place)
        deviation = np.float32(self.noise * signal("T1", *RELAXATION["white"]))
        real, imaginary = deviation * rng.standard_normal((2, *clean.shape), dtype=np.float32)
        return (UNITS * np.hypot(clean + real, imaginary))[None].astype(np.float32)

    def _mask(self, number: int, level: int | None) -> np.ndarray:
        hurt = self._tissue_of(number)[3]
        return ((hurt if level is None else hurt[level]) > 0.5).float().numpy()[None]
