"""Networks on images of any size: padded to sides that they accept, whole where memory allows, else
in windows that fade into each other.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import CPU, TINY, registered
from torch import Tensor, nn

from gantk import Geometry, Method, UNet, load_recipe
from gantk.errors import UserError
from gantk.inference.windows import (
    AnySize,
    Sides,
    accepted_sides,
    by_windows,
    network_of_method,
)
from gantk.nets.blocks import (
    MAX_TORCH_NORM_POSITIONS,
    GroupNorm,
    InstanceNorm,
    channels_last,
)

ResNet = registered("generator", "resnet")
SIZES = {2: (41, 58), 3: (20, 27, 25)}  # no multiples of anything


class Foreign(nn.Module):
    """A network of somebody else's, which refuses no size by itself: torch's own layers, a skip."""

    def __init__(self, dims: int):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.enter = conv(1, 4, 3, padding=1)
        self.down = conv(4, 8, 4, 2, 1)
        self.deep = conv(8, 4, 3, padding=1)
        self.leave = conv(8, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.enter(x), 0.1)
        y = F.interpolate(self.deep(F.relu(self.down(x))), scale_factor=2)
        return torch.tanh(self.leave(torch.cat([x, y], 1)))


class OneSize(nn.Module):
    """A network of images of 24 x 24 alone."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (24, 24):
            raise RuntimeError("another size")
        return 2 * x


NETWORKS = {
    "resnet": lambda dims: ResNet(1, 2, dims, width=3, blocks=1),
    "unet": lambda dims: UNet(1, 1, dims, width=3, depth=3),
    "foreign": Foreign,
}


