"""Maps of structures that an output invents or loses, compared with a truth, or with the input
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gantk.losses.structure import gaussian_blur
from gantk.method import Method
from gantk_trust.uncertainty.maps import Flips, slope

# pixels: standard deviations of the band-pass filter's Gaussians; lesions lie between
FINE_PIXELS = 1.0
COARSE_PIXELS = 6.0
NOISE_SHARE = 0.025  # share of the range: a difference of that size is noise
SLOPE_FACTOR = 0.5  # times the local slope: a difference of that size is tolerated
BINS = 24  # intensity bins for averaging the usual output


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


def usual(output: Tensor, given: Tensor, low: float, span: float) -> Tensor:
    """Replace each pixel by the output's mean (N, 1, *size) over pixels with the same input
    intensity, per image.
    """
    made = output.flatten(2).mean(1)
    intensity = (given.flatten(2).mean(1) - low) / span
    place = intensity.clamp(0, 1) * (BINS - 1)
    below = place.floor().long().clamp_max(BINS - 2)
    share_above = place - below
    share_below = 1 - share_above

    count = torch.zeros(len(made), BINS, device=made.device)
    total = torch.zeros_like(count)
    for bins, share in ((below, share_below), (below + 1, share_above)):
        count.scatter_add_(1, bins, share)
        total.scatter_add_(1, bins, share * made)

    count, total = gaussian_blur(torch.stack([count, total], 1), 1.0).unbind(1)
    mean = total / count.clamp_min(1e-6)
    found = mean.gather(1, below) * share_below + mean.gather(1, below + 1) * share_above
    return found.reshape(len(made), 1, *output.shape[2:])


class Suspicion(Flips):
    """Map of places where a translation may invent or lose structures of its input. It needs no
    truth.

    It is the sum of three terms: the disagreement of the input and its back-translation (two-way
    methods), the deviations of input and output from their usual intensity given the other, and the
    spread over mirrored inputs. Values above about 1 exceed noise and edges. Structures that a
    network invents and removes again on the way back are not found.
    """

    def spread(
        self, method: Method, to: str, image: Tensor, plain: Tensor, others: Sequence
    ) -> Tensor:
        mirrored = gaussian_blur(super().spread(method, to, image, plain, others), FINE_PIXELS)
        found = suspicion(method, to, image.float(), plain) + mirrored.mean(1, keepdim=True)
        return found.expand_as(plain)


def suspicion(method: Method, to: str, image: Tensor, output: Tensor) -> Tensor:
    """The disagreement (N, 1, *size) between an output (N, D, *size) and its input; `method`
    translates back.
    """
    low, high = method.geometry.range
    span = high - low
    seen = image if image.shape == output.shape else image.mean(1, keepdim=True)
    expected_output = usual(output, seen, low, span)
    expected_input = usual(seen, output, low, span)
    in_output = disagreement(output.mean(1, keepdim=True), expected_output, span)
    in_input = disagreement(seen.mean(1, keepdim=True), expected_input, span)
    found = (in_output + in_input) / 2
    if len(method.directions()) == 2:
        back = method.translate(output.to(image.dtype), {"a": "b", "b": "a"}[to]).float()
        found = found / 4 + disagreement(back, image, span)

    return found
