"""The networks keep their promises: shapes, sizes, receptive fields, layouts, precision, independence of the batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gantk.errors import UserError
from gantk.nets.blocks import InstanceNorm, ResizeConv, channels_last, conv, init_weights, norm, upsample
from gantk.nets.discriminators import RECEPTIVE_FIELDS, DCGANDiscriminator, PatchGAN, with_coordinates
from gantk.nets.resnet import Residual, ResNet
from gantk.nets.unet import AttentionUNet, UNet

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


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("up", ["resize", "linear", "transpose"])
def test_generators_keep_the_size_and_give_the_channels(name, dims, up):
    y = GENERATORS[name](dims, up=up)(images(dims))
    assert y.shape == (2, 2, *[16] * dims)
    assert y.abs().max() <= 1 and y.std() > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_discriminators_give_raw_logits(dims):
    x = 50 * images(dims)
    assert PatchGAN(1, dims, width=4, layers=3)(x).shape == (2, 1, *[6] * dims)
    assert DCGANDiscriminator(1, dims, width=4, depth=2)(x).shape == (2, 1)
    assert DCGANDiscriminator(1, dims, width=4, depth=1)(x).shape == (2, 1)  # a map of 8 is averaged to 4
    plain = PatchGAN(1, dims, width=4, layers=3, norm="none")
    assert torch.allclose(plain(x), -plain_with_negated_last(plain)(x), atol=1e-6)


def plain_with_negated_last(network: PatchGAN) -> PatchGAN:
    """The same network, its last weights negated: only a linear end then answers with the opposite."""
    other = PatchGAN(1, {4: 2, 5: 3}[network.layers[-1].weight.ndim], width=4, layers=3, norm="none")
    other.load_state_dict(network.state_dict())
    other.layers[-1].weight.data.neg_()
    return other


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["instance", "batch", "group", "none"])
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


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["instance", "group", "none", "batch"])
def test_batch_independence_is_what_the_network_says(name, kind):
    network, independent = ALL[name](2, norm=kind), kind != "batch"
    assert network.batch_independent is independent
    x = images(2, n=3)
    together, single = network(x), torch.cat([network(i) for i in x.split(1)])
    assert torch.allclose(together, single, atol=1e-5) is independent


@pytest.mark.parametrize("layers", [3, 4, 5, 6])
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


def test_patchgan_receptive_field_in_3d_and_by_layers():
    network = PatchGAN(1, 3, width=2, layers=3, norm="none")
    for p in network.parameters():
        p.data.abs_().add_(0.05)
    x = torch.zeros(1, 1, 24, 24, 24, requires_grad=True)
    logits = network(x)
    logits[0, 0, 5, 5, 5].backward()
    assert (x.grad[0, 0] != 0).any(0).any(0).sum() == 16
    assert PatchGAN(1, 2, width=2, receptive_field=286).convolutions == 7
    assert PatchGAN(1, 2, width=2, layers=5, receptive_field=16).convolutions == 5


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


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (UNet(1, 1, 2, width=2, depth=4), (16, 32)),
        (UNet(1, 1, 3, width=2, depth=2), (4, 4, 8)),
        (ResNet(1, 1, 2, width=2, blocks=1), (8, 12)),
        (ResNet(1, 1, 3, width=2, blocks=1, downs=1), (4, 6, 4)),
        (AttentionUNet(1, 1, 2, width=2), (32, 48)),
        (AttentionUNet(1, 1, 3, width=2, depth=2), (8, 12, 8)),
        (PatchGAN(1, 2, width=2), (24, 25)),
        (PatchGAN(1, 3, width=2, layers=3), (6, 7, 9)),
        (DCGANDiscriminator(1, 2, width=2), (64, 71)),
    ],
    ids=[
        *("unet", "unet-3d", "resnet", "resnet-3d", "attention-unet", "attention-unet-3d"),
        *("patchgan", "patchgan-3d", "dcgan"),
    ],
)
def test_the_smallest_size_that_is_allowed_works(network, size):
    network.check_size(size)
    y = network(torch.randn(1, 1, *size))
    assert y.isfinite().all() and y.numel() > 0


def test_published_unets_can_be_expressed():
    pix2pix = UNet(3, 3, 2, depth=8, norm="batch", up="transpose", dropout=0.5)
    assert 54.3e6 < sum(p.numel() for p in pix2pix.parameters()) < 54.5e6  # 54.41 M, unet_256 of the authors
    fifteen = UNet(1, 1, 2, width=2, depth=7, stem=1)
    assert fifteen.layers == 15 == sum(isinstance(m, nn.Conv2d) for m in fifteen.modules())
    to_one_pixel = UNet(1, 1, 2, width=2, depth=6, stem=1)
    bottleneck = []
    to_one_pixel.encoder[-1].register_forward_hook(lambda _m, _i, y: bottleneck.append(y))
    assert to_one_pixel(images(2, n=1, side=64)).shape == (1, 1, 64, 64)
    assert bottleneck[0].shape[2:] == (1, 1) and bottleneck[0].abs().max() > 0
    assert len(to_one_pixel.encoder) + len([m for m in to_one_pixel.stem if isinstance(m, nn.Conv2d)]) == 7


def test_a_unets_stem_reaches_the_head_through_its_skip():
    network = UNet(1, 1, 2, width=4, depth=2, stem=1, head=1, norm="none", activation_out="none")
    for layer in network.decoder[-1].modules():  # with the way up cut, only the skip is left
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    assert network(images(2)).std() > 0


def test_residual_blocks_add_to_their_input():
    network = ResNet(1, 1, 2, width=2, blocks=2, norm="none")
    blocks = [layer for layer in network.layers if isinstance(layer, Residual)]
    x = images(2, channels=8)
    assert len(blocks) == 2 and not torch.allclose(blocks[0](x), x)
    for p in blocks[0].parameters():
        nn.init.zeros_(p)
    assert torch.equal(blocks[0](x), x)


def test_the_dcgan_discriminator_averages_large_maps_and_takes_published_ones_as_they_are():
    network = DCGANDiscriminator(1, 2, width=2, depth=2, norm="none").double()
    small, large = images(2, side=16).double(), images(2, side=32).double()
    published = network.verdict(network.layers(small)).flatten(1)
    averaged = network.verdict(F.avg_pool2d(network.layers(large), 2)).flatten(1)
    assert torch.allclose(network(small), published, rtol=1e-6, atol=0)
    assert torch.allclose(network(large), averaged, rtol=1e-6, atol=0)


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


def test_instance_norm_without_affine_learns_and_stores_nothing():
    layer = InstanceNorm(8)
    assert not list(layer.parameters()) and not layer.state_dict()


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


def test_instance_norm_is_the_same_in_evaluation():
    layer, x = InstanceNorm(8), images(2, side=48, channels=8)
    assert torch.equal(layer(x), layer.eval()(x))


def test_group_norm_takes_the_most_groups_that_divide():
    assert [norm("group", c, 2).num_groups for c in (64, 48, 20, 7, 37)] == [32, 24, 20, 7, 1]


@pytest.mark.parametrize(("dims", "side"), [(2, 24), (2, 8), (3, 9), (3, 4)])
def test_resize_convolution_is_repeating_then_convolving(dims, side):
    layer = ResizeConv(dims, 3, 4).double()
    x = images(dims, side=side, channels=3).double().requires_grad_()
    reference = layer.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    assert torch.allclose(layer(x), reference, atol=1e-12)
    mine = torch.autograd.grad(layer(x).square().sum(), (x, *layer.parameters()))
    theirs = torch.autograd.grad(reference.square().sum(), (x, *layer.parameters()))
    assert all(torch.allclose(m, t, atol=1e-9) for m, t in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("kind", ["resize", "linear", "transpose"])
def test_upsampling_doubles(kind):
    assert upsample(kind, 3, 2, 5)(images(3, side=4, channels=2)).shape == (2, 5, 8, 8, 8)


def test_initial_weights_are_small_and_random():
    network = init_weights(nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(512)))
    assert abs(network[0].weight.std().item() - 0.02) < 0.001 and network[0].bias.abs().max() == 0
    assert abs(network[1].weight.mean().item() - 1) < 0.01 and abs(network[1].weight.std().item() - 0.02) < 0.003
    spectral = PatchGAN(1, 2, width=64, spectral=True, norm="none", layers=3)
    assert abs(spectral.layers[2].parametrizations.weight.original.std().item() - 0.02) < 0.001


def test_spectral_norm_bounds_every_layers_gain():
    network = PatchGAN(1, 2, width=4, layers=3, spectral=True, norm="none")
    for _ in range(30):
        network(images(2))
    gains = [torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() for m in network.layers if hasattr(m, "weight")]
    assert len(gains) == 3 and all(abs(gain - 1) < 0.02 for gain in gains)


@pytest.mark.parametrize("dims", [2, 3])
def test_coordinates_run_from_minus_one_to_one_along_each_axis(dims):
    y = with_coordinates(images(dims, side=5))
    assert y.shape[1] == 1 + dims
    for axis in range(dims):
        line = y[0, 1 + axis].movedim(axis, 0).flatten(1)
        assert torch.allclose(line, torch.linspace(-1, 1, 5)[:, None].expand_as(line))


def test_coordinates_tell_places_apart():
    flat = torch.zeros(1, 1, 32, 32)
    plain, told = (PatchGAN(1, 2, width=4, layers=3, norm="none", coordinates=c)(flat) for c in (False, True))
    middle = (slice(None), slice(None), slice(3, -3), slice(3, -3))  # clear of the zero border
    assert plain[middle].std() < 1e-7 < 1e-5 < told[middle].std()


def test_gray_images_are_channels_last_by_name_too():
    for dims in (2, 3):
        x = images(dims)
        y = channels_last(x)
        assert torch.equal(x, y) and y.data_ptr() == x.data_ptr() and y.stride(1) == 1