def images(dims: int, size: tuple[int, ...] | None = None) -> Tensor:
    """Two images of blobs, (2, 1, *size), one much darker than the other, each brighter towards one
    corner.
    """
    size = size or SIZES[dims]
    noise = torch.randn(
        2, 1, *(-(-side // 4) for side in size), generator=torch.Generator().manual_seed(1)
    )
    blobs = F.interpolate(noise, size=size, mode="bilinear" if dims == 2 else "trilinear")
    return (blobs + torch.linspace(-1, 1, size[-1])) * torch.tensor([1.0, 0.2]).reshape(
        2, 1, *[1] * dims
    )


# ---- what a network accepts is found by trying it


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("name", "multiple", "smallest"), [("unet", 8, 8), ("resnet", 4, 8), ("foreign", 2, 8)]
)
def test_the_sides_that_a_network_accepts_are_found(name, multiple, smallest, dims):
    network = NETWORKS[name](dims).eval()

    assert accepted_sides(network, 1, dims) == Sides(multiple, smallest)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_is_reflected_to_sides_that_are_accepted(name):
    network = NETWORKS[name](2).eval()
    x = images(2)
    made = AnySize(network, (32, 32), 1)(x)
    height, width = accepted_sides(network, 1, 2).around(x.shape[2:])
    top, left = (height - 41) // 2, (width - 58) // 2
    around = (left, width - 58 - left, top, height - 41 - top)
    with torch.no_grad():
        expected = network(F.pad(x, around, mode="reflect"))

    assert torch.equal(made, expected[..., top : top + 41, left : left + 58])


def test_a_network_of_one_size_gets_windows_of_this_size():
    for size in ((24, 24), (20, 50), (60, 24)):
        x = images(2, size)

        torch.testing.assert_close(AnySize(OneSize(), (24, 24), 1)(x), 2 * x)


# ---- images larger than the memory


@pytest.mark.parametrize("dims", [2, 3])
def test_windows_are_as_large_as_memory_allows(dims):
    size = {2: (400, 200), 3: (96, 40, 40)}[dims]
    trained = {2: (64, 64), 3: (16, 16, 16)}[dims]
    network = AnySize(NETWORKS["unet"](dims).eval(), trained, 1)
    for share in (0.7, 0.3):
        network.memory = share * math.prod(size) * network.bytes_per_pixel
        pixels = math.prod(network.window(size))

        assert 0.4 * share < pixels / math.prod(size) <= share

    network.memory = 1
    assert network.window(size) == trained  # no smaller than the network knows
    network.memory = 2**40
    assert network.window(size) == network.padded(size)


def test_blended_windows_are_near_the_whole():
    torch.manual_seed(0)
    network = AnySize(Foreign(2).eval(), (32, 32), 1)
    x = images(2, (150, 130))
    whole = network(x)
    network.memory = 0.2 * network.bytes_per_pixel * x[0].numel()
    parts = network(x)

    assert network.window(x.shape[2:]) != network.padded(x.shape[2:])
    assert 0 < (parts - whole).abs().mean() < 0.01 * (whole.max() - whole.min())


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
@pytest.mark.parametrize("dims", [2, 3])
def test_windows_blend_to_the_image(dims, overlap):
    x = images(dims)
    blended = by_windows(x, (16,) * dims, overlap, lambda part: 2 * part, batch=3)

    torch.testing.assert_close(blended, 2 * x, rtol=1e-5, atol=1e-5)


def test_gradients_pass_whole_images_or_are_refused():
    network = AnySize(Foreign(2).eval(), (32, 32), 1, memory=1)
    x = images(2).requires_grad_()
    network(x).sum().backward()

    assert x.grad.abs().sum() > 0
    with pytest.raises(Exception, match="no gradients"):
        AnySize(lambda part: part.detach(), (32, 32), 1)(x)


# ---- statistics of norms, and networks made ready for inference


@pytest.mark.parametrize(
    ("make", "groups"),
    [(lambda: InstanceNorm(4, affine=True), 4), (lambda: GroupNorm(2, 4), 2)],
    ids=["each", "group"],
)
@torch.no_grad()
def test_norms_are_right_over_millions_of_positions(make, groups):
    """torch's kernels add up in float32 and lose 1 in 1,000 and more of the deviation there."""
    norm = make().requires_grad_(False)
    norm.weight.uniform_(0.5, 1.5), norm.bias.normal_()
    x = channels_last(torch.randn(1, 4, 4 * MAX_TORCH_NORM_POSITIONS // 256, 256) + 3)
    exact = x.double().reshape(1, groups, -1)
    exact = (exact - exact.mean(-1, keepdim=True)) / (
        exact.var(-1, keepdim=True, correction=0) + norm.eps
    ).sqrt()
    exact = exact.reshape(x.shape) * norm.weight.reshape(-1, 1, 1) + norm.bias.reshape(-1, 1, 1)

    assert (norm(x) - exact).abs().max() <= 3e-5


# ---- networks of a third party


class OneConvolution(Method):
    """A method of one convolution, which is built for `takes` channels and makes `makes`."""

    def __init__(self, takes: int, makes: int):
        super().__init__(Geometry(2, (32, 32), {"a": 1, "b": 1}))
        self.mine = nn.Conv2d(takes, makes, 1)

    def translate(self, image: Tensor, to: str) -> Tensor:
        return self.mine(image)


def test_results_of_another_size_are_named():
    recipe = load_recipe(TINY).check()
    network = network_of_method(lambda x: x[..., ::2], OneConvolution(1, 1), "b", recipe, CPU)

    with pytest.raises(UserError, match=r"returns \(1, 1, 32, 16\).*Allowed: \(1, 1, 32, 32\)"):
        network.network(torch.zeros(1, 1, 32, 32))


def test_wrong_channels_name_the_network_and_both_numbers():
    words = r"with method.generator: 'unet' returns \(2, 2, 32, 32\) for images of domain T2.*\(2, 1, 32, 32\)"
    method = OneConvolution(1, 2).eval()
    recipe = load_recipe(TINY).check()
    network = network_of_method(lambda x: method.translate(x, "b"), method, "b", recipe, CPU)

    with pytest.raises(UserError, match=words):
        network(images(2, (32, 32)))
