"""Adversarial losses: what generator and discriminator minimise, given the discriminator's logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gantk.errors import UserError
from gantk.plugin.spec import Weight

Smoothing = Annotated[float, Field(ge=0, lt=0.5)]  # 0.5 would label real images as fake


class Adversarial:
    """An adversarial loss: `generator(fake)` and `discriminator(real, fake)` map logits of any
    shape to a scalar.

    The generator minimises the first, given the logits of its images; the discriminator minimises
    the second. Logits are raw (no sigmoid); everything is computed in float32. Shapes of real and
    fake may differ. `undecided` is the logit of least discriminator loss where real and fake look
    the same.
    """

    takes = "logits"
    undecided = 0.0

    def generator(self, fake: Tensor) -> Tensor:
        raise NotImplementedError

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        raise NotImplementedError

    def penalty(
        self, discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor
    ) -> Tensor | None:
        """A further term of the discriminator's loss that needs the images themselves; None if
        there is none.
        """
        return None


class BCE(Adversarial):
    """Binary cross-entropy: the original GAN loss in its non-saturating form (Goodfellow et al.,
    2014, section 3).

    The discriminator minimises the mean of its terms for real and fake, as in Pix2Pix, or their
    sum.
    """

    def __init__(
        self,
        *,
        # label smoothing: the discriminator's target for real is 1 - smooth (Salimans et al. 2016)
        smooth: Smoothing = 0.0,
        halved: bool = True,  # the discriminator minimises the mean of both terms; False = the sum
    ):
        self.target = 1.0 - smooth
        self.undecided = math.log(self.target / (2.0 - self.target))
        self.share = 0.5 if halved else 1.0

    def generator(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake.float()).mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        real = real.float()
        fake = fake.float()
        labels = torch.full_like(real, self.target)
        return self.share * (
            F.binary_cross_entropy_with_logits(real, labels) + F.softplus(fake).mean()
        )


class LS(Adversarial):
    """Least squares with the targets 1 for real and 0 for fake (Mao et al., 2017, eq. 9): gradients
    do not vanish.

    The discriminator minimises the mean of its two terms, and the generator minimises the plain
    square, as in CycleGAN.
    """

    def __init__(
        self,
        *,
        smooth: Smoothing = 0.0,  # label smoothing: the target for real is 1 - smooth
    ):
        self.target = 1.0 - smooth
        self.undecided = self.target / 2

    def generator(self, fake: Tensor) -> Tensor:
        return (fake.float() - 1).square().mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real.float() - self.target).square().mean() + fake.float().square().mean()) / 2


class Hinge(Adversarial):
    """Hinge loss: pushes real logits above 1 and fake ones below -1 (Lim & Ye, 2017, equation 2)."""

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.float().mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


class WGANGP(Adversarial):
    """The Wasserstein loss with a gradient penalty (Gulrajani et al., 2017, equation 3).

    The penalty pulls the length of gradients to 1 on lines between real and fake images. If logits
    are a map, their mean is used. The penalty is computed for each image by itself, so a
    discriminator with batch norm is an error.
    """

    def __init__(
        self,
        *,
        penalty: Weight = 10.0,  # weight of the gradient penalty; 0 = none
    ):
        self.weight = penalty

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.float().mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.float().mean() - real.float().mean()

    def penalty(
        self, discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor
    ) -> Tensor | None:
        if not self.weight:
            return None

        if not getattr(discriminator, "batch_independent", True):
            raise UserError(
                "wgan_gp needs the gradient of each image by itself, but batch norm mixes the"
                " images of a batch",
                where="method.discriminator.norm",
                allowed="instance, group, none",
                remedy='Set the discriminator\'s norm = "instance"',
            )

        return self.weight * gradient_penalty(discriminator, real, fake)


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor
) -> Tensor:
    """Mean of (|gradient| - 1)^2 at one random point between each real image and its fake, in
    float32.
    """
    real = real.detach().float()
    fake = fake.detach().float()
    with torch.autocast(real.device.type, enabled=False):
        share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        between = torch.lerp(fake, real, share).requires_grad_()
        values = discriminator(between).float().reshape(len(between), -1).mean(1)
        (gradient,) = torch.autograd.grad(values.sum(), between, create_graph=True)
        # The epsilon keeps the square root's own gradient finite where the gradient is zero.
        length = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
        return (length - 1).square().mean()
