"""ProGAN keeps to its paper: the pair's size, its layers' formulas, and a growth that can be stopped anywhere."""

from __future__ import annotations

import math

import pytest
import torch

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind_or_raise
from gantk.runs import checkpoint
from gantk.testing.small import random_images
from gantk.training.engine import Engine, Plan
from gantk.training.optim import Constant, adam
from gantk_progan.layers import EqualConv, EqualLinear, MinibatchDeviation, doubled, halved, leaky, pixel_norm
from gantk_progan.model import faded
from gantk_progan.networks import Discriminator, Generator, filters_at

SMALL = {"name": "progan", "latent": 8, "base": 32, "width": 8}


def build(side: int = 16, dims: int = 2, seed: int = 0, classes: tuple[str, ...] = (), **options):
    torch.manual_seed(seed)
    return bind_or_raise("method", SMALL | options)(Geometry(dims, (side,) * dims, {"image": 1}, classes))


def engine(method, steps: int, precision: str = "fp32") -> Engine:
    runtime = Runtime(torch.device("cpu"), precision, channels_last=True)
    runtime.place(method, method.geometry.dims)
    return Engine(method, Plan(steps, adam, {}, Constant(), None, ema=0.9, seed=0), runtime)


def batch_at(step: int, stage) -> Batch:
    return Batch(image=random_images(4, 1, stage.size, seed=step))


def train(engine: Engine, until: int):
    """Train up to `until` steps; the stage that the last one was in."""
    for stage, _, _ in engine.fit(batch_at):
        if engine.step == until:
            return stage
    return None


# The pair of the paper's table 2: 1024 px, 3 channels.


@pytest.fixture(scope="module")
def paper_pair():
    filters = filters_at(9, base=8192, width=512)
    with torch.device("meta"):
        return Generator(3, 2, filters, 512), Discriminator(3, 2, filters)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_filters_are_those_of_the_paper():
    assert filters_at(9, base=8192, width=512) == [512, 512, 512, 512, 256, 128, 64, 32, 16]


def test_the_pair_has_the_papers_23_1_million_parameters_each(paper_pair):
    for network in paper_pair:
        assert round(count(network) / 1e6, 1) == 23.1


def test_every_level_has_the_parameters_of_the_papers_table(paper_pair):
    generator, discriminator = paper_pair
    table = [(2.4e6, 2.4e6)] * 3 + [
        (1.2e6, 590e3),
        (295e3, 148e3),
        (74e3, 37e3),
        (18e3, 9.2e3),
        (4.6e3, 2.3e3),
    ]
    for pairs in ((generator.grow, generator.refine), (discriminator.shrink, discriminator.refine)):
        for large, small, expected in zip(*pairs, table, strict=True):
            assert [count(large), count(small)] == pytest.approx(expected, rel=0.03)
    assert count(generator.first) + generator.first_bias.numel() == pytest.approx(4.2e6, rel=0.02)
    assert count(generator.second) == pytest.approx(2.4e6, rel=0.02)
    assert count(generator.to_image[-1]) == 51
    assert count(discriminator.from_image[-1]) == 64
    assert count(discriminator.last) == pytest.approx(2.4e6, rel=0.02)
    assert count(discriminator.whole) == pytest.approx(4.2e6, rel=0.02)
    assert count(discriminator.score) == 513


# Layers against their formulas, in float64.


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_weights_are_standard_normal_and_outputs_keep_unit_variance(dims):
    torch.manual_seed(0)
    layer = EqualConv(dims, 32, 32, 3, gain=1.0)
    assert layer.weight.mean().abs() < 0.03
    assert float(layer.weight.std()) == pytest.approx(1.0, abs=0.02)
    inside = (..., *[slice(1, -1)] * dims)
    assert float(layer(torch.randn(8, 32, *[10] * dims))[inside].var()) == pytest.approx(1.0, rel=0.1)


@torch.no_grad()
def test_he_constant_keeps_the_mean_square_through_the_rectifier():
    torch.manual_seed(0)
    layer = EqualLinear(512, 512)
    assert layer.scale == pytest.approx(math.sqrt(2 / 512))
    after = leaky(layer(torch.randn(256, 512))).square().mean()
    assert float(after) == pytest.approx(1 + 0.2**2, rel=0.05)


