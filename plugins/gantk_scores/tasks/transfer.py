"""Measures whether translations look like their target domain (a tumour, for example) and keep the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.losses.structure import dilate
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import estimate, estimate_share
from gantk.metrics.pairs import SSIM
from gantk.metrics.references import (
    MAX_SET_BYTES,
    MAX_SET_IMAGES,
    number_that_fits,
    real_records,
    spread,
)
from gantk.metrics.sets import ImageGroup
from gantk.plugin.spec import Count
from gantk.runs.results import Score
from gantk_scores.tasks.classification import Judge, strangers

EDGE_PIXELS = 2  # pixels by which a lesion's mask is dilated, to include its edge


@dataclass(eq=False, kw_only=True)
class Transfer(Judge):
    """Share of translations that a classifier assigns to the target domain, and their similarity to
    the inputs.

    The classifier of the two domains is trained on real training images of other patients.
    "transfer" is the share of the translations that it assigns to the target domain, with Wilson's
    95 % interval. The details contain the same share of the inputs (before translation) and of
    held-out real images of the target domain (the upper limit). "transfer_ssim" is the mean SSIM of
    translations and their inputs: outside lesions if masks are available, else over the whole
    image. For domains that are classes.
    """

    steps: Count = 300  # steps of 16 images; a step takes 0.05 s on a core

    baselines = False
    name = "transfer"

    def expect_data(self, scorer: Scorer) -> bool:
        """Set the data that the classifier is trained on; UserError where a domain has too few
        training images.
        """
        # the classifier learns the domains from real images
        splits = scorer.data.splits
        counts = [len(real_records(splits["train"], letter)) for letter in ("a", "b")]
        if min(counts) < 2:
            what = (
                f"the metric '{self.name}' has too few images to learn the two domains:"
                f" {counts[0]} and {counts[1]}"
            )
            raise UserError(
                what,
                where="evaluate.metrics",
                allowed="2 or more of each domain",
                remedy="leave the metric out",
            )

        self.data = scorer.data
        scorer.reals.masks = True
        return True

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        if fake.inputs is None:
            what = "scores translations, but these images are generated from noise"
            raise UserError(
                f"the metric '{self.name}' {what}",
                where="evaluate.metrics",
                remedy="leave the metric out",
            )

        known, labels = self._training_images(fake.to, test, fake)
        asked = torch.cat([fake.images, fake.inputs, test.images])
        right = self.answers(known.images.to(asked.device), labels, 2, asked).argmax(1)
        made, before, real = np.split(right, np.cumsum([len(fake), len(fake)]))
        details = {
            "inputs": estimate_share(before),
            "real": estimate_share(real) if train is not test else None,
        }
        how = f"{self.definition}/trained-on:real={len(known)}/n={len(fake)}"
        return {
            self.name: estimate_share(made, definition=how, details=details),
            f"{self.name}_ssim": self._kept_structure(fake),
        }

    def _training_images(self, to: str, *asked: ImageGroup) -> tuple[ImageGroup, Tensor]:
        """Real training images of patients not in `asked`, and their labels: 1 for domain `to`,
        else 0.
        """
        images = []
        names = []
        labels = []
        for letter in ("a", "b"):
            records = spread(
                real_records(self.data.splits["train"], letter),
                number_that_fits(MAX_SET_IMAGES // 2, MAX_SET_BYTES // 2, self.data.table.size),
            )
            images += [self.data.centre(self.data.image(record)[None])[0] for record in records]
            names += [record.subject for record in records]
            labels += [int(letter == to)] * len(records)

        group = ImageGroup(torch.stack(images) - self.data.range[0], names)
        labels = torch.tensor(labels)
        keep = torch.stack([strangers(group, other) for other in asked]).all(0)
        if len(labels[keep].unique()) < 2:
            what = (
                f"the metric '{self.name}' finds no training patients other than those that it"
                " scores"
            )
            raise UserError(
                what, where="evaluate.metrics", remedy="add patients, or leave the metric out"
            )

        kept = [name for name, use in zip(names, keep.tolist(), strict=True) if use]
        return ImageGroup(group.images[keep], kept), labels[keep]

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
