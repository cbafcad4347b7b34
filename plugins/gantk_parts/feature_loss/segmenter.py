"""A segmenter trained on masks, for use by itself and as the network of the loss `feature`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk import UNet
from gantk.method import Batch, Geometry, Method, Phase
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import estimate, patient_numbers
from gantk.plugin.spec import Depth, Weight, Width
from gantk.runs.results import Results


class Segmenter(Method):
    """A U-Net that segments lesions, trained with Dice and cross-entropy on images of one domain and
    their masks.

    The Dice loss (Milletari et al. 2016, section 3) is computed over a whole batch (per rank),
    since an image may show no lesion. The network uses batch norm, because instance norm removes an
    image's brightness. It generates no images.
    """

    reads = ("image",)
    weighs_lesions = True

    def __init__(
        self,
        geometry: Geometry,
        *,
        width: Width = 16,  # filters of the first level
        depth: Depth = 3,  # number of halvings; sides must be multiples of 2**depth
        cross_entropy: Weight = 1.0,  # weight of the cross-entropy; the Dice loss has weight 1
    ):
        super().__init__(geometry)
        shape = {
            "width": width,
            "depth": depth,
            "norm": "batch",
            "stem": 1,
            "head": 2,
            "activation_out": "none",
        }
        self.network = UNet(geometry.channels["image"], 1, geometry.dims, **shape)
        self.cross_entropy = cross_entropy
        for weights in (each for each in self.network.parameters() if each.ndim > 2):
            nn.init.kaiming_normal_(weights)

    def phases(self) -> list[Phase]:
        """One phase, for the network."""
        return [Phase("segmenter", (self.network,), self.losses)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Dice and cross-entropy; an image without a mask counts as without lesion."""
        found = self.network(batch["image"]).float()
        mask = batch.get("mask_image", torch.zeros_like(found)).float()
        likely = found.sigmoid()
        shared = (likely * mask).sum()
        sizes = likely.square().sum() + mask.square().sum()
        entropy = F.binary_cross_entropy_with_logits(found, mask)
        return {
            "dice": 1 - (2 * shared + 1) / (sizes + 1),
            "cross_entropy": self.cross_entropy * entropy,
        }


@torch.no_grad()
def dice_by_image(
    method: Segmenter, images: Tensor, masks: Tensor, patients: list[str]
) -> np.ndarray:
    """For each image the Dice over all images of its patient, (N,); nan for a patient without a
    lesion.
    """
    numbers = patient_numbers(patients)
    device = method.progress.device
    drawn = masks.flatten(1) > 0.5
    found = torch.cat(
        [method.network(part.to(device)).cpu() > 0 for part in images.split(16)]
    ).flatten(1)
    counts = [x.sum(1).double().numpy() for x in (found & drawn, found, drawn)]
    both, marked, real = (np.bincount(numbers, count)[numbers] for count in counts)
    return 2 * both / np.where(real > 0, marked + real, np.nan)


def add_dice(results: Results, scorer: Scorer) -> None:
    """Add the Dice of the test patients' lesions to metrics.json."""
    records = [
        record
        for record in scorer.reals.records("test", "image")
        if scorer.reals.record_with_mask(record)
    ]
    masks = scorer.reals.masks_of(records) if records else None
    patients = [record.subject for record in records]
    if masks is not None:
        values = dice_by_image(scorer.method, scorer.reals.network_inputs(records), masks, patients)
        dice = estimate(
            values,
            patients,
            images=len(records),
            unit="",
            definition="dice/pooled-over-a-patient/without-lesion-left-out",
            higher_is_better=True,
            corrected=None,
        )
        results.metrics["lesions"] = {"dice": dice}
