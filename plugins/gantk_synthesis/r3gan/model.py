"""R3GAN, from "The GAN is dead; long live the GAN!" (Huang et al., NeurIPS 2024)."""

from __future__ import annotations

from functools import partial
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk import DiscriminatorAugment
from gantk.method import Batch, Geometry, Losses, Method, Phase
from gantk.nets.blocks import with_class
from gantk.plugin.spec import Augment, Count, Fraction, Weight, Width
from gantk_synthesis.noise import generate_in_parts, seeded_rows
from gantk_synthesis.r3gan.networks import Discriminator, Generator

IMAGES_PER_CALL = 32  # images that `sample` makes in one pass


class R3GAN(Method):
    """Images from noise: a regularised relativistic GAN of two plain ResNets (Huang et al. 2024).

    The discriminator compares each real image with a fake partner, not with a fixed threshold. Its
    gradient is penalised on both (R1 and R2). The paper proves that this GAN converges locally,
    whereas the plain relativistic GAN need not. The paper trains with Adam, betas (0, 0.99), and
    samples from an average of the weights.
    """

    reads = ("image",)

    def __init__(
        self,
        geometry: Geometry,
        *,
        # weight of R1 and R2, gamma / 2 each; tune it first; use more for larger images
        gamma: Weight = 2.0,
        # final value of gamma, reached by a half cosine; None: gamma is constant
        gamma_end: Weight | None = None,
        latent: Width = 64,  # length of the noise vector
        # filters at the image's size; they double with each halving, up to 8 x width
        width: Width = 64,
        blocks: Count = 2,  # residual blocks at each size
        # DCGAN's convolutions instead of blocks, and a tanh: fast, trains in minutes on a CPU
        plain: bool = False,
        conditional: bool = False,  # generate images of a given class; needs data.labels
        # differentiable augmentations of the discriminator's inputs, for small data sets
        augment: list[Augment] = [],
        # target of adaptive augmentation: apply `augment` as overfitting requires; 0.6 usual, 0 = always
        adapt: Fraction = 0.0,
    ):
        super().__init__(geometry)
        self.conditional = conditional
        self.classes = geometry.known_classes(conditional)
        self.latent = latent
        self.gamma = gamma
        self.gamma_end = gamma if gamma_end is None else gamma_end
        options = dict(width=width, blocks=blocks, plain=plain)
        channels = geometry.channels["image"]
        self.g = Generator(
            latent + self.classes, channels, geometry.size, geometry.range, **options
        )
        self.d = Discriminator(channels, geometry.size, self.classes, **options)
        self.augment = DiscriminatorAugment(augment, geometry.dims, adapt)

    def phases(self) -> list[Phase]:
        """Generator, then discriminator on the fakes that the first phase left."""
        return [
            Phase("generator", (self.g,), self.generator_losses, ema=True),
            Phase("discriminator", (self.d,), self.discriminator_losses),
        ]

    def generator_losses(self, batch: Batch) -> Losses:
        """How far each fake stays behind its real partner."""
        # cut off at black and white, as samples are
        real = batch["image"].float().clamp(*self.geometry.range)
        label = batch.get("label")
        noise = torch.randn(len(real), self.latent, device=real.device)
        fake = self._generate(noise, label)
        # once for both phases: changes are dear
        real, seen = self.augment(torch.cat([real, fake])).split(len(real))
        batch["fake"] = fake.detach()
        batch["seen_real"] = real.detach()
        batch["seen_fake"] = seen.detach()
        with torch.no_grad():
            of_real = self.d(batch["seen_real"], label)

        return {"adversarial": pairing(self.d(seen, label), of_real)}

    def discriminator_losses(self, batch: Batch) -> Losses:
        """The same game the other way round, and R1 and R2 of the images as the discriminator sees
        them; in float32.
        """
        label = batch.get("label")
        with torch.autocast(batch["image"].device.type, enabled=False):
            seen = [batch[name].requires_grad_() for name in ("seen_real", "seen_fake")]
            entries = seen if label is None else [(image, label) for image in seen]
            real, fake = self.batched_forward(self.d, *entries)
            self.augment.observe(real - fake)  # 0 lies nowhere in a game of differences
            losses = {"adversarial": pairing(real, fake)}
            if self.gamma or self.gamma_end:
                change = self.gamma - self.gamma_end
                weight = self.gamma_end + change * (1 + torch.cos(pi * self.progress)) / 2
                r1, r2 = squared_gradients([real, fake], seen)
                losses["r1"] = weight / 2 * r1
                losses["r2"] = weight / 2 * r2

        return losses

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """`n` images, (n, C, *size), cut off at black and white; number k of a seed is the same
        whatever `n`.
        """
        draw = partial(torch.randn, self.latent)
        noise = seeded_rows(n, seed, self.progress.device, draw)
        images = generate_in_parts(self, self._generate, noise, labels, IMAGES_PER_CALL)
        return images.clamp(*self.geometry.range)

    def _generate(self, noise: Tensor, label: Tensor | None) -> Tensor:
        return self.g(with_class(noise, label, self.classes))


def pairing(better: Tensor, worse: Tensor) -> Tensor:
    """Mean softplus(worse - better) over pairs of logits (N, 1): the relativistic pairing loss
    (equation 2).

    What it is minimised by raises `better` over its partner: real over fake for the discriminator,
    the other way round for the generator.
    """
    return F.softplus(worse.float() - better.float()).mean()


def squared_gradients(logits: list[Tensor], images: list[Tensor]) -> list[Tensor]:
    """For each set, the mean over images of |dD/dx|^2, differentiable: R1 on real, R2 on fake
    (equations 3 and 4).
    """
    gradients = torch.autograd.grad(sum(each.sum() for each in logits), images, create_graph=True)
    return [gradient.flatten(1).square().sum(1).mean() for gradient in gradients]
