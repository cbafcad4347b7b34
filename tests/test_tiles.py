"""Tiles that agree: an image that goes through a network in parts gives what the whole image gives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.inference.layer_trace import Memory, Watched, calls_of, parts_of
from gantk.inference.tiles import Tiling
from gantk.inference.windows import padded, tiles
from gantk.nets.blocks import LARGE, GroupNorm, InstanceNorm, channels_last, conv, fold_for_inference, upsample
from gantk.nets.resnet import ResNet
from gantk.nets.statistics import groups, moments, normalised
from gantk.nets.unet import AttentionUNet, UNet

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
SIZES = {2: (41, 58), 3: (22, 33, 30)}  # no multiples of anything
WINDOWS = {2: (32, 32), 3: (24, 24, 24)}
NETWORKS = {
    "resnet": lambda dims, **o: ResNet(1, 2, dims, width=3, blocks=1, **o),
    "unet": lambda dims, **o: UNet(1, 1, dims, width=3, depth=3, **o),
    "unet with stem and head": lambda dims, **o: UNet(1, 1, dims, width=3, depth=2, stem=1, head=2, **o),
    "resnet with self-attention": lambda dims, **o: ResNet(1, 1, dims, width=4, blocks=1, attention=(2,), **o),
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
    """Two images of blobs, (2, 1, *size), one much darker than the other, each brighter towards one corner."""
    size = size or SIZES[dims]
    noise = torch.randn(2, 1, *(-(-side // 4) for side in size), generator=torch.Generator().manual_seed(1))
    blobs = F.interpolate(noise, size=size, mode="bilinear" if dims == 2 else "trilinear")
    slope = torch.linspace(-1, 1, size[-1])
    return (blobs + slope) * torch.tensor([1.0, 0.2]).reshape(2, 1, *[1] * dims)


def difference(ours: Tensor, reference: Tensor) -> float:
    """The largest difference as a share of the reference's range."""
    return ((ours - reference).abs().max() / (reference.max() - reference.min())).item()


def whole(network: nn.Module, dims: int, x: Tensor) -> Tensor:
    return Tiling(network, network, memory=1 << 40, place=channels_last)(x)


# ---- the promise


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["instance", "group"])
@pytest.mark.parametrize("halvings", [1, 2])
def test_tiles_give_what_the_whole_images_give(name, dims, kind, halvings):
    network, x = drawn(NETWORKS[name](dims, norm=kind), dims), images(dims)
    options = {"window": WINDOWS[dims], "memory": 0, "level": 2 ** (dims * halvings), "place": channels_last}
    tiling = Tiling(network, network, **options)
    done, reference = tiling(x), whole(network, dims, x)
    plan = tiling.plan((1, *SIZES[dims]))
    assert plan.exact and not plan.whole and not plan.alone
    assert done.shape == reference.shape and done.shape[2:] == SIZES[dims]
    assert difference(done, reference) < 1e-4
    assert done.dtype == torch.float32 and reference.std() > 0.05


@pytest.mark.parametrize("dims", [2, 3])
def test_windows_on_their_own_do_not(dims):
    """What the promise is about: with statistics of each window, a window answers with its own brightness."""
    network, x = drawn(NETWORKS["resnet"](dims), dims), images(dims)
    options = {"window": WINDOWS[dims], "statistics": "window", "place": channels_last}
    alone = Tiling(network, network, **options)(x)
    assert difference(alone, whole(network, dims, x)) > 0.2


@pytest.mark.parametrize("kind", ["instance", "group", "batch", "none"])
def test_statistics_alone_make_tiles_agree_where_the_halo_covers_the_field(kind):
    network, x = drawn(ResNet(1, 1, 2, width=3, blocks=1, downs=1, norm=kind), 2), images(2, (90, 61))
    tiling = Tiling(network, network, window=(48, 48), memory=0, level=math.inf, place=channels_last)
    assert difference(tiling(x), whole(network, 2, x)) < 1e-4
    plan = tiling.plan((1, 90, 61))
    assert plan.exact and plan.cut.level == math.inf
    field = 3 + 1 + 2 * 2 * 1 + 2 * 1 + 3  # 7x7, 3x3, two 3x3 at half size, enlarging 3x3, 7x7
    assert all(field - 2 <= halo <= field + 2 for halo in plan.halo)


