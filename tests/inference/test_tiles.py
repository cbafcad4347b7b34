"""Windows and tiles: a network over parts of an image gives what it gives for the whole, or fades
without a seam.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import registered
from torch import Tensor, nn

from gantk import UNet
from gantk.inference.tiles import TiledNetwork
from gantk.inference.windows import by_windows
from gantk.nets.blocks import (
    MAX_TORCH_NORM_POSITIONS,
    GroupNorm,
    InstanceNorm,
    channels_last,
)
from gantk.nets.statistics import groups
from gantk.prepare.module import pad_to_size

ResNet = registered("generator", "resnet")

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
SIZES = {2: (41, 58), 3: (20, 27, 25)}  # no multiples of anything


class Foreign(nn.Module):
    """A network of somebody else's: torch's own layers, functions between them, a skip."""

    def __init__(self, dims: int, norm: str):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        instance = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
        norms = {"instance": instance, "group": lambda n: nn.GroupNorm(2, n)}
        self.enter = conv(1, 4, 3, padding=1)
        self.down = conv(4, 8, 4, 2, 1)
        self.deep = conv(8, 4, 3, padding=1)
        self.first = norms[norm](4)
        self.second = norms[norm](8)
        self.leave = conv(8, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(self.enter(x)), 0.1)
        y = F.interpolate(self.deep(F.relu(self.second(self.down(x)))), scale_factor=2)
        return torch.tanh(self.leave(torch.cat([x, y], 1)))


NETWORKS = {
    "resnet": lambda dims, **o: ResNet(1, 2, dims, width=3, blocks=1, **o),
    "unet": lambda dims, **o: UNet(1, 1, dims, width=3, depth=3, **o),
    "unet with stem and head": lambda dims, **o: UNet(
        1, 1, dims, width=3, depth=2, stem=1, head=2, **o
    ),
    "unet that leaves skips alone": lambda dims, **o: UNet(
        1, 1, dims, width=3, depth=3, relu_skips=False, **o
    ),
    "resnet with self-attention": lambda dims, **o: ResNet(
        1, 1, dims, width=4, blocks=1, attention=(2,), **o
    ),
    "resnet with blurred halvings": lambda dims, **o: ResNet(
        1, 1, dims, width=3, blocks=1, down="blur", up="linear", **o
    ),
    "foreign": lambda dims, **o: Foreign(dims, **o),
}


def drawn(network: nn.Module, dims: int) -> nn.Module:
    """The network in eval mode with weights that let its outputs vary, and norms that scale."""
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            spread = (2 / part.weight[0].numel()) ** 0.5
            part.weight.data = spread * torch.randn(part.weight.shape, generator=generator)
        elif isinstance(getattr(part, "weight", None), nn.Parameter) and part.weight.ndim == 1:
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
        if hasattr(part, "gain"):
            part.gain.data.fill_(0.5)

    return network.eval().to(memory_format=LAST[dims])


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


def difference(ours: Tensor, reference: Tensor) -> float:
    """The largest difference as a share of the reference's range."""
    return ((ours - reference).abs().max() / (reference.max() - reference.min())).item()


def whole(network: nn.Module, x: Tensor) -> Tensor:
    return TiledNetwork(network, network, memory=1 << 40, place=channels_last)(x)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr("gantk.inference.tiles.MAX_PASSES_PER_VOXEL", 20)


def tiled(network: nn.Module, **options) -> TiledNetwork:
    """In the smallest tiles that there are, whatever the memory."""
    return TiledNetwork(network, network, **{"memory": 0, "place": channels_last} | options)


