"""Losses that keep the structure of the input for any contrast: local NCC, flat regions without
texture, empty air, directions of edges.

Cycle consistency does not determine which tissue becomes which. These losses compare an output with
its own source in small windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError
from gantk.losses.reconstruction import difference, expect_named_once
from gantk.plugin.spec import Positive, SourceLoss, Weight

Contrast = Literal["any", "inverted", "same"]
AIR_SHARE = (
    0.05  # share of the data range above black: windows with nothing brighter hold no tissue
)
WINDOW_PIXELS = 5  # side of the windows in which images are compared
NOISE_SHARE = 0.028  # share of the data range: deviations below it count as noise
NO_SIGNAL_SHARE = 0.01  # share of the data range: below it there is no signal at all


@dataclass(frozen=True, kw_only=True)
class StructureTerms:
    """The structure losses of a method, as options of the same names; a term of weight 0 costs
    nothing.
    """

    local_ncc: Weight = 0.0  # weight of 1 - squared local correlation of input and output
    flat_region: Weight = 0.0  # weight of the output's local deviation where the input is flat
    # local deviation of the input, as a share of the range, that counts half as structure
    noise_floor: Positive = 0.01
    # for local_ncc: how tissue contrast changes; "inverted" for T1 and T2
    contrast: Contrast = "any"
    air: Weight = 0.0  # weight of the output's distance from black where the input is air
    # further losses of output and input, each with its own options, such as its weight
    source_losses: list[SourceLoss] = field(default_factory=list)

    def __post_init__(self):
        names = [part.name for part in self.source_losses]
        expect_named_once(names, "method.source_losses")

    def losses(
        self, output: Tensor, source: Tensor, range: tuple[float, float], suffix: str = ""
    ) -> dict[str, Tensor]:
        """The weighted losses by name plus `suffix`; `range`: the network intensities of black and
        white.
        """
        low, high = range
        terms = {}
        if self.local_ncc or self.flat_region:
            ncc, flat = local_ncc_and_flat_region(
                output,
                source,
                threshold=self.noise_floor,
                data_range=high - low,
                contrast=self.contrast,
                black=low,
            )
            terms = {"local_ncc": self.local_ncc * ncc, "flat_region": self.flat_region * flat}

        if self.air:
            terms["air"] = self.air * air_left_empty(
                output, source, data_range=high - low, black=low
            )

        terms = {name: loss for name, loss in terms.items() if getattr(self, name)}
        terms |= {part.name: part()(output, source) for part in self.source_losses}
        return {f"{name}{suffix}": loss for name, loss in terms.items()}


def local_ncc_and_flat_region(
    output: Tensor,
    source: Tensor,
    *,
    threshold: Positive = 0.01,
    data_range: Positive = 2.0,
    contrast: Contrast = "any",
    black: float = -1.0,
) -> tuple[Tensor, Tensor]:
    """Local NCC and flat region of an output and its source, in one pass over the windows.

    Local NCC is 1 - (local normalised cross-correlation)^2, over windows in which the source varies; 0
    is best, 1 is unrelated. Every local map a * x + b, also with a negative `a`, costs 0 if both images
    vary by more than NOISE_SHARE; an edge that the source does not have, or has elsewhere, costs up to 1.
    With `contrast` "inverted" or "same", which is known from physics, windows of tissue cost
    1 + correlation or 1 - correlation instead; those that touch air are then left out, because every
    tissue is brighter than air.

    Flat region is the local standard deviation of the output where the source is flat, in intensity
    units: it prevents invented texture.

    Args:
        output: images with a gradient.
        source: their inputs.
        threshold: deviation of the source, as a share of `data_range`, that counts half as structure.
        data_range: width of the intensity range: 2 for [-1, 1].
        contrast: how tissue contrast changes.
        black: intensity of air.

    Images are (N, C, *size), 2-D or 3-D; if the channel counts differ, channel means are compared.
    Computed in float32 under any autocast; the source gets no gradient. A batch's loss is the mean
    of its images' losses.
    """
    source_variance, output_variance, covariance = local_moments(output, source)
    structured = source_variance / (source_variance + (threshold * data_range) ** 2)
    product = source_variance * output_variance + (NOISE_SHARE * data_range) ** 4
    if contrast == "any":
        unlike = 1 - covariance.square() / product
    else:
        sign = 1 if contrast == "inverted" else -1
        air = (
            box_mean((source[None] < black + AIR_SHARE * data_range).float().amax(2, keepdim=True))[
                0
            ]
            > 0
        )
        unlike = 1 + sign * covariance / product.sqrt()
        structured = structured * ~air

    # A square root's gradient is infinite at 0; below this deviation it is bounded instead.
    smallest = 0.0005 * data_range
    deviation = (output_variance + smallest**2).sqrt() - smallest
    return weighted_mean(unlike, structured), weighted_mean(deviation, 1 - structured)


def air_left_empty(output: Tensor, source: Tensor, *, data_range: float = 2.0, black: float = -1.0):
    """Mean distance of the output from black where the source shows air; 0 is best.

    Air: pixels that are black in every channel (skull-stripped surroundings), and windows that are
    all nearly black (noise). Images are (N, C, *size), of one size.
    """
    brightest = source.detach().float().amax(1, keepdim=True) - black
    tissue = dilate((brightest >= AIR_SHARE * data_range).float(), WINDOW_PIXELS // 2)
    air = ((tissue == 0) | (brightest < NO_SIGNAL_SHARE * data_range)).float()
    return weighted_mean((output.float() - black).abs().mean(1, keepdim=True), air)


def dilate(mask: Tensor, by: int) -> Tensor:
    """Dilate a mask (N, C, *size) by `by` pixels in all directions."""
    return (F.max_pool2d if mask.ndim == 4 else F.max_pool3d)(mask, 2 * by + 1, 1, by)


def comparable(output: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Output and source (without gradient) in float32; the means over their channels where they have
    other numbers of these.
    """
    source = source.detach().float()
    output = output.float()
    if source.shape[1] != output.shape[1]:
        return output.mean(1, keepdim=True), source.mean(1, keepdim=True)
    return output, source


