"""Images from noise: ProGAN and VAE have the published networks and losses, and all make what is
asked for.
"""

import json
import math
from functools import partial

import pytest
import torch
from PIL import Image
from tiny import random_images, small_run
from torch.distributions import Normal, kl_divergence

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind_or_raise
from gantk.testing.small import train_table
from gantk.training.engine import Engine
from gantk.training.optim import adam
from gantk_synthesis.dcgan.network import DCGANGenerator
from gantk_synthesis.progan.layers import EqualConv, MinibatchDeviation, double, halve
from gantk_synthesis.progan.model import fade_real
from gantk_synthesis.progan.networks import Discriminator, Generator, filters_at, pixel_norm

# ---- DCGAN ---------------------------------------------------------------------------------------

DCGAN = {
    "name": "dcgan",
    "width": 4,
    "latent": 8,
    "discriminator": {"name": "dcgan", "width": 4, "depth": 2},
}


def dcgan(size=(32, 32), classes=(), span=(-1.0, 1.0), **options):
    torch.manual_seed(0)
    part = bind_or_raise("method", DCGAN | options)
    return part(Geometry(len(size), size, {"image": 1}, classes, span))


def trained(method, batch_at, steps, ema=0.9, rule=adam):
    engine = Engine(
        method, train_table(rule, ema=ema), steps, Runtime(torch.device("cpu"), "fp32", True)
    )
    for _ in engine.fit(lambda step, stage: batch_at(step)):
        pass
    return engine


def test_real_images_beyond_white_do_not_betray_themselves():
    """Percentiles leave the brightest pixels beyond the range, where tanh cannot follow."""
    image = torch.full((4, 1, 32, 32), 0.9)
    image[..., 8:16, 8:16] = 1.0
    beyond = image.clone()
    beyond[..., 8:16, 8:16] = 1.7
    losses = []
    for real in (image, beyond):
        torch.manual_seed(1)
        losses.append(dcgan().discriminator_losses(Batch(image=real))["d_image"])

    assert torch.equal(*losses)


@pytest.mark.parametrize("asked", ["real", "fake"])
def test_the_discriminator_of_classes_is_told_the_class(asked):
    """Mirza and Osindero 2014: both networks get the class. Another label, other logits."""
    label = torch.tensor([0, 1, 0, 1])
    image = random_images(4, 1, (32, 32))
    losses = []
    for shown in (label, 1 - label):
        method = dcgan(classes=("healthy", "tumour"), conditional=True)
        method.adversarial.discriminator = lambda real, fake: {"real": real, "fake": fake}[asked]
        batch = Batch(image=image, label=shown, fake=image)  # no new fake, so only D sees the label
        losses.append(method.discriminator_losses(batch)["d_image"])

    assert (losses[0] - losses[1]).abs().max() > 1e-3


def test_a_seed_gives_the_same_image_for_any_count():
    method = dcgan().eval()
    few = method.sample(3, seed=5)
    many = method.sample(40, seed=5)

    torch.testing.assert_close(many[:3], few, rtol=1e-4, atol=1e-5)
    assert (many[0] - many[1]).abs().max() > 1e-3, "another noise is another image"
    images = dcgan(span=(0.0, 1.0)).eval().sample(4, seed=0)
    assert 0 <= images.min() < 0.5 < images.max() <= 1, "the range of the data"


@pytest.mark.parametrize(
    ("size", "layers", "first"),
    [((128, 128), 4, (16, 16)), ((64, 64), 4, (8, 8)), ((32, 48), 3, (8, 12))],
)
def test_generator_has_as_many_layers_as_asked_for(size, layers, first):
    generator = DCGANGenerator(8, 1, size, layers=layers, width=2)
    sides = []
    for doubling in generator.doubles:
        doubling.register_forward_hook(lambda *given: sides.append(tuple(given[2].shape[2:])))

    image = generator(torch.zeros(2, 8))

    assert generator.start[1:] == first
    assert len(sides) == layers - 1
    assert sides[-1] == tuple(image.shape[2:]) == size


def test_generator_of_too_many_layers_is_refused():
    with pytest.raises(UserError, match=r"of 6 layers cannot.*96, 96.*change method.layers"):
        DCGANGenerator(8, 1, (90, 90), layers=6)


