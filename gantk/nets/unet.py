"""The U-Net generator: an encoder, a mirrored decoder, and skip connections between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets import blocks as b
from gantk.nets.blocks import NormKind, OutputKind, UpKind
from gantk.plugin.spec import Depth, Few, Fraction, Width


class UNet(b.Network):
    """U-Net generator with 4x4 convolutions of stride 2 (Ronneberger et al., 2015; Isola et al.,
    2017, section 6.1.1).

    Maps (N, in_channels, *size) to (N, out_channels, *size). Every side must be a multiple of
    2**depth. The network has stem + 2 x depth + head convolutions (`layers`). Filters double from
    `width` at every level up to width x max_multiplier. The innermost convolution is not
    normalised, because its map may be a single pixel. The output is not normalised. The first
    convolution is normalised only with `norm_first`. Without any norm, initial weights are larger
    (see `init_weights_without_norm`).

    Published shapes:

    * pix2pix at 256 px: depth=8, norm="batch", up="transpose", dropout=0.5. Its widely used
      implementation also has bias=False.
    * 15 layers from 128 filters at 256 px: width=128, depth=8, up="transpose", norm_first=True,
      relu_skips=False. These are 8 blocks down, 7 blocks up, and a transposed convolution that
      gives the image.
    * Seven convolutions down and six up, from 64 px to a single pixel: the same with depth=6,
      stem=1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dims: int,
        *,
        width: Width = 64,  # filters of the first level
        depth: Depth = 5,  # halvings of the size; sides must be multiples of 2**depth
        max_multiplier: Width = 8,  # the number of filters is at most width x this
        # normalisation; "batch" mixes the images of a batch; "none" takes no statistics of the whole
        # image, so a wider black margin does not change the rest
        norm: NormKind = "instance",
        affine: bool = False,  # learned scale and offset in instance norm
        up: UpKind = "resize",  # upsampling: nearest + 3x3, linear + 3x3, or a transposed 4x4
        dropout: Fraction = 0.0,  # in the first three decoder steps, as in pix2pix
        # number of 3x3 convolutions at full resolution before the first halving (slow)
        stem: Few = 0,
        # number of 3x3 convolutions at full resolution after the last doubling (slow)
        head: Few = 0,
        # numbers of halvings after which a self-attention block is added, such as [2]
        attention: tuple[int, ...] = (),
        # normalise the first convolution too (and the first halving after a stem)
        norm_first: bool = False,
        # apply a ReLU to skips and the innermost map too, as in pix2pix; False = only LeakyReLU
        relu_skips: bool = True,
        # learned offsets before the output layer; none = only where no norm removes them
        bias: bool | None = None,
        activation_out: OutputKind = "tanh",  # tanh for [-1, 1], sigmoid for [0, 1]
    ):
        super().__init__()
        b.check_levels(attention, 0 if stem else 1, depth, "" if stem else "; 0 needs a stem")
        self.depth = depth
        self.layers = stem + 2 * depth + head
        self.relu_skips = relu_skips
        filters = [min(width * 2**level, width * max_multiplier) for level in range(depth)]
        units = Units(dims, norm, affine, bias)
        self.stem = units.stem(stem, in_channels, width, norm_first)
        inputs_of_level = [width if stem else in_channels, *filters]
        halvings = units.halvings(inputs_of_level, norm_first)
        # at the end of a level, so that decoder and skip get its result
        for level in sorted(set(attention)):
            place = halvings[level - 1] if level else self.stem
            place.append(b.SelfAttention(dims, inputs_of_level[level]))

        self.encoder = nn.ModuleList(halvings)

        self.decoder = nn.ModuleList()
        for level in reversed(range(depth)):
            innermost = level == depth - 1
            inputs = filters[level] if innermost else 2 * filters[level]  # with the skip
            if level == 0 and not head:
                self.decoder.append(b.upsample(up, dims, inputs, out_channels))
                continue
            outputs = filters[level - 1] if level else width
            drop = dropout if level >= depth - 3 else 0.0
            self.decoder.append(units.up(up, inputs, outputs, drop))

        self.head = units.head(head, 2 * width if stem else width, width, out_channels)
        self.activation_out = b.output_activation(activation_out)
        if norm == "none":
            b.init_weights_without_norm(self)
        else:
            b.init_weights(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError unless every side is a multiple of 2**depth."""
        multiple = 2**self.depth
        b.require_size(
            size,
            multiple,
            multiple,
            f"a U-Net of depth {self.depth}",
            "lower the generator's depth",
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """The encoder's maps, shallow to deep: the stem's, if there is one, and one for every
        halving.
        """
        x = self.stem(b.in_layout_of(self, x))
        maps = [x] if len(self.stem) else []
        for level in self.encoder:
            x = level(x)
            maps.append(x)

        return maps

    def forward(self, x: Tensor) -> Tensor:
        skips = self.features(x)
        x = F.relu(skips.pop()) if self.relu_skips else skips.pop()
        for step in self.decoder[:-1]:
            x = b.Join.apply(step(x), skips.pop(), self.relu_skips)

        x = self.decoder[-1](x)
        if len(self.head):
            x = b.Join.apply(x, skips.pop(), self.relu_skips) if len(self.stem) else F.relu_(x)
            x = self.head(x)
        return self.activation_out(x)


class Units:
    """Builds a U-Net's convolutions with the norm and the offsets that its options ask for."""

    def __init__(self, dims: int, norm: NormKind, affine: bool, bias: bool | None):
        self.dims = dims
        self.norm = norm
        self.affine = affine
        # a norm would subtract the offset again
        self.bias_before_norm = norm == "none" if bias is None else bias
        self.bias = True if bias is None else bias

    def norm_layer(self, channels: int) -> nn.Module:
        return b.norm(self.norm, channels, self.dims, affine=self.affine)

    def down(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        normed: bool,
        stride: int = 1,
        padding: int | None = None,
    ) -> list[nn.Module]:
        """A convolution, its norm if `norm_layer`, and LeakyReLU."""
        bias = self.bias_before_norm if normed else self.bias
        layers = [
            b.conv(self.dims, inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)
        ]
        if normed:
            layers.append(self.norm_layer(outputs))

        return [*layers, nn.LeakyReLU(0.2, inplace=True)]

    def up(self, kind: UpKind, inputs: int, outputs: int, dropout: float) -> nn.Sequential:
        """A doubling of the size, its norm, and dropout if there is any."""
        enlarge = b.upsample(kind, self.dims, inputs, outputs, bias=self.bias_before_norm)
        layers = [enlarge, self.norm_layer(outputs)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        return nn.Sequential(*layers)

    def plain(self, inputs: int, outputs: int) -> list[nn.Module]:
        """A 3x3 convolution and its norm."""
        layer = b.conv(self.dims, inputs, outputs, 3, bias=self.bias_before_norm)
        return [layer, self.norm_layer(outputs)]

    def stem(self, count: int, inputs: int, width: int, norm_first: bool) -> nn.Sequential:
        """3x3 convolutions at full resolution, before the first halving."""
        layers = []
        for number in range(count):
            normed = norm_first or number > 0
            layers += self.down(width if number else inputs, width, 3, normed=normed)
        return nn.Sequential(*layers)

    def halvings(self, channels: Sequence[int], norm_first: bool) -> list[nn.Sequential]:
        """The encoder: 4x4 convolutions of stride 2 from each number of channels to the next. The
        innermost has no norm: its map may be one pixel.
        """
        depth = len(channels) - 1
        halvings = []
        for level in range(depth):
            normed = level != depth - 1 and (norm_first or level > 0)
            layers = self.down(
                channels[level], channels[level + 1], 4, normed=normed, stride=2, padding=1
            )
            halvings.append(nn.Sequential(*layers))

        return halvings

    def head(self, count: int, inputs: int, width: int, outputs: int) -> nn.Sequential:
        """3x3 convolutions at full resolution, after the last doubling."""
        layers = []
        for _ in range(count - 1):
            layers += [*self.plain(inputs, width), nn.ReLU(inplace=True)]
            inputs = width
        if count:
            layers.append(b.conv(self.dims, inputs, outputs, 3))
        return nn.Sequential(*layers)
