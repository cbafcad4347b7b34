"""Variational autoencoders: the published loss, who learns from whom, samples, reconstructions and their scores."""

import json

import pytest
import torch
from PIL import Image
from tiny import small_run
from torch.distributions import Normal, kl_divergence

from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind_or_raise
from gantk_testing.small import random_images


def built(**options):
    torch.manual_seed(0)
    return bind_or_raise("method", {"name": "vae", "width": 4, "latent": 6} | options)(
        Geometry(2, (16, 16), {"image": 1})
    )


def test_the_loss_is_the_papers_bound_per_pixel():
    method, image = built(sigma=0.2, beta=3.0), random_images(4, 1, (16, 16))
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


def test_codes_of_samples_and_of_those_judged_have_the_mean_and_covariance_of_the_codes_in_training():
    image, noise = random_images(64, 1, (16, 16)), torch.randn(20_000, 262, generator=torch.Generator().manual_seed(0))
    for prior in ("fitted", "normal"):
        method, codes = built(prior=prior, gan=0.1), []
        method.encoder.code.bias.data += torch.tensor([3.0] * 6 + [-2.0] * 6)
        method.encoder.code.weight.data[:6] *= 5
        method.decode = lambda code, label, grain=None, codes=codes: codes.append(code) or image[: len(code)]
        with torch.no_grad():
            for _ in range(600):
                method.autoencoder_losses(Batch(image=image))
            judged = torch.cat([each[32:] for each in codes[601::2]])  # first reconstructed, then judged
            mean, log_variance = method.encode(image)
            method.sampler()(noise)
        expected = mean.mean(0), mean.T.cov(correction=0) + log_variance.exp().mean(0).diag()
        for drawn in (judged, codes[-1]):
            for found, wanted in zip((drawn.mean(0), drawn.T.cov()), expected, strict=True):
                close = torch.allclose(found, wanted, rtol=0.1, atol=0.05)
                assert close == (prior == "fitted"), (prior, found, wanted)


def test_the_discriminators_opinion_reaches_the_decoder_and_never_the_encoder():
    method = built(gan=0.5)
    losses = method.autoencoder_losses(Batch(image=random_images(4, 1, (16, 16))))
    losses["adversarial"].backward()
    assert all(p.grad is None for p in method.encoder.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.decoder.parameters())  # grain's too


@pytest.mark.slow
def test_it_learns_to_bring_images_back():
    method, image = built(width=8), random_images(8, 1, (4, 4)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    rule = torch.optim.Adam(method.parameters(), lr=2e-3)
    for _ in range(150):
        rule.zero_grad()
        sum(method.autoencoder_losses(Batch(image=image)).values()).backward()
        rule.step()
    with torch.no_grad():
        error = (method.reconstruct(image) - image).square().mean()
    assert error < 0.5 * (image.mean(0) - image).square().mean()


def test_samples_reconstructions_and_their_scores_and_no_translation(tmp_path, gantk):
    method = {"name": "vae", "width": 4, "latent": 6, "conditional": True}
    source = {"lesions": 1, "radius": [8.0, 16.0]}
    run = small_run(tmp_path, method, steps=2, domains=["FLAIR"], labels=True, source=source)
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"psnr", "ssim", "mae"} <= metrics["metrics"]["reconstruction"].keys() and "image" in metrics["metrics"]
    assert metrics["baselines"]["mean_image"]["reconstruction"]["psnr"]["value"] > 10
    with Image.open(run / "samples" / "reconstructions" / "test.png") as picture:
        assert picture.size[1] == 2 * 32 and picture.size[0] % 32 == 0
    for label in ("healthy", "tumour"):
        assert gantk("sample", run, "-n", "2", "--out", tmp_path / label, "--label", label).code == 0
    one, other = (sorted((tmp_path / label).iterdir())[0].read_bytes() for label in ("healthy", "tumour"))
    assert one != other
    Image.new("L", (32, 32), 90).save(tmp_path / "slice.png")
    done = gantk("translate", run, tmp_path / "slice.png", tmp_path / "out.png")
    assert done.code == 2 and "'VAE' cannot translate" in done.err and not (tmp_path / "out.png").exists()
