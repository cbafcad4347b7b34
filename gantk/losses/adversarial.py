"""Adversarial losses: what generator and discriminator minimise, given the discriminator's logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError
from gantk.plugin.spec import Fraction


class Adversarial:
    """An adversarial loss: `generator(fake)` and `discriminator(real, fake)` map logits of any
    shape to a scalar.

    The generator minimises the first, given the logits of its images; the discriminator minimises
    the second. Logits are raw (no sigmoid); everything is computed in float32. Shapes of real and
    fake may differ.
    """

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
    """The first GAN's loss in its non-saturating form: binary cross-entropy (Goodfellow et al.,
    2014, section 3).

    The discriminator minimises the mean of its terms for real and fake, as Pix2Pix does, or their
    sum.
    """

    def __init__(
        self,
        *,
        # real images are labelled 1 - smooth for the discriminator (Salimans et al. 2016, 3.4)
        smooth: Fraction = 0.0,
        halved: bool = True,  # the discriminator minimises the mean of both terms; False: their sum
    ):
        self.target = real_label(smooth)
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
    """Least squares to 1 for real and 0 for fake (Mao et al., 2017, eq. 9): steady gradients far
    from the boundary.

    The discriminator minimises the mean of its two terms, the generator the plain square, as
    CycleGAN does.
    """

    def __init__(
        self,
        *,
        smooth: Fraction = 0.0,  # real images are labelled 1 - smooth for the discriminator
    ):
        self.target = real_label(smooth)

    def generator(self, fake: Tensor) -> Tensor:
        return (fake.float() - 1).square().mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real.float() - self.target).square().mean() + fake.float().square().mean()) / 2


def real_label(smooth: float) -> float:
    """The label of a real image, 1 - smooth."""
    if not 0 <= smooth < 0.5:
        raise UserError(
            f"smooth = {smooth} would confuse real with fake", where="smooth", allowed="0 up to 0.5"
        )
    return 1.0 - smooth
