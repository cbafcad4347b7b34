"""Pix2Pix: image-to-image translation with conditional adversarial networks (Isola et al., CVPR
2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantk import DiscriminatorAugment
from gantk.errors import UserError
from gantk.method import OTHER, Batch, Geometry, Losses, Phase
from gantk.nets.blocks import one_hot
from gantk.plugin.spec import (
    AdversarialLoss,
    Augment,
    Discriminator,
    Few,
    Fraction,
    Generator,
    Loss,
    Positive,
    Weight,
)
from gantk_translation.pix2pix.regression import Regression

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def tile(noise: Tensor, image: Tensor) -> Tensor:
    """Noise (N, C, *size) repeated along each axis, and cut off, to the image's size."""
    noise = noise.to(image)
    for axis in range(2, image.ndim):
        places = torch.arange(image.shape[axis], device=image.device) % noise.shape[axis]
        noise = noise.index_select(axis, places)
    return noise


class Pix2Pix(Regression):
    """Paired translation: L1 and an adversarial loss, whose discriminator sees input and output
    together (Isola et al. 2017).

    The published network is generator = { name = "unet", depth = 8, norm = "batch", up =
    "transpose", dropout = 0.5 } at 256 px. Its dropout is the method's only noise, in training and
    at inference. `lesion`, `both`, `augment`, `adapt`, `noise`, `vary` and `conditional` are
    additions; their defaults are the paper.

    `noise` and `conditional` add input channels to the generator. `noise` adds normal noise, drawn
    for every training image and fixed at inference, so that results are repeatable. `conditional`
    adds a plane for each class, 1 for the image's class and 0 for the others (Mirza & Osindero
    2014). A translation then needs the class: `gantk translate --label`, or `of_class`.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",  # generator network
        discriminator: Discriminator = "patchgan",  # discriminator network
        adversarial: AdversarialLoss = "bce",  # adversarial loss
        # weight of the L1 loss (lambda), or of `reconstruction`; 0 = only the adversarial loss
        l1: Weight = 100.0,
        reconstruction: Loss = "l1",  # loss between a translation and its truth; l1 in the paper
        # further losses between a translation and its truth, each with its own options
        target_losses: list[Loss] = [],
        both: bool = False,  # also learn b -> a, with separate networks
        lesion: Positive = 1.0,  # weight of a lesion's pixels in the L1 loss; needs data.mask = true
        noise: Few = 0,  # number of channels of normal noise in the generator's input
        vary: list[Augment] = [],  # random changes of the generator's input, not of its target
        # add the image's class to the generator's input; needs data.labels = true
        conditional: bool = False,
        # apply dropout at inference, as in the paper; it uses torch's global random generator
        test_dropout: bool = False,
        # differentiable augmentations of the discriminators' inputs, for small data sets
        augment: list[Augment] = [],
        # target of adaptive augmentation (ADA's r_t); 0.6 in its paper, 0 = always augment
        adapt: Fraction = 0.0,
    ):
        self.noise = noise
        self.conditional = conditional
        self.classes = geometry.known_classes(conditional)
        super().__init__(
            geometry,
            noise + self.classes,
            generator=generator,
            reconstruction=reconstruction,
            both=both,
            target_losses=target_losses,
            lesion=lesion,
            vary=vary,
        )
        drawn = self._draw_seeded_noise(geometry.size, torch.Generator().manual_seed(0))
        self.register_buffer("seen_in_use", drawn, persistent=False)
        self.adversarial = adversarial()
        self.l1 = l1
        self.test_dropout = test_dropout
        for to in self.directions():
            pair = f"{OTHER[to]}{to}"
            channels = geometry.channels["a"] + geometry.channels["b"]
            setattr(self, f"d_{pair}", discriminator(channels, geometry.dims))
            changes = DiscriminatorAugment(augment, geometry.dims, adapt, self.adversarial)
            setattr(self, f"augment_{pair}", changes)

    def phases(self) -> list[Phase]:
        """Generators, then discriminators on the fakes that the first phase left in the batch."""
        return [
            *super().phases(),
            Phase("discriminators", self.networks("d"), self.discriminator_losses),
        ]

    def generator_losses(self, batch: Batch) -> Losses:
        """Adversarial and L1 losses of each direction (equation 4, non-saturating as in section
        3.3).
        """
        fakes = self.translate_batch(batch)
        losses = self.further_losses(batch, fakes)
        for to, fake in fakes.items():
            batch[f"fake_{to}"] = fake.detach()
            judge, augment = self.judge_of(to)
            logits = judge(augment(self.pair(batch, to, fake)))
            losses[f"adversarial_{to}"] = self.adversarial.generator(logits)
            if self.l1:
                losses[f"{self.compared}_{to}"] = self.l1 * self.difference(batch, to, fake)

        return losses

    def discriminator_losses(self, batch: Batch) -> Losses:
        """The discriminators' losses of real pairs and of pairs with a fake (equation 1)."""
        losses = {}
        for to in self.directions():
            judge, augment = self.judge_of(to)
            real = self.pair(batch, to, batch[to])
            fake = self.pair(batch, to, batch[f"fake_{to}"])
            losses |= self.real_fake_losses(
                f"{OTHER[to]}{to}", judge, self.adversarial, real, fake, augment
            )

        return losses

    def translate_batch(self, batch: Batch) -> dict[str, Tensor]:
        """Translate the batch in every trained direction, each image with its noise and class."""
        label = batch.get("label")
        # all changes are drawn before all noise
        images = {to: self.vary_images(batch[OTHER[to]]) for to in self.directions()}
        fakes = {}
        for to, image in images.items():
            shape = (len(image), self.noise, *image.shape[2:])
            fakes[to] = self.translate(image, to, torch.randn(shape, device=image.device), label)
        return fakes

    def translate(
        self, image: Tensor, to: str, noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Translate images; `noise` None: the fixed noise of seed 0 for every image; `label` None:
        the class of this view.
        """
        seen = [image]
        size = image.shape[2:]
        if self.noise:
            noise = tile(self.seen_in_use if noise is None else noise, image)
            seen.append(noise.expand(len(image), -1, *size))

        if self.classes:
            if label is None and self.asked_class is None:
                raise UserError(
                    "a conditional Pix2Pix translates images of a given class, but none is given",
                    allowed=self.geometry.classes,
                    remedy="translate with method.of_class(number)",
                )
            if label is None:
                label = image.new_full((1,), self.asked_class, dtype=torch.int64)
            known = one_hot(label, self.classes).to(image)
            planes = known.reshape(-1, self.classes, *[1] * len(size))
            seen.append(planes.expand(len(image), -1, *size))

        if len(seen) > 1:
            image = torch.cat(seen, 1)

        return super().translate(image, to)

    def _draw_seeded_noise(self, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """One image's noise, drawn on the CPU so that it is the same on every device."""
        return torch.randn(1, self.noise, *size, generator=generator, device="cpu")

    def variants(self, image: Tensor, to: str, n: int, seed: int) -> Tensor:
        """`n` translations of each image, each with different noise: (n, N, C, *size); UserError
        without `noise`.
        """
        if not self.noise:
            return super().variants(image, to, n, seed)
        generator = torch.Generator().manual_seed(seed)
        noises = [self._draw_seeded_noise(image.shape[2:], generator).to(image) for _ in range(n)]
        return torch.stack([self.translate(image, to, noise) for noise in noises])

    def judge_of(self, to: str) -> tuple[nn.Module, DiscriminatorAugment]:
        """The discriminator of the direction to a domain, and the augmentation of its input."""
        return getattr(self, f"d_{OTHER[to]}{to}"), getattr(self, f"augment_{OTHER[to]}{to}")

    @staticmethod
    def pair(batch: Batch, to: str, image: Tensor) -> Tensor:
        """A discriminator's input: the source image and, as further channels, its translation."""
        return torch.cat([batch[OTHER[to]], image], 1)

    def train(self, mode: bool = True) -> Pix2Pix:
        """Set the mode; with `test_dropout`, dropout stays on in evaluation: it is the paper's only
        noise.
        """
        super().train(mode)
        if self.test_dropout:
            for layer in self.modules():
                if isinstance(layer, DROPOUTS):
                    layer.train()
        return self
