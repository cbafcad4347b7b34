"""The networks: shapes, sizes, receptive fields, layouts, precision; as many weights as the
published ones.

"Published" is github.com/junyanz/pytorch-CycleGAN-and-pix2pix (its authors' own translation of
pix2pix, and CycleGAN) and github.com/pytorch/examples for DCGAN. Each count is derived layer by
layer from the paper's description; the text says where and why ours differs.
"""

import copy
from math import prod

import pytest
import torch
import torch.nn.functional as F
from tiny import registered
from torch import Tensor, nn

from gantk import UNet
from gantk.errors import UserError
from gantk.nets import products, winograd
from gantk.nets.blocks import (
    CONV_TRANSPOSE,
    InstanceNorm,
    ResizeConv,
    SelfAttention,
    channels_last,
    conv,
)
from gantk.nets.discriminators import CONVOLUTIONS
from gantk.nets.products import use_products

PatchGAN = registered("discriminator", "patchgan")
ResNet = registered("generator", "resnet")
AttentionUNet = registered("generator", "attention_unet")
DCGANDiscriminator = registered("discriminator", "dcgan")

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("field", [16, 70])
def test_patchgan_sees_exactly_its_receptive_field(field):
    layers = CONVOLUTIONS[field]
    network = PatchGAN(1, 2, width=2, receptive_field=field, norm="none")
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]

    assert network.convolutions == layers
    assert len(convolutions) == layers

    for parameter in network.parameters():  # positive weights: no two contributions cancel
        parameter.data.abs_().add_(0.05)

    side = field + 3 * 2 ** (layers - 2)
    x = torch.zeros(1, 1, side, side, requires_grad=True)
    logits = network(x)
    middle = logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2]
    middle.backward()
    seen = x.grad[0, 0] != 0

    assert seen.any(0).sum() == field
    assert seen.any(1).sum() == field


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: UNet(1, 1, 2, width=2, depth=4).check_size((90, 96)),
            "90 x 96.*[80, 96] or [96, 96]",
        ),
        (lambda: UNet(1, 1, 3, width=2, depth=3).check_size((8, 4, 8)), "8 x 4 x 8.*[8, 8, 8]"),
        (lambda: ResNet(1, 1, 2, width=2, blocks=1).check_size((30, 32)), "[28, 32] or [32, 32]"),
        (
            lambda: AttentionUNet(1, 1, 2, width=2, depth=2).check_size((30, 32)),
            "[28, 32] or [32, 32]",
        ),
        (lambda: PatchGAN(1, 2, width=2).check_size((20, 64)), "[24, 64]"),
        (lambda: DCGANDiscriminator(1, 2, width=2).check_size((32, 32)), "[64, 64]"),
    ],
)
def test_wrong_sizes_and_options_name_those_that_fit(make, words):
    with pytest.raises(UserError, match=words.replace("[", r"\[").replace("]", r"\]")):
        make()


instance_norms = pytest.mark.parametrize("affine", [False, True])
norm_shapes = pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 8, 48, 48), (2, 4, 20, 20, 20)])
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def norm_and_images(shape, dtype, affine):
    """Ours, and images with a large mean: statistics in bfloat16 would lose the variance."""
    norm = InstanceNorm(shape[1], affine=affine)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias)
    images = (3 * torch.randn(shape) + 10).to(dtype)
    return norm, images.to(memory_format=LAST[images.ndim - 2]).requires_grad_()


@precisions
@norm_shapes
@instance_norms
def test_instance_norm_equals_torchs_on_both_of_its_paths(shape, dtype, affine):
    norm, x = norm_and_images(shape, dtype, affine)
    y = norm(x)
    reference = F.instance_norm(x.float(), weight=norm.weight, bias=norm.bias)

    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=LAST[x.ndim - 2])

    if dtype == torch.float32:
        allowed = 5e-5
    else:
        # bfloat16 rounds the output to 1 in 256; statistics in it would be off by three times that
        allowed = 0.005 * reference.abs() + 0.002

    assert ((y.float() - reference).abs() <= allowed).all()
    assert torch.equal(y[1:], norm(x[1:]))  # the other image makes no difference, to the last bit