@torch.no_grad()
def test_every_kernel_of_the_pair_is_drawn_alike_whatever_its_fan_in():
    method = build(32, base=512, width=32, latent=64)
    kernels = [p for p in method.parameters() if p.ndim > 1 and p.numel() > 1000]
    assert len(kernels) > 10
    for kernel in kernels:
        assert float(kernel.std()) == pytest.approx(1.0, abs=0.1)


@torch.no_grad()
def test_the_first_layer_counts_its_whole_4x4_kernel_in_hes_constant():
    method = build(16, base=4096, width=64, latent=64)
    z = pixel_norm(torch.randn(64, 64))
    assert 16 * float(leaky(method.g.first(z)).square().mean()) == pytest.approx(1.04, rel=0.1)


def test_pixel_norm_equals_the_formula():
    x = torch.randn(2, 5, 4, 4)
    y = x.double()
    expected = y / (y.square().sum(1, keepdim=True) / 5 + 1e-8).sqrt()
    torch.testing.assert_close(pixel_norm(x).double(), expected, rtol=1e-5, atol=1e-6)
    assert pixel_norm(x.bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize(("images", "group"), [(8, 4), (4, 4), (6, 3), (2, 2), (1, 1), (5, 5)])
def test_minibatch_deviation_equals_the_formula(images, group):
    x = torch.randn(images, 3, 4, 4)
    found = MinibatchDeviation()(x)
    assert torch.equal(found[:, :3], x)
    y, columns = x.double(), images // group
    for k in range(images):
        own = y[k % columns :: columns]
        assert len(own) == group
        expected = ((own - own.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        assert found[k, 3] == pytest.approx(torch.full((4, 4), float(expected)), rel=1e-5)


def test_minibatch_deviation_of_bf16_is_not_computed_in_bf16():
    x = 10 + 0.05 * torch.randn(4, 3, 4, 4)
    own = MinibatchDeviation()(x.bfloat16())
    assert own.dtype is torch.bfloat16
    expected = MinibatchDeviation()(x.bfloat16().float())[0, 3, 0, 0]
    assert float(own[0, 3, 0, 0]) == pytest.approx(float(expected), rel=2**-8)


@pytest.mark.parametrize("dims", [2, 3])
def test_convolving_after_doubling_never_needs_the_large_image(dims):
    torch.manual_seed(0)
    layer = EqualConv(dims, 3, 4, 3).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *([24] * 2 if dims == 2 else [8] * 3), dtype=torch.float64)
    torch.testing.assert_close(layer.after_doubling(x), layer(doubled(x)))


def test_drift_is_the_mean_square_of_the_real_logits():
    method = build(8, drift=0.5)
    method.begin(method.stages(4)[0], Batch())
    real = random_images(4, 1, (4, 4))
    losses = method.discriminator_losses(Batch(image=real))
    expected = 0.5 * method.d(real, 0).detach().double().square().mean()
    assert float(losses["drift"].detach()) == pytest.approx(float(expected), rel=1e-5)
    assert set(losses) == {"adversarial", "penalty", "drift"}
    assert "drift" not in build(8, drift=0.0).discriminator_losses(Batch(image=real))


# Fading in.


@pytest.mark.parametrize("dims", [2, 3])
def test_generator_fades_from_the_doubled_level_below_to_the_new_level_alone(dims):
    g = build(16, dims).g
    z = torch.randn(2, 8)
    old, new = doubled(g(z, 1)), g(z, 2)
    assert not torch.allclose(old, new)
    assert torch.equal(g(z, 2, torch.tensor(0.0)), old)
    assert torch.equal(g(z, 2, torch.tensor(1.0)), new)
    torch.testing.assert_close(g(z, 2, torch.tensor(0.25)), 0.75 * old + 0.25 * new)


@pytest.mark.parametrize("dims", [2, 3])
def test_discriminator_fades_from_the_halved_image_to_the_new_level_alone(dims):
    d = build(16, dims).d
    image = random_images(4, 1, (16,) * dims)
    assert torch.equal(d(image, 2, torch.tensor(0.0)), d(halved(image), 1))
    assert torch.equal(d(image, 2, torch.tensor(1.0)), d(image, 2))
    assert not torch.allclose(d(image, 2, torch.tensor(0.5)), d(image, 2))


def test_real_images_fade_as_the_fakes_do():
    real = random_images(2, 1, (8, 8))
    assert torch.equal(faded(real, None), real)
    assert torch.equal(faded(real, torch.tensor(1.0)), real)
    flat = faded(real, torch.tensor(0.0))
    assert torch.equal(flat, doubled(halved(real)))


def test_alpha_rises_evenly_from_0_to_1_in_a_fade_in_and_is_1_outside():
    method = build(8)
    found: dict[str, list[float]] = {}
    for stage, _, _ in (trained := engine(method, 30)).fit(batch_at):
        found.setdefault(stage.name, []).append(float(method.alpha))
    assert trained.step == 30
    assert list(found) == ["4", "8 fade", "8"]
    assert set(found["4"] + found["8"]) == {1.0}
    steps = len(found["8 fade"])
    assert found["8 fade"] == pytest.approx([(k + 0.5) / steps for k in range(steps)], abs=1e-5)


# Growing.


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 9, 40, 1001])
@pytest.mark.parametrize("side", [8, 64, 128])
def test_stages_share_out_all_steps_and_end_at_the_whole_size(steps, side):
    stages = build(side).stages(steps)
    assert sum(stage.steps for stage in stages) == steps
    assert min(stage.steps for stage in stages) >= 1
    sides = [stage.size[0] for stage in stages]
    assert sides == sorted(sides)
    assert sides[-1] == side
    if steps >= math.log2(side) - 1:
        assert sides[0] == 4
        assert len(set(sides)) == math.log2(side) - 1