@pytest.mark.quick_cases(
    "instance-1-2-foreign",
    "instance-1-2-unet",
    "instance-1-3-unet",
    "group-2-2-resnet",
    "group-2-2-unet with stem and head",
)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("kind", "halvings", "dims"), [("instance", 1, 2), ("instance", 1, 3), ("group", 2, 2)]
)
def test_tiles_give_what_the_whole_images_give(name, dims, kind, halvings):
    network = drawn(NETWORKS[name](dims, norm=kind), dims)
    x = images(dims)
    tiling = tiled(network, level=None if name == "foreign" else 2 ** (dims * halvings))
    done = tiling(x)
    reference = whole(network, x)
    plan = tiling.plan((1, *SIZES[dims]))

    assert plan.split
    assert math.prod(plan.window) < math.prod(plan.size)
    assert done.shape == reference.shape
    assert done.shape[2:] == SIZES[dims]
    assert difference(done, reference) < 1e-4
    assert done.dtype == torch.float32
    assert reference.std() > 0.05


@pytest.mark.parametrize("kind", ["instance", "batch"])
def test_shared_statistics_make_tiles_agree(kind):
    network = drawn(ResNet(1, 1, 2, width=3, blocks=1, downs=1, norm=kind), 2)
    x = images(2, (90, 61))
    tiling = tiled(network, level=math.inf)

    assert difference(tiling(x), whole(network, x)) < 1e-4
    field = 3 + 1 + 2 * 2 * 1 + 2 * 1 + 3  # 7x7, 3x3, two 3x3 at half size, enlarging 3x3, 7x7
    assert all(field - 2 <= reach <= field + 2 for reach in tiling.plan((1, 90, 61)).split.reach)


@pytest.mark.slow
def test_tiles_agree_in_bfloat16():
    network = drawn(NETWORKS["unet with stem and head"](2), 2)
    x = images(2)

    def half(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    together = TiledNetwork(half, network, place=channels_last)(x)
    done = TiledNetwork(half, network, memory=0, level=4, place=channels_last)(x)
    rounding = (together - whole(network, x)).abs().mean()

    assert 0 < (done - together).abs().mean() < rounding


# ---- what a network needs is found by trying it


@pytest.mark.parametrize(("name", "multiple"), [("unet", 8), ("resnet", 4)])
def test_an_image_is_reflected_to_the_networks_multiple(name, multiple):
    x = images(2)
    network = NETWORKS[name](2).eval()
    larger, inside = pad_to_size(x, tuple(-(-side // multiple) * multiple for side in SIZES[2]))
    top = inside[0].start

    assert torch.equal(larger[..., :top, inside[1]], x[..., 1 : top + 1, :].flip(-2))
    with torch.no_grad():
        assert torch.equal(TiledNetwork(network, network)(x), network(larger)[(..., *inside)])


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
@pytest.mark.parametrize("dims", [2, 3])
def test_windows_of_exported_files_blend_to_the_image(dims, overlap):
    x = images(dims)
    blended = by_windows(x, (16,) * dims, overlap, lambda part: 2 * part, batch=3)

    torch.testing.assert_close(blended, 2 * x, rtol=1e-5, atol=1e-5)


# ---- statistics of norms, and networks made ready for inference


@pytest.mark.parametrize(
    "make", [lambda: InstanceNorm(4, affine=True), lambda: GroupNorm(2, 4)], ids=["each", "group"]
)
@torch.no_grad()
def test_norms_are_right_over_millions_of_positions(make):
    """torch's kernels add up in float32 and lose 1 in 1,000 and more of the deviation there."""
    norm = make().requires_grad_(False)
    norm.weight.uniform_(0.5, 1.5), norm.bias.normal_()
    x = channels_last(torch.randn(1, 4, 4 * MAX_TORCH_NORM_POSITIONS // 256, 256) + 3)
    exact = x.double().reshape(1, groups(norm, 4), -1)
    exact = (exact - exact.mean(-1, keepdim=True)) / (
        exact.var(-1, keepdim=True, correction=0) + norm.eps
    ).sqrt()
    exact = exact.reshape(x.shape) * norm.weight.reshape(-1, 1, 1) + norm.bias.reshape(-1, 1, 1)

    assert (norm(x) - exact).abs().max() <= 3e-5
