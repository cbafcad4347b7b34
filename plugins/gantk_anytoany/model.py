"""One generator and one discriminator for all translations between registered contrasts, missing ones allowed."""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.method import Batch, Geometry, Method, Phase
from gantk.nets.blocks import one_hot
from gantk.plugin.spec import AdversarialLoss, Augment, Discriminator, Fraction, Generator, Loss, Weight
from gantk.training.adaptive import DiscriminatorAugment


class AnyToAny(Method):
    """Any registered contrasts to any other by one network: inputs left out at random, the target told by a code.

    Each training image draws one contrast as its target and keeps a random number, one at least, of the others that its
    patient has; the rest is black, and L1 is taken of all that is missing, as in MM-GAN (Sharma & Hamarneh 2020, IEEE
    TMI 39(4)). The generator sees the contrasts that were kept, whether each was kept, and which is wanted, as maps of
    0 and 1 (the domain label of StarGAN, Choi et al. 2018, section 3.1), and the channel of that contrast is taken. The
    discriminator sees the same beside the image, as that of Isola et al. (2017). That one network takes whatever is
    there goes back to Chartsias et al. (2018), who join one encoder a contrast in a latent image.

    Reads registered pairs; each contrast of `a` may be missing, and each of `b` can be made. Name the same ones in
    both: domains = ["T1+T2+FLAIR", "T1+T2+FLAIR"]. A contrast is never made from itself. A channel of `a` that is
    black throughout counts as missing.
    """

    paired = True
    hides = True

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",
        discriminator: Discriminator = "patchgan",
        adversarial: AdversarialLoss = "ls",  # least squares, as in MM-GAN
        l1: Weight = 100.0,  # weight of the L1 loss, or of `reconstruction`; a GAN alone at 0
        reconstruction: Loss = "l1",  # what tells a translation from its truth
        augment: list[Augment] = [],  # differentiable changes of all that the discriminator sees, for small data sets
        adapt: Fraction = 0.0,  # apply them only as far as the discriminator overfits: 0.6 usual, 0 = always
    ):
        super().__init__(geometry)
        self.sources, self.targets = (self._contrasts(letter) for letter in "ab")
        self.planes = geometry.channels["a"] // len(self.sources)  # channels of one contrast: neighbouring slices
        own = [[source == target for source in self.sources] for target in self.targets]
        if any(map(all, own)):
            what = f"{self.sources[0]} cannot be made from itself, and data.domains names no other contrast"
            remedy = 'name all of them, in both domains: ["T1+T2+FLAIR", "T1+T2+FLAIR"]'
            raise UserError(what, where="data.domains", remedy=remedy)
        self.register_buffer(
            "own", torch.tensor(own), persistent=False
        )  # (targets, sources): whether they are the same
        told = len(self.sources) * (self.planes + 1) + len(self.targets)
        self.generator = generator(told, geometry.channels["b"], geometry.dims)
        self.discriminator = discriminator(told + self.planes, geometry.dims)
        self.adversarial, self.l1 = adversarial(), l1
        self.compare, self.compared = reconstruction(), reconstruction.name
        self.augment = DiscriminatorAugment(augment, geometry.dims, adapt, self.adversarial)

    def directions(self) -> list[str]:
        """`b`: all of its contrasts."""
        return ["b"]

    def phases(self) -> list[Phase]:
        """The generator, then the discriminator on the fakes that the first phase left."""
        return [
            Phase("generator", (self.generator,), self.generator_losses, ema=True),
            Phase("discriminator", (self.discriminator,), self.discriminator_losses),
        ]

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The adversarial loss of the drawn target, and L1 of all contrasts that the generator was not shown.

        Isola et al. (2017), equation 4; L1 of all that is missing as in MM-GAN, for it costs no further pass.
        """
        target, kept = self.draw(batch)
        told, real = self.told(batch["a"], kept, target), self._parts(batch["b"], self.targets)
        fake = self._parts(self.generator(told), self.targets)
        one = torch.arange(len(target), device=target.device), slice(None), target
        batch["told"], batch["real"], batch["fake"] = told, real[one], fake[one].detach()
        logits = self.discriminator(self.augment(torch.cat([told, fake[one]], 1)))
        losses = {"adversarial": self.adversarial.generator(logits)}
        if self.l1:
            hidden = self.there(batch["b"], self.targets) & ~(kept[:, None] & self.own).any(2)
            compared = torch.where(hidden[:, None, :, *[None] * self.geometry.dims], fake, real)
            share = hidden.float().mean().clamp_min(1 / hidden.numel())
            losses[self.compared] = self.l1 * self.compare(compared.flatten(1, 2), real.flatten(1, 2)) / share
        return losses

    def discriminator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Real against fake, each beside what the generator was told (Isola et al. 2017, equation 1)."""
        real, fake = (torch.cat([batch["told"], batch[name]], 1) for name in ("real", "fake"))
        return self.telling_apart("b", self.discriminator, self.adversarial, real, fake, self.augment)

    def draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For each image of a step its target, (N,) int64, and the sources that are kept, (N, sources) bool.

        Of the targets and sources that are there all are drawn alike, and so is the number of sources that are kept.
        """
        there, wanted = self.there(batch["a"], self.sources), self.there(batch["b"], self.targets)
        rows, device = len(there), there.device
        target = (torch.rand(wanted.shape, device=device) + wanted).argmax(1)  # what is there comes first
        free = there & ~self.own[target]
        place = (torch.rand(free.shape, device=device) + ~free).argsort(1).argsort(1)  # free ones come first
        count = 1 + (torch.rand(rows, 1, device=device) * free.sum(1, keepdim=True)).long()
        return target, free & (place < count)

    def there(self, image: Tensor, contrasts: tuple[str, ...]) -> Tensor:
        """Which contrasts an image has, (N, contrasts) bool: those that are not black throughout."""
        return (self._parts(image, contrasts) != self.geometry.range[0]).flatten(3).any(3).any(1)

    def told(self, image: Tensor, kept: Tensor, target: Tensor) -> Tensor:
        """What both networks are told: the sources that were kept, the others black; then maps of 0 and 1 that say
        which were, and which target is wanted: (N, sources x (planes + 1) + targets, *size)."""
        wide = (...,) + (None,) * (image.ndim - 2)
        shown = torch.where(kept[:, None][wide], self._parts(image, self.sources), self.geometry.range[0])
        said = torch.cat([kept, one_hot(target, len(self.targets))], 1).to(image.dtype)
        return torch.cat([shown.flatten(1, 2), said[wide].expand(-1, -1, *image.shape[2:])], 1)

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images of `a`, missing contrasts black, as all contrasts of `b`, each made from the others that are there.

        Where no other is there, a contrast stays as it is.
        """
        return torch.stack([self.made(image, number) for number in range(len(self.targets))], 2).flatten(1, 2)

    def made(self, image: Tensor, number: int) -> Tensor:
        """One target of images of `a`: (N, planes, *size)."""
        target = torch.full((len(image),), number, device=image.device)
        kept = self.there(image, self.sources) & ~self.own[target]
        fake = self._parts(self.generator(self.told(image, kept, target)), self.targets)[:, :, number]
        if self.targets[number] not in self.sources:
            return fake
        itself = self._parts(image, self.sources)[:, :, self.sources.index(self.targets[number])]
        alone = ~kept.any(1)[(...,) + (None,) * (image.ndim - 1)]
        return torch.where(alone, itself.to(fake.dtype), fake)

    def _contrasts(self, letter: str) -> tuple[str, ...]:
        """A domain's contrasts by name; each channel is one of its own where nobody named them."""
        numbered = (f"{letter}{number}" for number in range(self.geometry.channels[letter]))
        return self.geometry.contrasts.get(letter) or tuple(numbered)

    def _parts(self, image: Tensor, contrasts: tuple[str, ...]) -> Tensor:
        """(N, C, *size) as (N, planes, contrasts, *size): neighbouring slices are the outer part of the channels."""
        return image.unflatten(1, (self.planes, len(contrasts)))
