"""Scores of a set of images against real ones: how far apart two distributions are, and how diverse the fakes are.

Each is built with (data_range, dims) and called with three sets: the training images, held-out real images, the fakes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.bootstrap import left_out_interval
from gantk.metrics.features import Features
from gantk.metrics.pairs import MSSSIM

SUBSET, SUBSETS = 1000, 100  # as KID was published; smaller sets are compared whole
FEW = 2048  # images, below which a Frechet distance says so
PAIRS = 512  # pairs of images that diversity looks at


@dataclass
class ImageGroup:
    """A set of images (N, C, *size), counted from black (0 to the data range), with their patients and classes."""

    images: Tensor
    patients: list[str]  # "" where unknown; each such image then stands for itself
    labels: Tensor | None = None  # (N,) int64; None where unknown
    masks: Tensor | None = None  # (N, 1, *size), above 0 inside a lesion; None where unknown
    found: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)  # vectors, once computed

    def __len__(self) -> int:
        return len(self.images)

    def vectors(self, features: Features) -> np.ndarray:
        """(N, d) float64, computed once for all scores that look at the same features."""
        if features.what not in self.found:
            self.found[features.what] = features(self.images)
        return self.found[features.what]


@dataclass(frozen=True)
class Score:
    """One number of a set of images, its 95 % interval, how many images stand behind it, and how it was made."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    definition: str
    details: dict[str, Any] = field(default_factory=dict)


def chosen(group: ImageGroup, keep: Tensor) -> ImageGroup:
    """The images at which `keep` (N,) is true."""
    where = keep.nonzero()[:, 0].cpu()
    labels = None if group.labels is None else group.labels[where]
    masks = None if group.masks is None else group.masks[where.to(group.masks.device)]
    patients = [group.patients[i] for i in where.tolist()]
    return ImageGroup(group.images[where.to(group.images.device)], patients, labels, masks)