def test_a_training_of_no_steps_has_a_stage_of_the_whole_size():
    assert [(stage.size, stage.steps) for stage in build(16).stages(0)] == [((16, 16), 0)]


def test_stages_are_those_of_the_paper_unless_shares_say_otherwise():
    plain = [(stage.name, stage.steps) for stage in build(16).stages(1000)]
    assert plain == [("4", 200), ("8 fade", 200), ("8", 200), ("16 fade", 200), ("16", 200)]
    shared = [(stage.name, stage.steps) for stage in build(16, shares=[1.0, 1.0, 2.0], fade=0.25).stages(400)]
    assert shared == [("4", 100), ("8 fade", 25), ("8", 75), ("16 fade", 50), ("16", 150)]


def test_layers_of_sizes_to_come_are_left_alone():
    method = build(16)
    before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    train(engine(method, 50), until=10)  # the stage of 4 px
    moved = {name for name, parameter in method.named_parameters() if not torch.equal(parameter, before[name])}
    assert "g.to_image.0.weight" in moved
    later = ("g.grow.", "g.refine.", "d.shrink.", "d.refine.", "g.to_image.1", "d.from_image.1")
    assert not [name for name in moved if name.startswith(later)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dims", [2, 3])
def test_all_sizes_train_with_finite_weights_and_samples_of_one_size(dims, precision):
    method = build(16, dims)
    seen = set()
    for stage, _, losses in (trained := engine(method, 12, precision)).fit(batch_at):
        trained.check_finite("")
        assert all(torch.isfinite(loss) for loss in losses.values()), stage.name
        if stage.name not in seen:
            seen.add(stage.name)
            with torch.no_grad():
                images = method.sample(3, seed=0)
            assert images.shape == (3, 1, *(16,) * dims)
            assert images.dtype is torch.float32
            blocks = 16 // stage.size[0]
            first = images[(..., *[slice(None, blocks)] * dims)].flatten(2)
            assert torch.equal(first, first[..., :1].expand_as(first)), "an enlarged pixel is not of one value"
    assert seen == {"4", "8 fade", "8", "16 fade", "16"}
    assert all(torch.isfinite(tensor).all() for tensor in method.state_dict().values())


def test_killed_inside_a_fade_in_and_resumed_is_the_same_to_the_bit(tmp_path):
    whole, half = engine(build(), 40), engine(build(), 40)
    train(whole, until=40)
    assert train(half, until=20).name == "8"
    assert train(half, until=28).name == "16 fade"
    assert 0 < half.method.alpha < 1
    weights = {f"model.{name}": tensor for name, tensor in half.method.state_dict().items()}
    weights |= {f"ema.{name}": tensor for name, tensor in half.ema.state_dict().items()}
    path = checkpoint.save(tmp_path, half.step, weights, half.state_dict(), {}, keep=1)

    resumed = engine(build(seed=1), 40)
    saved = checkpoint.load_weights(path)
    model = {name[6:]: tensor for name, tensor in saved.items() if name.startswith("model.")}
    average = {name[4:]: tensor for name, tensor in saved.items() if name.startswith("ema.")}
    checkpoint.load_into(resumed.method, model, str(path))
    with torch.no_grad():
        assert torch.equal(resumed.method.sample(2, seed=0), half.method.sample(2, seed=0)), "half grown, half faded"
    resumed.load_state_dict(checkpoint.load_state(path), average)
    train(resumed, until=40)
    for one, other in ((resumed.method, whole.method), (resumed.ema, whole.ema)):
        found, expected = one.state_dict(), other.state_dict()
        assert found.keys() == expected.keys()
        assert not [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert same(resumed.state_dict(), whole.state_dict())


def same(one, other) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_grown_generator_can_be_exported():
    method = build(64)  # large enough for the doubling to be one transposed convolution

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.g = method.g

        def forward(self, noise):
            return self.g(noise, 4)

    noise = torch.randn(2, 8)
    with torch.no_grad():
        program = torch.export.export(Whole(), (noise,))
        torch.testing.assert_close(program.module()(noise), method.g(noise, 4), rtol=1e-4, atol=1e-5)


# Labels.


def test_labels_choose_what_is_made_and_how_it_is_judged():
    method = build(8, classes=("healthy", "tumour"), conditional=True)
    assert method.conditional
    with torch.no_grad():
        turns, first = (method.sample(4, seed=0, labels=labels) for labels in (None, torch.zeros(4, dtype=torch.int64)))
        image = random_images(4, 1, (4, 4))
        logits = [method.d(image, 0, None, torch.full((4,), k)) for k in (0, 1)]
    assert torch.equal(turns[::2], first[::2])
    assert not torch.allclose(turns[1::2], first[1::2])
    assert logits[0].shape == (4, 1)
    assert not torch.allclose(logits[0], logits[1])
    batch = Batch(image=image, label=torch.tensor([0, 1, 1, 0]))
    losses = method.generator_losses(batch) | method.discriminator_losses(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


# Mistakes.


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        ((96, 96), "[64, 64] or [128, 128]"),
        ((64, 32), "[64, 64]"),
        ((4, 4), "[8, 8]"),
        ((100, 60), "[64, 64] or [128, 128]"),
        ((24, 24, 24), "[16, 16, 16] or [32, 32, 32]"),
    ],
)
def test_a_size_that_doubling_does_not_reach_is_refused_with_the_nearest(size, remedy):
    with pytest.raises(UserError) as caught:
        bind_or_raise("method", SMALL)(Geometry(len(size), size, {"image": 1}))
    assert caught.value.where == "data.size"
    assert f"Set data.size = {remedy}." in str(caught.value)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"conditional": True}, "method.conditional"),
        ({"fade": 1.5}, "method.fade"),
        ({"shares": [1.0, 2.0]}, "method.shares"),
        ({"shares": [1.0, 0.0, 2.0]}, "method.shares"),
        ({"critic": 0}, "method.critic"),
        ({"latent": 0}, "method.latent"),
        ({"drift": -1.0}, "method.drift"),
        ({"adapt": 0.6}, "method.adapt"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, where):
    with pytest.raises(UserError) as caught:
        build(16, **options)
    assert caught.value.where == where


def test_labels_are_refused_where_none_were_learned():
    with pytest.raises(UserError, match="not trained on labels"):
        build().sample(2, seed=0, labels=torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_class_that_is_not_there_cannot_be_sampled(label):
    method = build(classes=("one", "other"), conditional=True)
    with pytest.raises(UserError, match=r"a label is not among the classes\. Allowed: 0 to 1"):
        method.sample(2, seed=0, labels=torch.tensor([0, label]))
