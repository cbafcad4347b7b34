"""Sets of images, compared by feature vectors: the features, KID, and what all metrics of sets share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError, count_noun, shape_or_type
from gantk.metrics.intervals import (
    GROUPS,
    group_numbers,
    left_out_interval,
    metric_score,
    patient_numbers,
)
from gantk.metrics.pairs import Metric
from gantk.plugin.loader import registry
from gantk.progress import track
from gantk.runs.results import Score

WHERE = "evaluate.metrics"
IMAGES_PER_PASS = 32
MAX_GRAY_SIDE = 128  # for random features; larger images are shrunk
ROWS_PER_BLOCK = 1024  # of the kernel matrix
FEW_IMAGES = 32  # definitions say so if there are fewer images
WARNING = f"with fewer than {FEW_IMAGES} images the value is unbiased, but depends much on chance"


class Features:
    """Computes feature vectors of images (N, C, *size) with intensities from 0 (black) to
    `data_range`: (N, d) float64.

    `features`: the name of registered features ("random"; "inception", which FID and KID were
    published with), or else of a network of timm. What is registered is called with this name; it
    returns a network from pictures (n, `channels`, H, W), 0 to 1, to vectors (n, d), with a `suffix`
    for the score's name and a description `what`.

    Images with that number of channels are passed as they are; otherwise each channel is passed as
    a gray picture. Of a volume the three middle slices are passed. The vectors of the parts are
    concatenated. Values beyond the data range are clipped, the others not rounded. UserError if an
    image holds NaN or infinite values.
    """

    def __init__(self, features: str, data_range: float, dims: int):
        self.data_range = data_range
        self.dims = dims
        registered = features if features in registry()["features"] else "timm"
        make = registry().get("features", registered).load()
        self.network = make(features).eval().requires_grad_(False)
        self.suffix = self.network.suffix
        self.standardised = getattr(self.network, "standardised", False)
        self.what = self.network.what
        if dims == 3:
            self.what += "-of-middle-slices"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        self.network.to(images.device)
        vectors = []
        finite = []
        channels = self.network.channels
        with torch.autocast(images.device.type, enabled=False):
            for part in track(images.split(IMAGES_PER_PASS), self.what, "batch"):
                finite.append(part.isfinite().all())  # read once, at the end: one synchronisation
                seen = pictures_of((part.float() / self.data_range).clamp(0, 1), channels)
                vectors.append(torch.cat([self.network(each).flatten(1) for each in seen], 1))

        if not torch.stack(finite).all():
            raise UserError(
                "an image contains NaN or infinite values, so its set cannot be compared",
                where=WHERE,
                remedy="find the cause, or leave the image out",
            )

        return torch.cat(vectors).cpu().double().numpy()


def pictures_of(images: Tensor, channels: int) -> list[Tensor]:
    """Images (N, C, *size) as pictures (N, channels, H, W): of volumes the three middle slices, and each
    channel as a gray picture where their number is another.
    """
    pictures = middle_slices(images) if images.ndim == 5 else [images]
    if images.shape[1] == channels:
        return pictures
    return [gray.expand(-1, channels, -1, -1) for each in pictures for gray in each.split(1, 1)]


def middle_slices(volumes: Tensor) -> list[Tensor]:
    """The middle slices of volumes (N, C, D, H, W) across the axes D, H and W."""
    return [volumes.select(axis, volumes.shape[axis] // 2) for axis in (2, 3, 4)]


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
    # cached vectors, by features
    found: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    def vectors(self, features: Features) -> np.ndarray:
        """Feature vectors (N, d), float64, cached for all scores with the same features."""
        if features.what not in self.found:
            self.found[features.what] = features(self.images)
        return self.found[features.what]


def select_images(group: ImageGroup, keep: Tensor) -> ImageGroup:
    """The group of those images for which `keep` (N,) is true."""
    where = keep.nonzero()[:, 0].cpu()

    def of(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[where.to(part.device)]

    images = group.images[where.to(group.images.device)]
    patients = [group.patients[i] for i in where.tolist()]
    return ImageGroup(images, patients, of(group.labels), of(group.masks))


def halves(group: ImageGroup) -> tuple[ImageGroup, ImageGroup]:
    """Split a group in two halves, in order of patients, keeping each together; the second is the
    larger.
    """
    numbers = patient_numbers(group.patients)
    first = torch.from_numpy(numbers < len(set(numbers)) // 2)
    return select_images(group, first), select_images(group, ~first)


def require_images(
    name: str, *groups: ImageGroup, least: int = 2, remedy: str | None = None
) -> None:
    """Raise a UserError that names the metric if a set holds fewer images than `least`."""
    if min(map(len, groups)) >= least:
        return

    counts = " and ".join(str(len(group)) for group in groups)
    raise UserError(
        f"{name} compares sets of images, but these have only {counts} images",
        where="evaluate.metrics",
        allowed=f"{least} or more in each set",
        remedy=remedy,
    )


def set_scores(
    metric: SetMetric,
    train: ImageGroup,
    test: ImageGroup,
    fake: ImageGroup,
    note: str = "",
    *,
    strict: bool = False,
) -> dict[str, Score]:
    """The scores by one metric of sets, usually one; `note` is appended to their definitions.

    If the metric fails, the value is None and the definition states the reason; with `strict` a
    UserError is raised.
    """
    found: Score | dict[str, Score]
    try:
        broken = len(fake) - int(fake.images.isfinite().flatten(1).all(1).sum())
        if broken:
            raise UserError(
                f"{broken} of {count_noun(len(fake), 'image')} contain NaN or infinite values"
            )
        found = metric(train, test, fake)
    except UserError as error:
        if strict:
            raise
        definition = f"{metric.definition}/not-computed: {error}"
        found = Score(value=None, ci95=None, definition=definition)

    scores = found if isinstance(found, dict) else {metric.name: found}
    for score in scores.values():
        if not isinstance(score, Score):
            raise UserError(
                f"the metric '{metric.name}' returns {shape_or_type(score)}",
                where=WHERE,
                allowed="gantk.runs.results.Score",
            )
        score.n = score.n or len(fake)
    return {
        name: metric_score(
            metric,
            score,
            images=len(fake) if score.patients_unknown else score.n,
            definition=score.definition + note,
        )
        for name, score in scores.items()
    }


class SetMetric(Metric):
    """A score of a set of generated images, built with (data_range, dims) and called with training
    images, held-out real images, and generated ones.

    Returns a `Score`, or several by name, those of a baseline as `identity/NAME`; UserError where the
    sets do not suit it.
    """

    of_sets = True
    baselines = True  # whether the outputs of baselines are scored too

    def __call__(
        self, train: ImageGroup, test: ImageGroup, fake: ImageGroup
    ) -> Score | dict[str, Score]:
        raise NotImplementedError


@dataclass(eq=False)
class InFeatures(SetMetric):
    """Base of metrics that compare held-out real images with fakes by feature vectors."""

    data_range: float
    dims: int
    _: KW_ONLY
    # feature network: random (seeded, no file), inception, or the name of a network of timm
    features: str = "random"

    kind = ""
    unit = ""
    higher_is_better = False

    def __post_init__(self) -> None:
        self.network = Features(self.features, self.data_range, self.dims)
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
            # Standardise by training images; arcsinh limits the weight of images far from them.
            scale = train.vectors(self.network)
            mean = scale.mean(0)
            deviation = np.maximum(scale.std(0), 1e-6)
            real = np.arcsinh((real - mean) / deviation)
            made = np.arcsinh((made - mean) / deviation)

        return real, made


@dataclass(eq=False, kw_only=True)
class Kid(InFeatures):
    """Kernel inception distance (Binkowski et al., 2018): the unbiased squared MMD with the kernel
    (x.y / d + 1)^3.

    It is 0 on average for two sets of the same distribution, so it may be negative. It is unbiased
    for any number of images, so sets are compared as a whole, and not in random subsets of 1000. The
    interval is a jackknife over groups of patients. Fewer than 2 images are an error. The definition
    notes if there are fewer than 32.
    """

    kind = "kid"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        require_images(self.name, test, fake)
        real, made = self.vectors(train, test, fake)
        value, ci95 = squared_mmd(real, made, test.patients, fake.patients)
        definition = f"{self.definition}/n={len(fake)},real={len(test)}/whole-sets"
        details = {}
        if min(len(real), len(made)) < FEW_IMAGES:
            definition += "/few-images"
            advice = ". Read the interval, not the value" if ci95 else ""
            details = {"warning": WARNING + advice}

        return Score(value=value, ci95=ci95, definition=definition, details=details)


def squared_mmd(
    real: np.ndarray,
    fake: np.ndarray,
    real_patients: Sequence[str],
    fake_patients: Sequence[str],
) -> tuple[float, list[Any] | None]:
    """The unbiased squared MMD of two sets of vectors (n, d), without self-comparisons (Gretton et
    al., 2012, eq. 3).

    Also returns its jackknife interval over patients.
    """
    # (n, GROUPS): 1 where a vector is in a group
    r = np.eye(GROUPS)[group_numbers(real_patients)]
    f = np.eye(GROUPS)[group_numbers(fake_patients)]
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

    value, ci95 = left_out_interval(of_kept, real_patients, fake_patients)
    return value, ci95 and [float(end) for end in ci95]


def kernel_sums(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """Sums (G, H) of the kernel (x.y / d + 1)^3 over each pair of groups, without self-comparisons.

    `of_x` (n, G) and `of_y` (m, H) are 1 where a vector is in a group. Computed 1024 rows at a time:
    for 10,000 images a side the three whole matrices would take 2.4 GB.
    """
    sums = np.zeros((of_x.shape[1], of_y.shape[1]))
    for first in range(0, len(x), ROWS_PER_BLOCK):
        rows = slice(first, first + ROWS_PER_BLOCK)
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        if x is y:
            np.fill_diagonal(kernel[:, first:], 0)
        sums += of_x[rows].T @ kernel @ of_y
    return sums


class RandomConv(nn.Module):
    """A convolutional network of random weights: 256 features of a gray image (N, 1, H, W) from 0
    to 1.

    Four levels of 32 filters of 5 x 5, each level at half the size of the one before. Responses of
    a level are averaged over a grid of 4 x 4, so that position counts as well as texture, and mixed
    down to 64 features. All but one of the first filters sum to 0: they respond to edges, whatever
    the brightness; that one measures brightness. The weights are seeded, not learned, and need no
    file. The features have no scale of their own: training images must set it.
    """

    channels = 1
    what = "random-conv-256-seed-0"
    suffix = "_random"
    standardised = True

    def __init__(self, name: str = "random"):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.filters = nn.ParameterList()
        self.mixers = nn.ParameterList()
        for level in range(4):
            filters = torch.randn(32, 32 if level else 1, 5, 5, generator=generator)
            if level == 0:
                filters = filters - filters.mean((2, 3), keepdim=True)

            filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
            if level == 0:
                filters[0] = 1 / 25

            mixer = torch.randn(32 * 4**2, 64, generator=generator) / (32 * 4**2) ** 0.5
            self.filters.append(nn.Parameter(filters, requires_grad=False))
            self.mixers.append(nn.Parameter(mixer, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > MAX_GRAY_SIDE:
            scale = MAX_GRAY_SIDE / max(x.shape[2:])
            x = F.interpolate(x, [max(1, round(side * scale)) for side in x.shape[2:]], mode="area")

        found = []
        for filters, mixer in zip(self.filters, self.mixers, strict=True):
            x = F.leaky_relu(F.conv2d(x, filters, padding=2), 0.2)
            found.append(F.adaptive_avg_pool2d(x, 4).flatten(1) @ mixer)
            x = F.avg_pool2d(x, 2, ceil_mode=True)

        return torch.cat(found, 1)
