"""The networks: shapes, sizes, receptive fields, layouts, precision; as many weights as the published ones.

"Published" is github.com/junyanz/pytorch-CycleGAN-and-pix2pix (its authors' own translation of pix2pix, and CycleGAN)
and github.com/pytorch/examples for DCGAN. Each count is derived layer by layer from the paper's description; the
text says where and why ours differs.
"""

from __future__ import annotations

from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.blocks import InstanceNorm, ResizeConv, SelfAttention, conv, init_weights
from gantk.nets.discriminators import RECEPTIVE_FIELDS, DCGANDiscriminator, PatchGAN
from gantk.nets.resnet import ResNet
from gantk.nets.unet import AttentionGate, AttentionUNet, UNet

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
GENERATORS = {
    "unet": lambda dims, **o: UNet(1, 2, dims, width=4, depth=3, **o),
    "unet with stem and head": lambda dims, **o: UNet(1, 2, dims, width=4, depth=2, stem=2, head=2, **o),
    "unet with head": lambda dims, **o: UNet(1, 2, dims, width=4, depth=2, head=1, **o),
    "resnet": lambda dims, **o: ResNet(1, 2, dims, width=4, blocks=1, **o),
    "attention unet": lambda dims, **o: AttentionUNet(1, 2, dims, width=4, depth=2, **o),
    "unet with self-attention": lambda dims, **o: UNet(1, 2, dims, width=4, depth=2, attention=(1, 2), **o),
    "resnet with self-attention": lambda dims, **o: ResNet(1, 2, dims, width=4, blocks=1, attention=(2,), **o),
}
DISCRIMINATORS = {
    "patchgan": lambda dims, **o: PatchGAN(1, dims, width=4, receptive_field=34, **o),
    "patchgan with coordinates": lambda dims, **o: PatchGAN(1, dims, width=4, layers=3, coordinates=True, **o),
    "dcgan": lambda dims, **o: DCGANDiscriminator(1, dims, width=4, depth=2, **o),
}
ALL = GENERATORS | DISCRIMINATORS


def images(dims: int, n: int = 2, side: int = 16, channels: int = 1) -> torch.Tensor:
    return torch.randn(n, channels, *[side] * dims, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("dims", "up"), [(2, "resize"), (3, "linear"), (3, "transpose")])
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_keep_the_size_and_give_the_channels(name, dims, up):
    y = GENERATORS[name](dims, up=up)(images(dims))
    assert y.shape == (2, 2, *[16] * dims)
    assert y.abs().max() <= 1 and y.std() > 0


@pytest.mark.parametrize(("dims", "kind"), [(2, "instance"), (2, "batch"), (3, "group"), (3, "none")])
@pytest.mark.parametrize("name", ALL)
def test_channels_last_and_bfloat16_flow_through_forward_and_backward(name, dims, kind):
    network = ALL[name](dims, norm=kind).to(memory_format=LAST[dims])
    hidden = []
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            layer.register_forward_hook(lambda _m, _i, y: hidden.append(y.is_contiguous(memory_format=LAST[dims])))
    with torch.autocast("cpu", torch.bfloat16):
        y = network(images(dims))
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=LAST[dims]) or y.ndim == 2
    assert hidden and all(hidden)
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("layers", [3, 5])
def test_patchgan_sees_exactly_its_receptive_field(layers):
    field = RECEPTIVE_FIELDS[layers]
    network = PatchGAN(1, 2, width=2, receptive_field=field, norm="none")
    for p in network.parameters():  # positive weights: no two contributions cancel
        p.data.abs_().add_(0.05)
    x = torch.zeros(1, 1, field + 3 * 2 ** (layers - 2), field + 3 * 2 ** (layers - 2), requires_grad=True)
    logits = network(x)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    seen = x.grad[0, 0] != 0
    assert seen.any(0).sum() == field and seen.any(1).sum() == field
    assert network.convolutions == layers == sum(isinstance(m, nn.Conv2d) for m in network.modules())


