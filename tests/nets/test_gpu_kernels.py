"""The GPU kernels compute what torch's operators do: on a GPU, else by Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from gantk.machine.device import CHANNELS_LAST
from gantk.nets import kernels
from gantk.nets.resnet import ResNet

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # largest relative error
SHAPES = [(1, 3, 5, 7), (2, 64, 16, 16), (3, 130, 9, 4), (2, 1, 40, 33), (2, 8, 4, 5, 6)]
PADS = [  # of maps, and left, right, top, bottom
    ((1, 3, 5, 7), (1, 1, 1, 1)),
    ((2, 64, 9, 8), (3, 3, 3, 3)),
    ((2, 5, 4, 6), (2, 1, 0, 3)),
    ((1, 1, 8, 8), (0, 2, 2, 0)),
    ((1, 130, 4, 4), (3, 3, 3, 3)),
]


# read when Triton is imported, which torch may do at any time
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device or Triton's interpreter"
)


@pytest.fixture(scope="module")
def gpu():
    return pytest.importorskip("gantk.nets.gpu_kernels")


def map_of(shape, dtype=torch.float32, mean=0.0, seed=0):
    torch.manual_seed(seed)
    x = (2 * torch.randn(shape) + mean).to(DEVICE, dtype)
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])


def twice(*tensors):
    """Two sets of leaves with gradients."""
    kept = torch.preserve_format
    return [[t.clone(memory_format=kept).requires_grad_() for t in tensors] for _ in range(2)]


def error(found, wanted):
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max())


@runs
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_instance_norm_and_its_gradients(gpu, shape, dtype):
    x = map_of(shape, dtype, mean=20.0)
    scale = torch.rand(shape[1], device=DEVICE) + 0.5
    offset = torch.randn(shape[1], device=DEVICE)
    slope = map_of(shape, dtype, seed=1)
    own, theirs = twice(x, scale, offset)
    y = gpu.InstanceNormed.apply(*own, 1e-5)
    # contiguous: torch's gradient of a single channels-last image is wrong on a CPU
    x64, scale64, offset64 = (each.double().contiguous() for each in theirs)
    wanted = F.instance_norm(x64, weight=scale64, bias=offset64, eps=1e-5)
    y.backward(slope)
    wanted.backward(slope.double().contiguous())

    assert (y.dtype, y.stride()) == (x.dtype, x.stride())
    assert error(y, wanted) < DTYPES[dtype]
    for found, right in zip(own, theirs, strict=True):
        assert error(found.grad, right.grad) < DTYPES[dtype]


@runs
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "around"), PADS)
def test_reflection_and_its_gradient(gpu, shape, around, dtype):
    (own,), (theirs,) = twice(map_of(shape, dtype))
    y = gpu.Reflected.apply(own, around)
    wanted = F.pad(theirs, list(around), mode="reflect")
    slope = map_of(wanted.shape, dtype, seed=1)
    y.backward(slope)
    wanted.backward(slope)

    assert torch.equal(y, wanted)
    assert error(own.grad, theirs.grad) < DTYPES[dtype]


@runs
def test_gradients_of_gradients(gpu):
    x = map_of((2, 4, 6, 5))
    scale, offset = torch.rand(4, device=DEVICE), torch.randn(4, device=DEVICE)
    penalties = []
    for leaves, own in zip(twice(x, scale, offset), (True, False), strict=True):
        if own:
            y = gpu.Reflected.apply(gpu.InstanceNormed.apply(*leaves, 1e-5), (1, 1, 1, 1))
        else:
            y = F.instance_norm(leaves[0], weight=leaves[1], bias=leaves[2], eps=1e-5)
            y = F.pad(y, [1, 1, 1, 1], mode="reflect")
        (slope,) = torch.autograd.grad((y**3).sum(), leaves[0], create_graph=True)
        penalties.append(torch.autograd.grad((slope**2).sum(), leaves))

    for found, right in zip(*penalties, strict=True):
        assert error(found, right) < 1e-4


@runs
def test_a_network_computes_the_same_with_them(gpu, monkeypatch):
    torch.manual_seed(0)
    network = ResNet(1, 1, 2, width=4, blocks=1).to(DEVICE, memory_format=torch.channels_last)
    x = map_of((2, 1, 16, 16))
    kernels.use_kernels(network, False)
    wanted = network(x)
    kernels.use_kernels(network, False, on_gpu=True)
    monkeypatch.setattr(kernels, "usable_on_gpu", lambda x: True)
    used = []
    monkeypatch.setattr(gpu, "_move", lambda *a, move=gpu._move: used.append(1) or move(*a))

    assert error(network(x), wanted) < 1e-5
    assert used


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda", reason="the tests above run on the GPU")
def test_all_of_it_by_the_interpreter():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not slow", __file__]  # else it would start itself
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "22 passed" in done.stdout, done.stdout


SUMS = {"positions": "i32", "channels": "i32", "parts": "i32"}
SIDES = dict.fromkeys(("rows", "height", "width", "channels"), "i32")
SIDES |= dict.fromkeys(("out_height", "out_width", "top", "left"), "i32")
TILE = {"ROWS": 64, "COLUMNS": 64}
COMPILED = {  # kernel -> what its arguments are beside maps and float32 tensors; its constants
    "_sum_kernel": (SUMS, TILE | {"STEPS": 3}),
    "_normalize_kernel": (SUMS | {"eps": "fp32"}, TILE | {"PARTS": 16}),
    "_gradient_sum_kernel": (SUMS, TILE | {"STEPS": 3}),
    "_gradient_kernel": (SUMS, TILE | {"PARTS": 16}),
    "_pad_kernel": (SIDES, TILE),
    "_fold_kernel": (SIDES, TILE),
}


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("name", COMPILED)
def test_they_compile_for_a_gpu_that_is_not_there(gpu, name):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = getattr(gpu, name)
    known, constants = COMPILED[name]
    kinds = dict.fromkeys(("x", "y", "gradient", "result"), "*bf16")
    kinds |= dict.fromkeys(("sums", "moments", "weight", "bias"), "*fp32") | known
    signature = {each: kinds.get(each, "constexpr") for each in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants)

    assert compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
