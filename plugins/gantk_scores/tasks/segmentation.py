"""Measures what generated images with lesion masks are good for: a segmenter is trained on them and
tested on real ones.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import estimate, patient_numbers
from gantk.metrics.sets import ImageGroup, SetMetric, select_images
from gantk.plugin.spec import Count, Seed
from gantk.runs.results import Score
from gantk_scores.tasks.classification import TOO_FEW, cross_folds
from gantk_scores.tasks.small_networks import (
    BATCH,
    WIDTH,
    SmallUNet,
    mirror_randomly,
    train_network,
)

INPUT_SIDES = {2: 96, 3: 48}  # longest side of a segmenter's input in pixels or voxels
IMAGES_PER_PASS = 8
REMEDY = (
    'set data.source.mask to the masks ("seg"), give the phantom lesions, or leave the metric out'
)


@dataclass(eq=False)
class Segmentation(SetMetric):
    """Dice score on held-out real images of a segmenter that is trained on generated images.

    A small U-Net is trained on generated images and the lesion masks of their truth, and tested on
    real images of other patients; translations of test patients are crossed over halves of the
    patients. The Dice coefficient is pooled over a patient's images and averaged over patients with
    a lesion; its 95 % interval comes from bootstrap over them.
    """

    data_range: float
    dims: int
    _: KW_ONLY
    # steps of 8 images (2 volumes) for each of two segmenters; a step takes 0.1 s on a core
    steps: Count = 100
    seed: Seed = 0  # seed of the segmenter's weights and of the order of its batches

    name = "segmentation"
    unit = ""
    higher_is_better = True
    baselines = False

    def expect_data(self, scorer: Scorer) -> bool:
        """UserError where no image is translated, or no test image of a domain has a lesion mask."""
        reals = scorer.reals
        masked = [
            any(map(reals.record_with_mask, reals.records("test", to)))
            for to in scorer.method.directions()
        ]
        if not masked or not all(masked):
            raise UserError(
                "the metric 'segmentation' needs translations, and lesion masks in the test set",
                where="evaluate.metrics",
                remedy=REMEDY,
            )
        reals.masks = True
        return True

    @property
    def definition(self) -> str:
        network = f"unet-{WIDTH}/{INPUT_SIDES[self.dims]}px/steps={self.steps}x{BATCH[self.dims]}"
        return f"segmentation/dice-per-patient/without-lesion-left-out/{network}"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        test, fake = (_images_with_masks(each) for each in (test, fake))
        folds = list(cross_folds(fake, test))
        halved = "/crossed-over-halves-of-the-patients" if len(folds) > 1 else ""
        how = f"trained-on:made={len(fake)}{halved}/tested-on:real={len(test)}"
        definition = f"{self.definition}/{how}"
        if not all((learn.masks > 0).any() for learn, _ in folds):
            raise UserError(TOO_FEW)

        score = self._dice_after_training(folds)
        return score.model_copy(update={"n": len(test), "definition": definition})

    def _dice_after_training(self, folds: list[tuple[ImageGroup, ImageGroup]]) -> Score:
        """The mean Dice over patients of the second group of each fold, by a segmenter of the first."""
        counts = []
        names = []
        for learn, asked in folds:
            found = self._segment(self._train(learn), asked.images).cpu()
            truth = asked.masks.cpu() > 0
            counts.append([each.flatten(1).sum(1) for each in (found, truth, found & truth)])
            names += asked.patients

        numbers = patient_numbers(names)
        marked, drawn, both = (
            np.bincount(numbers, torch.cat(parts)) for parts in zip(*counts, strict=True)
        )
        patients = [names[first] for first in np.unique(numbers, return_index=True)[1]]
        shared = np.where(drawn > 0, both, np.nan)
        return estimate(2 * shared / (marked + drawn).clip(1), patients)

    def _train(self, group: ImageGroup) -> nn.Module:
        """A segmenter of steps of 8 images (2 volumes), half of them with a lesion."""
        images = group.images
        drawn = (group.masks > 0).float().to(images.device)
        shows = drawn.flatten(1).any(1).long()
        share = (1 / torch.bincount(shows, minlength=2).clamp_min(1).float())[shows].cpu()
        size = tuple(self._network_input(images[:1]).shape[2:])

        def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
            count = BATCH[self.dims]
            picked = torch.multinomial(share, count, replacement=True, generator=generator)
            picked = picked.to(images.device)
            image = self._network_input(images[picked])
            image, mask = mirror_randomly([image, self._shrunk(drawn[picked])], generator)
            return dice_loss(network(image), mask)

        def make() -> nn.Module:
            return SmallUNet(images.shape[1], 1, self.dims, size).to(images.device)

        with torch.autocast(images.device.type, enabled=False):
            return train_network(make, loss, self.steps, self.seed)

    @torch.no_grad()
    def _segment(self, network: nn.Module, images: Tensor) -> Tensor:
        """Lesion masks (N, 1, *size), bool."""
        mode = "bilinear" if self.dims == 2 else "trilinear"
        masks = []
        with torch.autocast(images.device.type, enabled=False):
            for part in images.split(IMAGES_PER_PASS):
                answer = network(self._network_input(part))
                masks.append(F.interpolate(answer, part.shape[2:], mode=mode) > 0)
        return torch.cat(masks)

    def _network_input(self, images: Tensor) -> Tensor:
        """The network's input, scaled to -1 to 1, NaN as black."""
        return self._shrunk(2 * images.float() / self.data_range - 1).nan_to_num(nan=-1.0)

    def _shrunk(self, images: Tensor) -> Tensor:
        """Images of which the longest side is at most that of the input."""
        scale = INPUT_SIDES[self.dims] / max(images.shape[2:])
        if scale >= 1:
            return images
        size = [max(1, round(side * scale)) for side in images.shape[2:]]
        return F.interpolate(images, size, mode="area")


def _images_with_masks(group: ImageGroup) -> ImageGroup:
    """The images with a mask; UserError where none shows a lesion."""
    known = None if group.masks is None else group.masks.flatten(1).isfinite().all(1)
    if known is None or not (group.masks[known] > 0).any():
        raise UserError(
            "the metric 'segmentation' needs lesion masks, but no mask shows a lesion",
            where="evaluate.metrics",
            remedy=REMEDY,
        )
    return select_images(group, known)


def dice_loss(answers: Tensor, masks: Tensor) -> Tensor:
    """1 - soft Dice of logits (Milletari et al., 2016, section 3) over a whole batch: an image may
    have no lesion.

    There is no cross entropy: lesions are 0.1 % of the pixels, and with it nothing is found in the
    first hundred steps.
    """
    likely = answers.sigmoid()
    shared = (likely * masks).sum()
    sizes = likely.square().sum() + masks.square().sum()
    return 1 - (2 * shared + 1) / (sizes + 1)
