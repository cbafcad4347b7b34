"""What the networks are given when a trained system translates or samples, and what becomes of it."""

import pytest
import torch
from systems import build, small_model
from tiny import random_images

from gantk.method import Batch

pytestmark = pytest.mark.fidelity


def shown_to(network):
    """Lists that get what a network is given in each call, and what it makes of it."""
    inputs = []
    outputs = []

    def keep(_, given, made):
        inputs.append(given[0])
        outputs.append(made)

    network.register_forward_hook(keep)
    return inputs, outputs


def images(count, seed):
    return random_images(count, 1, (32, 32), seed)


@pytest.mark.parametrize(("to", "way"), [("b", "g_ab"), ("a", "g_ba")])
@pytest.mark.parametrize("name", ["cyclegan_ct_mr", "dualgan_t1t2_unet15"])
def test_a_direction_is_translated_by_its_own_generator(name, to, way):
    smaller = ["method.generator.depth=3"] if "unet" in name else []
    method = build(small_model(name, "data.size=[32, 32]", *smaller)).eval()
    real = images(2, seed=1)

    with torch.no_grad():
        found = method.translate(real, to)
        stated = getattr(method, way)(real)

    assert torch.equal(found, stated)


def test_dcgan_samples_from_other_uniform_noise_for_each_image():
    method = build(small_model("dcgan_tumour", "method.latent=64")).eval()
    inputs, outputs = shown_to(method.generator)

    with torch.no_grad():
        found = method.sample(20, seed=0)

    noise = torch.cat(inputs)
    quarters = torch.histc(noise, 4, -1, 1) / noise.numel()
    assert noise.shape == (20, 64)
    assert len(noise.unique(dim=0)) == 20
    assert -1 <= noise.min() < noise.max() <= 1
    assert (quarters - 0.25).abs().max() < 0.05
    assert torch.equal(found, torch.cat(outputs))


@pytest.mark.parametrize("label", [0, 1])
def test_pix2pix_translates_a_real_image_with_noise_and_class(label):
    method = build(small_model("pix2pix_tumour")).eval()
    inputs, outputs = shown_to(method.g_ab)
    real = images(2, seed=1)

    with torch.no_grad():
        found = method.of_class(label).translate(real, "b")

    (given,) = inputs
    noise = given[:, 1]
    assert torch.equal(found, outputs[0])
    assert given.shape[1] == 4  # image, noise, and one plane for each of two classes
    assert torch.equal(given[:, :1], real)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)
    assert (given[:, 2 + label] == 1).all()
    assert (given[:, 3 - label] == 0).all()


@pytest.fixture
def style_gan():
    """Style Transfer GAN that has seen four examples in a step of its training."""
    method = build(small_model("style_gan_tumour"))
    examples = images(4, seed=2)
    method.generator_losses(Batch(a=images(4, seed=3), b=examples))
    return method.eval(), examples


def test_style_gan_adds_the_tumour_of_its_example(style_gan):
    method, examples = style_gan
    inputs, outputs = shown_to(method.g_ab)
    real = images(3, seed=4)

    with torch.no_grad():
        found = method.translate(real, "b")

    (given,) = inputs
    assert torch.equal(given[:, :1], real)
    for example in given[:, 1:]:
        assert any(torch.equal(example, each) for each in examples)
    torch.testing.assert_close(found, (real + 2 * outputs[0]).clamp(-1, 1))


def test_style_gan_takes_a_drawn_tumour_away_under_noise():
    method = build(small_model("style_gan_tumour"))
    inputs, _ = shown_to(method.g_ba)
    batch = Batch(a=images(4, seed=3), b=images(4, seed=2))
    method.generator_losses(batch)

    real, noisy = torch.cat(inputs).split(4)
    assert torch.equal(real, batch["b"])
    assert method.defense > 0
    assert (noisy - batch["fake_b"]).std().item() == pytest.approx(method.defense, rel=0.1)


def test_style_gan_takes_the_tumour_away_by_the_second_network(style_gan):
    method, examples = style_gan
    inputs, outputs = shown_to(method.g_ba)

    with torch.no_grad():
        found = method.translate(examples, "a")

    (given,) = inputs
    assert torch.equal(given, examples)
    torch.testing.assert_close(found, (examples + 2 * outputs[0]).clamp(-1, 1))
