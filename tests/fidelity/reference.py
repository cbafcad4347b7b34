"""The published networks in plain torch, written from the reports: what ours compute with the same
weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Weights:
    """A network's weights in the order in which a pass uses them, each of a stated shape."""

    def __init__(self, network: nn.Module, *given):
        self.left = []

        def keep(module, *_):
            self.left += module.parameters(recurse=False)

        hooks = [module.register_forward_hook(keep) for module in network.modules()]
        network(*given)
        for hook in hooks:
            hook.remove()
        assert len({id(weight) for weight in self.left}) == len(self.left)  # no two layers share

    def take(self, *shape: int) -> Tensor:
        weight = self.left.pop(0)
        assert tuple(weight.shape) == shape
        return weight

    def conv(self, x, filters, kernel, stride=1, padding=0, bias=True):
        weight = self.take(filters, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, self.take(filters) if bias else None, stride, padding)

    def transposed(self, x, filters, bias=True):
        """A 4x4 transposed convolution of stride 2."""
        weight = self.take(x.shape[1], filters, 4, 4)
        return F.conv_transpose2d(x, weight, self.take(filters) if bias else None, 2, 1)

    def batch_norm(self, x):
        channels = x.shape[1]
        shape = (1, channels, 1, 1)
        scale = self.take(channels).view(shape)
        return normalised(x, (0, 2, 3)) * scale + self.take(channels).view(shape)


def normalised(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()


def instance_norm(x: Tensor) -> Tensor:
    return normalised(x, (2, 3))


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def unet(w: Weights, x: Tensor, width: int, depth: int, *, stem=False, relu_skips=False, end):
    """R0, R1, R2: stride-2 convolutions with instance norm and LeakyReLU down to a single pixel, which
    has no norm; transposed ones with instance norm and ReLU up, skips concatenated; one more gives
    the image.
    """
    filters = [width * min(2**level, 8) for level in range(depth)]
    if stem:
        x = leaky(instance_norm(w.conv(x, width, 3, padding=1, bias=False)))
    skips = []
    for number in filters[:-1]:
        x = leaky(instance_norm(w.conv(x, number, 4, 2, 1, bias=False)))
        skips.append(x)
    x = leaky(w.conv(x, filters[-1], 4, 2, 1))
    if relu_skips:
        x = relu(x)
    for number, skip in zip(filters[-2::-1], skips[::-1], strict=True):
        x = relu(instance_norm(w.transposed(x, number, bias=False)))
        x = torch.cat([x, relu(skip) if relu_skips else skip], 1)
    return end(w.transposed(x, 1))


def resnet(w: Weights, x: Tensor, width: int, blocks: int):
    """R3: 2 convolutions of stride 2, residual blocks, 2 enlargements; instance norm and ReLU."""

    def unit(x, filters, kernel, stride=1, padding=0):
        return instance_norm(w.conv(x, filters, kernel, stride, padding, bias=False))

    def framed(x, by):
        return F.pad(x, (by, by, by, by), mode="reflect")

    x = relu(unit(framed(x, 3), width, 7))
    x = relu(unit(x, 2 * width, 3, 2, 1))
    x = relu(unit(x, 4 * width, 3, 2, 1))
    for _ in range(blocks):
        inner = relu(unit(framed(x, 1), 4 * width, 3))
        x = x + unit(framed(inner, 1), 4 * width, 3)
    for filters in (2 * width, width):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = relu(unit(x, filters, 3, padding=1))
    return w.conv(framed(x, 3), 1, 7).tanh()


def patchgan(w: Weights, x: Tensor, width: int, hidden: int = 4, norm_first: bool = False):
    """R0, R1, R3, R4: `hidden` convolutions with LeakyReLU and, but for the first, instance norm;
    filters double; one more gives a logit for each patch. The first three are of stride 2. In R1
    five are hidden, and the first has its norm too.
    """
    for level in range(hidden):
        stride = 2 if level < 3 else 1
        filters = width * min(2**level, 8)
        if level or norm_first:
            x = leaky(instance_norm(w.conv(x, filters, 4, stride, 1, bias=False)))
        else:
            x = leaky(w.conv(x, filters, 4, stride, 1))
    return w.conv(x, 1, 4, 1, 1)


def attention_unet(w: Weights, x: Tensor, width: int):
    """R4's Pix2Pix: 4 encoding units and a bottleneck of convolution, LeakyReLU and batch norm; 4
    transposed convolutions; a gate on every skip (Oktay et al. 2018, equation 1).
    """
    filters = [width * 2**level for level in range(5)]
    maps = [w.batch_norm(leaky(w.conv(x, width, 3, padding=1)))]
    for number in filters[1:]:
        maps.append(w.batch_norm(leaky(w.conv(maps[-1], number, 4, 2, 1))))
    x = maps.pop()
    for number in filters[-2::-1]:
        skip = maps.pop()
        inner = number // 2
        seen = w.conv(skip, inner, 2, 2, bias=False) + w.conv(x, inner, 1)
        share = w.conv(relu(seen), 1, 1).sigmoid()
        gated = skip * F.interpolate(share, scale_factor=2, mode="bilinear", align_corners=False)
        up = w.batch_norm(leaky(w.transposed(x, number)))
        x = relu(torch.cat([up, gated], 1))  # where the report lists nothing
    return w.conv(x, 1, 3, padding=1).tanh()


def dcgan_generator(w: Weights, z: Tensor, width: int, doublings: int, first_side: int):
    """R4: a dense layer, then transposed convolutions of stride 2; batch norm and LeakyReLU in all
    but the last, which ends in tanh.
    """
    filters = [width * min(2**level, 8) for level in reversed(range(doublings))]
    dense = w.take(filters[0] * first_side**2, z.shape[1])
    x = (z @ dense.T).view(len(z), filters[0], first_side, first_side)
    x = leaky(w.batch_norm(x))
    for number in filters[1:]:
        x = leaky(w.batch_norm(w.transposed(x, number, bias=False)))
    return w.transposed(x, 1, bias=False).tanh()


def dcgan_discriminator(w: Weights, x: Tensor, width: int):
    """R4: the first of 4 layers of stride 1 without batch norm, two of stride 2 with; one logit of the
    map averaged to 4 pixels a side.
    """
    x = leaky(w.conv(x, width, 3, 1, 1))
    for filters in (2 * width, 4 * width):
        x = leaky(w.batch_norm(w.conv(x, filters, 4, 2, 1, bias=False)))
    side = x.shape[-1] // 4
    x = x.unflatten(3, (4, side)).unflatten(2, (4, side)).mean((3, 5))
    return w.conv(x, 1, 4).flatten(1)
