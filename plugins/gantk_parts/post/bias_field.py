"""Gives a translated image the bias field of its input, estimated as a plane in the logarithm of
the intensities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.runs.trained import Examples
from gantk_parts.post.volumes import AIR_SHARE, MIN_TISSUE_VOXELS, each_volume

# Gaussians of the mixture; rounds of expectation and maximisation
TISSUES = 6
ROUNDS = 30
MIN_DEVIATION = 0.02  # deviation of a Gaussian, in the logarithm: no tissue is a single value
MAX_TISSUE_VOXELS = 40_000  # of more an even part is taken


class InputBiasField:
    """Gives each translated volume the bias field of its input. The field comes from the coil and
    is the same in all contrasts.

    An unpaired network learns from images of other heads with other fields, so the field of its
    output is arbitrary. The fields of input and output are estimated as planes in the logarithm of
    the intensities, together with a mixture of Gaussians for the tissues. (Wells et al. 1996 use a
    filter instead of a plane.) The output is multiplied by the quotient of the fields, whose mean
    over tissue is 1.

    `post(images, examples)` takes and returns (N, C, *size) in network intensities, clipped to
    their range. Volumes with less than 500 voxels of tissue are unchanged.
    """

    whole = True  # needs all slices of a volume at once

    def __init__(self, dims: int, range: tuple[float, float]):
        self.dims = dims
        self.low, self.high = range

    def __call__(self, images: Tensor, examples: Examples) -> Tensor:
        """Correct the images volume by volume; UserError where there is no input."""
        return each_volume(images, examples, self.dims, "bias_field", self._volume)

    def _volume(self, made: Tensor, given: Tensor) -> Tensor:
        """Correct one volume (C, D, H, W) by its input."""
        span = self.high - self.low
        output = ((made - self.low) / span).mean(0)
        source = ((given - self.low) / span).mean(0)
        tissue = ((output > AIR_SHARE) & (source > AIR_SHARE)).nonzero()
        if len(tissue) < MIN_TISSUE_VOXELS:
            return made

        step = -(-len(tissue) // MAX_TISSUE_VOXELS)
        sample = tuple(tissue[::step].T)
        axes = [torch.arange(float(side), device=made.device) for side in output.shape]
        # of all voxels, from the middle of the tissue
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        places = places - places[sample].mean(0)
        places = places / places[sample].square().mean().sqrt()
        slope_in_source = slopes_of_field(source[sample].log(), places[sample])
        slope_in_output = slopes_of_field(output[sample].log(), places[sample])
        gain = (places @ (slope_in_source - slope_in_output)).exp()
        corrected = self.low + (made - self.low) * gain / gain[sample].mean()
        return corrected.clamp(self.low, self.high)


def slopes_of_field(values: Tensor, at: Tensor) -> Tensor:
    """The slopes (3,) along the axes of the bias field in log intensities `values` (N,) of voxels
    at `at` (N, 3).

    By expectation and maximisation: each voxel belongs to tissues by shares, and what they leave is
    fitted by a plane.
    """
    ranks = (torch.arange(TISSUES, device=values.device) + 0.5) / TISSUES
    means = values.quantile(ranks)
    shares = torch.full_like(ranks, 1 / TISSUES)
    deviations = torch.full_like(ranks, float(values.std()) / TISSUES + MIN_DEVIATION)
    slopes = values.new_zeros(3)
    ridge = 1e-3 * len(values) * torch.eye(3, device=values.device)
    for _ in range(ROUNDS):
        even = values - at @ slopes
        apart = (even[:, None] - means) / deviations
        belongs = (shares.log() - deviations.log() - apart.square() / 2).softmax(1)
        count = belongs.sum(0).clamp_min(1e-6)
        shares = count / count.sum()
        means = (belongs * even[:, None]).sum(0) / count
        deviations = (
            ((belongs * (even[:, None] - means).square()).sum(0) / count)
            .sqrt()
            .clamp_min(MIN_DEVIATION)
        )
        weights = belongs / deviations.square()
        left = (weights * (values[:, None] - means)).sum(1)
        slopes = torch.linalg.solve(at.T @ (at * weights.sum(1, keepdim=True)) + ridge, at.T @ left)

    return slopes
