"""The ResNet generator: downsampling, residual blocks at low resolution, upsampling."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from gantk.nets import blocks as b
from gantk.nets.blocks import DownKind, NormKind, OutputKind, Padding, UpKind
from gantk.plugin.spec import Few, Fraction, Halvings, Width


class ResNet(b.Network):
    """ResNet generator of CycleGAN (Johnson et al., 2016; Zhu et al., 2017, appendix 7.2).

    Maps (N, in_channels, *size) to (N, out_channels, *size). Every side must be a multiple of
    2**downs. The network has a 7x7 convolution, `downs` 3x3 convolutions of stride 2, `blocks`
    residual blocks of two 3x3 convolutions, `downs` upsamplings by 2, and a last 7x7 convolution.

    CycleGAN has 6 blocks at 128 px and 9 at 256 px. It upsamples with a transposed 3x3 convolution,
    which has as many weights as up="resize". up="transpose" is a 4x4 convolution, which covers
    every pixel equally often. It can hold the weights of a 3x3 one, with zeros in the last row and
    column.

    The implementation of CUT (Park et al., 2020) has down="blur", up="linear".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dims: int,
        *,
        width: Width = 64,  # filters at full resolution
        blocks: Few = 9,  # residual blocks at the lowest resolution
        downs: Halvings = 2,  # halvings of the size; sides must be multiples of 2**downs
        norm: NormKind = "instance",  # normalisation; "batch" mixes the images of a batch
        affine: bool = False,  # learned scale and offset in instance norm
        # halving: a 3x3 of stride 2, or one of stride 1 and a blur, against aliasing (Zhang, 2019)
        down: DownKind = "stride",
        up: UpKind = "resize",  # upsampling: nearest + 3x3, linear + 3x3, or a transposed 4x4
        padding: Padding = "reflect",  # "zeros" causes a visible frame in the output
        dropout: Fraction = 0.0,  # inside the residual blocks
        # learned offsets before the output layer; none = only where no norm removes them
        bias: bool | None = None,
        activation_out: OutputKind = "tanh",  # tanh for [-1, 1], sigmoid for [0, 1]
    ):
        super().__init__()
        self.downs = downs
        bias = norm == "none" if bias is None else bias  # a norm would subtract the offset again
        filters = [width * 2**level for level in range(downs + 1)]

        def with_norm(layer: nn.Module, channels: int) -> list[nn.Module]:
            return [layer, b.norm(norm, channels, dims, affine=affine), nn.ReLU(inplace=True)]

        def block() -> nn.Module:
            c = filters[-1]
            first, second = (b.conv(dims, c, c, 3, mode=padding, bias=bias) for _ in range(2))
            drop = [nn.Dropout(dropout)] if dropout else []
            return Residual(
                *with_norm(first, c), *drop, second, b.norm(norm, c, dims, affine=affine)
            )

        layers = with_norm(b.conv(dims, in_channels, width, 7, mode=padding, bias=bias), width)
        ends = []  # index of the layer after each of the encoder's maps
        for level, outputs in enumerate(filters):
            if level:
                stride = 2 if down == "stride" else 1
                halving = b.conv(dims, filters[level - 1], outputs, 3, stride=stride, bias=bias)
                layers += with_norm(halving, outputs)
                layers += [b.Blur(dims)] if down == "blur" else []
            ends.append(len(layers))

        self.ends = (
            *ends,
            *(len(layers) + place for place in sorted({1, blocks // 2 + 1}) if place <= blocks),
        )
        layers += [block() for _ in range(blocks)]
        for inputs, outputs in pairwise(filters[::-1]):
            layers += with_norm(b.upsample(up, dims, inputs, outputs, bias=bias), outputs)

        layers += [
            b.conv(dims, width, out_channels, 7, mode=padding),
            b.output_activation(activation_out),
        ]
        self.layers = nn.Sequential(*layers)
        b.init_weights(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError unless every side is a multiple of 2**downs and at least twice that."""
        multiple = 2**self.downs
        b.require_size(
            size,
            multiple,
            2 * multiple,
            f"a ResNet with {self.downs} downs",
            "lower the generator's downs",
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """The encoder's maps, shallow to deep: one at each size, one after the first and one after
        the middle block.
        """
        maps = []
        start = 0
        x = b.in_layout_of(self, x)
        for end in self.ends:
            x = self.layers[start:end](x)
            maps.append(x)
            start = end

        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(b.in_layout_of(self, x))


class Residual(nn.Sequential):
    """Layers whose result is added to their input, without an activation after the sum (Gross &
    Wilber, 2016).
    """

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)