def labelled(step: int) -> Batch:
    """Dark images of class 0, bright ones of class 1, three to one."""
    generator = torch.Generator().manual_seed(step)
    label = (torch.rand(16, generator=generator) < 0.25).long()
    bright = label.float().reshape(-1, 1, 1, 1) - 0.5
    return Batch(image=bright + 0.2 * torch.rand(16, 1, 8, 8, generator=generator), label=label)


def test_conditional_generators_make_the_class_asked_for():
    small = {"name": "dcgan", "width": 8, "depth": 1}
    method = dcgan(
        (8, 8), classes=("dark", "bright"), conditional=True, width=8, discriminator=small
    )
    engine = trained(method, labelled, 150, rule=partial(adam, lr=2e-3))
    with engine.ema.averaged_weights(), torch.no_grad():
        method.eval()
        dark, bright = (method.sample(32, seed=0, labels=torch.full((32,), k)) for k in (0, 1))
        turns = method.sample(4, seed=0)

    assert float(bright.mean() - dark.mean()) > 0.5
    assert turns[1].mean() > turns[0].mean(), "None: the classes in turn"
    assert turns[3].mean() > turns[2].mean(), "None: the classes in turn"
    assert float(method.shown[1] / method.shown.sum()) == pytest.approx(0.25, abs=0.05)
    with pytest.raises(UserError, match="class"):
        method.sample(2, seed=0, labels=torch.tensor([0, 2]))


def test_averaged_weights_have_their_own_batch_statistics():
    """In evaluation every map has mean 0 and deviation 1 as in training, though the weights are an
    average.
    """
    method = dcgan()
    engine = trained(method, lambda step: Batch(image=torch.rand(8, 1, 32, 32)), 12, ema=0.99)
    seen = {}
    norm = method.generator.doubles[0][1]
    norm.register_forward_hook(
        lambda layer, inputs, out: seen.update(x=(out - layer.bias[:, None, None]).detach())
    )
    with engine.ema.averaged_weights(), torch.no_grad():
        method.eval().sample(16, seed=9)

    scaled = seen["x"] / norm.weight[:, None, None]

    assert scaled.mean().abs() < 0.2
    assert 0.8 < scaled.std() < 1.2


# ---- ProGAN --------------------------------------------------------------------------------------

PROGAN = {"name": "progan", "latent": 8, "base": 32, "width": 8}


def progan(side: int = 16, dims: int = 2, seed: int = 0, classes: tuple[str, ...] = (), **options):
    torch.manual_seed(seed)
    return bind_or_raise("method", PROGAN | options)(
        Geometry(dims, (side,) * dims, {"image": 1}, classes)
    )


# The pair of the paper's table 2: 1024 px, 3 channels.


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_level_has_the_parameters_of_the_papers_table():
    filters = filters_at(9, base=8192, width=512)
    assert filters == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    with torch.device("meta"):
        generator = Generator(3, 2, filters, 512)
        discriminator = Discriminator(3, 2, filters)

    assert [round(count(network) / 1e6, 1) for network in (generator, discriminator)] == [
        23.1,
        23.1,
    ]

    large = [2.4e6, 2.4e6, 2.4e6, 1.2e6, 295e3, 74e3, 18e3, 4.6e3]
    small = [2.4e6, 2.4e6, 2.4e6, 590e3, 148e3, 37e3, 9.2e3, 2.3e3]
    for first, second in (
        (generator.grow, generator.refine),
        (discriminator.shrink, discriminator.refine),
    ):
        assert [count(level) for level in first] == pytest.approx(large, rel=0.03)
        assert [count(level) for level in second] == pytest.approx(small, rel=0.03)

    assert count(generator.first) + generator.first_bias.numel() == pytest.approx(4.2e6, rel=0.02)
    ends = [generator.second, discriminator.last, discriminator.whole]
    assert [count(layer) for layer in ends] == pytest.approx([2.4e6, 2.4e6, 4.2e6], rel=0.02)
    ends = [generator.to_image[-1], discriminator.from_image[-1], discriminator.score]
    assert [count(layer) for layer in ends] == [51, 64, 513]


# Layers against their formulas, in float64.


def test_pixel_norm_equals_the_formula():
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    expected = x / (x.square().sum(1, keepdim=True) / 5 + 1e-8).sqrt()

    torch.testing.assert_close(pixel_norm(x.float()).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("images", "group"), [(8, 4), (4, 4), (6, 3), (2, 2), (1, 1), (5, 5)])
