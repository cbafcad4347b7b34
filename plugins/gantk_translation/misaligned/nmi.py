"""Normalised mutual information: whether two images show the same anatomy in one place, whatever
their contrast.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gantk.method import OTHER
from gantk.metrics.evaluate import Tested
from gantk.metrics.intervals import estimate, metric_score
from gantk.metrics.pairs import PairMetric
from gantk.runs.results import Results

BINS = 32  # of each image's own range


class NMI(PairMetric):
    """Normalised mutual information (Studholme et al. 1999), (H(A) + H(B)) / H(A, B). 2 for equal
    images, 1 for unrelated images.

    It uses histograms of 32 bins over each image's own range, so it does not depend on which tissue
    is bright. A run also gets `nmi_input`, the score of output and input, which falls if outputs
    are not aligned with their inputs; without test pairs that alone.
    """

    name = "nmi"
    unit = ""
    higher_is_better: bool | None = True

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
    if mask is None:
        mask = torch.ones_like(one, dtype=torch.bool)
    if not mask.any():
        return one.new_tensor(torch.nan)

    place = bin_numbers(one[mask]) * BINS + bin_numbers(other[mask])
    joint = torch.bincount(place, minlength=BINS**2).view(BINS, BINS) / len(place)
    first = entropy(joint.sum(0))
    second = entropy(joint.sum(1))
    both = entropy(joint)
    return torch.where(both > 0, (first + second) / both.clamp_min(1e-12), 1.0)


def bin_numbers(values: Tensor) -> Tensor:
    """The bin of each value, 0 to BINS - 1, over the range of the values."""
    low = values.min()
    share = (values - low) / (values.max() - low).clamp_min(1e-12)
    return (BINS * share).long().clamp(0, BINS - 1)


def entropy(shares: Tensor) -> Tensor:
    """The entropy of a distribution, in nats."""
    return torch.special.entr(shares).sum()


def add_nmi_of_inputs(tested: Mapping[str, Tested], results: Results) -> None:
    """Add the row `nmi_input` to the scores of each direction. It has no better way: a copy of the
    input has the highest.
    """
    for key, one in tested.items():
        metric = NMI(2.0, one.inputs.ndim - 2)
        metric.name = "nmi_input"
        metric.higher_is_better = None
        output = one.made.mean(1, keepdim=True)
        values = metric(output, one.inputs.mean(1, keepdim=True)).double().numpy()
        patients = [pair[OTHER[one.to]].subject for pair in one.pairs]
        found = estimate(values, patients)
        score = metric_score(metric, found, len(values), metric.definition)
        results.metrics.setdefault(key, {})["nmi_input"] = score
