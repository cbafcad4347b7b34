"""KID, a metric of a set of generated images against real ones, and the inputs and rows of all
metrics of sets.

Each is built with (data_range, dims) and called with three sets: training images, held-out real
images, fakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.features import Features
from gantk.metrics.intervals import (
    GROUPS,
    Interval,
    group_numbers,
    left_out_interval,
    metric_row,
    patient_numbers,
)
from gantk.plugin.spec import Number, Side

# as published; smaller sets are compared whole
SUBSET = 1000
SUBSETS = 100
BLOCK = 1024  # vectors per side of a block of the kernel matrix
FEW = 32  # definitions say so if there are fewer images
WARNING = (
    f"fewer than {FEW} images: unbiased, but chance weighs much; read the interval, not the value"
)


@dataclass
class ImageGroup:
    """A set of images (N, C, *size), from 0 (black) to the data range, with their patients and
    classes.
    """

    images: Tensor
    patients: list[str]  # "" if unknown; each image from noise has its own
    labels: Tensor | None = None  # (N,) int64; None if unknown
    masks: Tensor | None = None  # (N, 1, *size), above 0 inside a lesion; None if unknown
    inputs: Tensor | None = None  # the inputs of translations; None for other images
    to: str = ""  # the domain that they were translated to, "a" or "b"
    # cached vectors
    found: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    def vectors(self, features: Features) -> np.ndarray:
        """Feature vectors (N, d), float64, cached for all scores with the same features."""
        if features.what not in self.found:
            self.found[features.what] = features(self.images)
        return self.found[features.what]


@dataclass(frozen=True)
class Score:
    """One score of a set of images, its 95 % interval, the number of images, and its definition."""

    value: float | None
    ci95: Interval
    n: int
    definition: str
    details: dict[str, Any] = field(default_factory=dict)


def chosen(group: ImageGroup, keep: Tensor) -> ImageGroup:
    """The group of those images for which `keep` (N,) is true."""
    where = keep.nonzero()[:, 0].cpu()
    parts = group.images, group.labels, group.masks
    images, labels, masks = (
        part if part is None else part[where.to(part.device)] for part in parts
    )
    return ImageGroup(images, [group.patients[i] for i in where.tolist()], labels, masks)


def halves(group: ImageGroup) -> tuple[ImageGroup, ImageGroup]:
    """Split a group in two halves, in order of patients, keeping each together; the second is the
    larger.
    """
    numbers = patient_numbers(group.patients)
    first = torch.from_numpy(numbers < len(set(numbers)) // 2)
    return chosen(group, first), chosen(group, ~first)


def enough(name: str, *groups: ImageGroup, least: int = 2, remedy: str | None = None) -> None:
    """Raise a UserError that names the metric if a set holds fewer images than `least`."""
    if min(map(len, groups)) < least:
        what = (
            f"{name} compares sets, and these hold"
            f" {' and '.join(str(len(group)) for group in groups)} images"
        )
        raise UserError(
            what, where="evaluate.metrics", allowed=f"{least} or more of each", remedy=remedy
        )


def set_rows(
    metric: Any,
    train: ImageGroup,
    test: ImageGroup,
    fake: ImageGroup,
    note: str = "",
    *,
    strict: bool = False,
) -> dict[str, Any]:
    """The rows of metrics.json for one metric of sets, usually one row; `note` is appended to their
    definitions.

    If the metric fails, the value is None and the definition states the reason; with `strict` a
    UserError is raised.
    """
    try:
        broken = len(fake) - int(fake.images.isfinite().flatten(1).all(1).sum())
        if broken:
            raise UserError(f"{broken} of {len(fake)} images hold NaN or infinite values")
        scores = metric(train, test, fake)
    except UserError as error:
        if strict:
            raise
        scores = Score(None, None, len(fake), f"{metric.definition}/not-computed: {error}")
    rows = {}
    for name, score in (scores if isinstance(scores, dict) else {metric.name: scores}).items():
        row = metric_row(metric, score, score.n, score.definition + note)
        rows[name] = row | (score.details and {"details": score.details})
    return rows


@dataclass(eq=False)
class InFeatures:
    """Base of metrics that compare held-out real images with fakes by feature vectors."""

    data_range: float
    dims: int
    _: KW_ONLY
    # random: seeded, no file; inception; a timm name; or a file of a network, X.onnx
    features: str = "random"
    weights: str | None = None  # a file of weights for the timm network that `features` names
    # subtracted from intensities 0 to 1; None: timm's for it, 0 for X.onnx
    mean: list[float] | None = None
    # what they are then divided by; None: timm's for the network, 1 for X.onnx
    std: list[float] | None = None
    side: Side | None = None  # side in pixels that images are resized to; None: the network's own

    sets = True
    kind = ""
    unit = ""
    higher_is_better = False

    def __post_init__(self) -> None:
        options = {"weights": self.weights, "mean": self.mean, "std": self.std, "side": self.side}
        self.network = Features(self.features, self.data_range, self.dims, **options)
        self.name = self.kind + self.network.suffix  # no suffix for the published features
        scale = "/asinh-standardised-on-training-images" if self.network.standardised else ""
        self.seen = f"features={self.network.what}{scale}"  # the features, for the definition
        self.definition = f"{self.kind}/{self.seen}"

    def vectors(
        self, train: ImageGroup, test: ImageGroup, fake: ImageGroup
    ) -> tuple[np.ndarray, np.ndarray]:
        """Feature vectors (N, d) of the real images and of the fakes."""
        real = test.vectors(self.network)
        made = fake.vectors(self.network)
        if self.network.standardised:
            scale = train.vectors(self.network)
            mean = scale.mean(0)
            deviation = scale.std(0)
            # Standardise by training images; arcsinh limits the weight of images that are far from
            # them.
            real, made = (
                np.arcsinh((x - mean) / np.maximum(deviation, 1e-6)) for x in (real, made)
            )
        return real, made


@dataclass(eq=False, kw_only=True)
class Kid(InFeatures):
    """Kernel inception distance (Binkowski et al., 2018): the unbiased squared MMD with the kernel
    (x.y / d + 1)^3.

    0 on average for two sets of one distribution, so that it may be negative; unbiased for any
    number of images. `subset` 0: sets of up to 1000 images are compared whole, of larger ones, as
    published, the mean over 100 random subsets of 1000. The interval is a jackknife over groups of
    patients of the whole sets. UserError for fewer than 2 images, or fewer than a subset; for fewer
    than 32 the definition notes that.
    """

    # images of each of 100 random subsets; 0: whole sets, subsets of 1000 of larger ones
    subset: Number = 0

    kind = "kid"

    def __post_init__(self) -> None:
        if self.subset < 0 or self.subset == 1:
            what = f"subset = {self.subset} is no set"
            raise UserError(
                what, where="evaluate.metrics", allowed="2 or more, or 0 for as many as there are"
            )
        super().__post_init__()

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        enough(
            self.name,
            test,
            fake,
            least=max(2, self.subset),
            remedy="set subset = 0" if self.subset else None,
        )
        real, made = self.vectors(train, test, fake)
        value, ci95 = squared_mmd(real, made, test.patients, fake.patients)
        how = "whole-sets"
        fewest = min(len(real), len(made))
        size = self.subset or (SUBSET if fewest > SUBSET else 0)
        if size:
            rng = np.random.default_rng(0)
            whole = value
            drawn = (
                [x[rng.choice(len(x), size, replace=False)] for x in (real, made)]
                for _ in range(SUBSETS)
            )
            value = float(np.mean([squared_mmd(*both)[0] for both in drawn]))
            how = f"subsets={SUBSETS}x{size}"
            ci95 = ci95 and (ci95[0] - whole + value, ci95[1] - whole + value)
        few = fewest < FEW
        definition = f"{self.definition}/n={len(fake)},real={len(test)}/{how}" + (
            "/few-images" if few else ""
        )
        return Score(value, ci95, len(fake), definition, {"warning": WARNING} if few else {})


def squared_mmd(
    real: np.ndarray,
    fake: np.ndarray,
    real_patients: Sequence[str] = (),
    fake_patients: Sequence[str] = (),
) -> tuple[float, Interval]:
    """The unbiased squared MMD of two sets of vectors (n, d), without self-comparisons (Gretton et
    al., 2012, eq. 3).

    Also returns its jackknife interval over patients; None if no patients are given.
    """
    sides = [(real, real_patients), (fake, fake_patients)]
    # (n, GROUPS)
    r, f = (np.eye(GROUPS)[group_numbers(patients or ["all"] * len(x))] for x, patients in sides)
    rr = kernel_sums(real, real, r, r)
    ff = kernel_sums(fake, fake, f, f)
    rf = kernel_sums(real, fake, r, f)

    def of_kept(kept_real: np.ndarray, kept_fake: np.ndarray) -> float:
        n = int(kept_real.sum())
        m = int(kept_fake.sum())
        # which groups are kept
        x = r[kept_real].any(0)
        y = f[kept_fake].any(0)
        return float(
            x @ rr @ x / (n * (n - 1)) + y @ ff @ y / (m * (m - 1)) - 2 * (x @ rf @ y) / (n * m)
        )

    value, ci95 = left_out_interval(
        of_kept, real_patients or ["all"] * len(real), fake_patients or ["all"] * len(fake)
    )
    return value, ci95 and (float(ci95[0]), float(ci95[1]))


def kernel_sums(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """Sums (G, H) of the kernel (x.y / d + 1)^3 over each pair of groups, without self-comparisons.

    `of_x` (n, G) and `of_y` (m, H) are 1 where a vector is in a group. Computed in blocks of 1024 x
    1024 pairs: for 10,000 images a side the three whole matrices would take 2.4 GB.
    """
    sums = np.zeros((of_x.shape[1], of_y.shape[1]))
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            kernel = (x[i : i + BLOCK] @ y[j : j + BLOCK].T / x.shape[1] + 1) ** 3
            if x is y and i == j:
                np.fill_diagonal(kernel, 0)
            sums += of_x[i : i + BLOCK].T @ kernel @ of_y[j : j + BLOCK]
    return sums
