"""sFRC: the share of small patches whose fine structure differs from the truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gantk.metrics.pairs import PairMetric, region_mean

PATCH = 12  # side of a patch in pixels
STRIDE_PIXELS = 4  # stride of the patches in pixels
THRESHOLD = 0.75  # correlation below which two patches disagree
# cycles per pixel up to which patches must agree: the hallucination threshold
FREQUENCY = 0.15
FLOOR = 0.08  # standard deviation of the noise that is added to both, as a share of the range
RESTS = 64  # images per batch, to limit the patches in memory


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
        images = [planes(each).split(RESTS) for each in (output, reference)]
        flagged = []
        for made, real in zip(*images, strict=True):
            first, second = ring_correlation(made, real, FLOOR * self.data_range).unbind(-1)
            # of the curve between two rings, the least up to FREQUENCY is at an end
            lowest = torch.minimum(first, first.lerp(second, FREQUENCY * PATCH - 1))
            flagged.append((lowest < THRESHOLD).float())
        counted = torch.cat(flagged)
        shape = (len(output), 1, -1)
        if mask is not None:  # where the middle of a patch is
            first = PATCH // 2
            middles = planes(mask.float())[:, :1, first::STRIDE_PIXELS, first::STRIDE_PIXELS] > 0
            rows, columns = counted.shape[1:]
            mask = middles[:, :, :rows, :columns].reshape(shape)
        return region_mean(counted.reshape(shape), mask)


def planes(images: Tensor) -> Tensor:
    """Split volumes (N, C, D, H, W) into planes (N D, C, H, W); return (N, C, H, W) unchanged."""
    return images if images.ndim == 4 else images.movedim(2, 1).flatten(0, 1)


def ring_correlation(one: Tensor, other: Tensor, floor: float) -> Tensor:
    """Fourier ring correlation of all patches (every 4 pixels) of images (N, C, H, W) at the rings 1
    and 2, between which FREQUENCY is; (N, rows, columns, 2).

    Channels are pooled. `floor` is the standard deviation of a noise that counts as common to both.
    """
    hann = torch.hann_window(PATCH, periodic=False, device=one.device)
    window = hann[:, None] * hann

    def spectra(images: Tensor) -> Tensor:
        patches = images.unfold(2, PATCH, STRIDE_PIXELS).unfold(3, PATCH, STRIDE_PIXELS)
        centred = patches - patches.mean((-1, -2), keepdim=True)
        return torch.fft.rfft2(centred * window)

    rows = torch.fft.fftfreq(PATCH) * PATCH
    columns = torch.fft.rfftfreq(PATCH) * PATCH
    radius = (rows[:, None].square() + columns.square()).sqrt().round()
    # rfft2 computes only half of the plane
    twice = torch.where(columns == 0, 1.0, 2.0)
    in_ring = radius == torch.tensor([1, 2])[:, None, None]
    rings = (in_ring * twice).to(one.device)
    noise = floor**2 * window.square().sum() * rings.sum((1, 2)) * one.shape[1]

    def over_rings(power: Tensor) -> Tensor:
        return torch.einsum("ncabij,rij->nabr", power, rings) + noise

    a = spectra(one)
    b = spectra(other)
    common = over_rings((a * b.conj()).real)
    product = over_rings(a.abs().square()) * over_rings(b.abs().square())
    correlation = common / product.sqrt().clamp_min(1e-20)
    return torch.where(product > 0, correlation, 1.0)