def test_minibatch_deviation_equals_the_formula(images, group):
    x = torch.randn(images, 3, 4, 4)
    found = MinibatchDeviation()(x)

    assert torch.equal(found[:, :3], x)

    y = x.double()
    columns = images // group
    for k in range(images):
        own = y[k % columns :: columns]
        assert len(own) == group
        expected = ((own - own.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        assert found[k, 3] == pytest.approx(torch.full((4, 4), float(expected)), rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_convolving_after_doubling_never_needs_the_large_image(dims):
    torch.manual_seed(0)
    layer = EqualConv(dims, 3, 4, 3).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *([24] * 2 if dims == 2 else [8] * 3), dtype=torch.float64)

    torch.testing.assert_close(layer.after_doubling(x), layer(double(x)))


def test_drift_is_the_mean_square_of_the_real_logits():
    method = progan(8, drift=0.5)
    method.begin(method.stages(4)[0], Batch())
    real = random_images(4, 1, (4, 4))
    losses = method.discriminator_losses(Batch(image=real))
    expected = 0.5 * method.d(real, 0).detach().double().square().mean()

    assert float(losses["drift"].detach()) == pytest.approx(float(expected), rel=1e-5)
    assert set(losses) == {"adversarial", "penalty", "drift"}
    assert "drift" not in progan(8, drift=0.0).discriminator_losses(Batch(image=real))


@pytest.mark.parametrize("dims", [2, 3])
def test_fade_in_blends_the_level_below(dims):
    g = progan(16, dims).g
    z = torch.randn(2, 8)
    old = double(g(z, 1))
    new = g(z, 2)

    assert not torch.allclose(old, new)
    assert torch.equal(g(z, 2, torch.tensor(0.0)), old)
    assert torch.equal(g(z, 2, torch.tensor(1.0)), new)
    torch.testing.assert_close(g(z, 2, torch.tensor(0.25)), 0.75 * old + 0.25 * new)

    d = progan(16, dims).d
    image = random_images(4, 1, (16,) * dims)

    assert torch.equal(d(image, 2, torch.tensor(0.0)), d(halve(image), 1))
    assert torch.equal(d(image, 2, torch.tensor(1.0)), d(image, 2))
    assert not torch.allclose(d(image, 2, torch.tensor(0.5)), d(image, 2))
    assert torch.equal(fade_real(image, None), image)
    assert torch.equal(fade_real(image, torch.tensor(1.0)), image)
    assert torch.equal(fade_real(image, torch.tensor(0.0)), double(halve(image)))


def test_alpha_rises_evenly_during_fade_in():
    method = progan(8)
    engine = Engine(
        method, train_table(adam), 30, Runtime(torch.device("cpu"), "fp32", channels_last=True)
    )
    found: dict[str, list[float]] = {}
    for stage, _, _ in engine.fit(
        lambda step, stage: Batch(image=random_images(4, 1, stage.size, seed=step))
    ):
        found.setdefault(stage.name, []).append(float(method.alpha))

    assert list(found) == ["4", "8 fade", "8"]
    assert set(found["4"] + found["8"]) == {1.0}
    steps = len(found["8 fade"])
    assert found["8 fade"] == pytest.approx([(k + 0.5) / steps for k in range(steps)], abs=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 1001])
@pytest.mark.parametrize("side", [8, 128])
def test_stages_share_out_all_steps_and_end_at_the_whole_size(steps, side):
    stages = progan(side).stages(steps)
    assert sum(stage.steps for stage in stages) == steps
    assert min(stage.steps for stage in stages) >= 1
    sides = [stage.size[0] for stage in stages]
    assert sides == sorted(sides)
    assert sides[-1] == side
    if steps >= (levels := math.log2(side) - 1):
        assert sides[0] == 4
        assert len(set(sides)) == levels


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        ({}, 1000, [200, 200, 200, 200, 200]),
        ({"shares": [1.0, 1.0, 2.0], "fade": 0.25}, 400, [100, 25, 75, 50, 150]),
    ],
    ids=["paper", "shares"],
)
def test_stages_follow_the_paper_or_given_shares(options, steps, expected):
    stages = progan(16, **options).stages(steps)
    names = ["4", "8 fade", "8", "16 fade", "16"]

    assert [(stage.name, stage.steps) for stage in stages] == list(
        zip(names, expected, strict=True)
    )


