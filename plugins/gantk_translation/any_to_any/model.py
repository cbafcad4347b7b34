"""One generator and one discriminator for all translations between registered contrasts, with any
of them missing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantk import DiscriminatorAugment
from gantk.errors import UserError
from gantk.losses.reconstruction import expect_lesion_weight, lesion_weight, with_weight
from gantk.method import Batch, Geometry, Losses, Method, Phase
from gantk.nets.blocks import one_hot
from gantk.plugin.spec import (
    AdversarialLoss,
    Augment,
    Discriminator,
    Fraction,
    Generator,
    Loss,
    Positive,
    Weight,
)


class AnyToAny(Method):
    """Translation from any available contrasts to any missing contrast, with one network and
    registered pairs.

    For each training image a random contrast is the target, and a random number (at least one) of
    the patient's other contrasts are inputs. The rest is black, and L1 covers all missing
    contrasts, as in MM-GAN (Sharma & Hamarneh 2020, IEEE TMI 39(4)). Further input channels are
    maps of 0 and 1: which contrasts are present, and which is the target (the domain label of
    StarGAN, Choi et al. 2018, section 3.1). The output is the target's channel. The discriminator
    sees the same channels with the image, as in Isola et al. (2017). The idea of one network for
    any available inputs is from Chartsias et al. (2018), who fuse one encoder per contrast in a
    latent image.

    Contrasts of `a` are inputs, and any of them may be missing. Contrasts of `b` are targets. Name
    the same contrasts in both: domains = ["T1+T2+FLAIR", "T1+T2+FLAIR"]. A contrast is never an
    input for itself. A channel of `a` that is completely black counts as missing.

    `lesion`, `vary`, `augment` and `adapt` are additions; their defaults are without.
    """

    paired = True
    hides = True

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",  # generator network
        discriminator: Discriminator = "patchgan",  # discriminator network
        adversarial: AdversarialLoss = "ls",  # least squares, as in MM-GAN
        # weight of the L1 loss, or of `reconstruction`; 0: adversarial loss only
        l1: Weight = 100.0,
        reconstruction: Loss = "l1",  # loss between a translation and its truth
        lesion: Positive = 1.0,  # weight of a lesion's pixels in `reconstruction`; needs data.mask
        # random changes of the generator's inputs, drawn for each contrast, not of its targets
        vary: list[Augment] = [],
        # differentiable augmentations of the discriminator's inputs, for small data sets
        augment: list[Augment] = [],
        # target of adaptive augmentation (ADA's r_t); 0.6 usual, 0 = augment all images
        adapt: Fraction = 0.0,
    ):
        super().__init__(geometry)
        self.sources, self.targets = (self._contrasts(letter) for letter in "ab")
        # channels of one contrast: neighbouring slices
        self.planes = geometry.channels["a"] // len(self.sources)
        own = [[source == target for source in self.sources] for target in self.targets]
        if any(map(all, own)):
            raise UserError(
                f"{self.sources[0]} cannot be generated from itself, but data.domains names no"
                " other contrast",
                where="data.domains",
                remedy='name all contrasts in both domains: ["T1+T2+FLAIR", "T1+T2+FLAIR"]',
            )

        self.register_buffer(
            "own", torch.tensor(own), persistent=False
        )  # (targets, sources): whether they are the same
        inputs = len(self.sources) * (self.planes + 1) + len(self.targets)
        self.generator = generator(inputs, geometry.channels["b"], geometry.dims)
        self.discriminator = discriminator(inputs + self.planes, geometry.dims)
        self.adversarial = adversarial()
        self.l1 = l1
        self.compare = reconstruction()
        self.compared = reconstruction.name
        self.vary = [change(geometry.dims) for change in vary]
        self.lesion = expect_lesion_weight(lesion, self.compared, self.compare)
        self.weighs_lesions = lesion != 1
        self.augment = DiscriminatorAugment(augment, geometry.dims, adapt, self.adversarial)

    def directions(self) -> list[str]:
        """Only `b`, with all of its contrasts."""
        return ["b"]

    def phases(self) -> list[Phase]:
        """The generator, then the discriminator on the first phase's fakes."""
        return [
            Phase("generator", (self.generator,), self.generator_losses, ema=True),
            Phase("discriminator", (self.discriminator,), self.discriminator_losses),
        ]

    def generator_losses(self, batch: Batch) -> Losses:
        """The adversarial loss of the drawn target, and L1 over all contrasts that were not inputs.

        Isola et al. (2017), equation 4; L1 over all missing contrasts as in MM-GAN needs no further
        forward pass.
        """
        target, kept = self.draw(batch)
        conditions = self.network_input(batch["a"], kept, target)
        varied = conditions
        if self.vary:
            varied = self.network_input(self.vary_contrasts(batch["a"]), kept, target)

        real = self._parts(batch["b"], self.targets)
        fake = self._parts(self.generator(varied), self.targets)
        drawn = torch.arange(len(target), device=target.device), slice(None), target
        batch["conditions"] = conditions
        batch["real"] = real[drawn]
        batch["fake"] = fake[drawn].detach()
        logits = self.discriminator(self.augment(torch.cat([conditions, fake[drawn]], 1)))
        losses = {"adversarial": self.adversarial.generator(logits)}
        if self.l1:
            hidden = self.present_contrasts(batch["b"], self.targets) & ~(
                kept[:, None] & self.own
            ).any(2)
            compared = torch.where(hidden[:, None, :, *[None] * self.geometry.dims], fake, real)
            share = hidden.float().mean().clamp_min(1 / hidden.numel())
            # both images of a pair show the same anatomy
            weight = lesion_weight(batch.get("mask_b", batch.get("mask_a")), self.lesion)
            unlike = with_weight(self.compare, compared.flatten(1, 2), real.flatten(1, 2), weight)
            losses[self.compared] = self.l1 * unlike / share

        return losses

    def vary_contrasts(self, image: Tensor) -> Tensor:
        """Images of `a` after the random changes of `vary`: another one for each contrast, the same
        for the neighbouring slices of it.
        """
        # (N, planes, contrasts, *size) -> (N x contrasts, planes, *size)
        alone = self._parts(image, self.sources).transpose(1, 2).flatten(0, 1)
        for change in self.vary:
            alone = change(alone)

        contrasts = alone.unflatten(0, (len(image), len(self.sources)))
        return contrasts.transpose(1, 2).flatten(1, 2)

    def discriminator_losses(self, batch: Batch) -> Losses:
        """Real against fake, each with the generator's input channels (Isola et al. 2017, equation
        1).
        """
        real, fake = (torch.cat([batch["conditions"], batch[name]], 1) for name in ("real", "fake"))
        return self.real_fake_losses(
            "b", self.discriminator, self.adversarial, real, fake, self.augment
        )

    def draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw for each image its target, (N,) int64, and the sources to keep, (N, sources) bool.

        Uniform over the targets and sources that the patient has, and over the number of sources to
        keep.
        """
        present = self.present_contrasts(batch["a"], self.sources)
        available = self.present_contrasts(batch["b"], self.targets)
        rows = len(present)
        device = present.device
        # present ones come first
        target = (torch.rand(available.shape, device=device) + available).argmax(1)
        free = present & ~self.own[target]
        # free ones come first
        place = (torch.rand(free.shape, device=device) + ~free).argsort(1).argsort(1)
        count = 1 + (torch.rand(rows, 1, device=device) * free.sum(1, keepdim=True)).long()
        return target, free & (place < count)

    def present_contrasts(self, image: Tensor, contrasts: tuple[str, ...]) -> Tensor:
        """The contrasts that an image has, (N, contrasts) bool: those that are not black
        throughout.
        """
        is_bright = self._parts(image, contrasts) != self.geometry.range[0]
        return is_bright.any((1, *range(3, is_bright.ndim)))

    def network_input(self, image: Tensor, kept: Tensor, target: Tensor) -> Tensor:
        """The input channels of both networks: the sources, black if not kept; maps of 0 and 1 that
        mark the kept sources and the target. Shape (N, sources x (planes + 1) + targets, *size).
        """
        spatial = (...,) + (None,) * (image.ndim - 2)
        shown = torch.where(
            kept[:, None][spatial], self._parts(image, self.sources), self.geometry.range[0]
        )
        codes = torch.cat([kept, one_hot(target, len(self.targets))], 1).to(image.dtype)
        return torch.cat([shown.flatten(1, 2), codes[spatial].expand(-1, -1, *image.shape[2:])], 1)

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Translate images of `a`, missing contrasts black, to all contrasts of `b`, each from the
        other present ones; a view by `of_contrasts` leaves the others black.

        A contrast that is alone in its image is returned unchanged.
        """
        made = []
        for number, target in enumerate(self.targets):
            if self.asked_contrasts is None or target in self.asked_contrasts:
                made.append(self.translate_to(image, number))
            else:
                like = self._parts(image, self.sources)[:, :, 0]
                made.append(torch.full_like(like, self.geometry.range[0]))

        return torch.stack(made, 2).flatten(1, 2)

    def translate_to(self, image: Tensor, number: int) -> Tensor:
        """Translate images of `a` to target `number`: (N, planes, *size)."""
        name = self.targets[number]
        # not len(image): a traced network would take this batch only
        target = torch.full((image.shape[0],), number, device=image.device)
        kept = self.present_contrasts(image, self.sources) & ~self.own[target]
        output = self.generator(self.network_input(image, kept, target))
        fake = self._parts(output, self.targets)[:, :, number]
        if name not in self.sources:
            return fake

        # where an image has no other contrast, the target's own is what remains
        itself = self._parts(image, self.sources)[:, :, self.sources.index(name)]
        alone = ~kept.any(1, keepdim=True)[(...,) + (None,) * (image.ndim - 2)]
        return torch.where(alone, itself.to(fake.dtype), fake)

    def _contrasts(self, letter: str) -> tuple[str, ...]:
        """The names of a domain's contrasts; without names each channel counts as one contrast."""
        numbered = (f"{letter}{number}" for number in range(self.geometry.channels[letter]))
        return self.geometry.contrasts.get(letter) or tuple(numbered)

    def _parts(self, image: Tensor, contrasts: tuple[str, ...]) -> Tensor:
        """View (N, C, *size) as (N, planes, contrasts, *size): neighbouring slices are the outer
        channel dimension.
        """
        return image.unflatten(1, (self.planes, len(contrasts)))
