"""sFRC: the share of small patches whose fine structure differs from the truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gantk.metrics.pairs import PairMetric, region_mean

PATCH = 12  # side of a patch in pixels
STRIDE_PIXELS = 4  # stride of the patches in pixels
THRESHOLD = 0.75  # correlation below which two patches disagree
# cycles per pixel up to which patches must agree: the hallucination threshold
FREQUENCY = 0.15
FLOOR = 0.08  # standard deviation of the noise that is added to both, as a share of the range


class SFRC(PairMetric):
    """Scanning Fourier ring correlation (Kc et al. 2026): the share of patches that disagree with
    the truth.

    Patches of output and truth, minus their means and under a Hann window, are correlated for each
    ring of spatial frequency. A patch counts if the correlation falls below THRESHOLD at a
    frequency below FREQUENCY. Patches are smaller than in the paper (48 to 96 pixels of 512).
    The same noise is added to both images: flat tissue contains only noise, and without it every
    such patch would count. Volumes are processed plane by plane.
    """

    name = "sfrc"
    unit = ""
    higher_is_better = False
    smallest = PATCH

    def expect_size(self, size: Sequence[int]) -> None:
        """UserError where a plane is smaller than a patch."""
        super().expect_size(size[-2:])

    def _method(self) -> str:
        how = f"patch={PATCH}/threshold={THRESHOLD:g}/below={FREQUENCY:g}-cycles-a-pixel"
        return f"{super()._method()}/{how}/floor={FLOOR:g}"

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        floor = FLOOR * self.data_range
        first, second = ring_correlations(planes(output), planes(reference), floor)
        # of the curve between two rings, the least up to FREQUENCY is at an end
        lowest = torch.minimum(first, first.lerp(second, FREQUENCY * PATCH - 1))
        flagged = (lowest < THRESHOLD).float()
        shape = (len(output), 1, -1)
        if mask is not None:  # where the middle of a patch is
            first_middle = PATCH // 2
            middles = planes(mask)[:, :1, first_middle::STRIDE_PIXELS, first_middle::STRIDE_PIXELS]
            rows, columns = flagged.shape[1:]
            mask = middles[:, :, :rows, :columns].reshape(shape)
        return region_mean(flagged.reshape(shape), mask)


def planes(images: Tensor) -> Tensor:
    """Split volumes (N, C, D, H, W) into planes (N D, C, H, W); return (N, C, H, W) unchanged."""
    return images if images.ndim == 4 else images.movedim(2, 1).flatten(0, 1)


def ring_correlations(one: Tensor, other: Tensor, floor: float) -> list[Tensor]:
    """Fourier ring correlation of all patches (every 4 pixels) of images (N, C, H, W) at the rings 1
    and 2, between which FREQUENCY is; (N, rows, columns) each.

    Channels are pooled. `floor` is the standard deviation of a noise that counts as common to both.
    """
    hann = torch.hann_window(PATCH, periodic=False)
    window = hann[:, None] * hann
    frequencies = torch.fft.fftfreq(PATCH) * PATCH
    radius = torch.hypot(frequencies[:, None], frequencies).round()
    spectra = torch.fft.fft2(torch.eye(PATCH**2).reshape(-1, PATCH, PATCH))
    both = torch.stack([one, other])
    correlations = []
    for ring in (1, 2):
        waves = torch.view_as_real(spectra[:, radius == ring]).flatten(1)
        kernels = window * waves.T.reshape(-1, 1, PATCH, PATCH)
        noise = floor**2 * kernels.square().sum().item() * one.shape[1]
        # so that the mean of a patch does not count
        kernels = kernels - kernels.mean((-1, -2), keepdim=True)
        filtered = functional.conv2d(
            both.flatten(0, 2)[:, None], kernels.to(both), stride=STRIDE_PIXELS
        ).unflatten(0, both.shape[:3])
        powers = torch.einsum("anckij,bnckij->abnij", filtered, filtered) + noise
        correlations.append(powers[0, 1] / (powers[0, 0] * powers[1, 1]).sqrt())
    return correlations
