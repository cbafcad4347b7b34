"""Counts lesions that a translation removes (in the input only) and lesions that it invents (in the
output only).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from importlib import import_module

import numpy as np
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.intervals import estimate
from gantk.metrics.sets import ImageGroup, select_images
from gantk.plugin.spec import Count, Seed
from gantk.runs.results import Score
from gantk_scores.tasks.segmentation import INPUT_SIDES, Segmenter

# share of real lesions; above it there is a warning, because the segmenter misses too many
MAX_MISSED_SHARE = 0.5
MISSING_WARNING = (
    "the segmenter misses {:.0%} of the lesions in real images, so the counts are unreliable:"
    " increase its steps, or use your own segmenter"
)

NAMES = ("inventory_vanished", "inventory_invented")


@dataclass(eq=False)
class Inventory:
    """Lesions that a translation loses or invents, counted by connected components. Two scores; 0
    is best.

    `inventory_vanished` is the share of the input's lesions that the output does not show.
    `inventory_invented` is the number of lesions per output image that the input does not show. A
    segmenter, trained on real training images and their masks, finds the lesions of the output. The
    lesions of the input come from its mask. Your own `segmenter` segments both. `real` in the
    details is the score of the target's real images, the best that a translation can reach.
    """

    data_range: float
    dims: int
    _: KW_ONLY
    steps: Count = 200  # training steps of the segmenter, of 8 images (2 volumes)
    least: Count = 4  # smallest number of pixels of a component that counts
    # "package.module:function", images (N, C, *size) from 0 to 1 -> masks (N, 1, *size)
    segmenter: str | None = None
    seed: Seed = 0  # seed of the segmenter's weights and of the order of its batches

    sets = True
    needs_masks = True
    baselines = False
    name = "inventory"
    unit = ""
    higher_is_better = False

    @property
    def definition(self) -> str:
        segmenter = self.segmenter or f"unet/steps={self.steps}"
        return f"inventory/components-of-{self.least}-pixels/segmenter={segmenter}"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        if fake.masks is None:
            raise UserError(
                "no generated image has an input with a lesion mask", where="evaluate.metrics"
            )

        known = fake.masks.flatten(1).isfinite().all(1)
        find = self._segmenter(train)
        fakes = select_images(fake, known)
        before = fakes.masks > 0
        if self.segmenter and fake.inputs is not None:
            before = find(fake.inputs[known.cpu()]) > 0

        rows = inventory(before, find(fakes.images) > 0, self.least)
        real: tuple[float | None, float | None] = (None, None)
        if not self.segmenter and test.masks is not None:
            drawn = select_images(test, test.masks.flatten(1).isfinite().all(1))
            real = rates(inventory(drawn.masks > 0, find(drawn.images) > 0, self.least))

        warning = {}
        if real[0] is not None and real[0] > MAX_MISSED_SHARE:
            warning["warning"] = MISSING_WARNING.format(real[0])

        lesions, vanished, _, invented = rows.T
        lost_share = np.where(lesions > 0, vanished / np.maximum(lesions, 1), np.nan)
        how = f"{self.definition}/n={len(fakes)}/lesions={int(lesions.sum())}"
        scores = {}
        for name, values, ceiling in zip(NAMES, (lost_share, invented), real, strict=True):
            details = {"real": ceiling, **warning}
            one = estimate(values, fakes.patients, definition=how, details=details)
            scores[name] = one.model_copy(update={"n": len(fakes)})

        return scores

    def _segmenter(self, train: ImageGroup) -> Callable[[Tensor], Tensor]:
        if self.segmenter:
            module, _, name = self.segmenter.partition(":")
            try:
                given = getattr(import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                what = f"the segmenter '{self.segmenter}' cannot be loaded: {error}"
                raise UserError(
                    what, where="evaluate.metrics", allowed="package.module:function"
                ) from error

            return lambda images: given(images / self.data_range)

        learn = select_images(train, train.masks.flatten(1).isfinite().all(1))
        judge = Segmenter(self.dims, self.steps, INPUT_SIDES[self.dims], self.seed, self.data_range)
        return judge.fit(learn.images, learn.masks)


def rates(rows: np.ndarray) -> tuple[float, float]:
    """The share of lesions that vanished, and the number of invented lesions per image."""
    return float(rows[:, 1].sum() / max(rows[:, 0].sum(), 1)), float(rows[:, 3].mean())


def inventory(before: Tensor, after: Tensor, least: int = 1) -> np.ndarray:
    """Compare the components of two masks (N, 1, *size); returns (N, 4): before, vanished, after,
    invented.

    A component has vanished, or is invented, if no pixel of it is in the other mask; those below
    `least` do not count.
    """
    from scipy.ndimage import label

    def alone(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
        parts, _ = label(mask)
        sizes = np.bincount(parts.ravel())
        shared = np.bincount(parts[other].ravel(), minlength=parts.max() + 1)
        counted = sizes[1:] >= least
        return int(counted.sum()), int((counted & (shared[1:] == 0)).sum())

    masks = [each[:, 0].cpu().numpy().astype(bool) for each in (before, after)]
    return np.array([[*alone(one, two), *alone(two, one)] for one, two in zip(*masks, strict=True)])
