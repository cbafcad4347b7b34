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
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.method import Batch, Geometry
from gantk.nets import kernels, winograd
from gantk.nets.blocks import (
    CONV_TRANSPOSE,
    InstanceNorm,
    ReLU,
    ResizeConv,
    SelfAttention,
    channels_last,
    conv,
)
from gantk.nets.discriminators import RECEPTIVE_FIELDS, PatchGAN
from gantk.nets.kernels import use_kernels
from gantk.nets.resnet import ResNet
from gantk.nets.unet import UNet
from gantk.plugin.spec import bind
from gantk_parts.attention_unet import AttentionUNet
from gantk_style.encoder import LAYERS, VGG19
from gantk_synthesis.dcgan.network import DCGANDiscriminator, DCGANGenerator

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("layers", [3, 5])
def test_patchgan_sees_exactly_its_receptive_field(layers):
    field = RECEPTIVE_FIELDS[layers]
    network = PatchGAN(1, 2, width=2, receptive_field=field, norm="none")
    for p in network.parameters():  # positive weights: no two contributions cancel
        p.data.abs_().add_(0.05)
    x = torch.zeros(
        1, 1, field + 3 * 2 ** (layers - 2), field + 3 * 2 ** (layers - 2), requires_grad=True
    )
    logits = network(x)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    seen = x.grad[0, 0] != 0
    assert seen.any(0).sum() == field
    assert seen.any(1).sum() == field
    assert (
        network.convolutions == layers == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    )


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
        (lambda: UNet(1, 1, 4), "data.dims"),
        (lambda: UNet(1, 1, 2, norm="instnce"), "Did you mean 'instance'"),
    ],
)
def test_wrong_sizes_and_options_name_those_that_fit(make, words):
    with pytest.raises(UserError, match=words.replace("[", r"\[").replace("]", r"\]")):
        make()


def test_pix2pix_generator_takes_noise_and_class():
    geometry = Geometry(2, (32, 32), {"a": 1, "b": 1}, ("healthy", "tumour"))
    method = bind("method", {"name": "pix2pix", "noise": 2, "conditional": True})(geometry).eval()
    seen = []
    a = torch.rand(2, 1, 32, 32)
    method.g_ab.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    method.generator_losses(Batch(a=a, b=a, label=torch.tensor([1, 0])))
    assert torch.equal(seen[0][:, :1], a)
    assert seen[0][:, 3:].mean((2, 3)).tolist() == [
        [0, 1],
        [1, 0],
    ]
    assert seen[0][:, 1:3].std() > 0.9
    assert not torch.equal(seen[0][0, 1:3], seen[0][1, 1:3])
    assert torch.equal(method.translate(a, "b"), method.translate(a, "b"))
    assert (seen[-1][:, 3:] == 0.5).all()
    assert not torch.equal(*method.variants(a, "b", 2, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 8, 48, 48), (2, 4, 20, 20, 20)])
