"""Convolutions as matrix products are what torch's convolutions are: values, gradients, precision, layout, state."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets import kernels
from gantk.nets.blocks import CONV_TRANSPOSE, channels_last, conv, memory_format
from gantk.nets.kernels import use_kernels

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
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


@pytest.fixture(params=[True, False], ids=["tiles", "no tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(kernels, "has_tiles", lambda: request.param)


def layer(dims: int, shape: tuple, dtype: torch.dtype = torch.float32) -> nn.Module:
    transposed, inputs, outputs, _, kernel, stride, padding = shape
    if transposed:
        found = CONV_TRANSPOSE[dims](inputs, outputs, kernel, stride, padding)
    else:
        found = conv(dims, inputs, outputs, kernel, stride=stride, padding=padding)
    nn.init.normal_(found.weight)
    return found.to(dtype, memory_format=LAST[dims])


def image(dims: int, n: int, channels: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return channels_last(torch.randn(n, channels, *[side] * dims, dtype=dtype)).detach().requires_grad_()


def passed(module: nn.Module, x: Tensor, bf16: bool = False) -> list[Tensor]:
    """Output and gradients, of the input first, for a fixed random gradient of the output."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = module(x)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, (x, *module.parameters()), gradient)]


def apart(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """The largest difference of each, relative to its largest value."""
    return [float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_products_are_torchs_convolutions(name, dims, always, tiles):
    torch.manual_seed(0)
    module, x = layer(dims, SHAPES[name]), image(dims, 1 + dims % 2, SHAPES[name][1], SHAPES[name][3])
    assert "Product" in type(module(x).grad_fn).__name__
    found, narrow = passed(module, x), passed(module, x, bf16=True)
    plain = use_kernels(copy.deepcopy(module), False)
    theirs = passed(plain, x, bf16=True)
    exact = passed(plain.double(), x.detach().double().requires_grad_())
    assert max(apart(found, exact)) < 1e-5
    assert found[0].is_contiguous(memory_format=LAST[dims]) and narrow[0].dtype == torch.bfloat16
    # autograd takes a gradient as it is only where it lies in memory as the weights do
    assert found[2].dtype == torch.float32 and found[2].stride() == module.weight.stride()
    for mine, other in zip(apart(narrow, exact), apart(theirs, exact), strict=True):
        assert mine <= max(1.5 * other, 2**-7)  # bfloat16 rounds to 1 in 256


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["halving", "pixels that no window sees", "one output", "doubling"])
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
    ("make", "channels", "side", "way"),
    [
        (lambda: conv(2, 128, 128, 4, stride=2, padding=1), 128, 8, "ProductBackward"),
        (lambda: conv(2, 128, 128, 4, stride=2, padding=1), 128, 32, "ConvolutionBackward0"),
        (lambda: CONV_TRANSPOSE[2](128, 64, 4, 2, 1), 128, 4, "TransposedProductBackward"),
        (lambda: conv(2, 8, 1, 7), 8, 32, "TransposedProductBackward"),
    ],
    ids=["few positions", "many positions", "transposed", "one output"],
)
def test_many_weights_on_few_positions_become_products_and_nothing_else_does(make, channels, side, way):
    module = make().to(memory_format=torch.channels_last)
    assert type(module(image(2, 1, channels, side)).grad_fn).__name__ == way


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("dims", [2, 3])
def test_frames_are_made_in_the_precision_of_the_convolution(mode, dims, monkeypatch):
    module = conv(dims, 4, 3, 3, mode=mode).to(memory_format=LAST[dims])
    x, frames, pad = image(dims, 2, 4, 6), [], F.pad
    with monkeypatch.context() as patches:
        patches.setattr(F, "pad", lambda *args, **options: frames.append(pad(*args, **options)) or frames[-1])
        found = passed(module, x, bf16=True)
    assert [frame.dtype for frame in frames] == [torch.bfloat16] and memory_format(found[0]) is LAST[dims]
    exact = passed(use_kernels(copy.deepcopy(module).double(), False), x.detach().double().requires_grad_())
    assert max(apart(found, exact)) < 2**-6 and max(apart(passed(module, x), exact)) < 1e-5
