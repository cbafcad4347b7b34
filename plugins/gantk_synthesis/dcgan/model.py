"""DCGAN: unsupervised representation learning with deep convolutional GANs (Radford, Metz &
Chintala, ICLR 2016).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim.swa_utils import update_bn

from gantk import DiscriminatorAugment
from gantk.method import Batch, Geometry, Losses, Method, Phase
from gantk.nets.blocks import UpKind, one_hot, with_class
from gantk.plugin.spec import AdversarialLoss, Augment, Discriminator, Fraction, Width
from gantk_synthesis.dcgan.network import DCGANGenerator
from gantk_synthesis.noise import generate_in_parts, seeded_rows

IMAGES_PER_CALL = 16  # images generated at once
GOLDEN = 0.618034  # multiples of the golden ratio, modulo 1, fill the unit interval evenly
NORM_IMAGES = 128  # images for computing batch norm's statistics for inference


class DCGAN(Method):
    """Images from noise: a generator of transposed convolutions and a convolutional discriminator
    (Radford et al. 2016).

    The paper uses binary cross-entropy, and Adam at 2e-4 with beta1 0.5. With `conditional` both
    networks take the class of an image as input: the generator concatenated with the noise, the
    discriminator as maps of 0 and 1 (Mirza & Osindero 2014). The noise is normal, as in most later
    code; the paper uses `noise = "uniform"`, from -1 to 1.
    """

    reads = ("image",)

    def __init__(
        self,
        geometry: Geometry,
        *,
        # increase its depth by 1 for every doubling of the size beyond 64
        discriminator: Discriminator = "dcgan",  # discriminator network
        adversarial: AdversarialLoss = "bce",  # adversarial loss
        latent: Width = 100,  # length of the noise vector
        # filters of the generator's last map; each earlier map has twice as many, up to 8 x width
        width: Width = 64,
        # layers of the generator, the dense one included; none: as many as start from 4 pixels a side
        layers: Annotated[int, Field(ge=2, le=12)] | None = None,
        up: UpKind = "transpose",  # upsampling in the generator; resize avoids checkerboard patterns
        noise: Literal["normal", "uniform"] = "normal",  # standard normal, or uniform from -1 to 1
        # slope of the generator's activation below 0: 0 is a ReLU, 0.2 a usual LeakyReLU
        slope: Fraction = 0.0,
        # self-attention in the generator, this many doublings before the image
        attention: tuple[int, ...] = (),
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
        self.noise = noise
        channels = geometry.channels["image"]
        self.generator = DCGANGenerator(
            latent + self.classes,
            channels,
            geometry.size,
            layers=layers,
            width=width,
            up=up,
            attention=attention,
            slope=slope,
            ends=geometry.range,
        )
        self.discriminator = discriminator(channels + self.classes, geometry.dims)
        self.adversarial = adversarial()
        # training images of each class so far
        self.register_buffer("shown", torch.zeros(self.classes))
        self.augment = DiscriminatorAugment(augment, geometry.dims, adapt, self.adversarial)

    def phases(self) -> list[Phase]:
        """The generator, then the discriminator on the first phase's fakes."""
        return [
            Phase("generator", (self.generator,), self.generator_losses, ema=True),
            Phase("discriminator", (self.discriminator,), self.discriminator_losses),
        ]

    def generator_losses(self, batch: Batch) -> Losses:
        """The adversarial loss of generated images, with the classes of the batch."""
        label = batch.get("label")
        if self.classes:
            self.shown += one_hot(label, self.classes).sum(dim=0)
        noise = self._random((len(batch["image"]), self.latent), device=batch["image"].device)
        fake = self._generate(noise, label)
        batch["fake"] = fake.detach()
        logits = self._judge(self.augment(fake), label)
        return {"adversarial": self.adversarial.generator(logits)}

    def discriminator_losses(self, batch: Batch) -> Losses:
        """Real against fake, in separate passes where batch norm would mix them (section 3 of the
        paper).

        Real images are clipped at black and white: a generator that ends in tanh cannot produce
        values beyond, and a discriminator that recognises real images by them gives no useful
        gradient.
        """
        label = batch.get("label")
        image = batch["image"].clamp(*self.geometry.range)
        seen_real = with_class(self.augment(image), label, self.classes)
        seen_fake = with_class(self.augment(batch["fake"]), label, self.classes)
        real, fake = self.batched_forward(self.discriminator, seen_real, seen_fake)
        self.augment.observe(real)
        losses = {"d_image": self.adversarial.discriminator(real, fake)}
        judge = partial(self._judge, label=label)
        judge.batch_independent = getattr(self.discriminator, "batch_independent", True)
        penalty = self.adversarial.penalty(judge, image, batch["fake"])
        if penalty is not None:
            losses["penalty"] = penalty

        return losses

    def train(self, mode: bool = True) -> DCGAN:
        """Set the mode; on the change to inference, recompute batch norm's statistics for the
        averaged weights.

        Statistics from training belong to the weights of its last steps, and give a wrong
        brightness. Brock et al. 2019, section 4.1, call this standing statistics.
        """
        starting = self.training and not mode
        super().train(mode)
        if starting:
            self._update_norm_statistics()
        return self

    @torch.no_grad()
    def _update_norm_statistics(self) -> None:
        """Compute batch norm's statistics over fixed noise, with classes as frequent as in
        training.
        """
        noise = self._noise(NORM_IMAGES, seed=0)
        labels = None
        if self.classes:
            shares = (self.shown + 1) / (self.shown + 1).sum()
            places = (torch.arange(NORM_IMAGES, device=shares.device) * GOLDEN + 0.5) % 1
            labels = torch.searchsorted(shares.cumsum(0), places).clamp_max(self.classes - 1)

        inputs = with_class(noise, labels, self.classes)
        update_bn(inputs.split(NORM_IMAGES // 4), self.generator)

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Generate `n` images (n, C, *size); image k of a seed is the same for any `n`. Default:
        classes in turn.
        """
        noise = self._noise(n, seed)
        return generate_in_parts(self, self._generate, noise, labels, IMAGES_PER_CALL)

    def _noise(self, n: int, seed: int) -> Tensor:
        """Noise (n, latent); row k depends on the seed and not on n. Drawn on the CPU: the same for
        every device.
        """
        draw = partial(self._random, (self.latent,))
        return seeded_rows(n, seed, next(self.generator.parameters()).device, draw)

    def _random(self, shape: tuple[int, ...], **where: Any) -> Tensor:
        if self.noise == "normal":
            return torch.randn(shape, **where)
        return torch.rand(shape, **where) * 2 - 1

    def _generate(self, noise: Tensor, label: Tensor | None) -> Tensor:
        """Generate images from noise, concatenated with the one-hot class: the first layer learns a
        map per class.
        """
        return self.generator(with_class(noise, label, self.classes))

    def _judge(self, image: Tensor, label: Tensor | None) -> Tensor:
        return self.discriminator(with_class(image, label, self.classes))
