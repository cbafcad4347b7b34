"""Further adversarial losses: hinge, and Wasserstein with a gradient penalty."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError
from gantk.losses.adversarial import Adversarial
from gantk.plugin.spec import Weight


class Hinge(Adversarial):
    """Pushes real logits above 1 and fake ones below -1, no further (Lim & Ye, 2017, equation 2)."""

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.float().mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


class WGANGP(Adversarial):
    """The Wasserstein loss with a gradient penalty (Gulrajani et al., 2017, equation 3).

    The penalty pulls gradients to length 1 on lines between real and fake images; of a map of
    logits the mean is used. It is computed image by image, so a discriminator with batch norm is an
    error.
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
            what = (
                "wgan_gp penalises the gradient of each image by itself, and batch norm mixes"
                " images"
            )
            where = "method.discriminator.norm"
            remedy = 'Set the discriminator\'s norm = "instance"'
            raise UserError(what, where=where, allowed="instance, group, none", remedy=remedy)

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