@pytest.mark.parametrize(
    ("network", "size", "allowed"),
    [
        (UNet(1, 1, 2, width=2, depth=4), (90, 96), "[80, 96] or [96, 96]"),
        (UNet(1, 1, 3, width=2, depth=3), (8, 4, 8), "[8, 8, 8]"),
        (ResNet(1, 1, 2, width=2, blocks=1), (30, 32), "[28, 32] or [32, 32]"),
        (AttentionUNet(1, 1, 2, width=2, depth=2), (30, 32), "[28, 32] or [32, 32]"),
        (PatchGAN(1, 2, width=2), (20, 64), "[24, 64]"),
        (DCGANDiscriminator(1, 2, width=2), (32, 32), "[64, 64]"),
    ],
    ids=["unet", "unet-3d", "resnet", "attention-unet", "patchgan", "dcgan"],
)
def test_a_size_that_does_not_fit_is_answered_with_the_nearest_that_do(network, size, allowed):
    with pytest.raises(UserError) as error:
        network.check_size(size)
    message = str(error.value)
    assert " x ".join(map(str, size)) in message and allowed in message and "data.size" in message


def test_wrong_options_are_named():
    for make, word in (
        (lambda: UNet(1, 1, 2, depth=0), "depth"),
        (lambda: UNet(1, 1, 4), "data.dims"),
        (lambda: UNet(1, 1, 2, norm="instnce"), "Did you mean 'instance'"),
        (lambda: UNet(1, 1, 2, up="nearest"), "transpose"),
        (lambda: ResNet(1, 1, 2, activation_out="relu"), "sigmoid"),
        (lambda: PatchGAN(1, 2, receptive_field=64), "70"),
        (lambda: PatchGAN(1, 2, layers=2), "3 or more"),
    ):
        with pytest.raises(UserError) as error:
            make()
        assert word in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 8, 48, 48), (2, 4, 20, 20, 20)])
