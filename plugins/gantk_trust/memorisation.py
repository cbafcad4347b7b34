"""Measures whether a noise-to-image model copies its training images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.distance import cdist

from gantk.errors import UserError
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import left_out_interval, or_blocks
from gantk.metrics.references import number_that_fits
from gantk.metrics.sets import ImageGroup, InFeatures, require_images
from gantk.runs.results import Score

MIN_IMAGES = 8  # fewest training and held-out images for a score
MAX_COMPARED_BYTES = 2**30  # most bytes of training images that are compared
MAX_COPIED = 0.1  # an interval that lies above is a warning
MAX_COPIED_WITHOUT_INTERVAL = 0.5
WARNING = (
    "more generated images are nearest to a training image than chance explains: check for copies"
    " before you share the model"
)
NO_SIGN = "there is no sign of copied training images"
TOO_FEW = f"{NO_SIGN}, but the images are too few to exclude copies"


@dataclass(eq=False, kw_only=True)
class Memorisation(InFeatures):
    """The share of generated images whose nearest real image was trained on, beyond chance.

    It is (p - c) / (1 - c) with p the share whose nearest neighbour in features, among the N
    training and M held-out images, is a training image, and c = N / (N + M). 0 = no copies, 1 =
    only copies. A mirrored copy counts as a copy. The interval leaves out patients, or neighbouring
    images of unknown ones. A person of both sets hides copies: held-out images are then as near.
    """

    kind = "memorisation"
    baselines = False

    def expect_data(self, scorer: Scorer) -> bool:
        """UserError where the method translates."""
        if len(scorer.data.letters) > 1:
            raise UserError(
                "the metric 'memorisation' is for images from noise, but this method translates",
                where="evaluate.metrics",
                remedy="leave the metric out",
            )
        self.reals = scorer.reals
        return True

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        if train is test:
            raise UserError(
                "the metric 'memorisation' needs held-out images to compare with",
                remedy="score a run that holds out images: data.split.test above 0",
            )

        trained_on = self._training_images() if hasattr(self, "reals") else train
        require_images(self.name, trained_on, test, least=MIN_IMAGES)
        mirrored = replace(fake, images=fake.images.flip(-1), found={})
        real = ImageGroup(
            torch.cat([trained_on.images, test.images]),
            [*trained_on.patients, *test.patients],
        )
        of_fakes, of_reals = self.vectors(trained_on, fake, real)
        of_mirrored, _ = self.vectors(trained_on, mirrored, real)
        distances = np.minimum(cdist(of_fakes, of_reals), cdist(of_mirrored, of_reals))
        is_training = np.arange(len(real)) < len(trained_on)
        # images that look like no real one are nearest to some, but copies of none
        held_out = cdist(of_reals[~is_training], of_reals[is_training]).min(1)
        near = np.median(distances[:, is_training].min(1)) < np.median(held_out)

        def copied_share(kept_real: np.ndarray, kept_fake: np.ndarray) -> float:
            of_kept = distances[kept_fake]
            nearest = of_kept[:, kept_real & is_training].min(1)
            other = of_kept[:, kept_real & ~is_training].min(1)
            chance = is_training[kept_real].mean()
            share = ((nearest < other) + 0.5 * (nearest == other)).mean()
            return float((share - chance) / (1 - chance))

        # a block of either set at once, as chance is the ratio of their sizes
        patients = [*or_blocks(trained_on.patients), *or_blocks(test.patients)]
        value, ci95 = left_out_interval(copied_share, patients, fake.patients, least=MIN_IMAGES)
        if ci95:
            warns = ci95[0] > MAX_COPIED
            ci95 = np.clip(ci95, -1, 1).tolist()
        else:
            warns = value > MAX_COPIED_WITHOUT_INTERVAL

        counts = f"n={len(fake)},train={len(trained_on)},held-out={len(test)}"
        definition = f"{self.definition}/{counts}"
        if warns and near:
            details = {"warning": WARNING}
        else:
            is_sure = not near or (ci95 and ci95[1] <= MAX_COPIED)
            details = {"result": NO_SIGN if is_sure else TOO_FEW}
        return Score(value=value, ci95=ci95, definition=definition, details=details)

    def _training_images(self) -> ImageGroup:
        """The training images, at most 1 GiB of them."""
        data = self.reals.data
        records = self.reals.records("train", data.letters[0])
        records = records[: number_that_fits(len(records), MAX_COMPARED_BYTES, data.table.size)]
        return self.reals.group(self.reals.scored_images(records), records)
