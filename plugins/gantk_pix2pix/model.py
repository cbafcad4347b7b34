"""Pix2Pix: image-to-image translation with conditional adversarial networks (Isola et al., CVPR 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.method import Batch, Geometry, Phase
from gantk.plugin.spec import AdversarialLoss, Augment, Discriminator, Fraction, Generator, Loss, Weight
from gantk.training.adaptive import DiscriminatorAugment
from gantk_pix2pix.regression import OTHER, Regression

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Pix2Pix(Regression):
    """Paired translation by L1 and a discriminator that sees input and output side by side (Isola et al. 2017).

    The published network is generator = { name = "unet", depth = 8, norm = "batch", up = "transpose", dropout = 0.5 }
    at 256 px; its dropout is the method's only noise, in use as well as in training. `lesion`, `both`, `augment` and
    `adapt` are additions, their defaults the paper.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",
        discriminator: Discriminator = "patchgan",
        adversarial: AdversarialLoss = "bce",
        l1: Weight = 100.0,  # weight of the L1 loss (lambda), or of `reconstruction`; a GAN alone at 0
        reconstruction: Loss = "l1",  # what tells a translation from its truth; l1 in the paper
        both: bool = False,  # learn b -> a too, with networks of its own
        lesion: Weight = 1.0,  # how many times a lesion's pixels count in the L1 loss; needs data.mask = true
        test_dropout: bool = False,  # dropout stays on in use, drawn from torch's global generator, as in the paper
        augment: list[Augment] = [],  # differentiable changes of the pairs that the discriminators see, for small data
        adapt: Fraction = 0.0,  # apply them only as far as needed to hold this r_t (0.6 in ADA's paper); 0 = always
    ):
        super().__init__(geometry, generator=generator, reconstruction=reconstruction, both=both, lesion=lesion)
        if l1 < 0:
            raise UserError(f"l1 = {l1:g} would push away from the truth", where="method.l1", allowed="0 or more")
        self.adversarial, self.l1, self.test_dropout = adversarial(), l1, test_dropout
        if test_dropout and not self.dropouts():
            what = "test_dropout keeps a generator's dropout on, and this one has none"
            raise UserError(what, where="method.test_dropout", remedy="set method.generator.dropout = 0.5")
        for to in self.directions():
            pair = f"{OTHER[to]}{to}"
            setattr(self, f"d_{pair}", discriminator(sum(geometry.channels[name] for name in "ab"), geometry.dims))
            changes = DiscriminatorAugment(augment, geometry.dims, adapt, self.adversarial)
            setattr(self, f"augment_{pair}", changes)

    def phases(self) -> list[Phase]:
        """Generators, then discriminators on the fakes that the first phase left."""
        return [*super().phases(), Phase("discriminators", self.networks("d"), self.discriminator_losses)]

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Adversarial and L1 losses of each direction (equation 4, non-saturating as in section 3.3)."""
        losses = {}
        for to, fake in self.translated(batch).items():
            batch[f"fake_{to}"] = fake.detach()
            judge, augment = self.judge_of(to)
            logits = judge(augment(self.pair(batch, to, fake)))
            losses[f"adversarial_{to}"] = self.adversarial.generator(logits)
            if self.l1:
                losses[f"{self.compared}_{to}"] = self.l1 * self.difference(batch, to, fake)
        return losses

    def discriminator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """True pairs against pairs with a fake (equation 1)."""
        losses = {}
        for to in self.directions():
            judge, augment = self.judge_of(to)
            real, fake = self.pair(batch, to, batch[to]), self.pair(batch, to, batch[f"fake_{to}"])
            losses |= self.telling_apart(f"{OTHER[to]}{to}", judge, self.adversarial, real, fake, augment)
        return losses

    def judge_of(self, to: str) -> tuple[nn.Module, DiscriminatorAugment]:
        """The discriminator of the direction to a domain, and the changes of what it sees."""
        return getattr(self, f"d_{OTHER[to]}{to}"), getattr(self, f"augment_{OTHER[to]}{to}")

    @staticmethod
    def pair(batch: Batch, to: str, image: Tensor) -> Tensor:
        """What a discriminator judges: the source and, in further channels, its translation."""
        return torch.cat([batch[OTHER[to]], image], 1)

    def dropouts(self) -> list[nn.Module]:
        """The dropout layers of all generators."""
        return [layer for network in self.networks("g") for layer in network.modules() if isinstance(layer, DROPOUTS)]

    def train(self, mode: bool = True) -> Pix2Pix:
        """Evaluation leaves dropout on where the recipe says so: it is the noise that the paper's results have."""
        super().train(mode)
        if self.test_dropout:
            for layer in self.dropouts():
                layer.train()
        return self
