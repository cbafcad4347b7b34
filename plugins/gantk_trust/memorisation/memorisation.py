"""Measures whether generated images are nearer to training than to held-out images, and whether
that separates both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import drawn_interval, left_out_interval
from gantk.metrics.references import RealImages, number_that_fits
from gantk.metrics.sets import ImageGroup, SetMetric, require_images
from gantk.runs.results import Score

COMPARED_SIDES = {2: 32, 3: 16}  # pixels or voxels of the longest side at which images are compared
MIN_IMAGES = 8  # fewest training and held-out images for a score
MAX_COMPARED_BYTES = 2**30  # most bytes of training images that are compared


class Memorisation(SetMetric):
    """Scores of how far a noise-to-image model copies its training images, compared with held-out
    images of the same kind.

    - `copied`: the share p of generated images whose nearest real image is a training image,
      corrected for chance: (p - N / (N + M)) / (M / (N + M)) with N training and M held-out images.
      0 = no copies, 1 = only copies. Distances are between pixels at 32 a side without brightness
      and contrast, the smallest over mirroring and shifts by a pixel.
    - `distance_ratio`: mean distance of generated images to the nearest training image, divided by
      that of held-out images. 1 = no copies, 0 = only copies; blurred images are also below 1
      (Meehan et al. 2020).
    - `membership`: the AUC by which the distance to the nearest generated image separates training
      from held-out images (Chen et al. 2020, GAN-Leaks). 0.5 = not at all.

    Intervals come from leaving out, or drawing, patients. An alarm is raised if `copied` is above
    0.1, and either its whole interval is above 0.1 or the whole interval of the ratio is below 0.8.
    It is also raised if the whole interval of `membership` is above 0.6.
    """

    name = "memorisation"
    unit = ""
    higher_is_better = None
    baselines = False
    definition = "memorisation"

    def __init__(self, data_range: float, dims: int):
        # of the images scored last, those nearest to training images
        self.nearest: list[dict[str, Any]] = []

    def expect_data(self, scorer: Scorer) -> bool:
        """Set the data from which all training images are read; UserError where the method
        translates.
        """
        if len(scorer.data.letters) > 1:
            what = "the metric 'memorisation' is for images from noise, but this method translates"
            raise UserError(what, where="evaluate.metrics", remedy="leave the metric out")
        self.data = scorer.data
        return True

    def training(self) -> ImageGroup:
        """The training images, at most 1 GiB of them."""
        reals = RealImages(self.data, torch.device("cpu"))
        records = reals.records("train", self.data.letters[0])
        count = number_that_fits(len(records), MAX_COMPARED_BYTES, self.data.table.size)
        records = records[:count]
        return reals.group(reals.scored_images(records), records)

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        if train is test:
            problem = "the metric 'memorisation' needs held-out images to compare with"
            raise UserError(problem, remedy="set data.split.test above 0")

        train = self.training() if hasattr(self, "data") else train
        require_images(self.name, train, test, least=MIN_IMAGES)
        how = f"{self.definition}/n={len(fake)},train={len(train)},held-out={len(test)}"
        found = {}
        away, between = pixel_distances(train, test, fake)
        scores = _copy_scores(away, between, train, test, fake)
        for name, (value, ci95) in zip(("copied", "distance_ratio"), scores, strict=True):
            found[name] = Score(value=value, ci95=ci95, n=len(fake), definition=how)

        to_train = away[:, : len(train)]
        to_test = away[:, len(train) :]
        found["membership"] = _membership(to_train, to_test, train, test, how)
        ratio = to_train.min(1) / np.maximum(to_test.min(1), 1e-9)
        for place in np.argsort(ratio)[:4]:
            closest = int(to_train[place].argmin())
            closest_held_out = int(to_test[place].argmin())
            row = {
                "ratio": float(ratio[place]),
                "patient": train.patients[closest],
                "images": (
                    fake.images[place],
                    train.images[closest],
                    test.images[closest_held_out],
                ),
            }
            self.nearest.append(row)

        self.nearest = self.nearest[-4:]
        return found


def _membership(
    to_train: np.ndarray, to_test: np.ndarray, train: ImageGroup, test: ImageGroup, how: str
) -> Score:
    """The AUC by which the distance to the nearest generated image separates training from held-out
    images.
    """
    from sklearn.metrics import roc_auc_score

    nearness = -np.concatenate([to_train.min(0), to_test.min(0)])
    truth = np.repeat([1, 0], [len(train), len(test)])

    def auc(at: np.ndarray) -> float:
        if 0 < truth[at].sum() < len(at):
            return float(roc_auc_score(truth[at], nearness[at]))
        return np.nan

    names = [patient and f"t {patient}" for patient in train.patients]
    names += [patient and f"h {patient}" for patient in test.patients]
    ci95 = drawn_interval(auc, names, draws=200)
    value = auc(np.arange(len(nearness)))
    return Score(value=value, ci95=ci95, n=len(nearness), definition=how)


def _copy_scores(
    away: np.ndarray, between: np.ndarray, train: ImageGroup, test: ImageGroup, fake: ImageGroup
) -> list[tuple[float, list[float] | None]]:
    """`copied` and `distance_ratio`, each with its 95 % interval, from distances (F, N + M) and
    (M, N).
    """
    real = [*train.patients, *test.patients]
    is_train = np.arange(len(real)) < len(train)

    def scores(kept: np.ndarray, made: np.ndarray) -> np.ndarray:
        training = away[np.ix_(made, kept & is_train)]
        held_out = away[np.ix_(made, kept & ~is_train)]
        own = between[np.ix_(kept[~is_train], kept[is_train])]
        return np.array(compare_distances(training, held_out, own))

    (copied, ratio), ends = left_out_interval(scores, real, fake.patients, least=MIN_IMAGES)
    if ends is None:
        return [(float(copied), None), (float(ratio), None)]

    low = np.maximum(ends[0], [-1, 0]).tolist()
    high = np.minimum(ends[1], [1, np.inf]).tolist()
    return [(float(copied), [low[0], high[0]]), (float(ratio), [low[1], high[1]])]


def compare_distances(
    training: np.ndarray, held_out: np.ndarray, between: np.ndarray
) -> tuple[float, float]:
    """`copied` and `distance_ratio` from distances (F, N), (F, M) and (M, N); equal distances count
    half.
    """
    nearest = training.min(1)
    other = held_out.min(1)
    chance = training.shape[1] / (training.shape[1] + held_out.shape[1])
    share = ((nearest < other) + 0.5 * (nearest == other)).mean()
    copied = (share - chance) / (1 - chance)
    ratio = nearest.mean() / max(between.min(1).mean(), 1e-9)
    return float(copied), float(ratio)


def pixel_distances(
    train: ImageGroup, test: ImageGroup, fake: ImageGroup
) -> tuple[np.ndarray, np.ndarray]:
    """Pixel distances (F, N + M) and (M, N) of small normalised images, the least over mirroring
    and small shifts.
    """
    own = _small(train.images)
    other = _small(test.images)
    made = _small(fake.images)
    return _moved_distances(made, torch.cat([own, other])), _moved_distances(other, own)


def _moved_distances(images: Tensor, real: Tensor) -> np.ndarray:
    """Distances (N, M), the least over mirroring and shifts of `images` by a pixel."""
    moved = [images]
    for axis in range(2, images.ndim):
        moved += [images.roll(-1, axis), images.roll(1, axis)]

    reference = _unit(real).T
    similarities = []
    for each in moved:
        similarities += [_unit(each) @ reference, _unit(each.flip(-1)) @ reference]

    similarity = torch.stack(similarities).amax(0)
    return (2 - 2 * similarity.double()).clamp_min(0).sqrt().numpy()


def _small(images: Tensor) -> Tensor:
    scale = min(1.0, COMPARED_SIDES[images.ndim - 2] / max(images.shape[2:]))
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return F.interpolate(images.float().cpu(), size, mode="area")


def _unit(images: Tensor) -> Tensor:
    rows = images.flatten(1) - images.flatten(1).mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-9)
