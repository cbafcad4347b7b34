"""Where the body is in an image, whatever its contrast, and a loss that holds an output to the body of its input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError
from gantk.plugin.spec import Fraction, Positive, Weight


class Outline:
    """The area by which the bodies of output and input differ, as a share of the input's; 0 is best.

    A body is all that pixels above `threshold` enclose (`body`), so that a skull that is dark in MR and bright in CT is
    in it either way: equal outlines cost 0 whatever the contrast. The area has no gradient; in its place each pixel
    that is in one body alone is made brighter or darker, along a sigmoid that is never quite flat.
    """

    def __init__(
        self,
        *,
        weight: Weight = 1.0,  # of the loss
        threshold: Fraction = 0.05,  # share of data_range above black from which on a pixel is no air
        softness: Positive = 0.1,  # width of the sigmoid that gradients follow, share of data_range
        data_range: Positive = 2.0,  # width of the intensity range, 2 for [-1, 1]
        black: float = -1.0,  # intensity of air
    ):
        self.weight, self.threshold, self.softness = weight, threshold, softness
        self.data_range, self.black = data_range, black

    def __call__(self, output: Tensor, source: Tensor) -> Tensor:
        """Images (N, C, *size) of one size, 2-D or 3-D; channels may differ in number. The source gets no gradient."""
        if len(output) != len(source) or output.shape[2:] != source.shape[2:]:
            shapes = f"{tuple(output.shape)} and {tuple(source.shape)}"
            raise UserError(f"an outline is compared with that of the own source, pixel by pixel, not {shapes}")
        shown, wanted = (self.above(image) for image in (output, source.detach()))
        own, its = body(shown.detach() > 0), body(wanted > 0)
        steps = shown / self.softness
        soft = 0.5 * steps / (1 + steps.abs())
        apart = (own - its).abs() + (own - its) * (soft - soft.detach())  # the second is 0, and is what has a gradient
        axes = tuple(range(1, apart.ndim))
        return self.weight * (apart.sum(axes) / its.sum(axes).clamp_min(1)).mean()

    def above(self, image: Tensor) -> Tensor:
        """How far the brightest channel lies above the threshold, (N, 1, *size), as a share of the range."""
        return (image.float().amax(1, keepdim=True) - self.black) / self.data_range - self.threshold


def body(bright: Tensor) -> Tensor:
    """1 in all that bright pixels enclose, in rows, columns and planes, both ways; of (N, 1, *size), bool, else 0.

    Single pixels, such as noise in air, are taken out before by a median over 3 pixels a side.
    """
    pool, dims = (F.avg_pool2d if bright.ndim == 4 else F.avg_pool3d), bright.ndim - 2
    kept = (pool(F.pad(bright.float(), (1,) * (2 * dims)), 3, 1) > 0.5).float()
    ways = (kept.flip(axis).cummax(axis).values.flip(axis) for axis in range(2, 2 + dims))
    return torch.stack([*(kept.cummax(axis).values for axis in range(2, 2 + dims)), *ways]).amin(0)