@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_equals_torchs_on_both_of_its_paths(shape, dtype, affine):
    ours = InstanceNorm(shape[1], affine=affine)
    if affine:
        nn.init.uniform_(ours.weight, 0.5, 1.0)
        nn.init.normal_(ours.bias)
    x = (3 * torch.randn(shape) + 10).to(dtype)  # a large mean: statistics in bfloat16 would lose the variance
    x = x.to(memory_format=LAST[x.ndim - 2]).requires_grad_()
    y = ours(x)
    reference = F.instance_norm(x.float(), weight=ours.weight, bias=ours.bias)
    assert y.dtype == dtype and y.is_contiguous(memory_format=LAST[x.ndim - 2])
    # bfloat16 rounds the output to 1 in 256; statistics in bfloat16 would be off by three times as much
    allowed = 5e-5 if dtype == torch.float32 else 0.005 * reference.abs() + 0.002
    assert ((y.float() - reference).abs() <= allowed).all()
    assert torch.equal(y[1:], ours(x[1:]))  # the other image makes no difference, to the last bit
    weight = torch.randn(shape)
    mine = torch.autograd.grad((y.float() * weight).sum(), x)[0].float()
    theirs = torch.autograd.grad((reference * weight).sum(), x)[0].float()
    assert torch.allclose(mine, theirs, atol=1e-4 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("dims", [2, 3])
def test_kernels_larger_than_the_map_have_finite_gradients_in_bfloat16(dims):
    for seed in range(20):
        junk = [torch.full((size,), float("nan")) for size in (64, 256, 1024, 4096, 16384)]
        del junk  # what a kernel reads without having written it is now nan
        layer = conv(dims, 32, 64, 4, padding=1).to(memory_format=LAST[dims])
        x = images(dims, n=1, side=3, channels=32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().square().sum().backward()
        assert layer.weight.grad.isfinite().all() and x.grad.isfinite().all(), seed


@pytest.mark.parametrize(("dims", "side"), [(2, 24), (2, 8), (3, 9), (3, 4)])
def test_resize_convolution_is_repeating_then_convolving(dims, side):
    layer = ResizeConv(dims, 3, 4).double()
    x = images(dims, side=side, channels=3).double().requires_grad_()
    reference = layer.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    assert torch.allclose(layer(x), reference, atol=1e-12)
    mine = torch.autograd.grad(layer(x).square().sum(), (x, *layer.parameters()))
    theirs = torch.autograd.grad(reference.square().sum(), (x, *layer.parameters()))
    assert all(torch.allclose(m, t, atol=1e-9) for m, t in zip(mine, theirs, strict=True))


def test_initial_weights_are_small_and_random():
    network = init_weights(nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(512)))
    assert abs(network[0].weight.std().item() - 0.02) < 0.001 and network[0].bias.abs().max() == 0
    assert abs(network[1].weight.mean().item() - 1) < 0.01 and abs(network[1].weight.std().item() - 0.02) < 0.003
    spectral = PatchGAN(1, 2, width=64, spectral=True, norm="none", layers=3)
    assert abs(spectral.layers[2].parametrizations.weight.original.std().item() - 0.02) < 0.001


DOWN = [64, 128, 256, 512, 512, 512, 512, 512]  # filters of U-Net-256's encoder: C64-C128-C256-C512 and four more C512
UP = [512, 512, 512, 512, 256, 128, 64]  # of its decoder, ahead of the output


def parameters(make) -> int:
    """How many parameters a network has; on the meta device, so that 54 million cost nothing."""
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


def kernels(side: int, *filters: int) -> int:
    """Weights of a chain of side x side convolutions from filters[0] channels to the last."""
    return side**2 * sum(a * b for a, b in zip(filters[:-1], filters[1:], strict=True))


def unet_256(channels: int) -> int:
    """Kernels of U-Net-256 (Isola et al., 2017, section 6.1.1), and the offsets of its output."""
    inputs = [DOWN[-1], *(2 * filters for filters in UP)]  # the innermost map, then each joined with its skip
    upwards = 16 * sum(a * b for a, b in zip(inputs, [*UP, channels], strict=True))
    return kernels(4, channels, *DOWN) + upwards + channels


@pytest.mark.parametrize(("channels", "published"), [(3, "54.414"), (1, "54.408")])
def test_unet_256_has_the_published_54_million_parameters(channels, published):
    """54.414 M for colour is what that implementation prints, 54.408 M for gray (its issue 1152).

    With batch norm it gives no convolution an offset but the last. Ours has 576 more: offsets in the first (64) and
    the innermost (512) convolution, which no norm follows that would subtract them. bias=False leaves them out.
    """
    batch_norms = 2 * sum(DOWN[1:-1] + UP)  # scale and offset; not behind the first and the innermost convolution
    expected = unet_256(channels) + batch_norms
    options = {"depth": 8, "norm": "batch", "up": "transpose", "dropout": 0.5}
    exactly = parameters(lambda: UNet(channels, channels, 2, bias=False, **options))
    assert exactly == expected == {3: 54_413_955, 1: 54_407_809}[channels]
    assert f"{exactly / 1e6:.3f}" == published
    assert parameters(lambda: UNet(channels, channels, 2, **options)) == expected + 64 + 512


@pytest.mark.parametrize(("blocks", "published", "fewer"), [(6, 7_837_699, 3_712), (9, 11_378_179, 5_248)])
def test_resnet_generators_have_the_published_parameters(blocks, published, fewer):
    """7.838 M with 6 blocks and 11.378 M with 9, for colour; 11,388,675 when instance norm was affine (issue 45).

    That implementation gives every convolution an offset. Ours leaves out those that instance norm subtracts again;
    bias=True puts them back. Its doublings are transposed 3x3 convolutions, ours ("resize") 3x3: as many weights.
    """
    chain = kernels(7, 3, 64) + kernels(3, 64, 128, 256) + kernels(3, 256, 128, 64) + kernels(7, 64, 3)
    normed = [64, 128, 256, *[256] * (2 * blocks), 128, 64]
    expected = chain + 2 * blocks * kernels(3, 256, 256) + sum(normed) + 3
    assert parameters(lambda: ResNet(3, 3, 2, blocks=blocks, bias=True)) == expected == published
    assert parameters(lambda: ResNet(3, 3, 2, blocks=blocks)) == published - fewer == published - sum(normed)
    affine = parameters(lambda: ResNet(3, 3, 2, blocks=blocks, bias=True, affine=True))
    assert affine == published + 2 * sum(normed)
    assert blocks != 9 or affine == 11_388_675


@pytest.mark.parametrize(("channels", "published"), [(3, 2_765_633), (6, 2_768_705), (2, 2_764_609)])
def test_the_70_pixel_patchgan_has_the_published_parameters(channels, published):
    """2.766 M for colour, 2.769 M for a pair of colour images, 2.765 M for a gray pair: exactly, with batch norm.

    With instance norm that implementation keeps 128 + 256 + 512 offsets, which the norm subtracts; ours has none.
    """
    expected = kernels(4, channels, 64, 128, 256, 512, 1) + 64 + 1 + 2 * (128 + 256 + 512)
    assert parameters(lambda: PatchGAN(channels, 2, norm="batch")) == expected == published
    assert parameters(lambda: PatchGAN(channels, 2)) == published - 2 * 896


def test_the_attention_unet_is_as_large_as_its_layers_say():
    """4 encoder units from 64 filters and one of 1,024 below; gates on all skips but that at full resolution."""
    filters = [64, 128, 256, 512, 1024]
    down = kernels(3, 1, 64, 64) + sum(kernels(3, a, b, b) for a, b in zip(filters[:-1], filters[1:], strict=True))
    up = sum(kernels(3, 2 * c, c) + kernels(3, 2 * c, c, c) for c in filters[:-1])
    gates = sum(kernels(2, c, c // 2) + (2 * c * c // 2 + c // 2) + (c // 2 + 1) for c in filters[1:-1])
    assert parameters(lambda: AttentionUNet(1, 1, 2)) == down + up + gates + (64 + 1) == 35_538_436
    network = AttentionUNet(1, 1, 2, width=2)
    assert len(network.encoder) - 1 == 4 == len(network.decoder)
    assert [type(m) for m in network.modules()].count(AttentionGate) == 3


def places(layer: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix on every place: (N, C, *size) to (N, places, outputs), in float64."""
    weight = layer.weight.double().flatten(1)
    found = torch.einsum("oc,ncp->npo", weight, x.double().flatten(2))
    return found if layer.bias is None else found + layer.bias.double()


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights that matter: its own are nearly 0 at first."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(1, prod(parameter.shape[1:])) ** 0.5
    return module


@pytest.mark.parametrize("dims", [2, 3])
def test_self_attention_is_the_papers_formula(dims):
    """Zhang et al. (2019), equations 1 to 3: s_ij = f(x_i)' g(x_j), beta = softmax over i, o = v(sum beta h), + x."""
    block = randomised(SelfAttention(dims, 16))
    assert block.query.weight.shape[0] == block.key.weight.shape[0] == 2 and block.value.weight.shape[0] == 8
    x = torch.randn(2, 16, *[4, 3, 5][:dims], generator=torch.Generator().manual_seed(1))
    f, g, h = (places(layer, x) for layer in (block.key, block.query, block.value))
    scores = torch.einsum("nic,njc->nji", f, g)  # how much place j looks at place i
    beta = scores.exp() / scores.exp().sum(-1, keepdim=True)
    o = torch.einsum("nji,nic->njc", beta, h) @ block.out.weight.double().flatten(1).T
    expected = x.double() + block.gain.double() * o.mT.reshape(x.shape)
    assert (expected - x).abs().max() > 0.05
    torch.testing.assert_close(block(x).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_attention_gate_is_the_papers_formula(dims):
    """Oktay et al. (2018), equation 1, written with loops over the places of the coarse grid, in float64."""
    gate = randomised(AttentionGate(dims, 6, 4))
    size, half = [4, 6, 2][:dims], [2, 3, 1][:dims]
    generator = torch.Generator().manual_seed(2)
    skip, g = torch.randn(2, 6, *size, generator=generator), torch.randn(2, 4, *half, generator=generator)
    alpha = torch.zeros(2, 1, *half, dtype=torch.float64)
    for n in range(2):
        for place in torch.cartesian_prod(*map(torch.arange, half)).tolist():
            corner = skip[(n, slice(None), *(slice(2 * i, 2 * i + 2) for i in place))].double()
            found = torch.tensordot(gate.w_x.weight.double(), corner, dims=dims + 1)
            found += gate.w_g.weight.double().flatten(1) @ g[(n, slice(None), *place)].double() + gate.w_g.bias.double()
            q = gate.psi.weight.double().flatten() @ found.clamp_min(0) + gate.psi.bias.double()[0]
            alpha[(n, 0, *place)] = 1 / (1 + (-q).exp())
    mode = "bilinear" if dims == 2 else "trilinear"
    expected = skip.double() * F.interpolate(alpha, size, mode=mode)
    assert alpha.std() > 0.01
    torch.testing.assert_close(gate(skip, g).double(), expected, rtol=0, atol=1e-5)


ATTENTIVE = {
    "unet": lambda **o: UNet(1, 1, 2, width=8, depth=3, **o),
    "unet with stem": lambda **o: UNet(1, 1, 2, width=8, depth=3, stem=1, head=1, **o),
    "resnet": lambda **o: ResNet(1, 1, 2, width=8, blocks=3, **o),
    "attention_unet": lambda **o: AttentionUNet(1, 1, 2, width=8, depth=3, **o),
}


@pytest.mark.parametrize("name", ATTENTIVE)
def test_attention_stands_at_the_levels_that_were_named(name):
    network, plain, sides = ATTENTIVE[name](attention=(2, 1)), ATTENTIVE[name](), []
    for layer in network.modules():
        if isinstance(layer, SelfAttention):
            layer.register_forward_hook(lambda _m, inputs, _y: sides.append(inputs[0].shape[-1]))
    network(torch.randn(1, 1, 32, 32))
    assert sides == [16, 8]
    assert not any("gain" in key for key in plain.state_dict())
    assert not any(isinstance(layer, SelfAttention) for layer in plain.modules())


@pytest.mark.parametrize("name", ATTENTIVE)
def test_features_are_the_maps_that_forward_computes_shallow_to_deep_and_stop_ahead_of_the_decoder(name):
    network, ran = ATTENTIVE[name]().eval(), []
    x = torch.randn(2, 1, 32, 32)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(lambda layer, _i, y: ran.append(id(layer)))
    maps, encoder = network.features(x), list(ran)
    ran.clear()
    network(x)
    assert ran[: len(encoder)] == encoder and len(ran) > len(encoder)
    sides = [feature.shape[-1] for feature in maps]
    whole = name != "unet"  # a U-Net without a stem halves the image at once
    assert sides[:3] == ([32, 16, 8] if whole else [16, 8, 4]) and sides == sorted(sides, reverse=True)
    assert all(feature.std() > 0 and feature.requires_grad for feature in maps)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UNet(1, 1, 2, depth=3, attention=(0,)), ("halved 0 times", "1 to 3", "stem")),
        (lambda: ResNet(1, 1, 2, attention=(3,)), ("halved 3 times", "0 to 2")),
        (lambda: AttentionUNet(1, 1, 2, attention=(5,)), ("halved 5 times", "0 to 4")),
        (lambda: AttentionUNet(1, 1, 2, depth=1), ("depth = 1", "2 or more")),
        (lambda: AttentionUNet(1, 1, 2, width=2).check_size((16, 32)), ("16 x 32", "[32, 32]", "depth")),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)
