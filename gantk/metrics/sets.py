"""Scores of a set of images against real ones: how far apart two distributions are.

Each is built with (data_range, dims) and called with three sets: the training images, held-out real images, the fakes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.bootstrap import left_out_interval, parts_of
from gantk.metrics.distances import (
    KernelSums,
    frechet_of,
    gaussian,
    kernels,
    parts_interval,
    squared_mmd,
)
from gantk.metrics.features import Features

SUBSET, SUBSETS = 1000, 100  # as KID was published; smaller sets are compared whole
KID_FEW = 32  # images, below which KID says so
FID_FEW = 2048  # images, below which a Frechet distance says so: fewer than Inception's numbers span no full Gaussian
FID_LEAST = 8  # images, below which it is refused
KID_WARNING = f"fewer than {KID_FEW} images: unbiased, but chance weighs much; read the interval, not the value"
FID_WARNING = (
    f"fewer than {FID_FEW} images: the value is too high by chance, the more so the fewer they are; "
    "compare it between sets of the same size only, or use kid, which has no such bias"
)


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


class InFeatures:
    """A comparison of held-out real images with fakes in a space of features."""

    sets = True
    kind: str
    unit, higher_is_better = "", False

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        features: str = "random",  # random: seeded, no file; inception; a timm name; or a file of a network, X.onnx
        weights: str | None = None,  # a file of weights for the timm network that `features` names
        mean: list[float] | None = None,  # subtracted from intensities 0 to 1; None: timm's for it, 0 for X.onnx
        std: list[float] | None = None,  # what they are then divided by; None: timm's for the network, 1 for X.onnx
        side: int | None = None,  # pixels that images are brought to; None: the network's own
    ):
        self.features = Features(features, data_range, dims, weights=weights, mean=mean, std=std, side=side)

    @property
    def name(self) -> str:
        """What the result is called: the plain name belongs to the published features alone."""
        return self.kind + self.features.suffix

    @property
    def definition(self) -> str:
        return f"{self.kind}/{self.seen}"

    @property
    def seen(self) -> str:
        """What the definition says of the features."""
        scale = "/asinh-standardised-on-training-images" if self.features.standardised else ""
        return f"features={self.features.what}{scale}"

    def vectors(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> tuple[np.ndarray, np.ndarray]:
        """(N, d) of the real images and of the fakes."""
        real, made = test.vectors(self.features), fake.vectors(self.features)
        if self.features.standardised:
            scale = train.vectors(self.features)
            mean, deviation = scale.mean(0), scale.std(0)
            # Training images set the unit; the inverse hyperbolic sine keeps what is far from them from weighing all.
            real, made = (np.arcsinh((x - mean) / np.maximum(deviation, 1e-6)) for x in (real, made))
        return real, made


class Kid(InFeatures):
    """Kernel inception distance (Binkowski et al., 2018): the unbiased squared MMD with the kernel (x.y / d + 1)^3.

    0 on average where both sets come from one distribution, so that it may be negative, and unbiased whatever the
    number of images. `subset` 0: sets of up to 1000 images are compared whole, where larger ones are, as published,
    the mean of 100 random subsets of 1000. The interval comes from leaving out a group of patients of the whole sets
    at a time. UserError for fewer images than 2, or than a subset; below 32 the definition says that they are few.
    """

    kind = "kid"

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        features: str = "random",  # random: seeded, no file; inception; a timm name; or a file of a network, X.onnx
        weights: str | None = None,  # a file of weights for the timm network that `features` names
        mean: list[float] | None = None,  # subtracted from intensities 0 to 1; None: timm's for it, 0 for X.onnx
        std: list[float] | None = None,  # what they are then divided by; None: timm's for the network, 1 for X.onnx
        side: int | None = None,  # pixels that images are brought to; None: the network's own
        subset: int = 0,  # images of each of 100 random subsets; 0: whole sets, subsets of 1000 of larger ones
    ):
        if subset < 0 or subset == 1:
            what = f"subset = {subset} is no set"
            raise UserError(what, where="evaluate.metrics", allowed="2 or more, or 0 for as many as there are")
        self.subset = subset
        super().__init__(data_range, dims, features=features, weights=weights, mean=mean, std=std, side=side)

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        enough(self.name, test, fake, least=max(2, self.subset), remedy="set subset = 0" if self.subset else None)
        real, made = self.vectors(train, test, fake)
        parts = parts_of(test.patients), parts_of(fake.patients)
        sums = KernelSums.of(real, made, *parts)
        value, how = sums.squared_mmd(*(np.ones(p.max() + 1, dtype=bool) for p in parts)), "whole-sets"
        ci95 = parts_interval(sums.squared_mmd, *parts)
        size = self.subset or (SUBSET if min(len(real), len(made)) > SUBSET else 0)
        if size:
            mean, how = _of_subsets(real, made, size), f"subsets={SUBSETS}x{size}"
            ci95 = ci95 and (ci95[0] - value + mean, ci95[1] - value + mean)
            value = mean
        few = min(len(real), len(made)) < KID_FEW
        definition = f"{self.definition}/n={len(fake)},real={len(test)}/{how}" + ("/few-images" if few else "")
        return Score(value, ci95, len(fake), definition, {"warning": KID_WARNING} if few else {})


class Fid(InFeatures):
    """Frechet distance between Gaussians fitted to the features of both sets (Heusel et al., 2017).

    It falls as a set grows, by chance alone: compare it between sets of the same size only, and for fewer than 2048
    images, as many as Inception gives numbers, read KID instead; the definition says so. UserError for fewer than 8:
    there chance makes two fifths of the distance between CT and MR slices of heads, and more. The interval comes from
    leaving out a group of patients at a time.
    """

    kind = "fid"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        remedy = "compare more images, or use kid, which has no such bias"
        enough(self.name, test, fake, least=FID_LEAST, remedy=remedy)
        real, made = self.vectors(train, test, fake)
        whole = gaussian(real), gaussian(made)

        def without(*kept: np.ndarray) -> float:
            sides = zip((real, made), whole, kept, strict=True)
            return frechet_of(*(fit if len(k) == len(x) else gaussian(x[k]) for x, fit, k in sides))

        ci95 = left_out_interval(without, test.patients, fake.patients)
        few = min(len(real), len(made)) < FID_FEW
        how = f"biased-upwards-below-{FID_FEW}-images" if few else "gaussians"
        definition = f"{self.definition}/n={len(fake)},real={len(test)}/{how}"
        details = {"warning": FID_WARNING} if few else {}
        return Score(frechet_of(*whole), ci95 and (max(0.0, ci95[0]), ci95[1]), len(fake), definition, details)


def _of_subsets(real: np.ndarray, fake: np.ndarray, size: int) -> float:
    """Mean squared MMD of 100 seeded subsets."""
    rng = np.random.default_rng(0)
    drawn = ([rng.choice(len(x), size, replace=False) for x in (real, fake)] for _ in range(SUBSETS))
    return float(np.mean([squared_mmd(*kernels(real[r], fake[f])) for r, f in drawn]))


def enough(name: str, *groups: ImageGroup, least: int = 2, remedy: str | None = None) -> None:
    """UserError, naming the metric, where a set holds fewer images than `least`."""
    if min(map(len, groups)) < least:
        counts = " and ".join(str(len(group)) for group in groups)
        what = f"{name} compares sets, and these hold {counts} images"
        raise UserError(what, where="evaluate.metrics", allowed=f"{least} or more of each", remedy=remedy)
