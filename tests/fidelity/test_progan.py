"""R4's ProGAN, of which the report names no layer: as in Karras et al. 2018, in plain torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from reference import leaky
from systems import build, recipe_of, small_model
from tiny import random_images

from gantk.method import Batch

pytestmark = pytest.mark.fidelity

LEVEL = 2  # 16 px, the size of the small system
HE = math.sqrt(2)  # gain of a layer ahead of a ReLU (He et al. 2015)


def pixel_norm(x):
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def equal(layer, x, gain=HE):
    """A convolution whose N(0, 1) weights are scaled by He's constant (section 4.1)."""
    weight = layer.weight
    scale = gain / math.sqrt(weight[0].numel())
    return F.conv2d(x, weight * scale, layer.bias, padding=weight.shape[-1] // 2)


def generator(g, noise):
    """Pixel norm, 4x4 maps, and at each size two 3x3 convolutions, LeakyReLU and pixel norm."""
    dense = g.first.weight * math.sqrt(2) / math.sqrt(noise.shape[1] * 16)
    x = (pixel_norm(noise) @ dense.T).unflatten(1, (-1, 4, 4)) + g.first_bias.view(1, -1, 1, 1)
    x = pixel_norm(leaky(x))
    x = pixel_norm(leaky(equal(g.second, x)))
    for level in range(LEVEL):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = pixel_norm(leaky(equal(g.grow[level], x)))
        x = pixel_norm(leaky(equal(g.refine[level], x)))
    return equal(g.to_image[LEVEL], x, gain=1.0)


def halved(x):
    return x.unflatten(3, (-1, 2)).mean(4).unflatten(2, (-1, 2)).mean(3)


def discriminator(d, image, alpha=1.0):
    """The mirror image without norms; the deviation in the batch as one more map at 4 px. While a
    size fades in, the halved image counts as well, by 1 - alpha.
    """
    x = leaky(equal(d.from_image[LEVEL], image))
    for level in reversed(range(LEVEL)):
        x = halved(leaky(equal(d.shrink[level], leaky(equal(d.refine[level], x)))))
        if level == LEVEL - 1:
            x = alpha * x + (1 - alpha) * leaky(equal(d.from_image[level], halved(image)))
    deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], 1)
    x = leaky(equal(d.last, x)).flatten(1)
    x = leaky(F.linear(x, d.whole.weight * math.sqrt(2 / x.shape[1]), d.whole.bias))
    return F.linear(x, d.score.weight / math.sqrt(x.shape[1]), d.score.bias)


def trained():
    """The small system at its last size, and a batch of four images."""
    method = build(small_model("progan_tumour", "method.conditional=false"))
    batch = Batch(image=random_images(4, 1, (16, 16), seed=1))
    method.begin(method.stages(100)[-1], batch)
    return method, batch


def draw_biases(method):
    """Other biases than the zeros at which they start."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, values in method.named_parameters():
            if "bias" in name:
                values.normal_()


def test_both_networks_compute_the_layers_of_karras():
    method, batch = trained()
    draw_biases(method)
    noise = torch.randn(4, method.latent)

    torch.testing.assert_close(
        method.g(noise, LEVEL), generator(method.g, noise), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        method.d(batch["image"], LEVEL),
        discriminator(method.d, batch["image"]),
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_discriminator_fades_a_size_in_as_the_generator_does():
    method, batch = trained()
    draw_biases(method)

    found = method.d(batch["image"], LEVEL, torch.tensor(0.25))

    stated = discriminator(method.d, batch["image"], alpha=0.25)
    torch.testing.assert_close(found, stated, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [4, 32])
def test_large_maps_are_doubled_and_convolved_as_small_ones_are(side):
    method, _ = trained()
    draw_biases(method)
    layer = method.g.grow[0]
    maps = torch.randn(2, layer.weight.shape[1], side, side)

    found = layer.after_doubling(maps)

    doubled = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(found, equal(layer, doubled), rtol=1e-3, atol=1e-4)


def test_filters_are_those_of_table_2():
    with torch.device("meta"):
        method = build(recipe_of("progan_tumour"))

    assert [layer.weight.shape[0] for layer in method.g.refine] == [512, 512, 512, 256, 128]
    assert [layer.weight.shape[1] for layer in method.d.refine] == [512, 512, 512, 256, 128]
    assert method.g.first.weight.shape == (16 * 512, 512)


def test_samples_are_made_of_normal_noise_at_the_last_size():
    method, _ = trained()
    method.double()  # float32 rounds differently on each processor
    seen = []

    def see(_, given: tuple) -> tuple:
        seen.append(given[0].double())
        return seen[-1], *given[1:]

    method.g.register_forward_pre_hook(see)

    found = method.eval().sample(200, seed=0)

    stated = generator(method.g, torch.cat(seen)).clamp(-1, 1).to(found.dtype)
    torch.testing.assert_close(found, stated, rtol=1e-3, atol=1e-4)
    noise = torch.cat(seen).double()
    assert noise.shape == (200, method.latent)
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.square().mean()) == pytest.approx(1.0, abs=0.15)
    assert float(noise.pow(4).mean()) == pytest.approx(3.0, abs=0.8)  # 1.8 of a uniform one


def test_weights_start_normal_of_deviation_1_and_biases_at_0():
    method, _ = trained()
    for name, values in method.named_parameters():
        weight = values.detach()
        if "bias" in name:
            assert not weight.any()
        elif weight.numel() > 200:
            assert float(weight.std()) == pytest.approx(1.0, abs=0.15)
            assert abs(float(weight.mean())) < 0.2


def test_losses_are_wasserstein_with_gradient_penalty_and_drift():
    method, batch = trained()
    torch.manual_seed(7)
    of_generator = method.generator_losses(batch)
    of_discriminator = method.discriminator_losses(batch)

    torch.manual_seed(7)
    real = batch["image"]
    fake = generator(method.g, torch.randn(4, method.latent))
    share = torch.rand(4, 1, 1, 1)
    between = (fake + share * (real - fake)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(method.d, between).sum(), between)
    judged = discriminator(method.d, real)
    of_fakes = discriminator(method.d, fake)
    stated = {
        "adversarial": of_fakes.mean() - judged.mean(),
        "penalty": 10 * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean(),
        "drift": 1e-3 * judged.square().mean(),
    }

    assert of_generator.keys() == {"adversarial"}
    torch.testing.assert_close(of_generator["adversarial"], -of_fakes.mean(), rtol=1e-3, atol=1e-4)
    assert of_discriminator.keys() == stated.keys()
    for name, loss in stated.items():
        torch.testing.assert_close(of_discriminator[name], loss, rtol=2e-3, atol=1e-4)
    assert not batch["fake"].requires_grad


def test_a_size_is_faded_in_over_half_of_its_steps():
    method, batch = trained()
    sizes = [(stage.name, stage.steps) for stage in method.stages(100)]
    fading = method.stages(100)[-2]
    method.begin(fading, batch)
    low, high = fading.fade
    method.progress.fill_(low + (high - low) / 4)
    noise = torch.randn(4, method.latent)

    quarter = method.g(noise, LEVEL, method._fade_in())

    small = method.g(noise, LEVEL - 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(quarter, (3 * small + method.g(noise, LEVEL)) / 4)
    assert sizes == [("4", 20), ("8 fade", 20), ("8", 20), ("16 fade", 20), ("16", 20)]
    seen = []
    method.d.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.discriminator_losses(Batch(image=batch["image"], fake=quarter.detach()))
    blurred = F.avg_pool2d(batch["image"], 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(seen[0][:4], (3 * blurred + batch["image"]) / 4)
