"""Images from noise: ProGAN and VAE have the published networks and losses, and all make what is
asked for.
"""

import math
from functools import partial

import pytest
import torch
from PIL import Image
from tiny import method_of, random_images, read_json, registered, small_run
from torch.distributions import Normal, kl_divergence

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch
from gantk.testing.small import train_table
from gantk.training.engine import Engine

adam = registered("optimizer", "adam")

# ---- DCGAN ---------------------------------------------------------------------------------------

DCGAN = {
    "name": "dcgan",
    "width": 4,
    "latent": 8,
    "discriminator": {"name": "dcgan", "width": 4, "depth": 2},
}


def dcgan(size=(32, 32), classes=(), **options):
    return method_of(DCGAN | options, size, {"image": 1}, classes=classes)


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
        losses.append(dcgan().discriminator_losses(Batch(image=real, fake=image))["d_image"])

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


def labelled(step: int) -> Batch:
    """Dark images of class 0, bright ones of class 1, three to one."""
    generator = torch.Generator().manual_seed(step)
    label = (torch.rand(16, generator=generator) < 0.25).long()
    bright = label.float().reshape(-1, 1, 1, 1) - 0.5
    return Batch(image=bright + 0.2 * torch.rand(16, 1, 8, 8, generator=generator), label=label)


@pytest.mark.slow
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


# ---- VAE


def built(**options):
    table = {"name": "vae", "width": 4, "latent": 6} | options
    return method_of(table, channels={"image": 1})


def test_the_loss_is_the_papers_bound_per_pixel():
    method = built()
    image = random_images(4, 1, (16, 16))
    torch.manual_seed(1)
    losses = method.autoencoder_losses(Batch(image=image))
    torch.manual_seed(1)
    mean, log_variance = method.encode(image)
    codes = Normal(mean, (0.5 * log_variance).exp())
    made = method.decode(mean + codes.scale * torch.randn_like(mean))
    decoded = Normal(made, (image - made).square().mean().sqrt())  # the variance that suits best
    constant = 0.5 * math.log(2 * math.pi) + 0.5  # which no weight changes
    divergence = kl_divergence(codes, Normal(0.0, 1.0)).sum(1).mean()

    torch.testing.assert_close(
        losses["reconstruction"], -decoded.log_prob(image).mean() - constant, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(losses["divergence"], divergence / image[0].numel())


def test_vae_samples_and_reconstructs_but_does_not_translate(tmp_path, gantk):
    method = {"name": "vae", "width": 4, "latent": 6}
    run = small_run(tmp_path, method, steps=2, scored=True, domains=["FLAIR"])
    metrics = read_json(run / "metrics.json")

    assert {"psnr", "ssim", "mae"} <= metrics["metrics"]["reconstruction"].keys()
    assert "image" in metrics["metrics"]
    assert metrics["baselines"]["mean_image"]["reconstruction"]["psnr"]["value"] > 10

    with Image.open(run / "samples" / "reconstructions" / "test.png") as picture:
        assert picture.size[1] == 2 * 32
        assert picture.size[0] % 32 == 0

    gantk("sample", run, "-n", "2", "--out", tmp_path / "samples").ok()
    one, other = (path.read_bytes() for path in (tmp_path / "samples").iterdir())

    assert one != other

    Image.new("L", (32, 32), 90).save(tmp_path / "slice.png")
    told = gantk("translate", run, tmp_path / "slice.png", tmp_path / "out.png").refused()

    assert "'VAE' cannot translate" in told
    assert not (tmp_path / "out.png").exists()