@precisions
@norm_shapes
@instance_norms
def test_gradients_of_instance_norm_equal_torchs(shape, dtype, affine):
    norm, x = norm_and_images(shape, dtype, affine)
    reference = F.instance_norm(x.float(), weight=norm.weight, bias=norm.bias)
    weight = torch.randn(shape)
    (mine,) = torch.autograd.grad((norm(x).float() * weight).sum(), x)
    (theirs,) = torch.autograd.grad((reference * weight).sum(), x)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2

    assert torch.allclose(mine.float(), theirs.float(), atol=tolerance)


@pytest.mark.parametrize("dims", [2, 3])
def test_kernels_larger_than_the_map_have_finite_gradients(dims):
    for seed in range(20):
        junk = [torch.full((size,), float("nan")) for size in (64, 256, 1024, 4096, 16384)]
        del junk  # what a kernel reads without having written it is now nan
        layer = conv(dims, 32, 64, 4, padding=1).to(memory_format=LAST[dims])
        x = image(dims, 1, 32, 3)
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().square().sum().backward()
        assert layer.weight.grad.isfinite().all(), seed
        assert x.grad.isfinite().all(), seed


@pytest.mark.parametrize(("dims", "side"), [(2, 24), (2, 8), (3, 9), (3, 4)])
def test_resize_convolution_is_repeating_then_convolving(dims, side):
    layer = ResizeConv(dims, 3, 4).double()
    x = image(dims, 2, 3, side, torch.float64)
    inputs = (x, *layer.parameters())
    reference = layer.conv(F.interpolate(x, scale_factor=2, mode="nearest"))

    assert torch.allclose(layer(x), reference, atol=1e-12)

    mine = torch.autograd.grad(layer(x).square().sum(), inputs)
    theirs = torch.autograd.grad(reference.square().sum(), inputs)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
def test_self_attention_is_the_papers_formula(dims):
    """Zhang et al. (2019), equations 1 to 3: s_ij = f(x_i)' g(x_j), beta = softmax over i, o =
    v(sum beta h), + x.
    """
    torch.manual_seed(0)
    block = SelfAttention(dims, 16)
    for parameter in block.parameters():  # its own are nearly 0 at first
        nn.init.normal_(parameter, std=max(1, prod(parameter.shape[1:])) ** -0.5)

    assert block.query.weight.shape[0] == block.key.weight.shape[0] == 2
    assert block.value.weight.shape[0] == 8

    x = torch.randn(2, 16, *[4, 3, 5][:dims])

    def places(layer: nn.Module) -> Tensor:
        """A 1x1 convolution on every place: (N, places, outputs)."""
        return layer.double()(x.double()).flatten(2).mT

    scores = places(block.query) @ places(block.key).mT  # how much place j looks at place i
    o = scores.softmax(-1) @ places(block.value) @ block.out.weight.double().flatten(1).T
    expected = x.double() + block.gain.double() * o.mT.reshape(x.shape)

    assert (expected - x).abs().max() > 0.05
    torch.testing.assert_close(block.float()(x).double(), expected, rtol=0, atol=1e-5)


# ---- convolutions as matrix products: what torch computes ----------------------------------------

# transposed, inputs, outputs, side, kernel, stride, padding
SHAPES = {
    "halving": (False, 6, 5, 8, 4, 2, 1),
    "kernel as large as the map": (False, 6, 5, 3, 3, 1, 1),
    "one pixel": (False, 6, 5, 1, 3, 1, 1),
    "kernel larger than the map": (False, 6, 5, 3, 4, 1, 1),
    "pixels that no window sees": (False, 6, 5, 8, 3, 3, 0),
    "one input": (False, 1, 5, 5, 4, 1, 2),
    "one output": (False, 6, 1, 5, 4, 1, 1),
    "doubling": (True, 6, 5, 4, 4, 2, 1),
    "doubling one pixel": (True, 6, 5, 1, 4, 2, 1),
    "spreading": (True, 6, 5, 3, 3, 1, 0),
}