# ---- VAE


def built(**options):
    torch.manual_seed(0)
    part = bind_or_raise("method", {"name": "vae", "width": 4, "latent": 6} | options)
    return part(Geometry(2, (16, 16), {"image": 1}))


def test_the_loss_is_the_papers_bound_per_pixel():
    method = built(sigma=0.2, beta=3.0)
    image = random_images(4, 1, (16, 16))
    torch.manual_seed(1)
    losses = method.autoencoder_losses(Batch(image=image))
    torch.manual_seed(1)
    mean, log_variance = method.encode(image)
    codes = Normal(mean, (0.5 * log_variance).exp())
    decoded = Normal(method.decode(mean + codes.scale * torch.randn_like(mean)), 0.2)
    constant = Normal(0.0, 0.2).log_prob(torch.zeros(()))  # which no weight changes

    torch.testing.assert_close(losses["reconstruction"], constant - decoded.log_prob(image).mean())
    expected = 3.0 * kl_divergence(codes, Normal(0.0, 1.0)).sum(1).mean() / image[0].numel()
    torch.testing.assert_close(losses["divergence"], expected)


def test_sampled_codes_have_the_statistics_of_training():
    image = random_images(64, 1, (16, 16))
    noise = torch.randn(20_000, 262, generator=torch.Generator().manual_seed(0))
    for prior in ("fitted", "normal"):
        method = built(prior=prior, gan=0.1)
        codes = []
        method.encoder.code.bias.data += torch.tensor([3.0] * 6 + [-2.0] * 6)
        method.encoder.code.weight.data[:6] *= 5
        method.decode = lambda code, label, grain=None, codes=codes: (
            codes.append(code) or image[: len(code)]
        )
        with torch.no_grad():
            for _ in range(600):
                method.autoencoder_losses(Batch(image=image))
            # first reconstructed, then judged
            judged = torch.cat([each[32:] for each in codes[601::2]])
            mean, log_variance = method.encode(image)
            method.sampler()(noise)

        expected = mean.mean(0), mean.T.cov(correction=0) + log_variance.exp().mean(0).diag()
        for drawn in (judged, codes[-1]):
            for found, wanted in zip((drawn.mean(0), drawn.T.cov()), expected, strict=True):
                close = torch.allclose(found, wanted, rtol=0.1, atol=0.05)
                assert close == (prior == "fitted"), (prior, found, wanted)


def test_discriminator_gradients_reach_the_decoder_only():
    method = built(gan=0.5)
    losses = method.autoencoder_losses(Batch(image=random_images(4, 1, (16, 16))))
    losses["adversarial"].backward()

    assert all(p.grad is None for p in method.encoder.parameters())
    # grain's too
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.decoder.parameters())


def test_vae_samples_and_reconstructs_but_does_not_translate(tmp_path, gantk):
    method = {"name": "vae", "width": 4, "latent": 6, "conditional": True}
    source = {"lesions": 1, "radius": [8.0, 16.0]}
    run = small_run(tmp_path, method, steps=2, domains=["FLAIR"], labels=True, source=source)
    metrics = json.loads((run / "metrics.json").read_text())

    assert {"psnr", "ssim", "mae"} <= metrics["metrics"]["reconstruction"].keys()
    assert "image" in metrics["metrics"]
    assert metrics["baselines"]["mean_image"]["reconstruction"]["psnr"]["value"] > 10

    with Image.open(run / "samples" / "reconstructions" / "test.png") as picture:
        assert picture.size[1] == 2 * 32
        assert picture.size[0] % 32 == 0

    for label in ("healthy", "tumour"):
        assert (
            gantk("sample", run, "-n", "2", "--out", tmp_path / label, "--label", label).code == 0
        )

    one, other = (
        sorted((tmp_path / label).iterdir())[0].read_bytes() for label in ("healthy", "tumour")
    )

    assert one != other

    Image.new("L", (32, 32), 90).save(tmp_path / "slice.png")
    done = gantk("translate", run, tmp_path / "slice.png", tmp_path / "out.png")

    assert done.code == 2
    assert "'VAE' cannot translate" in done.err
    assert not (tmp_path / "out.png").exists()
