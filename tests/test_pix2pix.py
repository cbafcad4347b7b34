"""Pix2Pix minimises what its paper says, on pairs; regression is the same without a discriminator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.method import Batch, Geometry, Method
from gantk.plugin.spec import bind_or_raise

GENERATOR = {"name": "unet", "width": 4, "depth": 2}
SMALL = {"generator": GENERATOR, "discriminator": {"name": "patchgan", "width": 4, "layers": 3}}


def build(name: str = "pix2pix", channels: tuple[int, int] = (1, 1), dims: int = 2, **options) -> Method:
    """A small method on images of 16 pixels a side."""
    torch.manual_seed(0)
    networks = SMALL if name == "pix2pix" else {"generator": GENERATOR}
    part = bind_or_raise("method", {"name": name} | networks | options)
    return part(Geometry(dims, (16,) * dims, dict(zip("ab", channels, strict=True))))


def pairs(channels: tuple[int, int] = (1, 1), dims: int = 2, n: int = 2) -> Batch:
    """Random pairs with lesions in one corner; the same for the same shape."""
    generator = torch.Generator().manual_seed(5)
    size = (16,) * dims
    batch = {k: torch.rand(n, c, *size, generator=generator) * 2 - 1 for k, c in zip("ab", channels, strict=True)}
    mask = torch.zeros(n, 1, *size)
    mask[(slice(None), slice(None), *[slice(0, 6)] * dims)] = 1.0
    return Batch(batch | {"mask_a": mask, "mask_b": mask.flip(2)})


def double(x: Tensor) -> Tensor:
    return x.detach().double()


def value(loss: Tensor) -> float:
    return float(loss.detach())


def cross_entropy(logits: Tensor, real: bool) -> float:
    """-log D or -log(1 - D) with D the sigmoid, averaged over patches: the sums of equation 1, written out."""
    chances = 1 / (1 + (-double(logits)).exp())
    return float(-(chances if real else 1 - chances).log().mean())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [(1, 1), (3, 1), (2, 3)])
def test_generator_minimises_cross_entropy_plus_a_hundred_times_l1(channels, dims):
    """Isola et al. (2017), equations 3 and 4; the generator maximises log D(x, G(x)), as section 3.3 says."""
    method, batch = build(channels=channels, dims=dims), pairs(channels, dims)
    losses = method.generator_losses(batch)
    fake = method.g_ab(batch["a"])
    assert fake.shape[1] == channels[1]
    logits = method.d_ab(torch.cat([batch["a"], fake], 1))
    assert set(losses) == {"adversarial_b", "l1_b"}
    assert value(losses["adversarial_b"]) == pytest.approx(cross_entropy(logits, real=True), abs=1e-5)
    l1 = (double(fake) - double(batch["b"])).abs().mean()
    assert value(losses["l1_b"]) == pytest.approx(100 * value(l1), rel=1e-5)


def test_each_discriminator_minimises_half_the_cross_entropy_of_its_true_and_false_pairs():
    """Equation 1, divided by two as section 3.3 says; the false pair has the true source and the fake."""
    method, batch = build(both=True), pairs()
    method.generator_losses(batch)
    losses = method.discriminator_losses(batch)
    assert set(losses) == {"d_ab", "d_ba"}
    for judge, source, to in ((method.d_ab, "a", "b"), (method.d_ba, "b", "a")):
        real = judge(torch.cat([batch[source], batch[to]], 1))
        fake = judge(torch.cat([batch[source], batch[f"fake_{to}"]], 1))
        expected = (cross_entropy(real, real=True) + cross_entropy(fake, real=False)) / 2
        assert value(losses[f"d_{source}{to}"]) == pytest.approx(expected, abs=1e-5)
    method = build(channels=(2, 1), adversarial="wgan_gp")
    batch = pairs((2, 1))
    method.generator_losses(batch)
    assert value(method.discriminator_losses(batch)["penalty_ab"]) > 0


@pytest.mark.parametrize("name", ["pix2pix", "regression"])
def test_one_way_is_the_default_and_both_ways_are_an_option(name):
    one, two, batch = build(name, channels=(2, 1)), build(name, channels=(2, 1), both=True), pairs((2, 1))
    assert one.directions() == ["b"] and not hasattr(one, "g_ba")
    assert one.paired and one.reads == ("a", "b")
    if name == "regression":
        assert [child for child, _ in one.named_children()] == ["g_ab"] and set(one.generator_losses(batch)) == {"l1_b"}
    assert two.directions() == ["b", "a"]
    assert two.translate(batch["a"], "b").shape[1] == 1 and two.translate(batch["b"], "a").shape[1] == 2
    assert torch.equal(two.translate(batch["b"], "a"), two.g_ba(batch["b"]))
    losses = two.generator_losses(batch)
    assert {key[-2:] for key in losses} == {"_a", "_b"} and "l1_a" in losses
    updated = [module for phase in two.phases() for module in phase.updates]
    assert {id(module) for module in updated} == {id(m) for n, m in two.named_children() if n[0] in "gd"}
    with pytest.raises(UserError, match=r"method\.both = true"):
        one.translate(batch["b"], "a")


@pytest.mark.parametrize("name", ["pix2pix", "regression"])
def test_lesions_count_as_often_as_said(name):
    """L1 with the weights 1 + (lesion - 1) mask, divided by their mean."""
    method, batch = build(name, lesion=4.0, both=True), pairs()
    scale = 100 if name == "pix2pix" else 1
    losses = method.generator_losses(batch)
    for to, source in (("b", "a"), ("a", "b")):
        weight = 1 + 3 * double(batch[f"mask_{to}"])
        difference = (double(method.translate(batch[source], to)) - double(batch[to])).abs()
        expected = float((weight / weight.mean() * difference).mean())
        assert value(losses[f"l1_{to}"]) == pytest.approx(scale * expected, rel=1e-5)
    del batch["mask_b"]  # one mask serves both images of a pair
    batch["mask_a"] = batch["mask_a"].flip(2)
    assert torch.equal(method.generator_losses(batch)["l1_b"], losses["l1_b"])


def test_dropout_is_the_noise_of_the_paper_where_the_recipe_wants_it():
    """In use it draws from torch's global generator: a seed there makes it repeatable."""
    image = pairs()["a"]
    noisy = build(generator=GENERATOR | {"dropout": 0.5}, test_dropout=True).eval()
    torch.manual_seed(3)
    first, other = noisy.translate(image, "b"), noisy.translate(image, "b")
    torch.manual_seed(3)
    assert torch.equal(noisy.translate(image, "b"), first) and not torch.equal(other, first)
    still = build(generator=GENERATOR | {"dropout": 0.5}).eval()
    assert torch.equal(still.translate(image, "b"), still.translate(image, "b"))
    assert not torch.equal(still.train().translate(image, "b"), still.translate(image, "b"))
    assert not any(m.training for m in noisy.modules() if not isinstance(m, nn.Dropout))