def test_where_the_field_is_wider_than_tiles_they_are_blended_with_the_images_statistics():
    network, x = drawn(UNet(1, 1, 2, width=4, depth=4), 2), images(2, (96, 160))
    tiling = Tiling(network, network, window=(64, 64), overlap=0.5, memory=0, level=math.inf, place=channels_last)
    done, reference = tiling(x), whole(network, 2, x)
    plan = tiling.plan((1, 96, 160))
    assert not plan.exact and "blended" in str(plan)
    alone = Tiling(network, network, window=(64, 64), overlap=0.5, statistics="window", place=channels_last)(x)
    off, off_alone = ((image - reference).abs().mean() for image in (done, alone))
    assert off < 0.6 * off_alone
    cuts = sorted({tile.inner[1].stop for tile in tiles(plan.size, plan.window, plan.halo, (16, 16))})[:-1]
    steps, expected = ((image.diff(dim=-1)[..., [cut - 1 for cut in cuts]]).abs().mean() for image in (done, reference))
    assert steps < 1.02 * expected  # no seam where one tile ends and the next begins


def test_tiles_agree_in_bfloat16():
    network, x = drawn(NETWORKS["unet with stem and head"](2), 2), images(2)

    def half(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    exact = whole(network, 2, x)
    together = Tiling(half, network, place=channels_last)(x)
    done = Tiling(half, network, window=(32, 32), memory=0, level=4, place=channels_last)(x)
    assert done.dtype == torch.float32
    rounding = (together - exact).abs().mean()
    assert rounding > 0 and (done - together).abs().mean() < rounding / 2


def test_a_method_is_tiled_like_its_network_also_where_it_runs_it_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.g_ab, self.d_b = NETWORKS["unet"](2), ResNet(1, 1, 2, width=2, blocks=1)

        def translate(self, x: Tensor) -> Tensor:
            return self.g_ab(self.g_ab(x)) + 0.5 * x

    method, x = drawn(Twice(), 2), images(2)
    tiling = Tiling(method.translate, method, window=(32, 32), memory=0, level=4, place=channels_last)
    assert difference(tiling(x), Tiling(method.translate, method)(x)) < 1e-4
    assert tiling.plan((1, *SIZES[2])).exact


# ---- what a network needs is found out


@pytest.mark.parametrize(
    ("network", "multiple"), [(UNet(1, 1, 2, width=2, depth=4), 16), (ResNet(1, 1, 2, width=2, blocks=1), 4)]
)
def test_untiled_means_the_image_reflected_to_the_networks_multiple(network, multiple):
    x = images(2)
    size = tuple(-(-side // multiple) * multiple for side in SIZES[2])
    larger, inside = padded(x, size)
    assert torch.equal(larger[(..., *inside)], x)
    top = inside[0].start
    assert torch.equal(larger[..., :top, inside[1]], x[..., 1 : top + 1, :].flip(-2))
    with torch.no_grad():
        expected = network.eval()(larger)[(..., *inside)]
    assert torch.equal(Tiling(network, network)(x), expected)


def test_images_smaller_than_a_network_takes_are_surrounded():
    network = UNet(1, 1, 2, width=2, depth=4).eval()
    assert Tiling(network, network)(torch.randn(3, 1, 5, 3)).shape == (3, 1, 5, 3)


def test_memory_decides_whether_an_image_goes_whole_and_is_kept():
    network, x = drawn(UNet(1, 1, 2, width=16, depth=3, stem=1, head=1), 2), images(2, (256, 320))[:1]
    need = Tiling(network, network, memory=1)
    need.plan((1, 256, 320))
    per_pixel = need._needs.bytes_per_voxel
    with Memory() as all_at_once:
        reference = whole(network, 2, x)
    assert 0.8 < per_pixel * 256 * 320 / all_at_once.peak < 1.3
    memory = all_at_once.peak // 3
    tiling = Tiling(network, network, memory=memory, batch=4, place=channels_last)
    with Memory() as used:
        done = tiling(x)
    plan = tiling.plan((1, 256, 320))
    assert plan.exact and not plan.whole and "maps of 1/" in str(plan)
    assert used.peak < 1.05 * memory + 4 * x.nbytes, str(plan)
    assert difference(done, reference) < 1e-4


def test_calls_are_told_apart_by_their_maps_and_layers_are_left_as_they_were():
    network = UNet(1, 1, 2, width=2, depth=3, stem=1).eval()
    calls = calls_of(Watched(network, network), torch.randn(1, 1, 16, 16))
    assert max(call.ratio for call in calls) == 64 and calls[0].factors == (1, 1)
    assert sum(call.groups is not None for call in calls) == 3  # one going down, two going up
    assert not any("forward" in part.__dict__ for part in parts_of(network))
    with pytest.raises(RuntimeError):
        Watched(network, network)(torch.randn(1, 1, 15, 15), lambda number, part, forward, args: forward(*args))
    assert not any("forward" in part.__dict__ for part in parts_of(network))


class Brightness(nn.Module):
    """A norm of somebody else's that looks at all positions: one mean for the whole image."""

    eps = 1e-6
    weight = bias = None

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, tuple(range(1, x.ndim)), keepdim=True, correction=0)
        return (x - mean) / (variance + self.eps).sqrt()


def with_own_norm() -> nn.Module:
    return nn.Sequential(conv(2, 1, 4, 3), Brightness(), nn.ReLU(), conv(2, 4, 1, 3))


def test_a_norm_of_ones_own_takes_part_where_it_says_so_and_is_noticed_where_it_does_not():
    network, x = drawn(with_own_norm(), 2), images(2)
    options = {"window": (24, 24), "memory": 0, "level": math.inf, "place": channels_last}
    unknown = Tiling(network, network, **options)
    unknown(x)
    assert not unknown.plan((1, *SIZES[2])).exact
    network[1].position_groups = 1
    known = Tiling(network, network, **options)
    assert difference(known(x), whole(network, 2, x)) < 1e-4
    assert known.plan((1, *SIZES[2])).exact


def test_a_network_whose_layers_change_their_order_goes_by_windows_on_their_own():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(2, 1, 1, 3), InstanceNorm(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(self.b(x)) if x.shape[-1] > 8 else self.b(self.a(x))

    network = Moody().eval()
    tiling = Tiling(network, network, window=(16, 16), memory=0)
    assert tiling(images(2)).shape == (2, 1, *SIZES[2])
    assert "another order" in str(tiling.plan((1, *SIZES[2]))) and "on its own" in str(tiling.plan((1, *SIZES[2])))


def test_progress_rises_to_the_end():
    network, shares = drawn(NETWORKS["resnet"](2), 2), []
    Tiling(network, network, window=(32, 32), memory=0, level=4, progress=shares.append)(images(2))
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0) and len(shares) > 8


# ---- where tiles lie


@pytest.mark.parametrize(("side", "window", "halo", "align"), [(96, 32, 4, 4), (96, 96, 40, 8), (200, 64, 17, 8)])
def test_inner_parts_cover_an_image_once_with_their_halo_around(side, window, halo, align):
    found = tiles((side, side), (window, window), (halo, halo), (align, align))
    times = torch.zeros(side, side)
    for tile in found:
        times[tile.inner] += 1
        for box, inner in zip(tile.box, tile.inner, strict=True):
            assert box.stop - box.start == window and 0 <= box.start <= inner.start < inner.stop <= box.stop <= side
            assert box.start % align == inner.start % align == inner.stop % align == 0
            assert inner.start - box.start >= halo or box.start == 0
            assert box.stop - inner.stop >= halo or box.stop == side
    assert (times == 1).all()
    weights = torch.zeros(side, side)
    for tile in found:
        weights[tile.box] += tile.weights[0][:, None] * tile.weights[1]
    torch.testing.assert_close(weights, torch.ones(side, side))


def test_tiles_that_are_all_halo_are_refused():
    with pytest.raises(ValueError, match="leave nothing"):
        tiles((64, 64), (32, 32), (14, 14), (8, 8))


# ---- statistics


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(70, 90), (12, 40, 31)])
@pytest.mark.parametrize("last", [True, False])
def test_moments_of_parts_are_those_of_the_whole(size, dtype, last):
    x = (3 * torch.randn(1, 6, *size, generator=torch.Generator().manual_seed(0)) + 20).to(dtype)
    x = channels_last(x) if last else x
    exact = x.double()
    for count in (6, 2, 1):
        parts = sum((moments(part, count) for part in x.split([3, 5, size[0] - 8], 2)[1:]), moments(x[:, :, :3], count))
        reference = exact.reshape(count, -1)
        torch.testing.assert_close(parts.mean, reference.mean(1), rtol=5e-6, atol=0)
        torch.testing.assert_close(parts.variance, reference.var(1, correction=0), rtol=2e-5, atol=0)
        assert parts.count == reference.shape[1]