@pytest.fixture
def always(monkeypatch):
    """Every layer is a matrix product, however small."""
    monkeypatch.setattr(products, "MIN_WEIGHTS_PER_POSITION", 0)
    monkeypatch.setattr(products, "MIN_WEIGHTS_PER_TRANSPOSED_POSITION", 0)


def layer(dims: int, shape: tuple, dtype: torch.dtype = torch.float32) -> nn.Module:
    transposed, inputs, outputs, _, kernel, stride, padding = shape
    if transposed:
        found = CONV_TRANSPOSE[dims](inputs, outputs, kernel, stride, padding)
    else:
        found = conv(dims, inputs, outputs, kernel, stride=stride, padding=padding)
    nn.init.normal_(found.weight)
    return found.to(dtype, memory_format=LAST[dims])


def image(
    dims: int, n: int, channels: int, side: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    drawn = torch.randn(n, channels, *[side] * dims, dtype=dtype)
    return channels_last(drawn).detach().requires_grad_()


def passed(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients, of the input first, for a fixed random gradient of the output."""
    y = module(x)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, (x, *module.parameters()), gradient)]


def apart(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """The largest difference of each, relative to its largest value."""
    return [
        float((a.double() - b).abs().max() / b.abs().max())
        for a, b in zip(found, wanted, strict=True)
    ]


def slope_of_slope(module: nn.Module, x: Tensor, inputs: tuple) -> tuple[Tensor, ...]:
    """Gradients, by `inputs`, of the squared gradient of the squared output by `x`."""
    (slope,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), inputs)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_products_are_torchs_convolutions(name, dims, always):
    torch.manual_seed(0)
    module = layer(dims, SHAPES[name])
    x = image(dims, 1 + dims % 2, SHAPES[name][1], SHAPES[name][3])

    assert "Convolution" not in type(module(x).grad_fn).__name__

    output, _, of_weight, *_ = found = passed(module, x)
    plain = use_products(copy.deepcopy(module), False).double()
    exact = passed(plain, x.detach().double().requires_grad_())

    assert max(apart(found, exact)) < 1e-5
    assert output.is_contiguous(memory_format=LAST[dims])
    # autograd takes a gradient as it is only where it lies in memory as the weights do
    assert of_weight.dtype == torch.float32
    assert of_weight.stride() == module.weight.stride()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "name", ["halving", "pixels that no window sees", "one output", "doubling"]
)
def test_gradients_of_gradients_are_torchs(name, dims, always):
    torch.manual_seed(0)
    module = layer(dims, SHAPES[name], torch.float64)
    x = image(dims, 2, SHAPES[name][1], SHAPES[name][3], torch.float64)
    inputs = (x, module.weight, module.bias)
    use_products(module, True)
    mine = slope_of_slope(module, x, inputs)
    use_products(module, False)
    theirs = slope_of_slope(module, x, inputs)

    assert max(apart(mine, theirs)) < 1e-9


@pytest.fixture(params=[((16, 19), 3, 1), ((18, 18), 3, 0), ((13, 16), 4, 1)], ids=str)
def transformed(request, monkeypatch):
    """A convolution that is transformed in training, however small, and images."""
    monkeypatch.setattr(winograd, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 5)
    size, kernel, padding = request.param
    torch.manual_seed(0)
    module = layer(2, (False, 5, 6, 0, kernel, 1, padding))
    return module, channels_last(torch.randn(2, 5, *size)).requires_grad_()


def test_transformed_convolutions_are_torchs(transformed, monkeypatch):
    module, x = transformed
    found = passed(module, x)
    found += slope_of_slope(module, x, module.weight)

    assert found[2].stride() == module.weight.stride()

    monkeypatch.setattr(winograd, "MIN_PRODUCTS", 1 << 60)
    module = module.double()
    x = x.detach().double().requires_grad_()
    exact = passed(module, x)
    exact += slope_of_slope(module, x, module.weight)

    assert max(apart(found, exact)) < 2e-5
