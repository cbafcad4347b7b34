"""MUNIT: content stays, style changes, and the networks are the published ones."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gantk.errors import UserError
from gantk.losses.structure import local_ncc_and_flat_region
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, check_networks
from gantk.plugin.spec import bind, bind_or_raise
from gantk.recipe.load import load_recipe
from gantk.testing.small import random_images
from gantk.training.engine import Engine, Plan
from gantk.training.optim import Constant, adam
from gantk_munit.discriminator import MultiScale, Strided
from gantk_munit.model import MUNIT
from gantk_munit.network import AdaIN, Autoencoder, Doubling, LayerNorm
from gantk_munit.schedule import Halving

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "munit_t1t2.toml"
JUDGE = {"name": "munit", "width": 4, "layers": 2}
SMALL = {"width": 4, "blocks": 1, "mlp_dim": 16, "discriminator": JUDGE}


def build(dims: int = 2, side: int = 32, channels: tuple[int, int] = (1, 1), **options) -> MUNIT:
    torch.manual_seed(0)
    part = bind_or_raise("method", {"name": "munit"} | SMALL | options)
    return part(Geometry(dims, (side,) * dims, dict(zip("ab", channels, strict=True))))


def batch_of(method: MUNIT, count: int = 2, seed: int = 0) -> Batch:
    channels, size = method.geometry.channels, method.geometry.size
    return Batch({name: random_images(count, channels[name], size, seed=seed + k) for k, name in enumerate("ab")})


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def squares(number: int, seed: int, bright: bool) -> torch.Tensor:
    """Images (number, 1, 32, 32) of a square on a disc; domain `b` (bright) shows the square bright, `a` dark.

    How bright or dark is drawn for each image: that is the style.
    """
    rng = torch.Generator().manual_seed(seed)
    line = torch.arange(32.0)
    images = []
    for _ in range(number):
        y, x, level = (torch.rand((), generator=rng) for _ in range(3))
        disc = ((line[:, None] - 16) ** 2 + (line - 16) ** 2) < 13**2
        square = ((line[:, None] - 11 - 10 * y).abs() < 4) & ((line - 11 - 10 * x).abs() < 4)
        inside = 0.2 + 0.8 * level if bright else -0.4 - 0.4 * level
        image = torch.full((32, 32), -0.9)
        images.append(image.masked_fill(disc, 0.0).masked_fill(square, inside))
    return torch.stack(images)[:, None]


@pytest.fixture(scope="module")
def trained() -> MUNIT:
    """A method that trained for seconds on squares: enough for content and style to be two things."""
    method = build(width=6, downs=1, local_ncc=2.0, flat_region=2.0, scales=2)
    runtime = Runtime(torch.device("cpu"), "fp32", channels_last=True)
    runtime.place(method, 2)
    plan = Plan(40, lambda parameters: adam(parameters, lr=2e-3), {}, Constant(), None, ema=0.0, seed=0)

    def batch_at(step, stage):
        return Batch(a=squares(2, 2 * step, bright=False), b=squares(2, 2 * step + 1, bright=True))

    for _ in Engine(method, plan, runtime).fit(batch_at):
        pass
    return method.eval().requires_grad_(False)


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adain_is_the_formula_of_equation_8(dims, dtype):
    x = random_images(3, 5, (6,) * dims, seed=1).to(dtype) * 3 + 1
    scale, offset = torch.randn(3, 5), torch.randn(3, 5)
    found = AdaIN(5)(x, scale, offset)
    assert found.dtype == dtype
    wide, axes = x.double(), tuple(range(2, dims + 2))
    deviation = (wide.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    shape = (3, 5) + (1,) * dims
    expected = scale.double().view(shape) * (wide - wide.mean(axes, keepdim=True)) / deviation
    expected += offset.double().view(shape)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03  # bfloat16 keeps 8 bits of the result
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norm_is_over_channels_and_positions_of_each_image(dims, dtype):
    x = random_images(3, 4, (6,) * dims, seed=2).to(dtype) * 3 + 1
    layer = LayerNorm(4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        layer.bias.copy_(torch.tensor([0.5, -0.5, 0.0, 1.0]))
    wide, axes, shape = x.double(), tuple(range(1, dims + 2)), (4,) + (1,) * dims
    expected = (wide - wide.mean(axes, keepdim=True)) / (wide.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = expected * layer.weight.double().view(shape) + layer.bias.double().view(shape)
    found = layer(x)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dims", "side"), [(2, 24), (3, 8)])
def test_doubling_equals_repeating_every_pixel_and_convolving_5x5(dims, side):
    torch.manual_seed(0)
    layer, x = Doubling(3, 2, dims), random_images(2, 3, (side,) * dims)
    framed = F.pad(F.interpolate(x, scale_factor=2, mode="nearest"), (2,) * (2 * dims), mode="replicate")
    plain = (F.conv2d, F.conv3d)[dims - 2](framed, layer.conv.weight, layer.conv.bias)
    torch.testing.assert_close(layer(x), plain, rtol=1e-4, atol=1e-5)
    small = x[(..., *[slice(4)] * dims)]
    assert layer(small).shape == (2, 2, *[8] * dims)  # done step by step
    framed = F.pad(F.interpolate(small, scale_factor=2, mode="nearest"), (2,) * (2 * dims), mode="replicate")
    plain = (F.conv2d, F.conv3d)[dims - 2](framed, layer.conv.weight, layer.conv.bias)
    torch.testing.assert_close(layer(small), plain, rtol=1e-4, atol=1e-5)


# ---- published networks --------------------------------------------------------------------------


def test_parameter_counts_are_those_of_the_published_configuration():
    """RGB, width w = 64, 2 halvings, 4 + 4 blocks, style 8, MLP 256 (appendix B.1); every convolution has an offset.

    With k(n, i, o) = n**2 * i * o + o for an n x n convolution, and 8 = 2 * 4 convolutions in the blocks:
    content  k(7,3,w) + k(4,w,2w) + k(4,2w,4w) + 8 k(3,4w,4w)                      =  5,385,856
    style    k(7,3,w) + k(4,w,2w) + k(4,2w,4w) + 2 k(4,4w,4w) + k(1,4w,8)          =  2,764,936
    MLP      k(1,8,256) + k(1,256,256) + k(1,256, 8 * 2 * 4w)                      =  1,120,768
    decoder  8 k(3,4w,4w) + k(5,4w,2w) + 2 * 2w + k(5,2w,w) + 2 * w + k(7,w,3)     =  5,754,627
    one autoencoder 15,026,187; one scale of a discriminator
             k(4,3,w) + k(4,w,2w) + k(4,2w,4w) + k(4,4w,8w) + k(1,8w,1)            =  2,757,057
    two domains, three scales: 2 * (15,026,187 + 3 * 2,757,057)                    = 46,594,716
    """
    with torch.device("meta"):
        method = bind("method", "munit")(Geometry(2, (256, 256), {"a": 3, "b": 3}))
    check_networks(method)
    auto = method.auto_a
    assert count(auto.content) == 5_385_856
    assert count(auto.style) == 2_764_936
    assert count(auto.decode.mlp) == 1_120_768
    assert count(auto.decode) - count(auto.decode.mlp) == 5_754_627
    assert count(auto) == 15_026_187
    assert [count(judge) for judge in method.d_b.judges] == [2_757_057] * 3
    assert count(method) == 46_594_716


def test_codes_have_the_published_shapes():
    with torch.device("meta"):
        auto, image = Autoencoder(3, 2), torch.empty(2, 3, 256, 256)
        content, style = auto.content(image), auto.style(image)
        assert content.shape == (2, 256, 64, 64)
        assert style.shape == (2, 8)
        assert auto.decode(content, style).shape == image.shape


def test_only_the_norms_that_the_paper_has():
    auto = build().auto_a
    assert not [m for m in auto.style.modules() if "Norm" in type(m).__name__]  # they would remove the style
    assert not [m for m in build().d_a.modules() if "Norm" in type(m).__name__]
    kinds = {type(m).__name__ for m in auto.decode.modules() if m is not auto.decode}
    assert {"AdaIN", "LayerNorm"} <= kinds


# ---- discriminators ------------------------------------------------------------------------------


def test_a_multi_scale_discriminator_gives_logits_of_each_scale():
    method = build(side=64, discriminator=JUDGE | {"layers": 4})
    logits = method.d_a(random_images(2, 1, (64, 64)))
    assert [tuple(map.shape) for map in logits] == [(2, 1, 4, 4), (2, 1, 2, 2), (2, 1, 1, 1)]


def test_a_scale_is_the_mean_of_what_lies_inside_the_image():
    network = MultiScale(bind("discriminator", JUDGE), 1, 2, 2)
    image = random_images(1, 1, (8, 8))
    whole, half = network.pyramid(image)
    assert whole is image
    assert half.shape == (1, 1, 4, 4)
    assert half[0, 0, 1, 2] == pytest.approx(float(image[0, 0, 1:4, 3:6].mean()), abs=1e-6)
    assert half[0, 0, 0, 0] == pytest.approx(float(image[0, 0, :2, :2].mean()), abs=1e-6)


def test_any_registered_discriminator_can_judge_the_scales():
    method = build(side=64, discriminator={"name": "patchgan", "width": 4, "receptive_field": 16}, scales=2)
    assert len(method.d_a(batch_of(method)["a"])) == 2
    assert set(method.discriminator_losses(batch_with_fakes(method))) == {"d_a", "d_b"}


def batch_with_fakes(method: MUNIT) -> Batch:
    batch = batch_of(method)
    method.generator_losses(batch)
    return batch


def test_the_discriminators_loss_is_the_sum_over_scales():
    method = build()
    batch = batch_with_fakes(method)
    expected = 0.0
    for real, fake in zip(method.d_b(batch["b"]), method.d_b(batch["fake_b"]), strict=True):
        expected += (((real - 1) ** 2).mean() + (fake**2).mean()) / 2
    losses = method.discriminator_losses(batch)
    torch.testing.assert_close(losses["d_b"], expected)
    assert losses["d_b"].requires_grad


def test_a_gradient_penalty_reaches_every_scale():
    method = build(adversarial="wgan_gp")
    losses = method.discriminator_losses(batch_with_fakes(method))
    assert {"penalty_a", "penalty_b"} <= set(losses)
    losses["penalty_a"].backward()
    for judge in method.d_a.judges:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.parameters())


# ---- losses --------------------------------------------------------------------------------------


def test_losses_are_the_formulas_of_the_paper():
    """Equations 1 to 4 and the style-augmented cycle, written out for fakes of `b` with the styles that were drawn."""
    method = build(image=10.0, content=1.0, style=2.0, cycle=3.0, local_ncc=4.0, flat_region=5.0)
    batch = batch_of(method)
    torch.manual_seed(5)
    losses = method.generator_losses(batch)
    torch.manual_seed(5)
    drawn_a, drawn_b = torch.randn(2, 8), torch.randn(2, 8)
    a, b, auto_a, auto_b = batch["a"], batch["b"], method.auto_a, method.auto_b
    l1 = lambda x, y: (x - y).abs().mean()  # noqa: E731
    fake_b = auto_b.decode(auto_a.content(a), drawn_b)
    expected = {
        "image_b": 10 * l1(auto_b(b), b),
        "content_a": l1(auto_b.content(fake_b), auto_a.content(a)),
        "style_b": 2 * l1(auto_b.style(fake_b), drawn_b),
        "cycle_a": 3 * l1(auto_a.decode(auto_b.content(fake_b), auto_a.style(a)), a),
        "adversarial_b": sum(((logits - 1) ** 2).mean() for logits in method.d_b(fake_b)),
    }
    structure, flatness = local_ncc_and_flat_region(fake_b, a)
    expected |= {"local_ncc_b": 4 * structure, "flat_region_b": 5 * flatness}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert len(losses) == 14
    torch.testing.assert_close(batch["fake_a"], auto_a.decode(auto_b.content(b), drawn_a), rtol=1e-4, atol=1e-5)
    assert not batch["fake_b"].requires_grad


def test_one_pass_for_several_inputs_changes_nothing():
    together, apart = build(), build()
    apart.batched = False
    results = []
    for method in (together, apart):
        torch.manual_seed(3)
        results.append(method.generator_losses(batch_of(method)))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5)


def test_losses_of_weight_0_are_left_out():
    method = build(image=0.0, content=0.0, style=0.0)
    assert set(method.generator_losses(batch_of(method))) == {"adversarial_a", "adversarial_b"}


def test_every_weight_of_the_autoencoders_learns():
    method = build()
    sum(method.generator_losses(batch_of(method)).values()).backward()
    for name, parameter in [*method.auto_a.named_parameters(), *method.auto_b.named_parameters()]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_lesions_can_count_more():
    method, batch = build(lesion=5.0), batch_of(build())
    with pytest.raises(UserError, match=r"data\.mask = true"):
        method.generator_losses(batch)
    batch |= {"mask_a": torch.zeros(2, 1, 32, 32), "mask_b": torch.ones(2, 1, 32, 32)}
    batch["mask_b"][..., :16] = 0
    torch.manual_seed(1)
    weighed = method.generator_losses(Batch(batch))
    torch.manual_seed(1)
    plain = build().generator_losses(batch_of(method))
    torch.testing.assert_close(weighed["image_a"], plain["image_a"])
    assert not torch.isclose(weighed["image_b"], plain["image_b"], rtol=1e-4)


# ---- styles --------------------------------------------------------------------------------------


def test_translate_uses_the_running_mean_style_of_the_target(trained):
    state = trained.state_dict()
    assert {"style_a", "style_b"} <= set(state)
    images = squares(2, 900, bright=False)
    expected = trained.auto_b.decode(trained.auto_a.content(images), state["style_b"].expand(2, -1))
    assert torch.equal(trained.translate(images, "b"), expected)
    seen = trained.auto_b.style(squares(64, 901, bright=True))
    assert (state["style_b"] - seen.mean(0)).abs().mean() < 0.5 * seen.std(0).mean() + 0.1
    assert not torch.equal(state["style_a"], state["style_b"])


def test_the_mean_style_is_a_plain_mean_first_and_forgets_later():
    method = build()
    codes = torch.randn(40, 8)
    method._remember("b", codes)
    torch.testing.assert_close(method.style_b, codes.mean(0))
    assert torch.equal(method.style_a, torch.zeros(8))
    method._remember("b", torch.full((1000, 8), 7.0))
    torch.testing.assert_close(method.style_b, torch.full((8,), 7.0), atol=0.01, rtol=0)


@pytest.mark.parametrize("counts", [[1, 1, 3], [5], [2, 99, 40], [250]])
def test_the_mean_style_is_that_of_images_that_come_one_by_one(counts):
    method, mean, seen = build(), torch.zeros(8), 0
    for count in counts:
        codes = torch.randn(count, 8)
        method._remember("a", codes)
        for code in codes:
            seen += 1
            mean = mean + (code - mean) / min(seen, 100)
    torch.testing.assert_close(method.style_a, mean, rtol=1e-4, atol=1e-5)
    assert method.styles_seen_a == seen


def test_microbatches_leave_the_same_mean_style():
    whole, parts = build(), build()
    batch = batch_of(whole, count=4)
    whole.generator_losses(batch)
    for i in range(4):
        parts.generator_losses(Batch({name: image[i : i + 1] for name, image in batch.items() if name in "ab"}))
    torch.testing.assert_close(parts.style_b, whole.style_b, rtol=1e-4, atol=1e-5)
    assert parts.styles_seen_b == whole.styles_seen_b == 4


def test_variants_differ_and_the_same_seed_repeats_them():
    method = build().eval()
    images = batch_of(method)["a"]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with torch.no_grad():
        first, again, other = (method.variants(images, "b", 3, seed=seed) for seed in (0, 0, 1))
        single = method.variants(images[:1], "b", 3, seed=0)
    assert torch.equal(torch.get_rng_state(), state), "the draw is the seed's alone"
    assert first.shape == (3, 2, 1, 32, 32)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first[0], first[1], atol=1e-3)
    torch.testing.assert_close(first[:, :1], single, rtol=1e-3, atol=1e-4)


def test_variants_of_an_image_share_its_content_and_differ_in_style(trained):
    images = squares(4, 902, bright=False)
    first, second = trained.variants(images, "b", 2, seed=1)
    assert (first - second).abs().mean() > 0.01 * 2, "styles differ by more than 1 % of the range"
    contents = [trained.auto_b.content(variant).flatten(1) for variant in (first, second)]
    nearest = torch.cdist(*contents).argmin(1)
    assert nearest.tolist() == [0, 1, 2, 3], "of four images, the one of the same content is the nearest"


def test_an_example_gives_its_style(trained):
    images, examples = squares(4, 903, bright=False), squares(4, 904, bright=True)
    first = trained.translate_like(images, "b", examples)
    assert torch.equal(first, trained.translate_like(images, "b", examples.clone()))
    assert (first - trained.translate_like(images, "b", examples.flip(0))).abs().mean() > 1e-3
    one = trained.translate_like(images, "b", examples[:1])
    torch.testing.assert_close(one[0], first[0], rtol=1e-3, atol=1e-4)
    expected = trained.auto_b.decode(trained.auto_a.content(images), trained.auto_b.style(examples))
    assert torch.equal(first, expected)


def test_an_example_of_another_kind_is_refused():
    method = build()
    images = batch_of(method, count=3)["a"]
    for example in (random_images(2, 1, (32, 32)), random_images(3, 3, (32, 32)), random_images(1, 1, (32,) * 3)):
        with pytest.raises(UserError, match="gives no style to images") as error:
            method.translate_like(images, "b", example)
        assert "1 or 3 images of 1 channels" in str(error.value)
    with pytest.raises(UserError, match="8 x 8"):
        method.translate_like(images, "b", random_images(1, 1, (8, 8)))
    with pytest.raises(UserError, match="1 or more"):
        method.variants(images, "b", 0, seed=0)


# ---- sizes, shapes, options ----------------------------------------------------------------------


def test_volumes_and_channels_of_their_own_go_through():
    method = build(dims=3, side=16, channels=(2, 1), scales=2, cycle=10.0, local_ncc=2.0).eval()
    batch = batch_of(method)
    assert all(torch.isfinite(loss) for loss in method.generator_losses(batch).values())
    with torch.no_grad():
        assert method.translate(batch["a"], "b").shape == (2, 1, 16, 16, 16)
        assert method.translate(batch["b"], "a").shape == (2, 2, 16, 16, 16)
        assert method.variants(batch["a"], "b", 2, seed=0).shape == (2, 2, 1, 16, 16, 16)


def test_sizes_that_do_not_fit_are_refused_with_what_to_change():
    with pytest.raises(UserError, match=r"Set data\.size = \[68, 68\] or \[72, 72\]|lower method\.downs") as error:
        check_networks(build(side=70))
    assert "multiple of 4" in str(error.value)
    with pytest.raises(UserError, match="3 scales of an image of 32 x 32") as error:
        check_networks(build(side=32, discriminator=JUDGE | {"layers": 4}))
    assert "lower method.scales" in str(error.value).lower()


def test_smallest_sizes_that_are_let_pass_can_be_taken():
    auto = Autoencoder(1, 2, width=4, blocks=1, mlp_dim=8)
    auto.check_size((16, 20))
    assert auto(random_images(1, 1, (16, 20))).shape == (1, 1, 16, 20)
    network = MultiScale(bind("discriminator", JUDGE), 1, 2, 3)
    for side in (13, 16, 19):
        network.check_size((side, side))
        assert len(network(random_images(1, 1, (side, side)))) == 3
    with pytest.raises(UserError):
        network.check_size((12, 12))


@pytest.mark.parametrize(
    ("option", "value"), [("scales", 0), ("blocks", 0), ("width", 0), ("low_res_warmup", 1.5), ("lesion", -1.0)]
)
def test_options_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(UserError, match=f"method.{option}"):
        build(**{option: value})


def test_a_discriminator_without_layers_is_refused():
    with pytest.raises(UserError, match="layers = 0"):
        Strided(1, 2, layers=0)


def test_bf16_keeps_style_codes_in_float32():
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        style = method.auto_a.style(batch_of(method)["a"])
        losses = method.generator_losses(batch_of(method))
    assert style.dtype == torch.float32
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())


def test_the_coarse_stage_comes_first_at_half_the_size():
    stages = build(low_res_warmup=0.4).stages(100)
    assert [(stage.steps, stage.size) for stage in stages] == [(40, (16, 16)), (60, (32, 32))]
    assert len(build().stages(100)) == 1


def test_deep_copies_are_independent():
    method = build()
    other = copy.deepcopy(method)
    other._remember("a", torch.ones(1, 8))
    assert torch.equal(method.style_a, torch.zeros(8))


# ---- schedule ------------------------------------------------------------------------------------


def test_the_rate_halves_every_tenth_of_the_training():
    schedule = Halving()
    assert [schedule(step / 1_000_000) for step in (0, 99_999, 100_000, 300_000, 999_999, 1_000_000)] == [
        1.0, 1.0, 0.5, 0.125, 1 / 512, 1 / 512,
    ]  # fmt: skip
    assert Halving(times=1)(0.9) == 1.0
    with pytest.raises(UserError, match="times = 0"):
        Halving(times=0)


# ---- recipe --------------------------------------------------------------------------------------


def test_the_recipe_has_the_published_settings():
    model = load_recipe(RECIPE).check()
    options = model.method.options
    assert [options[name] for name in ("width", "downs", "blocks", "style_dim", "mlp_dim")] == [64, 2, 4, 8, 256]
    assert [options[name] for name in ("image", "content", "style", "cycle")] == [10, 1, 1, 0]
    assert (options["scales"], options["adversarial"].name, options["discriminator"].name) == (3, "ls", "munit")
    assert [options[name] for name in ("local_ncc", "flat_region", "low_res_warmup", "augment")] == [0, 0, 0, []]
    train = model.train
    assert train.optimizer.name == "adam"
    assert train.optimizer.options == {"lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-4}
    assert (train.steps, train.batch, train.ema, model.data.size) == (1_000_000, 1, 0, (256, 256))
    rate = train.schedule()
    assert [rate(step / train.steps) for step in (99_999, 100_000, 200_000)] == [1, 0.5, 0.25]


def test_the_recipe_has_a_profile_for_the_cpu_with_the_same_losses():
    full, small = load_recipe(RECIPE).check(), load_recipe(RECIPE).override([], "cpu").check()
    for name in ("adversarial", "image", "content", "style", "cycle"):
        assert small.method.table()[name] == full.method.table()[name]
    assert small.train.steps * small.train.batch < 5000
    assert small.method.options["local_ncc"] > 0