@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_equals_torchs_on_both_of_its_paths(shape, dtype, affine):
    ours = InstanceNorm(shape[1], affine=affine)
    if affine:
        nn.init.uniform_(ours.weight, 0.5, 1.0)
        nn.init.normal_(ours.bias)
    # a large mean: statistics in bfloat16 would lose the variance
    x = (3 * torch.randn(shape) + 10).to(dtype)
    x = x.to(memory_format=LAST[x.ndim - 2]).requires_grad_()
    y = ours(x)
    reference = F.instance_norm(x.float(), weight=ours.weight, bias=ours.bias)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=LAST[x.ndim - 2])
    # bfloat16 rounds the output to 1 in 256; statistics in bfloat16 would be off by three times as
    # much
    allowed = 5e-5 if dtype == torch.float32 else 0.005 * reference.abs() + 0.002
    assert ((y.float() - reference).abs() <= allowed).all()
    assert torch.equal(y[1:], ours(x[1:]))  # the other image makes no difference, to the last bit
    weight = torch.randn(shape)
    mine = torch.autograd.grad((y.float() * weight).sum(), x)[0].float()
    theirs = torch.autograd.grad((reference * weight).sum(), x)[0].float()
    assert torch.allclose(mine, theirs, atol=1e-4 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("shape", [(3, 16, 32, 32), (3, 8, 12, 20, 20)])
def test_relu_matches_torch_with_both_gradients(shape, last, dtype):
    form = LAST[len(shape) - 2] if last else torch.contiguous_format
    drawn = [torch.randn(shape).to(dtype).contiguous(memory_format=form) for _ in range(3)]

    def found(layer: nn.Module, part: slice = slice(None)) -> list[Tensor]:
        x, gradient, again = (each[part].clone() for each in drawn)
        y = layer(x.requires_grad_() * 1)
        once = torch.autograd.grad(y, x, gradient, retain_graph=True)
        (of_x,) = torch.autograd.grad(y, x, gradient.requires_grad_(), create_graph=True)
        return [y.detach(), *once, of_x.detach(), *torch.autograd.grad(of_x, gradient, again)]

    for layer in (InstanceNorm(shape[1]), ReLU()):
        images = zip(*(found(layer, slice(i, i + 1)) for i in range(3)), strict=True)
        assert all(
            torch.equal(batch, torch.cat(each))
            for batch, each in zip(found(layer), images, strict=True)
        )
    drawn[0][0, :4] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf]).view(
        4, *[1] * (len(shape) - 2)
    )
    for mine, theirs in zip(found(ReLU()), found(nn.ReLU(inplace=True)), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()
    drawn[0][0, :2] = torch.tensor([torch.nan, -torch.nan]).view(2, *[1] * (len(shape) - 2))
    assert found(ReLU())[0][0, :2].isnan().all()  # nan is never hidden, whatever its sign


@pytest.mark.parametrize("dims", [2, 3])
def test_kernels_larger_than_the_map_have_finite_gradients(dims):
    for seed in range(20):
        junk = [torch.full((size,), float("nan")) for size in (64, 256, 1024, 4096, 16384)]
        del junk  # what a kernel reads without having written it is now nan
        layer = conv(dims, 32, 64, 4, padding=1).to(memory_format=LAST[dims])
        x = image(dims, 1, 32, 3)
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().square().sum().backward()
        assert layer.weight.grad.isfinite().all() and x.grad.isfinite().all(), seed


@pytest.mark.parametrize(("dims", "side"), [(2, 24), (2, 8), (3, 9), (3, 4)])
def test_resize_convolution_is_repeating_then_convolving(dims, side):
    layer = ResizeConv(dims, 3, 4).double()
    x = image(dims, 2, 3, side, torch.float64)
    reference = layer.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    assert torch.allclose(layer(x), reference, atol=1e-12)
    mine = torch.autograd.grad(layer(x).square().sum(), (x, *layer.parameters()))
    theirs = torch.autograd.grad(reference.square().sum(), (x, *layer.parameters()))
    assert all(torch.allclose(m, t, atol=1e-9) for m, t in zip(mine, theirs, strict=True))


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


@pytest.mark.parametrize(
    ("make", "published"),
    [
        # 54.414 M for colour, 54.408 M for gray (issue 1152 of that implementation): batch norm,
        # the last offset only
        (
            lambda: UNet(3, 3, 2, depth=8, norm="batch", up="transpose", dropout=0.5, bias=False),
            54_413_955,
        ),
        (
            lambda: UNet(1, 1, 2, depth=8, norm="batch", up="transpose", dropout=0.5, bias=False),
            54_407_809,
        ),
        # 7.838 M with 6 blocks, 11.378 M with 9, offsets everywhere; 11,388,675 with affine
        # instance norm (issue 45)
        (lambda: ResNet(3, 3, 2, blocks=6, bias=True), 7_837_699),
        (lambda: ResNet(3, 3, 2, blocks=9, bias=True), 11_378_179),
        (lambda: ResNet(3, 3, 2, blocks=9, bias=True, affine=True), 11_388_675),
        # 2.766 M for colour, 2.769 M for a pair of colour images, 2.765 M for a gray pair
        (lambda: PatchGAN(3, 2, norm="batch"), 2_765_633),
        (lambda: PatchGAN(6, 2, norm="batch"), 2_768_705),
        (lambda: PatchGAN(2, 2, norm="batch"), 2_764_609),
        # 4 encoder units from 64 filters and one of 1,024 below; gates on all skips but that at
        # full resolution
        (lambda: AttentionUNet(1, 1, 2), 35_538_436),
        # ours has offsets in the two convolutions of the discriminator that no batch norm follows,
        # theirs has none
        (lambda: DCGANGenerator(100, 3, (64, 64)), 3_576_704),
        (lambda: DCGANDiscriminator(3, 2), 2_765_568 + 64 + 1),
        # Simonyan and Zisserman 2015, table 1, E; as Keras lists it
        (lambda: VGG19([LAYERS[-1]]), 20_024_384),
    ],
)
def test_networks_have_the_published_number_of_parameters(make, published):
    with torch.device("meta"):  # 54 million cost nothing there
        assert sum(parameter.numel() for parameter in make().parameters()) == published


def test_unet_first_norm_and_skip_options():
    """Down: convolution, norm, LeakyReLU; up: transposed convolution, norm, ReLU, beside it the
    skip as it was.
    """
    torch.manual_seed(0)
    network = UNet(
        1, 1, 2, width=3, depth=3, up="transpose", norm_first=True, relu_skips=False
    ).double()
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64, requires_grad=True)

    def expected(x: Tensor) -> Tensor:
        maps = [x]
        for level, block in enumerate(network.encoder):
            y = F.conv2d(maps[-1], block[0].weight, block[0].bias, 2, 1)
            maps.append(F.leaky_relu(F.instance_norm(y) if level < 2 else y, 0.2))
        y = maps.pop()
        for block in network.decoder[:-1]:
            y = F.instance_norm(F.conv_transpose2d(y, block[0].weight, None, 2, 1))
            y = torch.cat([F.relu(y), maps.pop()], 1)
        last = network.decoder[-1]
        return F.conv_transpose2d(y, last.weight, last.bias, 2, 1).tanh()

    mine = network(x)
    theirs = expected(x)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    weight = torch.randn_like(mine)
    slopes = [
        torch.autograd.grad((y * weight).sum(), (x, *network.parameters())) for y in (mine, theirs)
    ]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    plain = UNet(1, 1, 2, width=3, depth=3, up="transpose").double()
    plain.load_state_dict(network.state_dict(), strict=False)
    assert (plain(x) - mine).abs().max() > 1e-4


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
    monkeypatch.setattr(kernels, "HEAVY", 0)
    monkeypatch.setattr(kernels, "TAPS", range(1, 65))