def local_moments(output: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Source variance, output variance and covariance of every window of WINDOW_PIXELS a side
    inside the image.

    Each is (N, C, *windows), float32; the output's have its gradient.
    """
    if min(output.shape[2:]) < WINDOW_PIXELS:
        raise UserError(
            f"a window of {WINDOW_PIXELS} pixels does not fit into images of"
            f" {tuple(output.shape[2:])}",
            where="data.size",
            remedy="use larger images",
        )

    output, source = comparable(output, source)
    mean_s, mean_ss = box_mean(torch.stack([source, source.square()]))
    mean_o, mean_oo, mean_so = box_mean(torch.stack([output, output.square(), source * output]))
    source_variance = (mean_ss - mean_s.square()).clamp_min(0)
    return source_variance, (mean_oo - mean_o.square()).clamp_min(0), mean_so - mean_s * mean_o


class BoxMean(torch.autograd.Function):
    """Moving average: sums WINDOW_PIXELS shifted copies along each axis; its gradient is the same filter
    on a padded map.

    On the CPU about four times as fast as average pooling, without the rounding errors of
    cumulative sums.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return sliding_mean(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        edge = (WINDOW_PIXELS - 1,) * (2 * (gradient.ndim - 3))
        return sliding_mean(F.pad(gradient, edge))


def box_mean(x: Tensor) -> Tensor:
    """Mean of each window over the spatial axes of (M, N, C, *size): (M, N, C, *(side -
    WINDOW_PIXELS + 1)).
    """
    return BoxMean.apply(x)


def sliding_mean(x: Tensor) -> Tensor:
    dims = x.ndim - 3
    for axis in range(-dims, 0):
        count = x.shape[axis] - WINDOW_PIXELS + 1
        total = x.narrow(axis, 0, count) + x.narrow(axis, 1, count)
        for shift in range(2, WINDOW_PIXELS):
            total += x.narrow(axis, shift, count)
        x = total
    return x / WINDOW_PIXELS**dims


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of each image's values, then the mean over images; 0 for an image without any
    weight.

    Not over the batch as a whole: microbatches and ranks would then weight their images differently
    from one batch.
    """
    axes = tuple(range(1, values.ndim))
    return ((weight * values).sum(axes) / weight.sum(axes).clamp_min(1e-6)).mean()


class EdgeDirection:
    """Mean squared difference of the `edges` of an output and its source, from 0 (best) to 2.

    Like `local_ncc` it is invariant to contrast. Unlike it, this loss compares the direction of
    edges, and it shifts them less towards their brighter side. It does not know which tissue is
    bright: combine it with a loss that does, such as a loss on pairs.
    """

    takes = "source"

    def __init__(
        self,
        *,
        weight: Weight = 20.0,  # weight of the loss
    ):
        self.weight = weight

    def __call__(self, output: Tensor, source: Tensor) -> Tensor:
        """The loss of images (N, C, *size), 2-D or 3-D; numbers of channels may differ. The source
        has no gradient.
        """
        return (
            self.weight * difference(edges(output), edges(source.detach())).square().sum(1).mean()
        )


def edges(image: Tensor) -> Tensor:
    """Return g g^T / (|g|^2 + c^2) of the gradient g, c its mean length: (N, dims (dims + 1) / 2,
    *size) float32.

    These are the positions and the directions of edges, which are similar in every contrast of one
    head (normalised gradients, Haber and Modersitzki 2006). The first `dims` channels have a sum of
    0 to 1.
    """
    with torch.autocast(image.device.type, enabled=False):
        # more would draw edges towards the brighter side
        gray = gaussian_blur(image.float().mean(1, keepdim=True), 0.35)
        slopes = torch.gradient(gray, dim=(axes := [*range(2, gray.ndim)]))
        parts = [x.square() for x in slopes] + [2**0.5 * x * y for x, y in combinations(slopes, 2)]
        length = reduce(torch.add, parts[: len(slopes)]) + 1e-10  # of g, squared
        return torch.cat(parts, 1) / (
            length + length.detach().sqrt().mean(axes, keepdim=True).square()
        )


def gaussian_blur(image: Tensor, deviation: float) -> Tensor:
    """Blur images (N, C, *size) by a Gaussian of so many pixels, cut off at the border; 0: not at
    all.
    """
    lines = [torch.arange(float(side), device=image.device) for side in image.shape[2:]]
    weights = [
        torch.exp(-0.5 * ((line - line[:, None]) / max(deviation, 0.01)).square()) for line in lines
    ]
    return along_axes(image, [matrix / matrix.sum(0) for matrix in weights])


def along_axes(maps: Tensor, matrices: list[Tensor]) -> Tensor:
    """Multiply maps (N, C, *sides) along each axis by its matrix (side, K): (N, C, *K)."""
    return reduce(
        lambda product, matrix: torch.tensordot(product, matrix, ([2], [0])), matrices, maps
    )