def halves(group: ImageGroup) -> tuple[ImageGroup, ImageGroup]:
    """Two halves by order of patients, so that a patient's images stay together; the second is the larger."""
    names = [patient or f"image {index}" for index, patient in enumerate(group.patients)]
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    first = torch.tensor([order[name] < len(order) // 2 for name in names])
    return chosen(group, first), chosen(group, ~first)


class _Distance:
    """A distance between held-out real images and fakes in a space of features."""

    sets = True
    kind: str
    unit, higher_is_better = "", False

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        features: str = "random",  # random: a seeded network, no file needed; inception: as published; or a timm name
    ):
        self.features = Features(features, data_range, dims)

    @property
    def name(self) -> str:
        """What the result is called: the plain name belongs to the published features alone."""
        return self.kind + self.features.suffix

    @property
    def definition(self) -> str:
        scale = "/asinh-standardised-on-training-images" if self.features.standardised else ""
        return f"{self.kind}/features={self.features.what}{scale}"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        _enough(self.name, test, fake)
        real, made = test.vectors(self.features), fake.vectors(self.features)
        if self.features.standardised:
            scale = train.vectors(self.features)
            mean, deviation = scale.mean(0), scale.std(0)
            # Training images set the unit; the inverse hyperbolic sine keeps what is far from them from weighing all.
            real, made = (np.arcsinh((x - mean) / np.maximum(deviation, 1e-6)) for x in (real, made))
        value, ci95, how = self._distance(real, made, test.patients, fake.patients)
        return Score(value, ci95, len(fake), f"{self.definition}/n={len(fake)},real={len(test)}/{how}")

    def _distance(
        self, real: np.ndarray, fake: np.ndarray, patients: list[str], makers: list[str]
    ) -> tuple[float, tuple[float, float] | None, str]:
        raise NotImplementedError


class Kid(_Distance):
    """Kernel inception distance (Binkowski et al., 2018): the unbiased squared MMD with the kernel (x.y / d + 1)^3.

    0 on average where both sets come from one distribution, so that it may be negative. Sets of up to 1000 images are
    compared whole, with an interval from leaving out a group of patients at a time; larger ones as the mean of 100
    random subsets of 1000, with the interval that holds 95 % of them.
    """

    kind = "kid"

    def _distance(self, real, fake, patients, makers):
        if min(len(real), len(fake)) > SUBSET:
            rng = np.random.default_rng(0)
            chosen = [[rng.choice(len(x), SUBSET, replace=False) for x in (real, fake)] for _ in range(SUBSETS)]
            values = [squared_mmd(*kernels(real[r], fake[f])) for r, f in chosen]
            return float(np.mean(values)), _middle(values), f"subsets={SUBSETS}x{SUBSET}"
        k_rr, k_ff, k_rf = kernels(real, fake)

        def without(r: np.ndarray, f: np.ndarray) -> float:
            return squared_mmd(k_rr[np.ix_(r, r)], k_ff[np.ix_(f, f)], k_rf[np.ix_(r, f)])

        return squared_mmd(k_rr, k_ff, k_rf), left_out_interval(without, patients, makers), "whole-sets"


class Fid(_Distance):
    """Frechet distance between Gaussians fitted to the features of both sets (Heusel et al., 2017).

    It falls as a set grows, by chance alone: compare it between sets of the same size only, and for fewer than some
    thousands of images read KID instead. The interval comes from leaving out a group of patients at a time.
    """

    kind = "fid"

    def _distance(self, real, fake, patients, makers):
        value = frechet(real, fake)
        ci95 = left_out_interval(lambda r, f: frechet(real[r], fake[f]), patients, makers)
        few = min(len(real), len(fake)) < FEW
        how = f"biased-upwards-below-{FEW}-images" if few else "gaussians"
        return value, (max(0.0, ci95[0]), ci95[1]) if ci95 else None, how


class Diversity:
    """How different the fakes are from each other, in units of how different real images are: 1 is as diverse, 0 alike.

    Mean of 1 - MS-SSIM, or of the absolute difference, over up to 512 seeded pairs of fakes, divided by the same of
    held-out real images of different patients. Above 1 is not better: noise is diverse.
    """

    sets = True
    name, unit, higher_is_better = "diversity", "", None

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        distance: Literal["ms_ssim", "l1"] = "ms_ssim",  # 1 - MS-SSIM, from 11 pixels a side on; or mean difference
    ):
        self.distance, self.similarity = distance, MSSSIM(data_range, dims)

    @property
    def definition(self) -> str:
        return f"diversity/{'1-ms_ssim' if self.distance == 'ms_ssim' else 'l1'}/relative-to-real-images"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        _enough(self.name, test, fake)
        reals, fakes = self._pairs(test), self._pairs(fake)
        if not len(reals[0]) or not reals[1].any():
            return Score(None, None, len(fake), f"{self.definition}/n={len(fake)},real={len(test)}/real-images-alike")

        def ratio(kept_real: np.ndarray, kept_fake: np.ndarray) -> float:
            return _mean_of(fakes, kept_fake) / max(_mean_of(reals, kept_real), 1e-12)

        value = ratio(np.arange(len(test)), np.arange(len(fake)))
        ci95 = left_out_interval(ratio, test.patients, fake.patients)
        how = f"n={len(fake)},real={len(test)}/pairs={len(fakes[0])},{len(reals[0])}"
        return Score(value, ci95, len(fake), f"{self.definition}/{how}")

    def _pairs(self, group: ImageGroup) -> tuple[np.ndarray, np.ndarray]:
        """((P, 2) indices, (P,) distances) of pairs of different patients; of any, where all are one patient's."""
        pairs = different_pairs(group.patients)
        values = []
        for part in np.array_split(pairs, max(1, -(-len(pairs) // 32))):
            x, y = (group.images[torch.as_tensor(part[:, side])].float() for side in (0, 1))
            alike = self.similarity(x, y) if self.distance == "ms_ssim" else 1 - (x - y).abs().flatten(1).mean(1)
            values.append((1 - alike).double().cpu().numpy())
        return pairs, np.concatenate(values)


def different_pairs(patients: list[str]) -> np.ndarray:
    """Up to 512 seeded pairs of indices, (P, 2), of images of different patients."""
    count = len(patients)
    if count * (count - 1) // 2 <= 16 * PAIRS:
        pairs = np.array(list(itertools.combinations(range(count), 2)))
    else:
        pairs = np.random.default_rng(0).integers(0, count, (16 * PAIRS, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    apart = np.array([not patients[i] or patients[i] != patients[j] for i, j in pairs])
    pairs = pairs[apart] if apart.any() else pairs
    return np.random.default_rng(1).permutation(pairs)[:PAIRS]


def kernels(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x.y / d + 1)^3 of all pairs: real with real, fake with fake, real with fake."""
    return tuple((x @ y.T / real.shape[1] + 1) ** 3 for x, y in ((real, real), (fake, fake), (real, fake)))


def squared_mmd(k_rr: np.ndarray, k_ff: np.ndarray, k_rf: np.ndarray) -> float:
    """The unbiased estimate: an image is never compared with itself (Gretton et al., 2012, eq. 3)."""
    inside = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (k_rr, k_ff)]
    return float(inside[0] + inside[1] - 2 * k_rf.mean())


def frechet(real: np.ndarray, fake: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the Gaussians fitted to two sets of vectors (n, d).

    With S = A'A the eigenvalues of S1 S2 are the squared singular values of A1 A2', so that no root of a singular
    matrix is taken, however few the images.
    """
    factors = [np.linalg.qr(x - x.mean(0), mode="r") / (len(x) - 1) ** 0.5 for x in (real, fake)]
    shared = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    spreads = sum(float(np.square(factor).sum()) for factor in factors)
    return max(0.0, float(np.square(real.mean(0) - fake.mean(0)).sum() + spreads - 2 * shared))


def _mean_of(pairs: tuple[np.ndarray, np.ndarray], kept: np.ndarray) -> float:
    inside = np.isin(pairs[0], kept).all(1)
    return float(pairs[1][inside].mean()) if inside.any() else float(pairs[1].mean())


def _middle(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _enough(name: str, *groups: ImageGroup) -> None:
    if min(map(len, groups)) < 2:
        counts = " and ".join(str(len(group)) for group in groups)
        raise UserError(f"{name} compares sets, and these hold {counts} images", allowed="2 or more of each")
