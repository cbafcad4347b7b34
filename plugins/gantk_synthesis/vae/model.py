"""VAE: auto-encoding variational Bayes (Kingma & Welling 2014); with a discriminator, VAE-GAN
(Larsen et al. 2016).
"""

from __future__ import annotations

from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from gantk.method import Batch, Geometry, Losses, Method, Phase
from gantk.plugin.spec import AdversarialLoss, Weight, Width
from gantk_synthesis.noise import generate_in_parts, seeded_rows
from gantk_synthesis.vae.network import Decoder, Encoder

IMAGES_PER_CALL = 16  # images per forward pass of `sample`
MOMENT_DECAY = 0.99  # decay of the moving average of the codes' moments
# added to a mean square error (squared network intensities), so that its logarithm is finite
EPSILON = 1e-6


class VAE(Method):
    """Images from noise: a variational autoencoder, which encodes and decodes real images (Kingma &
    Welling 2014).

    The encoder maps an image to a normal distribution of codes, and the decoder maps a code to an
    image. The losses are the reconstruction error of a drawn code and the divergence of the codes
    from N(0, 1), equation 10 of the paper. The decoder's variance is its mean square error, which
    is optimal (Rybkin et al. 2021, equation 5). Without an adversarial loss training is stable and
    covers every image, but images are smooth.

    Samples are decoded from codes of a Gaussian with the mean and covariance of the training codes
    (after Ghosh et al. 2020): the codes of few images leave gaps in N(0, 1), which decode to no
    image.

    With `gan` above 0 it is VAE-GAN (Larsen et al. 2016): a discriminator scores reconstructions
    and samples, half a batch of each, which adds texture. Noise that no code can represent, such as
    scanner noise, comes from a map of normal noise that is added before the decoder's last layer
    (Karras et al. 2019, section 3.2). `reconstruct` and the reconstruction loss leave this noise
    out.
    """

    reads = ("image",)

    def __init__(
        self,
        geometry: Geometry,
        *,
        latent: Width = 64,  # length of a code
        # filters of the encoder's first and the decoder's last level; others have up to 8 x width
        width: Width = 32,
        # weight of the adversarial loss; 0 = a VAE without a discriminator; 0.03 usual
        gan: Weight = 0.0,
        adversarial: AdversarialLoss = "bce",  # adversarial loss for gan above 0
    ):
        super().__init__(geometry)
        self.gan = gan
        # random numbers per sample
        self.code = latent
        self.latent = latent + (prod(geometry.size) if gan else 0)
        # moving average of the products of (1, code)
        self.register_buffer("moments", torch.eye(latent + 1))
        channels = geometry.channels["image"]
        size = geometry.size
        self.encoder = Encoder(channels, 2 * latent, size, width)
        self.decoder = Decoder(latent, channels, size, width, geometry.range, noisy=gan > 0)
        if gan:
            self.discriminator = Encoder(channels, 1, size, width)
            self.adversarial = adversarial()

    def phases(self) -> list[Phase]:
        """Encoder and decoder together; then the discriminator, if any, on the fakes left in the
        batch.
        """
        both = Phase("autoencoder", (self.encoder, self.decoder), self.autoencoder_losses, ema=True)
        if self.gan:
            return [both, Phase("discriminator", (self.discriminator,), self.discriminator_losses)]
        return [both]

    def autoencoder_losses(self, batch: Batch) -> Losses:
        """Reconstruction and divergence losses, per value compared (Kingma & Welling 2014, equation
        10).

        With a discriminator: Larsen et al. 2016, algorithm 1; its gradient does not reach the
        encoder.
        """
        image = self._image_in_range(batch)
        mean, log_variance = self.encode(image)
        count = len(image)
        parts = [self.code]
        if self.gan:
            parts += [count, self.latent - self.code]

        # one call of randn for all
        noise, *others = torch.randn(count, sum(parts), device=mean.device).split(parts, 1)
        code = mean + (0.5 * log_variance).exp() * noise
        seen = nn.functional.pad(code.detach().float(), (1, 0), value=1.0)
        # a matmul may use bf16
        self.moments.lerp_((seen[:, :, None] * seen[:, None]).mean(0), 1 - MOMENT_DECAY)
        output = self.decode(code)
        error = (image.float() - output.float()).square().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        losses = {
            "reconstruction": 0.5 * (error + EPSILON).log(),
            "divergence": divergence / image[0].numel(),
        }
        if self.gan:
            # random sums of codes, with the codes' mean and covariance
            weights, grain = others
            away = code.detach() - self.moments[0, 1:]
            drawn = self.moments[0, 1:] + (weights[:, :, None] * away).sum(1) / count**0.5
            half = count // 2
            codes = torch.cat([code[:half].detach(), drawn[half:]])
            fake = self.decode(codes, grain)
            batch["fake"] = fake.detach()
            logits = self.discriminator(fake)
            losses["adversarial"] = self.gan * self.adversarial.generator(logits)

        return losses

    def discriminator_losses(self, batch: Batch) -> Losses:
        """The discriminator's loss of real images, reconstructions and samples (Larsen et al. 2016,
        equation 8).
        """
        image = self._image_in_range(batch)
        judge = self.discriminator
        return self.real_fake_losses("image", judge, self.adversarial, image, batch["fake"])

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (N, C, *size); returns mean and log variance of their codes, (N, latent)
        each, float32.
        """
        mean, log_variance = self.encoder(image).float().chunk(2, 1)
        return mean, log_variance.clamp(-20.0, 20.0)

    def decode(self, code: Tensor, grain: Tensor | None = None) -> Tensor:
        """Decode codes (N, latent) to images (N, C, *size), network intensities; `grain`: normal
        noise (N, pixels).
        """
        if grain is not None:
            grain = grain.unflatten(1, (1, *self.geometry.size))
        return self.decoder(code, grain)

    def reconstruct(self, image: Tensor) -> Tensor:
        """Encode images (N, C, *size) and decode the means of their codes."""
        return self.decode(self.encode(image.clamp(*self.geometry.range))[0])

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """`n` samples, (n, C, *size); sample k of a seed does not depend on `n`."""
        noise = seeded_rows(n, seed, self.progress.device, partial(torch.randn, self.latent))
        moments = self.moments.double().cpu()
        factor = torch.linalg.cholesky(moments + EPSILON * torch.eye(len(moments)))
        factor = factor[1:].to(self.moments)
        # the first column is the mean, the rest the covariance's root
        mean = factor[:, 0]
        root = factor[:, 1:]

        def images(noise: Tensor, label: Tensor) -> Tensor:  # which counts for nothing
            code, grain = noise.tensor_split([len(mean)], 1)
            code = mean + (root * code[:, None]).sum(-1)
            return self.decode(code, grain if self.gan else None)

        return generate_in_parts(self, images, noise, labels, IMAGES_PER_CALL)

    def _image_in_range(self, batch: Batch) -> Tensor:
        """Images, clipped to the range of a decoder that ends in tanh."""
        return batch["image"].clamp(*self.geometry.range)
