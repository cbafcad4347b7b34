"""U-Net generators: an encoder, a mirrored decoder, and skips that carry detail across, plain or gated by attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.blocks import (
    Network,
    NormKind,
    OutputKind,
    SelfAttention,
    UpKind,
    check_levels,
    conv,
    in_layout_of,
    init_weights,
    memory_format,
    output_activation,
    require_size,
    upsample,
)
from gantk.nets.blocks import norm as make_norm


class UNet(Network):
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
        normed_bias = norm == "none" if bias is None else bias  # an offset just ahead of a norm is subtracted again
        plain_bias = True if bias is None else bias

        def normed(channels: int) -> nn.Module:
            return make_norm(norm, channels, dims, affine=affine)

        layers: list[nn.Module] = []
        for i in range(stem):
            layers.append(conv(dims, width if i else in_channels, width, 3, bias=normed_bias if i else plain_bias))
            layers += ([normed(width)] if i else []) + [nn.LeakyReLU(0.2, inplace=True)]
        self.stem = nn.Sequential(*layers)

        inputs = [width if stem else in_channels, *filters]
        self.encoder = nn.ModuleList()
        for level in range(depth):
            inner = level not in (0, depth - 1)
            own_bias = normed_bias if inner else plain_bias
            down = [conv(dims, inputs[level], filters[level], 4, stride=2, padding=1, bias=own_bias)]
            down += ([normed(filters[level])] if inner else []) + [nn.LeakyReLU(0.2, inplace=True)]
            self.encoder.append(nn.Sequential(*down))
        for level in sorted(set(attention)):  # at the end of what makes a level's map: it goes down and across
            (self.encoder[level - 1] if level else self.stem).append(SelfAttention(dims, inputs[level]))

        self.decoder = nn.ModuleList()
        for step, level in enumerate(reversed(range(depth))):
            wide = filters[level] * (1 if step == 0 else 2)
            if level or head:
                narrow = filters[level - 1] if level else width
                up_layers = [upsample(up, dims, wide, narrow, bias=normed_bias), normed(narrow)]
                drop = [nn.Dropout(dropout)] if dropout and step < 3 else []
                self.decoder.append(nn.Sequential(*up_layers, *drop))
            else:
                self.decoder.append(upsample(up, dims, wide, out_channels))

        layers, wide = [], width * (2 if stem else 1)
        for _ in range(head - 1):
            layers += [conv(dims, wide, width, 3, bias=normed_bias), normed(width), nn.ReLU(inplace=True)]
            wide = width
        self.head = nn.Sequential(*layers, *([conv(dims, wide, out_channels, 3)] if head else []))
        self.activation_out = output_activation(activation_out)
        init_weights(self)

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
        form = memory_format(out)
        gradient = torch.ops.aten.threshold_backward(gradient.contiguous(memory_format=form), out, 0)
        first, second = gradient[:, : ctx.channels], gradient[:, ctx.channels :]
        return first.contiguous(memory_format=form), second.contiguous(memory_format=form)


class AttentionUNet(Network):
    """U-Net generator whose skips pass attention gates (Oktay et al., 2018, section 2.2 and figure 1).

    (N, in_channels, *size) to (N, out_channels, *size); every side a multiple of 2**depth, at least twice that.
    `depth` encoder units of two 3x3 convolutions, each followed by 2x2 max pooling, one more unit at the bottom, and
    as many decoder units, each of which sees the enlarged map below it and the gated skip. As published, the skip at
    full resolution has no gate: its features are too simple to be chosen among. Filters double from `width` at every
    level up to width x max_multiplier.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dims: int,
        *,
        width: int = 64,  # filters at full resolution
        depth: int = 4,  # encoder units, each of which halves the size; sides must be multiples of 2**depth
        max_multiplier: int = 16,  # filters never exceed width x this
        norm: NormKind = "instance",  # "batch" mixes the images of a batch
        affine: bool = False,  # learned scale and offset in instance norm
        up: UpKind = "resize",  # nearest + 3x3, linear + 3x3, or a transposed 4x4
        dropout: float = 0.0,  # in the first three decoder units, as pix2pix has it
        attention: tuple[int, ...] = (),  # numbers of halvings after which a self-attention block stands
        activation_out: OutputKind = "tanh",  # tanh for [-1, 1], sigmoid for [0, 1]
    ):
        super().__init__()
        for name, value, least in (("width", width, 1), ("depth", depth, 2)):
            if value < least:
                what = f"{name} = {value} is too small for an attention U-Net"
                raise UserError(what, where=name, allowed=f"{least} or more")
        check_levels(attention, 0, depth)
        self.dims, self.depth = dims, depth
        filters = [min(width * 2**level, width * max_multiplier) for level in range(depth + 1)]
        bias = norm == "none"  # an offset just ahead of a norm is subtracted again

        def unit(inputs: int, outputs: int, drop: float = 0.0) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (inputs, outputs):
                layers += [conv(dims, channels, outputs, 3, bias=bias), make_norm(norm, outputs, dims, affine=affine)]
                layers += [nn.ReLU(inplace=True)]
            return nn.Sequential(*layers, *([nn.Dropout(drop)] if drop else []))

        def enlarge(inputs: int, outputs: int) -> nn.Sequential:
            layers = upsample(up, dims, inputs, outputs, bias=bias), make_norm(norm, outputs, dims, affine=affine)
            return nn.Sequential(*layers)

        self.encoder = nn.ModuleList(map(unit, [in_channels, *filters[:-1]], filters))
        for level in sorted(set(attention)):
            self.encoder[level].append(SelfAttention(dims, filters[level]))
        upwards = list(reversed(range(depth)))
        self.enlarge = nn.ModuleList(enlarge(filters[level + 1], filters[level]) for level in upwards)
        self.gates = nn.ModuleList(AttentionGate(dims, filters[lv], filters[lv + 1]) for lv in upwards[:-1])
        self.decoder = nn.ModuleList(
            unit(2 * filters[level], filters[level], dropout if step < 3 else 0.0) for step, level in enumerate(upwards)
        )
        self.last = conv(dims, width, out_channels, 1)
        self.activation_out = output_activation(activation_out)
        init_weights(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError unless every side halves `depth` times without a rest and leaves two pixels or more."""
        multiple = 2**self.depth
        who = f"an attention U-Net of depth {self.depth}"
        require_size(size, multiple, 2 * multiple, who, "lower the generator's depth")

    def features(self, x: Tensor) -> list[Tensor]:
        """The encoder's maps, shallow to deep: one at full resolution and one for every halving."""
        x, maps = in_layout_of(self, x), []
        for level, unit in enumerate(self.encoder):
            x = unit(F.max_pool2d(x, 2) if self.dims == 2 else F.max_pool3d(x, 2)) if level else unit(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        skips = self.features(x)
        x = skips.pop()
        for step, (enlarge, unit) in enumerate(zip(self.enlarge, self.decoder, strict=True)):
            skip = skips.pop()
            if step < len(self.gates):
                skip = self.gates[step](skip, x)
            x = unit(Join.apply(enlarge(x), skip))
        # On one CPU thread torch answers a 1x1x1 convolution of channels-last volumes in channels-first.
        return self.activation_out(self.last(x).contiguous(memory_format=memory_format(x)))


class AttentionGate(nn.Module):
    """Weighs each place of a skip by how well it fits what the decoder sees there (Oktay et al., 2018, equation 1).

    The skip (N, channels, *size) and the gating map g (N, gating, *half of size) to the skip times alpha, where
    alpha = sigmoid(psi(ReLU(W_x skip + W_g g))), one value a place from 0 to 1. Both are taken to half as many filters
    as the skip has, on the grid of g: W_x is 2x2 with stride 2. Alpha comes back to the skip's grid by linear
    interpolation.
    """

    def __init__(self, dims: int, channels: int, gating: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.w_x = conv(dims, channels, inner, 2, stride=2, padding=0, bias=False)  # W_g's offset serves both
        self.w_g = conv(dims, gating, inner, 1)
        self.psi = conv(dims, inner, 1, 1)
        self.enlarge = "bilinear" if dims == 2 else "trilinear"

    def forward(self, skip: Tensor, g: Tensor) -> Tensor:
        alpha = torch.sigmoid(self.psi(F.relu(self.w_x(skip) + self.w_g(g))))
        return skip * F.interpolate(alpha, scale_factor=2, mode=self.enlarge)
