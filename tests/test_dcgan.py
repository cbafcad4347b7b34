"""DCGAN: the published networks, sizes it can make, classes that are asked for, and sane images at inference."""

from functools import partial

import pytest
import torch

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry
from gantk.nets.discriminators import DCGANDiscriminator
from gantk.plugin.spec import bind_or_raise
from gantk.testing.small import train_table
from gantk.training.engine import Engine
from gantk.training.optim import adam
from gantk_dcgan.network import DCGANGenerator, doublings

SMALL = {"name": "dcgan", "width": 4, "latent": 8, "discriminator": {"name": "dcgan", "width": 4, "depth": 2}}


def build(size=(32, 32), classes=(), span=(-1.0, 1.0), **options):
    torch.manual_seed(0)
    part = bind_or_raise("method", SMALL | options)
    return part(Geometry(len(size), size, {"image": 1}, classes, span))


def trained(method, batch_at, steps, ema=0.9, rule=adam):
    engine = Engine(method, train_table(rule, ema=ema), steps, Runtime(torch.device("cpu"), "fp32", True))
    for _ in engine.fit(lambda step, stage: batch_at(step)):
        pass
    return engine


@pytest.mark.parametrize(
    ("make", "published"),
    [(lambda: DCGANGenerator(100, 3, (64, 64)), 3_576_704), (lambda: DCGANDiscriminator(3, 2), 2_765_568 + 64 + 1)],
    ids=["generator", "discriminator"],
)
def test_networks_have_the_published_number_of_parameters(make, published):
    """The DCGAN tutorial of PyTorch, RGB at 64 px, nz = 100, ngf = ndf = 64: 3,576,704 and 2,765,568.

    Its discriminator has no biases at all; ours has them in the two convolutions that no batch norm follows, 64 + 1.
    """
    assert sum(parameter.numel() for parameter in make().parameters()) == published


@pytest.mark.parametrize(
    ("size", "count"), [((64, 64), 4), ((192, 160), 5), ((48, 40), 3), ((8, 8), 1), ((16, 24, 24), 2)]
)
def test_any_size_with_enough_halves_can_be_made(size, count):
    assert doublings(size) == count
    with torch.device("meta"):
        assert DCGANGenerator(4, 1, size, width=2)(torch.zeros(2, 4)).shape == (2, 1, *size)


def test_real_images_beyond_white_do_not_betray_themselves():
    """Percentiles leave the brightest pixels beyond the range, where tanh cannot follow."""
    image = torch.full((4, 1, 32, 32), 0.9)
    image[..., 8:16, 8:16] = 1.0
    beyond = image.clone()
    beyond[..., 8:16, 8:16] = 1.7
    losses = []
    for real in (image, beyond):
        torch.manual_seed(1)
        losses.append(build().discriminator_losses(Batch(image=real))["d_image"])
    assert torch.equal(*losses)


def test_an_image_of_a_seed_is_the_same_whatever_the_number_asked_for():
    method = build().eval()
    few, many = method.sample(3, seed=5), method.sample(40, seed=5)
    torch.testing.assert_close(many[:3], few, rtol=1e-4, atol=1e-5)
    assert (many[0] - many[1]).abs().max() > 1e-3, "another noise is another image"
    images = build(span=(0.0, 1.0)).eval().sample(4, seed=0)
    assert 0 <= images.min() < 0.5 < images.max() <= 1, "the range of the data"


def labelled(step: int) -> Batch:
    """Dark images of class 0, bright ones of class 1, three to one."""
    generator = torch.Generator().manual_seed(step)
    label = (torch.rand(16, generator=generator) < 0.25).long()
    bright = label.float().reshape(-1, 1, 1, 1) - 0.5
    return Batch(image=bright + 0.2 * torch.rand(16, 1, 8, 8, generator=generator), label=label)


def test_a_conditional_generator_makes_the_class_that_is_asked_for():
    small = {"name": "dcgan", "width": 8, "depth": 1}
    method = build((8, 8), classes=("dark", "bright"), conditional=True, width=8, discriminator=small)
    engine = trained(method, labelled, 150, rule=partial(adam, lr=2e-3))
    with engine.ema.applied(), torch.no_grad():
        method.eval()
        dark, bright = (method.sample(32, seed=0, labels=torch.full((32,), k)) for k in (0, 1))
        turns = method.sample(4, seed=0)
    assert float(bright.mean() - dark.mean()) > 0.5
    assert turns[1].mean() > turns[0].mean() and turns[3].mean() > turns[2].mean(), "None: the classes in turn"
    assert float(method.shown[1] / method.shown.sum()) == pytest.approx(0.25, abs=0.05)
    with pytest.raises(UserError, match="class"):
        method.sample(2, seed=0, labels=torch.tensor([0, 2]))


def test_batch_norm_of_averaged_weights_has_statistics_of_its_own():
    """In evaluation every map has mean 0 and deviation 1 as in training, though the weights are an average."""
    method = build()
    engine = trained(method, lambda step: Batch(image=torch.rand(8, 1, 32, 32)), 12, ema=0.99)
    seen = {}
    norm = method.generator.doubles[0][1]
    norm.register_forward_hook(lambda layer, inputs, out: seen.update(x=(out - layer.bias[:, None, None]).detach()))
    with engine.ema.applied(), torch.no_grad():
        method.eval().sample(16, seed=9)
    scaled = seen["x"] / norm.weight[:, None, None]
    assert scaled.mean().abs() < 0.2 and 0.8 < scaled.std() < 1.2