@pytest.mark.parametrize("make", [lambda: InstanceNorm(4, affine=True), lambda: GroupNorm(2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_norms_are_right_over_millions_of_positions(make, dtype):
    """torch's kernels add up in float32 and lose 1 in 1,000 and more of the deviation there."""
    norm = make().requires_grad_(False)
    norm.weight.uniform_(0.5, 1.5), norm.bias.normal_()
    x = channels_last((torch.randn(2, 4, 4 * LARGE // 256, 256) + 3).to(dtype))
    got, count = norm(x), groups(norm, 4)
    exact = x.double().reshape(2, count, -1)
    exact = (exact - exact.mean(-1, keepdim=True)) / (exact.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
    exact = exact.reshape(x.shape) * norm.weight.reshape(-1, 1, 1) + norm.bias.reshape(-1, 1, 1)
    assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
    allowed = 3e-5 if dtype == torch.float32 else 0.005 * exact.abs() + 0.002
    assert ((got - exact).abs() <= allowed).all()
    assert torch.equal(got[1:], norm(x[1:]))


@pytest.mark.parametrize("make", [lambda: nn.InstanceNorm2d(4, affine=True), lambda: nn.GroupNorm(2, 4)])
def test_torchs_own_norms_take_part(make):
    norm, x = make(), torch.randn(1, 4, 9, 11)
    found = moments(x, groups(norm, 4))
    torch.testing.assert_close(normalised(norm, x, found), norm(x), rtol=1e-4, atol=1e-5)
    assert groups(nn.BatchNorm2d(4), 4) is None and groups(nn.ReLU(), 4) is None
    assert groups(nn.InstanceNorm2d(4, track_running_stats=True).eval(), 4) is None


# ---- networks made ready for inference


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["resnet", "unet", "unet with stem and head"])
@pytest.mark.parametrize("up", ["resize", "linear", "transpose"])
@torch.no_grad()
def test_a_settled_network_gives_the_same_but_for_rounding(name, dims, up):
    network, x = drawn(NETWORKS[name](dims, up=up), dims), channels_last(images(dims, (32,) * dims))
    names = set(network.state_dict())
    before = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
    settled = fold_for_inference(network)
    assert settled is network and set(network.state_dict()) == names
    assert difference(network(x), before) < 1e-5
    fold_for_inference(network, torch.bfloat16)
    weights = [p for p in network.parameters() if p.ndim > 1]
    assert all(weight.dtype == torch.bfloat16 for weight in weights)
    with torch.autocast("cpu", torch.bfloat16):
        again = network(x)
    assert again.dtype == torch.bfloat16
    assert (again.float() - half.float()).abs().mean() < 2 * (half.float() - before).abs().mean() + 1e-4


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize(("kernel", "padding"), [(7, None), (3, None), (3, 0), (5, 1)])
@torch.no_grad()
def test_a_single_output_by_rows_is_the_same_convolution(dims, mode, kernel, padding):
    layer = conv(dims, 5, 1, kernel, padding=padding, mode=mode)
    nn.init.normal_(layer.bias)
    x = channels_last(torch.randn(2, 5, *[9] * dims))
    before = layer(x)
    layer.fold(None)
    assert "rows" in layer._buffers and "rows" not in layer.state_dict()
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
    small = x[:, :, :2] if kernel > 2 and mode == "zeros" and padding is None else x
    assert layer(small).shape[2] == small.shape[2] + 2 * layer.padding[0] - kernel + 1  # a map smaller than the kernel


@torch.no_grad()
def test_a_settled_network_notices_other_weights():
    """As they come from another checkpoint, in place or in its stead."""
    network, other = (drawn(UNet(1, 1, 2, width=4, depth=3, stem=1, head=1), 2) for _ in range(2))
    for part in other.parameters():
        part.mul_(0.5)
    x, weights = images(2, (32, 32)), {name: weight.clone() for name, weight in other.state_dict().items()}
    expected = other(x)
    fold_for_inference(network)
    assert not torch.allclose(network(x), expected, atol=1e-3)
    torch.testing.assert_close(torch.func.functional_call(network, weights, (x,)), expected)
    network.load_state_dict(weights)
    torch.testing.assert_close(network(x), expected)


def test_layers_that_are_not_settled_train_as_before():
    layer = upsample("resize", 2, 3, 2)
    x = torch.randn(1, 3, 24, 24, requires_grad=True)
    layer(x).sum().backward()
    assert layer.conv.weight.grad is not None and layer.kernel is None and "kernel" not in layer.state_dict()


def test_attention_gates_stay_exact_where_they_can_be_followed():
    network, x = drawn(AttentionUNet(1, 1, 2, width=2, depth=2), 2), images(2)
    tiling = Tiling(network, network, window=(32, 32), memory=0, level=4, place=channels_last)
    assert difference(tiling(x), whole(network, 2, x)) < 1e-4 and tiling.plan((1, *SIZES[2])).exact
