"""The U-Net generator: an encoder, a mirrored decoder, and skip connections that carry detail across."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.attention import SelfAttention, check_levels
from gantk.nets.blocks import (
    NormKind,
    OutputKind,
    UpKind,
    batch_independent,
    conv,
    in_layout_of,
    init_weights,
    memory_format,
    norm,
    output_activation,
    require_size,
    upsample,
)


class UNet(nn.Module):
    """U-Net generator with 4x4 convolutions of stride 2 (Ronneberger et al., 2015; Isola et al., 2017, section 6.1.1).

    (N, in_channels, *size) to (N, out_channels, *size); every side a multiple of 2**depth. It has
    stem + 2 x depth + head convolutions (`layers`). Filters double from `width` at every level up to
    width x max_multiplier. The first convolution and the innermost one are not normalised, since the innermost map may
    be a single pixel, and neither is the output.

    Published shapes: pix2pix at 256 px is depth=8, norm="batch", up="transpose", dropout=0.5 (and bias=False to the
    last weight of its widely used implementation); 15 layers from 128 filters at 128 px is width=128, depth=7, stem=1;
    seven convolutions down and six up from 64 px to a single pixel is depth=6, stem=1.

    `stem` and `head` work at full resolution, where a convolution is dear: at width 32 and depth 5 a training step of
    stem=1, head=1 costs about one and a half times that of neither.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dims: int,
        *,
        width: int = 64,  # filters of the first level
        depth: int = 5,  # halvings of the size; sides must be multiples of 2**depth
        max_multiplier: int = 8,  # filters never exceed width x this
        norm: NormKind = "instance",  # "batch" mixes the images of a batch
        affine: bool = False,  # learned scale and offset in instance norm
        up: UpKind = "resize",  # nearest + 3x3, linear + 3x3, or a transposed 4x4
        dropout: float = 0.0,  # in the first three decoder steps, as pix2pix has it
        stem: int = 0,  # 3x3 convolutions at full resolution ahead of the first halving
        head: int = 0,  # 3x3 convolutions at full resolution behind the last doubling; with a stem, they see its skip
        attention: tuple[int, ...] = (),  # numbers of halvings after which a self-attention block stands
        bias: bool | None = None,  # learned offsets ahead of the output; None: only where no norm takes them away again
        activation_out: OutputKind = "tanh",  # tanh for [-1, 1], sigmoid for [0, 1]
    ):
        super().__init__()
        for name, value, least in (("width", width, 1), ("depth", depth, 1), ("stem", stem, 0), ("head", head, 0)):
            if value < least:
                raise UserError(f"{name} = {value} is too small for a U-Net", where=name, allowed=f"{least} or more")
        check_levels(attention, 0 if stem else 1, depth, "" if stem else "; 0 needs a stem")
        self.depth, self.layers = depth, stem + 2 * depth + head
        filters = [min(width * 2**level, width * max_multiplier) for level in range(depth)]
        layer = Layers(dims, norm, affine, bias)

        self.stem = layer.stem(in_channels, width, stem)
        inputs = [width if stem else in_channels, *filters]
        normed = [level not in (0, depth - 1) for level in range(depth)]
        self.encoder = nn.ModuleList(layer.down(inputs[i], filters[i], normed[i]) for i in range(depth))
        for level in sorted(set(attention)):  # at the end of what makes a level's map: it goes down and across
            (self.encoder[level - 1] if level else self.stem).append(SelfAttention(dims, inputs[level]))

        self.decoder = nn.ModuleList()
        for step, level in enumerate(reversed(range(depth))):
            wide = filters[level] * (1 if step == 0 else 2)
            if level or head:
                drop = dropout if step < 3 else 0.0
                self.decoder.append(layer.up(up, wide, filters[level - 1] if level else width, drop))
            else:
                self.decoder.append(upsample(up, dims, wide, out_channels))
        self.head = layer.head(width * (2 if stem else 1), width, out_channels, head)
        self.activation_out = output_activation(activation_out)
        init_weights(self)

    @property
    def batch_independent(self) -> bool:
        return batch_independent(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError unless every side halves `depth` times without a rest."""
        multiple = 2**self.depth
        require_size(size, multiple, multiple, f"a U-Net of depth {self.depth}", "lower the generator's depth")

    def features(self, x: Tensor) -> list[Tensor]:
        """The encoder's maps, shallow to deep: the stem's, where there is one, and one for every halving."""
        x = self.stem(in_layout_of(self, x))
        maps = [x] if len(self.stem) else []
        for level in self.encoder:
            x = level(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        skips = self.features(x)
        x = F.relu(skips.pop())
        for step in self.decoder[:-1]:
            x = Join.apply(step(x), skips.pop())
        x = self.decoder[-1](x)
        if len(self.head):
            x = self.head(Join.apply(x, skips.pop()) if len(self.stem) else F.relu_(x))
        return self.activation_out(x)


class Join(torch.autograd.Function):
    """ReLU of two maps, side by side: (N, C1, *size) and (N, C2, *size) to (N, C1 + C2, *size).

    Concatenation hands back slices of one gradient, and going on with slices is slow: up to six times in bfloat16 on a
    CPU. Here the ReLU's gradient is taken on the whole, and each part is copied once.
    """

    @staticmethod
    def forward(ctx, x: Tensor, skip: Tensor) -> Tensor:
        out = torch.cat([x, skip], 1).relu_()
        ctx.save_for_backward(out)
        ctx.channels = x.shape[1]
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (out,) = ctx.saved_tensors
        gradient = relu_gradient(gradient, out)
        form = memory_format(out)
        first, second = gradient[:, : ctx.channels], gradient[:, ctx.channels :]
        return first.contiguous(memory_format=form), second.contiguous(memory_format=form)


def relu_gradient(gradient: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient.contiguous(memory_format=memory_format(out)), out, 0)


class Layers:
    """Builds the U-Net's parts; each ends in its norm, so that skips carry what pix2pix's carry."""

    def __init__(self, dims: int, kind: NormKind, affine: bool, bias: bool | None = None):
        self.dims, self.kind, self.affine, self._bias = dims, kind, affine, bias

    def norm(self, channels: int) -> nn.Module:
        return norm(self.kind, channels, self.dims, affine=self.affine)

    def bias(self, normed: bool = True) -> bool:
        """Whether a convolution learns an offset: unless told, not just ahead of a norm, which subtracts it again."""
        return (self.kind == "none" or not normed) if self._bias is None else self._bias

    def down(self, inputs: int, outputs: int, normed: bool) -> nn.Module:
        layers = [conv(self.dims, inputs, outputs, 4, stride=2, padding=1, bias=self.bias(normed))]
        if normed:
            layers.append(self.norm(outputs))
        return nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True))

    def up(self, kind: UpKind, inputs: int, outputs: int, dropout: float) -> nn.Module:
        layers = [upsample(kind, self.dims, inputs, outputs, bias=self.bias()), self.norm(outputs)]
        return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))

    def stem(self, inputs: int, width: int, count: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(count):
            layers.append(conv(self.dims, width if i else inputs, width, 3, bias=self.bias(normed=i > 0)))
            layers += ([self.norm(width)] if i else []) + [nn.LeakyReLU(0.2, inplace=True)]
        return nn.Sequential(*layers)

    def head(self, inputs: int, width: int, outputs: int, count: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(count - 1):
            layers += [conv(self.dims, inputs, width, 3, bias=self.bias()), self.norm(width), nn.ReLU(inplace=True)]
            inputs = width
        return nn.Sequential(*layers, *([conv(self.dims, inputs, outputs, 3)] if count else []))