@pytest.fixture(params=[True, False], ids=["bfloat16 multiplied", "float32 alone"])
def multiplied(request, monkeypatch):
    monkeypatch.setattr(kernels, "multiplies_bfloat16", lambda: request.param)


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
    return (
        channels_last(torch.randn(n, channels, *[side] * dims, dtype=dtype))
        .detach()
        .requires_grad_()
    )


def passed(module: nn.Module, x: Tensor, bf16: bool = False) -> list[Tensor]:
    """Output and gradients, of the input first, for a fixed random gradient of the output."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = module(x)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, (x, *module.parameters()), gradient)]


def apart(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """The largest difference of each, relative to its largest value."""
    return [
        float((a.double() - b).abs().max() / b.abs().max())
        for a, b in zip(found, wanted, strict=True)
    ]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_products_are_torchs_convolutions(name, dims, always, multiplied):
    torch.manual_seed(0)
    module = layer(dims, SHAPES[name])
    x = image(dims, 1 + dims % 2, SHAPES[name][1], SHAPES[name][3])
    assert "Product" in type(module(x).grad_fn).__name__
    found = passed(module, x)
    narrow = passed(module, x, bf16=True)
    plain = use_kernels(copy.deepcopy(module), False)
    theirs = passed(plain, x, bf16=True)
    exact = passed(plain.double(), x.detach().double().requires_grad_())
    assert max(apart(found, exact)) < 1e-5
    assert found[0].is_contiguous(memory_format=LAST[dims])
    assert narrow[0].dtype == torch.bfloat16
    # autograd takes a gradient as it is only where it lies in memory as the weights do
    assert found[2].dtype == torch.float32
    assert found[2].stride() == module.weight.stride()
    for mine, other in zip(apart(narrow, exact), apart(theirs, exact), strict=True):
        assert mine <= max(1.5 * other, 2**-7)  # bfloat16 rounds to 1 in 256


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "name", ["halving", "pixels that no window sees", "one output", "doubling"]
)
def test_gradients_of_gradients_are_torchs(name, dims, always):
    torch.manual_seed(0)
    module = layer(dims, SHAPES[name], torch.float64)
    x = image(dims, 2, SHAPES[name][1], SHAPES[name][3], torch.float64)
    found = []
    for on in (True, False):
        use_kernels(module, on)
        slope = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)[0]
        found.append(torch.autograd.grad(slope.square().sum(), (x, module.weight, module.bias)))
    assert max(apart(*found)) < 1e-9


@pytest.mark.parametrize(
    ("size", "kernel", "padding"), [((16, 19), 3, 1), ((18, 18), 3, 0), ((13, 16), 4, 1)]
)
def test_transformed_convolutions_are_torchs(size, kernel, padding, monkeypatch):
    monkeypatch.setattr(winograd, "LEAST", 0)
    monkeypatch.setattr(winograd, "NARROWEST", 5)
    torch.manual_seed(0)
    module = layer(2, (False, 5, 6, 0, kernel, 1, padding))
    x = channels_last(torch.randn(2, 5, *size)).requires_grad_()
    found = passed(module, x)
    narrow = passed(module, x, bf16=True)
    slope = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)[0]
    found += torch.autograd.grad(slope.square().sum(), module.weight)
    with torch.no_grad():
        computed = module(x)
    monkeypatch.setattr(winograd, "LEAST", 1 << 60)
    # in training alone
    assert torch.equal(computed, module(x))
    assert not torch.equal(found[0], computed)
    assert all(map(torch.equal, narrow, passed(module, x, bf16=True)))  # and in float32
    assert found[2].stride() == module.weight.stride()
    module = module.double()
    x = x.detach().double().requires_grad_()
    exact = passed(module, x)
    slope = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)[0]
    assert (
        max(apart(found, [*exact, *torch.autograd.grad(slope.square().sum(), module.weight)]))
        < 2e-5
    )
