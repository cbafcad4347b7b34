"""ProGAN: progressive growing of GANs for improved quality, stability, and variation (Karras et
al., ICLR 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantk import DiscriminatorAugment
from gantk.errors import UserError
from gantk.method import Batch, Geometry, Losses, Method, Phase, Stage
from gantk.plugin.spec import AdversarialLoss, Augment, Fraction, Share, Weight, Width
from gantk_synthesis.noise import generate_in_parts
from gantk_synthesis.progan.layers import double, halve
from gantk_synthesis.progan.networks import FIRST_SIDE, Discriminator, Generator, filters_at

IMAGES_PER_CALL = 32  # images per forward pass of `sample`


@dataclass(frozen=True)
class Growth(Stage):
    """A stage with its level, and the training progress at which its fade-in has alpha 0 and alpha
    1.
    """

    level: int = 0
    fade: tuple[float, float] | None = None  # None: no fade-in


class ProGAN(Method):
    """Images from noise, grown from 4 pixels a side to `data.size`; each size is faded in (Karras et
    al. 2018).

    Generator `g` and discriminator `d` contain the layers of every size from the start; `level` and
    `alpha` are the current size and fade-in. Before the last size, samples are enlarged to
    `data.size`. The paper trains with Adam at 1e-3, betas (0, 0.99), without a schedule, and
    samples from a moving average with decay 0.999.
    """

    reads = ("image",)

    def __init__(
        self,
        geometry: Geometry,
        *,
        latent: Width = 512,  # length of an image's noise vector
        # filters: a layer of this size has base / (size / 2), at most `width`
        base: Annotated[int, Field(ge=1, le=2**20)] = 8192,
        width: Width = 512,  # maximum number of filters of a layer
        fade: Share = 0.5,  # share of each size's steps that fades the size in
        # relative numbers of steps for 4 px, 8 px, ...; None: equal, but half for 4 px
        shares: list[Weight] | None = None,
        adversarial: AdversarialLoss = "wgan_gp",  # adversarial loss
        # weight of the mean square of real logits (epsilon_drift); keeps them near 0
        drift: Weight = 1e-3,
        conditional: bool = False,  # generate images of a given class; needs data.labels = true
        # differentiable augmentations of the discriminator's inputs, for small data sets
        augment: list[Augment] = [],
        # target of adaptive augmentation (ADA's r_t); 0.6 usual, 0 = augment all images
        adapt: Fraction = 0.0,
    ):
        super().__init__(geometry)
        levels = levels_of(geometry.size)
        self.shares = _checked_shares(shares, levels)
        self.conditional = conditional
        self.classes = geometry.known_classes(conditional)
        self.latent = latent
        self.fade = fade
        self.drift = drift
        filters = filters_at(levels, base, width)
        channels = geometry.channels["image"]
        dims = geometry.dims
        self.g = Generator(channels, dims, filters, latent, self.classes)
        self.d = Discriminator(channels, dims, filters, self.classes)
        self.adversarial = adversarial()
        self.augment = DiscriminatorAugment(augment, dims, adapt, self.adversarial)
        # size reached: 4 * 2**level
        self.register_buffer("level", torch.zeros((), dtype=torch.int64))
        # fade-in: 0 = the level below, 1 = this level
        self.register_buffer("alpha", torch.ones(()))
        self._growth = self._stage(0, 0, None)

    def phases(self) -> list[Phase]:
        """Generator, then discriminator on the fakes that the first phase left in the batch."""
        return [
            Phase("generator", (self.g,), self.generator_losses, ema=True),
            Phase("discriminator", (self.d,), self.discriminator_losses),
        ]

    def stages(self, steps: int) -> list[Stage]:
        """For each size a fade-in ("8 fade") and a plain stage ("8"); with fewer steps than sizes,
        the largest ones.
        """
        first = max(0, len(self.shares) - steps)  # every level from here on gets at least one step
        shares = self.shares[first:] if steps else self.shares[-1:]
        spare = max(0, steps - len(shares))
        total = sum(shares)
        stages = []
        start = 0
        for number, part in enumerate(accumulate(shares), 1):
            level = len(self.shares) - len(shares) + number - 1
            end = min(number, steps) + round(spare * part / total)
            fading = round(self.fade * (end - start)) if stages else 0
            if fading:
                # alpha of each step's middle, so that no step trains a level with alpha 0
                rise = ((start - 0.5) / steps, (start - 0.5 + fading) / steps)
                stages.append(self._stage(level, fading, rise))

            if end - start > fading or not steps:
                stages.append(self._stage(level, end - start - fading, None))

            start = end

        return stages

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Grow to the stage's size."""
        self._growth = stage
        self.level.fill_(stage.level)
        self._fade_in()

    def generator_losses(self, batch: Batch) -> Losses:
        """The adversarial loss of images from new noise."""
        alpha = self._fade_in()
        label = batch.get("label")
        noise = torch.randn(len(batch["image"]), self.latent, device=batch["image"].device)
        fake = self.g(noise, self._growth.level, alpha, label)
        batch["fake"] = fake.detach()
        logits = self.d(self.augment(fake), self._growth.level, alpha, label)
        return {"adversarial": self.adversarial.generator(logits)}

    def discriminator_losses(self, batch: Batch) -> Losses:
        """The discriminator's adversarial loss, the penalty if the adversarial loss has one, and
        drift.
        """
        alpha = self._fade_in()
        level = self._growth.level
        label = batch.get("label")
        real = self.augment(fade_real(batch["image"], alpha))
        fake = self.augment(batch["fake"])
        logits, of_fakes = self._judge_pair(real, fake, label)
        self.augment.observe(logits)
        losses = {"adversarial": self.adversarial.discriminator(logits, of_fakes)}
        penalty = self.adversarial.penalty(
            lambda image: self.d(image, level, alpha, label), real, fake
        )
        if penalty is not None:
            losses["penalty"] = penalty
        if self.drift:
            losses["drift"] = self.drift * logits.square().mean()  # appendix A.1

        return losses

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """`n` images of `data.size`, at any level reached, clipped to the range; `labels` None:
        classes in turn.
        """
        noise = torch.randn(n, self.latent, generator=torch.Generator().manual_seed(seed))
        noise = noise.to(self.level.device)
        level = int(self.level)
        alpha = self.alpha if float(self.alpha) < 1 else None

        def images(noise: Tensor, label: Tensor) -> Tensor:
            made = self.g(noise, level, alpha, label)
            for _ in range(level, len(self.shares) - 1):
                made = double(made)
            return made.clamp(*self.geometry.range)

        return generate_in_parts(self, images, noise, labels, IMAGES_PER_CALL)

    def _fade_in(self) -> Tensor | None:
        """The current alpha, also stored for samples; None outside a fade-in. It stays a tensor: no
        device sync.
        """
        if self._growth.fade is None:
            self.alpha.fill_(1.0)
            return None

        low, high = self._growth.fade
        self.alpha.copy_(((self.progress - low) / (high - low)).clamp(0, 1))
        return self.alpha

    def _judge_pair(
        self, real: Tensor, fake: Tensor, label: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits of real and fake images, in one pass if `batched`; the minibatch deviation is
        computed for each separately, as in the paper: over both together it would reveal the
        mixture.
        """
        alpha = self.alpha if self._growth.fade else None
        level = self._growth.level
        if not self.batched:
            return self.d(real, level, alpha, label), self.d(fake, level, alpha, label)

        labels = None if label is None else torch.cat([label, label])
        first, second = self.d(torch.cat([real, fake]), level, alpha, labels, batches=2).chunk(2)
        return first, second

    def _stage(self, level: int, steps: int, fade: tuple[float, float] | None) -> Growth:
        side = FIRST_SIDE * 2**level
        name = f"{side} fade" if fade else str(side)
        return Growth(name, steps, (side,) * self.geometry.dims, level, fade)


def fade_real(real: Tensor, alpha: Tensor | None) -> Tensor:
    """Blur real images as the fade-in blurs fakes: blend halved-and-doubled images (alpha 0) with
    the originals (1).
    """
    return real if alpha is None else torch.lerp(double(halve(real)), real, alpha)


def levels_of(size: tuple[int, ...]) -> int:
    """The number of sizes from 4 to `size`, both included; UserError where `size` is not reached by
    doubling.
    """
    exponent = max(3, max(size).bit_length() - 1)
    if set(size) == {2**exponent}:
        return exponent - 1

    raise UserError(
        f"ProGAN doubles the size from {FIRST_SIDE} pixels a side, which cannot give images of"
        f" {' x '.join(map(str, size))}",
        where="data.size",
        allowed="equal sides of 8, 16, 32, 64, 128, 256, 512 or 1024",
        remedy=f"set data.size = {[2**exponent] * len(size)}",
    )


def _checked_shares(shares: list[float] | None, levels: int) -> list[float]:
    if shares is None:
        return [0.5] + [1.0] * (levels - 1)

    if len(shares) != levels or not 0 < min(shares) <= max(shares) < 1e9:
        sizes = ", ".join(str(FIRST_SIDE * 2**level) for level in range(levels))
        raise UserError(
            f"shares = {list(shares)} does not fit the sizes {sizes}",
            where="method.shares",
            allowed=f"{levels} positive numbers below 1e9, proportional to the steps",
        )

    return list(shares)
