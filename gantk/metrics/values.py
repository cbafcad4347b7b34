"""How the intensities of real and of generated images are distributed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gantk.runs.results import Distributions

BINS = 50  # of equal width, from black to white


def value_distributions(sets: Mapping[str, Tensor], low: float, span: float) -> Distributions:
    """What metrics.json keeps of the intensities of sets of images (N, C, *size) by name, one of
    which is "real".

    `edges` are the ends of the bins, from 0 (black) to 1 (white). `shares` are each set's shares of
    pixels in the bins. Values beyond black and white count in the first and last bin, NaN nowhere.
    `distance` is the Wasserstein distance of each other set from "real": by how much intensities
    have to move on average, as a share of the range from black to white. `images` are the numbers
    of images.
    """
    shares = {name: _shares(images, low, span) for name, images in sets.items()}
    distances = {}
    for name, each in shares.items():
        if name != "real":
            difference = (each - shares["real"]).cumsum(0)
            distances[name] = round(float(difference.abs().sum()) / BINS, 6)

    return Distributions(
        edges=[round(edge / BINS, 6) for edge in range(BINS + 1)],
        shares={
            name: [round(share, 6) for share in each.tolist()] for name, each in shares.items()
        },
        distance=distances,
        images={name: len(images) for name, images in sets.items()},
    )


def _shares(images: Tensor, low: float, span: float) -> Tensor:
    """The share of pixels in each bin, (BINS,) float64."""
    values = ((images[images.isfinite()].float() - low) / span).clamp(0, 1)
    counts = torch.histc(values, BINS, 0.0, 1.0).double()
    return counts / counts.sum().clamp(min=1)
