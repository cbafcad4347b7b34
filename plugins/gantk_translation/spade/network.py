"""SPADE's networks: the normalisation modulated by a label map, generator, style encoder and
discriminators.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets import blocks as b
from gantk.plugin.spec import Part
from gantk_translation.munit.discriminator import MultiScale

MAX_WIDTH_FACTOR = 16  # a layer has at most this many times `width` filters


class SPADE(nn.Module):
    """Spatially-adaptive normalisation: gamma(m) * (h - mean) / deviation + beta(m) (Park et al.
    2019, equation 1).

    Mean and deviation of each channel are over each image; gamma and beta are convolutions of the
    planes m, (N, planes, *size), resized to the size of h.
    """

    def __init__(self, dims: int, channels: int, planes: int, hidden: int):
        super().__init__()
        self.norm = b.InstanceNorm(channels)
        self.seen = b.conv(dims, planes, hidden, 3, mode="replicate")
        self.modulation = b.conv(dims, hidden, 2 * channels, 3, mode="replicate")
        nn.init.zeros_(self.modulation.bias)
        nn.init.ones_(self.modulation.bias[:channels])  # gamma starts near 1, beta near 0

    def forward(self, h: Tensor, m: Tensor) -> Tensor:
        m = m if m.shape[2:] == h.shape[2:] else F.interpolate(m, h.shape[2:])  # nearest neighbour
        gamma, beta = self.modulation(F.relu(self.seen(m))).chunk(2, dim=1)
        return gamma * self.norm(h) + beta


class Block(nn.Module):
    """A residual block with SPADE before each convolution, also in the skip path if channels change
    (figure 4).
    """

    def __init__(self, dims: int, inputs: int, outputs: int, *about):
        super().__init__()
        middle = min(inputs, outputs)
        shapes = [(inputs, middle), (middle, outputs)] + [(inputs, outputs)] * (inputs != outputs)
        self.norms = nn.ModuleList(SPADE(dims, channels, *about) for channels, _ in shapes)
        kernels = zip(shapes, (3, 3, 1), strict=False)
        self.convs = nn.ModuleList(
            b.conv(dims, *shape, kernel, spectral=True) for shape, kernel in kernels
        )

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        y = self.convs[0](F.leaky_relu(self.norms[0](x, m), 0.2))
        y = self.convs[1](F.leaky_relu(self.norms[1](y, m), 0.2))
        return y + (x if len(self.norms) == 2 else self.convs[2](self.norms[2](x, m)))


class Generator(b.Network):
    """Planes m (N, planes, *size) to images (N, outputs, *size) in [-1, 1]; it starts from m
    downsampled (figure 4).

    `ups` upsamplings by 2, each after a block; the filters fall from `width` * 2**ups, at most 16 x
    width, to `width`.
    """

    def __init__(self, dims: int, planes: int, outputs: int, *, width: int, ups: int, hidden: int):
        super().__init__()
        self.ups = ups
        filters = [width * min(2**level, MAX_WIDTH_FACTOR) for level in reversed(range(ups + 1))]
        self.first = b.conv(dims, planes, filters[0], 3)
        self.last = b.conv(dims, width, outputs, 3)
        pairs = zip([filters[0], *filters], filters, strict=False)
        self.blocks = nn.ModuleList(Block(dims, *each, planes, hidden) for each in pairs)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise UserError where an image cannot be halved `ups` times."""
        b.require_size(
            size, 2**self.ups, 2 ** (self.ups + 1), f"{self.ups} doublings", "lower method.ups"
        )

    def forward(self, m: Tensor) -> Tensor:
        m = b.in_layout_of(self, m)
        x = self.first(F.interpolate(m, [side // 2**self.ups for side in m.shape[2:]]))
        for level, block in enumerate(self.blocks):
            x = block(F.interpolate(x, scale_factor=2.0) if level else x, m)
        return self.last(F.leaky_relu(x, 0.2)).tanh()


class Encoder(b.Network):
    """Images (N, C, *size) to mean and log variance of their style, (N, 2, numbers); a norm would
    remove the style.
    """

    def __init__(self, dims: int, channels: int, width: int, numbers: int):
        super().__init__()
        widths = zip((channels, width, 2 * width), (width, 2 * width, 4 * width), strict=True)
        layers = [(b.conv(dims, *each, 3, stride=2), nn.LeakyReLU(0.2)) for each in widths]
        self.layers = nn.Sequential(*sum(layers, ()))
        self.codes = nn.Linear(4 * width, 2 * numbers)

    def forward(self, x: Tensor) -> Tensor:
        return self.codes(self.layers(b.in_layout_of(self, x)).flatten(2).mean(2)).unflatten(
            1, (2, -1)
        )


class Scales(MultiScale):
    """Discriminators of the image and of its halved versions, with their features (Wang et al.
    2018).

    `forward` returns for each scale the feature maps after the discriminator's activations, and the
    logits last.
    """

    def __init__(self, discriminator: Part, channels: int, dims: int, scales: int):
        super().__init__(discriminator, channels, dims, scales)
        if not isinstance(getattr(self.judges[0], "layers", None), nn.Sequential):
            raise UserError(
                f"spade compares features of the discriminator's layers, but '{discriminator.name}'"
                " has no list `layers`",
                where="method.discriminator",
                allowed=["patchgan", "munit"],
            )

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """The image and its halved versions, one for each scale."""
        images = [image]
        for _ in self.judges[1:]:
            images.append(F.interpolate(images[-1], scale_factor=0.5, mode="area"))
        return images

    def forward(self, image: Tensor) -> list[list[Tensor]]:
        features = []
        for judge, small in zip(self.judges, self.pyramid(image), strict=True):
            x = b.in_layout_of(judge, small)
            maps = [(x := layer(x), layer) for layer in judge.layers]
            features.append([*(each for each, layer in maps if isinstance(layer, nn.LeakyReLU)), x])
        return features
