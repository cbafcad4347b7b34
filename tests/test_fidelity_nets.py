"""The networks are the published ones: as many weights as the widely used implementations, attention by the formula.

"Widely used" is github.com/junyanz/pytorch-CycleGAN-and-pix2pix (its authors' own translation of pix2pix, and
CycleGAN), and github.com/pytorch/examples for DCGAN. Each count is derived here layer by layer from the paper's
description and compared with the built network; the text says where and why ours differs.
"""

from __future__ import annotations

from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.blocks import SelfAttention
from gantk.nets.discriminators import DCGANDiscriminator, PatchGAN
from gantk.nets.resnet import ResNet
from gantk.nets.unet import AttentionGate, AttentionUNet, UNet

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


def test_unet_256_with_instance_norm_differs_by_offsets_that_the_norm_subtracts():
    """There every convolution has an offset, ours only those that no norm follows: 4,928 fewer, the same function."""
    with_all = unet_256(3) + sum(DOWN + UP)
    options = {"depth": 8, "norm": "instance", "up": "transpose"}
    assert parameters(lambda: UNet(3, 3, 2, bias=True, **options)) == with_all == 54_409_603
    assert parameters(lambda: UNet(3, 3, 2, **options)) == with_all - sum(DOWN[1:-1] + UP) == with_all - 4_928


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


def test_the_dcgan_discriminator_has_the_published_parameters():
    """2,765,568 at 64 px for colour (Radford et al., 2016, as in pytorch/examples), which has no offsets at all.

    Ours has 65 more: the first convolution's 64 and the last one's, which no norm follows. 2.766 M either way.
    """
    expected = kernels(4, 3, 64, 128, 256, 512, 1) + 2 * (128 + 256 + 512)
    assert expected == 2_765_568
    assert parameters(lambda: DCGANDiscriminator(3, 2)) == expected + 65


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


def test_self_attention_changes_nothing_until_it_has_learned():
    block, x = SelfAttention(2, 16), torch.randn(2, 16, 6, 6)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.gain.grad != 0 and block.query.weight.grad.abs().max() == 0


def test_self_attention_sees_the_far_corner():
    block = randomised(SelfAttention(2, 8))
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    block(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0].abs().sum(0) > 0).all()


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


def test_a_closed_gate_lets_nothing_through():
    gate = AttentionGate(2, 4, 8)
    skip, g = torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)
    nn.init.constant_(gate.psi.bias, -50.0)
    assert gate(skip, g).abs().max() < 1e-9
    nn.init.constant_(gate.psi.bias, 50.0)
    torch.testing.assert_close(gate(skip, g), skip)


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


def test_features_of_the_resnet_hold_those_that_cut_reads():
    """Both halvings, the first and the fifth of nine blocks, as Park et al. (2020) have it, and the first map."""
    network, x = ResNet(1, 1, 2, width=4, blocks=9).eval(), torch.randn(1, 1, 16, 16)
    maps = network.features(x)
    assert [tuple(feature.shape[1:]) for feature in maps] == [(4, 16, 16), (8, 8, 8), *[(16, 4, 4)] * 3]
    first = 9  # three layers for each of three sizes lie ahead of the blocks
    assert torch.allclose(network.layers[: first + 1](x), maps[3])
    assert torch.allclose(network.layers[: first + 5](x), maps[4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UNet(1, 1, 2, depth=3, attention=(0,)), ("halved 0 times", "1 to 3", "stem")),
        (lambda: UNet(1, 1, 2, depth=3, attention=(4,)), ("halved 4 times", "1 to 3")),
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
