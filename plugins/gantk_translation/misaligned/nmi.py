"""Normalised mutual information: whether two images show the same anatomy in one place, whatever
their contrast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gantk.metrics.evaluate import Tested
from gantk.metrics.intervals import estimate, metric_row
from gantk.metrics.pairs import PairMetric

BINS = 32  # of each image's own range


class NMI(PairMetric):
    """Normalised mutual information (Studholme et al. 1999), (H(A) + H(B)) / H(A, B): 2 for equal
    images, 1 unrelated.

    By histograms of 32 bins over each image's own range: blind to what is bright and what is dark.
    A run that is scored by it gets `nmi_input` too, that of output and input, which falls where
    outputs do not lie on their inputs.
    """

    name = "nmi"
    unit = ""
    higher_is_better = True

    def _method(self) -> str:
        return f"{self.name}/studholme/{BINS}-bins-of-own-range"

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        masks = [None] * len(output) if mask is None else mask
        return torch.stack(
            [normalised_information(*each) for each in zip(output, reference, masks, strict=True)]
        )


def normalised_information(one: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
    """NMI of two images of one shape, inside the mask alone; nan where it is empty, 1 where an
    image is all alike.
    """
    one, other = (image.flatten() if mask is None else image[mask] for image in (one, other))
    if not len(one):
        return one.new_tensor(torch.nan)

    spans = [(x - x.min()) / (x.max() - x.min()).clamp_min(1e-12) for x in (one, other)]
    bins = [(BINS * span).long().clamp(0, BINS - 1) for span in spans]
    joint = torch.bincount(bins[0] * BINS + bins[1], minlength=BINS**2).view(BINS, BINS) / len(one)
    first, second, both = (
        torch.special.entr(share).sum() for share in (joint.sum(0), joint.sum(1), joint)
    )
    return torch.where(both > 0, (first + second) / both.clamp_min(1e-12), 1.0)


def add_nmi_of_inputs(tested: Mapping[str, Tested], result: dict[str, Any]) -> None:
    """Add the row `nmi_input` to the scores of each direction."""
    for key, one in tested.items():
        metric = NMI(2.0, one.inputs.ndim - 2)
        metric.name = "nmi_input"
        values = (
            metric(*(images.mean(1, keepdim=True) for images in (one.made, one.inputs)))
            .double()
            .numpy()
        )
        row = metric_row(
            metric, estimate(values, one.references.patients), len(values), metric.definition
        )
        result["metrics"][key]["nmi_input"] = row
