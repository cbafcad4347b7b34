"""KID, a metric of a set of made images against real ones; and what every metric of sets is given.

Each is built with (data_range, dims) and called with three sets: the training images, held-out real images, the fakes.
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
from gantk.metrics.intervals import GROUPS, Interval, group_numbers, left_out_interval, metric_row, patient_numbers
from gantk.plugin.spec import Number, Side

SUBSET, SUBSETS = 1000, 100  # as KID was published; smaller sets are compared whole
BLOCK = 1024  # vectors that are compared with as many others at once
FEW = 32  # images, below which the definition says so
WARNING = f"fewer than {FEW} images: unbiased, but chance weighs much; read the interval, not the value"


@dataclass
class ImageGroup:
    """A set of images (N, C, *size), counted from black (0 to the data range), with their patients and classes."""

    images: Tensor
    patients: list[str]  # "" where unknown; what was made from noise is of nobody else each
    labels: Tensor | None = None  # (N,) int64; None where unknown
    masks: Tensor | None = None  # (N, 1, *size), above 0 inside a lesion; None where unknown
    inputs: Tensor | None = None  # what translations were made of, as `images`; None for images of another kind
    to: str = ""  # the domain that they were translated to, "a" or "b"
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
    ci95: Interval
    n: int
    definition: str
    details: dict[str, Any] = field(default_factory=dict)


def chosen(group: ImageGroup, keep: Tensor) -> ImageGroup:
    """The images at which `keep` (N,) is true."""
    where = keep.nonzero()[:, 0].cpu()
    images, labels, masks = (
        None if part is None else part[where.to(part.device)] for part in (group.images, group.labels, group.masks)
    )
    return ImageGroup(images, [group.patients[i] for i in where.tolist()], labels, masks)


def halves(group: ImageGroup) -> tuple[ImageGroup, ImageGroup]:
    """Two halves by order of patients, so that a patient's images stay together; the second is the larger."""
    numbers = patient_numbers(group.patients)
    first = torch.from_numpy(numbers < len(set(numbers)) // 2)
    return chosen(group, first), chosen(group, ~first)


def enough(name: str, *groups: ImageGroup, least: int = 2, remedy: str | None = None) -> None:
    """UserError, naming the metric, where a set holds fewer images than `least`."""
    if min(map(len, groups)) < least:
        what = f"{name} compares sets, and these hold {' and '.join(str(len(group)) for group in groups)} images"
        raise UserError(what, where="evaluate.metrics", allowed=f"{least} or more of each", remedy=remedy)


def set_rows(
    metric: Any, train: ImageGroup, test: ImageGroup, fake: ImageGroup, note: str = "", *, strict: bool = False
) -> dict[str, Any]:
    """The rows of metrics.json of one metric of sets, most often one; `note` ends their definitions.

    What cannot be computed has no value, and its definition says why; with `strict` it is a UserError.
    """
    try:
        broken = len(fake) - int(fake.images.isfinite().flatten(1).all(1).sum())
        if broken:
            raise UserError(f"{broken} of {len(fake)} images hold NaN or infinite values")
        found = metric(train, test, fake)
    except UserError as error:
        if strict:
            raise
        found = Score(None, None, len(fake), f"{metric.definition}/not-computed: {error}")
    rows = {}
    for name, score in (found if isinstance(found, dict) else {metric.name: found}).items():
        row = metric_row(metric, score, score.n, score.definition + note)
        rows[name] = row | (score.details and {"details": score.details})
    return rows


@dataclass(eq=False)
class InFeatures:
    """A comparison of held-out real images with fakes in a space of features."""

    data_range: float
    dims: int
    _: KW_ONLY
    features: str = "random"  # random: seeded, no file; inception; a timm name; or a file of a network, X.onnx
    weights: str | None = None  # a file of weights for the timm network that `features` names
    mean: list[float] | None = None  # subtracted from intensities 0 to 1; None: timm's for it, 0 for X.onnx
    std: list[float] | None = None  # what they are then divided by; None: timm's for the network, 1 for X.onnx
    side: Side | None = None  # pixels that images are brought to; None: the network's own

    sets, kind, unit, higher_is_better = True, "", "", False

    def __post_init__(self) -> None:
        options = {"weights": self.weights, "mean": self.mean, "std": self.std, "side": self.side}
        self.network = Features(self.features, self.data_range, self.dims, **options)
        self.name = self.kind + self.network.suffix  # the plain name belongs to the published features alone
        scale = "/asinh-standardised-on-training-images" if self.network.standardised else ""
        self.seen = f"features={self.network.what}{scale}"  # what the definition says of the features
        self.definition = f"{self.kind}/{self.seen}"

    def vectors(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> tuple[np.ndarray, np.ndarray]:
        """(N, d) of the real images and of the fakes."""
        real, made = test.vectors(self.network), fake.vectors(self.network)
        if self.network.standardised:
            scale = train.vectors(self.network)
            mean, deviation = scale.mean(0), scale.std(0)
            # Training images set the unit; the inverse hyperbolic sine keeps what is far from them from weighing all.
            real, made = (np.arcsinh((x - mean) / np.maximum(deviation, 1e-6)) for x in (real, made))
        return real, made


@dataclass(eq=False, kw_only=True)
class Kid(InFeatures):
    """Kernel inception distance (Binkowski et al., 2018): the unbiased squared MMD with the kernel (x.y / d + 1)^3.

    0 on average where both sets come from one distribution, so that it may be negative, and unbiased whatever the
    number of images. `subset` 0: sets of up to 1000 images are compared whole, where larger ones are, as published,
    the mean of 100 random subsets of 1000. The interval comes from leaving out a group of patients of the whole sets
    at a time. UserError for fewer images than 2, or than a subset; below 32 the definition says that they are few.
    """

    subset: Number = 0  # images of each of 100 random subsets; 0: whole sets, subsets of 1000 of larger ones

    kind = "kid"

    def __post_init__(self) -> None:
        if self.subset < 0 or self.subset == 1:
            what = f"subset = {self.subset} is no set"
            raise UserError(what, where="evaluate.metrics", allowed="2 or more, or 0 for as many as there are")
        super().__post_init__()

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        enough(self.name, test, fake, least=max(2, self.subset), remedy="set subset = 0" if self.subset else None)
        real, made = self.vectors(train, test, fake)
        value, ci95 = squared_mmd(real, made, test.patients, fake.patients)
        how, fewest = "whole-sets", min(len(real), len(made))
        size = self.subset or (SUBSET if fewest > SUBSET else 0)
        if size:
            rng, whole = np.random.default_rng(0), value
            drawn = ([x[rng.choice(len(x), size, replace=False)] for x in (real, made)] for _ in range(SUBSETS))
            value, how = float(np.mean([squared_mmd(*both)[0] for both in drawn])), f"subsets={SUBSETS}x{size}"
            ci95 = ci95 and (ci95[0] - whole + value, ci95[1] - whole + value)
        few = fewest < FEW
        definition = f"{self.definition}/n={len(fake)},real={len(test)}/{how}" + ("/few-images" if few else "")
        return Score(value, ci95, len(fake), definition, {"warning": WARNING} if few else {})


def squared_mmd(
    real: np.ndarray, fake: np.ndarray, real_patients: Sequence[str] = (), fake_patients: Sequence[str] = ()
) -> tuple[float, Interval]:
    """The unbiased squared MMD of two sets of vectors (n, d), none compared with itself (Gretton et al., 2012, eq. 3).

    Beside it its interval from leaving out patients; None where they are not given.
    """
    sides = [(real, real_patients), (fake, fake_patients)]
    r, f = (np.eye(GROUPS)[group_numbers(patients or ["all"] * len(x))] for x, patients in sides)  # (n, GROUPS)
    rr, ff, rf = kernel_sums(real, real, r, r), kernel_sums(fake, fake, f, f), kernel_sums(real, fake, r, f)

    def of_kept(kept_real: np.ndarray, kept_fake: np.ndarray) -> float:
        n, m = int(kept_real.sum()), int(kept_fake.sum())
        x, y = r[kept_real].any(0), f[kept_fake].any(0)  # which groups are kept
        return float(x @ rr @ x / (n * (n - 1)) + y @ ff @ y / (m * (m - 1)) - 2 * (x @ rf @ y) / (n * m))

    value, ci95 = left_out_interval(of_kept, real_patients or ["all"] * len(real), fake_patients or ["all"] * len(fake))
    return value, ci95 and (float(ci95[0]), float(ci95[1]))


def kernel_sums(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """(G, H): the kernel (x.y / d + 1)^3 summed over every two groups, nothing compared with itself.

    `of_x` (n, G) and `of_y` (m, H) are 1 where a vector is of a group. Blocks of 1024 x 1024 pairs of vectors are in
    memory at once, however many there are: of 10,000 images a side the three whole matrices would take 2.4 GB.
    """
    sums = np.zeros((of_x.shape[1], of_y.shape[1]))
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            kernel = (x[i : i + BLOCK] @ y[j : j + BLOCK].T / x.shape[1] + 1) ** 3
            if x is y and i == j:
                np.fill_diagonal(kernel, 0)
            sums += of_x[i : i + BLOCK].T @ kernel @ of_y[j : j + BLOCK]
    return sums
