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
        inside = torch.ones_like(output, dtype=torch.bool) if mask is None else mask
        images = zip(output, reference, inside, strict=True)
        return torch.stack([normalised_information(*each) for each in images])


def normalised_information(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """NMI of two images of one shape, inside the mask alone; nan where it is empty or a value is not
    finite, 1 where an image is all alike.
    """
    values = torch.stack([one[mask], other[mask]], 1).cpu()
    if not (len(values) and values.isfinite().all()):
        return values.new_tensor(torch.nan)

    joint = torch.histogramdd(values, [BINS, BINS]).hist / len(values)
    first, second, together = (
        torch.special.entr(shares).sum() for shares in (joint.sum(0), joint.sum(1), joint)
    )
    return torch.where(together > 0, (first + second) / together.clamp_min(1e-12), 1.0)


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
