"""Measures whether translations look like their target domain (a tumour, for example) and keep the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
import torch

from gantk.errors import UserError
from gantk.losses.structure import dilate
from gantk.method import OTHER
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import estimate, estimate_share
from gantk.metrics.names import CEILING
from gantk.metrics.pairs import SSIM
from gantk.metrics.sets import ImageGroup
from gantk.plugin.spec import Count
from gantk.runs.results import Score
from gantk_scores.tasks.classification import Judge, concatenate_groups, without_patients_of

EDGE_PIXELS = 2  # pixels by which a lesion's mask is dilated, to include its edge


@dataclass(eq=False, kw_only=True)
class Transfer(Judge):
    """Share of translations that a classifier assigns to the target domain, and their similarity to
    the inputs.

    The classifier of the two domains is trained on real training images of other patients.
    "transfer" is the share of the translations that it assigns to the target domain, with Wilson's
    95 % interval of as many trials as patients, or images of unknown ones. Beside it are the share of the unchanged inputs, as a baseline,
    and of held-out real images of the target domain, the upper limit. "transfer_ssim" is the mean
    SSIM of translations and their inputs: outside lesions if masks are available, else over the
    whole image. For domains that are classes.
    """

    steps: Count = 300  # steps of 16 images; a step takes 0.05 s on a core

    baselines = False
    name = "transfer"

    def expect_data(self, scorer: Scorer) -> bool:
        """Set the data that the classifier is trained on."""
        self.reals = scorer.reals
        self.reals.masks = True
        return True

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        if fake.inputs is None:
            raise UserError(
                "the metric 'transfer' scores translations, but these images are generated from noise",
                where="evaluate.metrics",
                remedy="leave the metric out",
            )

        # real training images of both domains, of the target's with label 1
        others, _, _ = self.reals.sets(OTHER[fake.to], tuple(fake.images.shape[2:]))
        sides = [
            replace(group, labels=torch.full((len(group),), label))
            for label, group in enumerate((others, train))
        ]
        known = reduce(without_patients_of, (test, fake), concatenate_groups(*sides))
        if len(known.labels.unique()) < 2:
            raise UserError(
                "the metric 'transfer' finds no training patients other than those that it scores",
                where="evaluate.metrics",
                remedy="add patients, or leave the metric out",
            )

        asked = torch.cat([fake.images, fake.inputs, test.images])
        (right,) = self.answers(known.images, known.labels, 2, asked)
        made, before, real = np.split(right, np.cumsum([len(fake), len(fake)]))
        how = f"{self.definition}/trained-on:real={len(known)}/n={len(fake)}"
        share = partial(estimate_share, definition=how)
        scores = {
            self.name: share(made, fake.patients),
            f"identity/{self.name}": share(before, fake.patients),
            f"{self.name}_ssim": self._kept_structure(fake),
        }
        if train is not test:
            scores[f"{CEILING}/{self.name}"] = share(real, test.patients)
        return scores

    def _kept_structure(self, fake: ImageGroup) -> Score:
        """The SSIM of translations and inputs, outside the inputs' lesions."""
        metric = SSIM(self.data_range, self.dims)
        outside = None
        if fake.masks is not None:
            outside = 1 - dilate(fake.masks.nan_to_num(0.0).float(), EDGE_PIXELS).to(
                fake.images.device
            )

        values = metric(fake.images, fake.inputs, outside).cpu().numpy()
        region = "whole-image" if outside is None else f"outside-lesions-widened-by-{EDGE_PIXELS}"
        definition = f"{metric._method()}/with-the-input/{region}"
        return estimate(values, fake.patients, definition=definition)
