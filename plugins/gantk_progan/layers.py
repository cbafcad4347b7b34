"""What the growing networks are made of: layers with an equalised learning rate, pixel norm, minibatch deviation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets.blocks import FitsOrFloat32, summed_kernel

HE = math.sqrt(2.0)  # gain of a layer ahead of a rectifier (He et al. 2015)


class EqualLinear(nn.Module):
    """(N, inputs) to (N, outputs); weights are drawn from N(0, 1) and multiplied by He's constant at run time.

    Adam's steps are as long for one weight as for another; with weights of the same spread, all layers then learn at
    the same rate (Karras et al. 2018, section 4.1).
    """

    def __init__(self, inputs: int, outputs: int, *, gain: float = HE, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class _EqualConv(nn.Module):
    """The convolution itself; `EqualConv` is the one that is safe on small maps."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int, *, gain: float = HE):
        super().__init__()
        self.kernel_size = (kernel,) * dims
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs * kernel**dims)

    def forward(self, x: Tensor) -> Tensor:
        convolve = F.conv2d if len(self.kernel_size) == 2 else F.conv3d
        return convolve(x, self.weight * self.scale, self.bias, padding=self.kernel_size[0] // 2)


class EqualConv(FitsOrFloat32, _EqualConv):
    """A convolution of stride 1 that keeps the size, with the equalised learning rate of `EqualLinear`."""

    def after_doubling(self, x: Tensor) -> Tensor:
        """The convolution (3 wide) of `x` with every pixel repeated: the same numbers, without the large image."""
        if math.prod(x.shape[2:]) < 512:  # where summing the kernel costs more than that saves
            return self(doubled(x))
        transposed = F.conv_transpose2d if len(self.kernel_size) == 2 else F.conv_transpose3d
        return transposed(x, summed_kernel(self.weight * self.scale), self.bias, stride=2, padding=1)


class MinibatchDeviation(nn.Module):
    """One channel more: how much the images of a group differ, the same number everywhere in the group's images.

    The deviation of every feature at every place over a group, averaged to one number (Karras et al. 2018, section 3);
    float32 whatever the input's precision. Groups have 4 images, as the paper's networks do, or 3 or 2 where that
    divides the batch and 4 does not; any other batch is one group.

    With `batches`, so many equal batches lie one behind the other, and a group's images are of one of them.
    """

    mixes_batch = True
    GROUP = 4
    EPSILON = 1e-8

    def forward(self, x: Tensor, batches: int = 1) -> Tensor:
        count = len(x) // batches
        group = next((size for size in range(min(self.GROUP, count), 1, -1) if count % size == 0), count)
        y = x.float().reshape(batches, group, count // group, -1)  # the images k, k + count / group, ... are a group
        deviation = (y.var(1, correction=0) + self.EPSILON).sqrt().mean(2)
        ones = [1] * (x.ndim - 1)
        statistic = deviation.to(x.dtype).repeat(1, group).view(-1, *ones).expand(-1, 1, *x.shape[2:])
        return torch.cat([x, statistic], 1)


def pixel_norm(x: Tensor) -> Tensor:
    """Each position's feature vector brought to a mean square of 1 (Karras et al. 2018, section 4.2); (N, C, ...).

    The mean square is float32 whatever the input's precision.
    """
    return x * (x.float().square().mean(1, keepdim=True) + 1e-8).rsqrt().to(x.dtype)


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU of slope 0.2."""
    return F.leaky_relu(x, 0.2)


def doubled(x: Tensor) -> Tensor:
    """Every pixel repeated: sides twice as long."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 (x 2) pixels: sides half as long."""
    # autocast on the CPU answers in float32 in 3-D
    return F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, 2).to(x.dtype)
