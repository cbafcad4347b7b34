"""Maps of structures that an output invents or loses, compared with a truth."""

from __future__ import annotations

from torch import Tensor

from gantk.losses.structure import gaussian_blur
from gantk_trust.uncertainty.maps import slope

# pixels: standard deviations of the band-pass filter's Gaussians; lesions lie between
FINE_PIXELS = 1.0
COARSE_PIXELS = 6.0
NOISE_SHARE = 0.025  # share of the range: a difference of that size is noise
SLOPE_FACTOR = 0.5  # times the local slope: a difference of that size is tolerated


def disagreement(one: Tensor, other: Tensor, span: float) -> Tensor:
    """The difference of two images (N, C, *size) at the scale of lesions, divided by the tolerance;
    (N, 1, *size).

    The difference is band-passed, so that a global change of brightness does not count. The
    tolerance is noise plus the slope of `other`: an edge shifted by half a pixel is not a lesion. 0
    means equal.
    """
    apart = gaussian_blur(one - other, FINE_PIXELS) - gaussian_blur(one - other, COARSE_PIXELS)
    excused = NOISE_SHARE * span + SLOPE_FACTOR * gaussian_blur(
        slope(gaussian_blur(other, FINE_PIXELS)), 1.5 * FINE_PIXELS
    )
    return (apart.abs() / excused).mean(1, keepdim=True)
