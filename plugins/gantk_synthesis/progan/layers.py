"""Layers of ProGAN's networks: equalised learning rate, pixel norm, minibatch deviation."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets.blocks import fits_or_float32, summed_kernel

HE = math.sqrt(2.0)  # gain of a layer before a ReLU (He et al. 2015)
leaky = partial(F.leaky_relu, negative_slope=0.2)
double = partial(F.interpolate, scale_factor=2.0, mode="nearest")  # every pixel is repeated


class EqualLinear(nn.Module):
    """Linear layer, (N, inputs) to (N, outputs), whose N(0, 1) weights are multiplied by He's
    constant at run time.

    Adam's steps have the same size for all weights; with weights of the same spread, all layers
    then learn at the same rate (Karras et al. 2018, section 4.1).
    """

    def __init__(self, inputs: int, outputs: int, *, gain: float = HE, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class EqualConv(nn.Module):
    """A convolution of stride 1 that keeps the size, with the equalised learning rate of
    `EqualLinear`.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int, *, gain: float = HE):
        super().__init__()
        self.kernel_size = (kernel,) * dims
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs * kernel**dims)

    def forward(self, x: Tensor) -> Tensor:
        plain = F.conv2d if len(self.kernel_size) == 2 else F.conv3d
        convolve = partial(plain, padding=self.kernel_size[0] // 2)
        return fits_or_float32(convolve, x, self.weight * self.scale, self.bias)

    def after_doubling(self, x: Tensor) -> Tensor:
        """Upsample `x` by 2 (nearest) and convolve (3 wide), computed without the large image."""
        if math.prod(x.shape[2:]) < 512:  # summing the kernel costs more than it saves
            return self(double(x))
        transposed = F.conv_transpose2d if len(self.kernel_size) == 2 else F.conv_transpose3d
        return transposed(
            x, summed_kernel(self.weight * self.scale), self.bias, stride=2, padding=1
        )


class MinibatchDeviation(nn.Module):
    """Adds a channel with one number per group of images: how much the group's images differ.

    The number is the deviation of each feature at each position over the group, averaged (Karras et
    al. 2018, section 3), in float32. Groups have 4 images, as in the paper's networks, or 3 or 2 if
    that divides the batch and 4 does not; any other batch is one group.

    `batches`: the input is this many equal batches, concatenated; groups do not cross them.
    """

    mixes_batch = True
    GROUP = 4
    EPSILON = 1e-8

    def forward(self, x: Tensor, batches: int = 1) -> Tensor:
        count = len(x) // batches
        group = self._group_size(count)
        # images k, k + count / group, ... form a group
        y = x.float().reshape(batches, group, count // group, -1)
        deviation = (y.var(1, correction=0) + self.EPSILON).sqrt().mean(2)
        of_images = deviation.to(x.dtype).repeat(1, group)
        ones = [1] * (x.ndim - 1)
        statistic = of_images.view(-1, *ones).expand(-1, 1, *x.shape[2:])
        return torch.cat([x, statistic], 1)

    def _group_size(self, count: int) -> int:
        """The largest size up to GROUP that divides the number of images; all of them where none
        does.
        """
        for size in range(min(self.GROUP, count), 1, -1):
            if count % size == 0:
                return size
        return count


def halve(x: Tensor) -> Tensor:
    """Downsample by 2: means of 2 x 2 (x 2) pixels."""
    # in 3-D, autocast on the CPU returns float32
    return F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, 2).to(x.dtype)
