"""CycleGAN: unpaired image-to-image translation using cycle-consistent adversarial networks (Zhu et
al., ICCV 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gantk import ImagePool
from gantk.errors import UserError
from gantk.losses.reconstruction import expect_lesion_weight, lesion_weight, with_weight
from gantk.method import Batch, Companions, Geometry, Images, Losses, Method, Phase, Stage
from gantk.plugin.spec import AdversarialLoss, Discriminator, Generator, Number, Weight, bind
from gantk_translation.additions import PUBLISHED_TWO_WAY, TwoWayOptions, low_res_stages


class CycleGAN(Method):
    """Unpaired two-way translation: adversarial + cycle + identity losses, an image pool of 50 (Zhu
    et al. 2017).

    The paper's weights are cycle 10 and identity 5. Structure losses are additions; 0 = the paper.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "resnet",  # both generators
        discriminator: Discriminator = "patchgan",  # both discriminators
        adversarial: AdversarialLoss = "ls",  # adversarial loss
        cycle: Weight = 10.0,  # weight of the cycle loss (L1), in both directions
        # weight of the identity loss (L1); needs domains with equal numbers of channels
        identity: Weight = 5.0,
        # size of the pool of earlier fakes for the discriminators (Shrivastava et al. 2017); 0 = none
        pool: Number = 50,
        further: TwoWayOptions = PUBLISHED_TWO_WAY,
    ):
        super().__init__(geometry)
        self.further = further
        self.weighs_lesions = further.lesion != 1
        self.cycle = self._image_loss(further.cycle_loss)
        self.identity = self._image_loss(further.identity_loss)
        a = geometry.channels["a"]
        b = geometry.channels["b"]
        dims = geometry.dims
        if identity and a != b:
            raise UserError(
                "an identity loss needs domains with equal numbers of channels, but they"
                f" have {a} and {b}",
                where="method.identity",
                remedy="set method.identity = 0.0",
            )

        self.g_ab = generator(a, b, dims)
        self.g_ba = generator(b, a, dims)
        self.d_a = discriminator(a, dims)
        self.d_b = discriminator(b, dims)
        self.adversarial = adversarial()
        self.cycle_weight = cycle
        self.identity_weight = identity
        # the structure losses at half size
        self.in_warmup = further
        if not further.source_losses_in_warmup:
            self.in_warmup = replace(further, source_losses=[])
        self.pairs = further.pairs() if further.pairs else None
        self.companions_note = getattr(self.pairs, "note", "")
        self.augment_a, self.augment_b = (
            further.discriminator_augment(dims, self.adversarial) for _ in range(2)
        )
        self.pool_a = ImagePool(pool, a, geometry.size)
        self.pool_b = ImagePool(pool, b, geometry.size)

    def companions(self, sets: Mapping[str, Images]) -> Mapping[str, Companions]:
        """For each image a similar image of the other domain, if `further.pairs` is set; else {}."""
        return self.pairs.companions(sets) if self.pairs else {}

    def phases(self) -> list[Phase]:
        """First the generators, then the discriminators, which see the fakes that the first phase
        put into the batch.
        """
        return [
            Phase("generators", (self.g_ab, self.g_ba), self.generator_losses, ema=True),
            Phase("discriminators", (self.d_a, self.d_b), self.discriminator_losses),
        ]

    def stages(self, steps: int) -> list[Stage]:
        """One stage at the recipe's size, after a stage at half the size if `low_res_warmup` is
        above 0.
        """
        return low_res_stages(self.geometry.size, steps, self.further.low_res_warmup)

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Set the size of the image pools to that of the stage. Fakes of another size are dropped."""
        self.pool_a.expect(stage.size)
        self.pool_b.expect(stage.size)

    def generator_losses(self, batch: Batch) -> Losses:
        """The adversarial, cycle, identity and structure losses, each by name and direction."""
        real_a = batch["a"]
        real_b = batch["b"]
        own_b, own_a = ([real_b], [real_a]) if self.identity_weight else ([], [])
        fake_b, *identity_b = self.batched_forward(self.g_ab, real_a, *own_b)
        fake_a, cycled_a, *identity_a = self.batched_forward(
            self.g_ba, real_b, self._add_defense_noise(fake_b), *own_a
        )
        cycled_b = self.g_ab(self._add_defense_noise(fake_a))
        batch["fake_a"] = fake_a.detach()
        batch["fake_b"] = fake_b.detach()
        lesion_a, lesion_b = (
            lesion_weight(batch.get(name), self.further.lesion) for name in ("mask_a", "mask_b")
        )
        losses = {
            "cycle_a": self.cycle_weight * with_weight(self.cycle, cycled_a, real_a, lesion_a),
            "cycle_b": self.cycle_weight * with_weight(self.cycle, cycled_b, real_b, lesion_b),
            "adversarial_a": self.adversarial.generator(self.d_a(self.augment_a(fake_a))),
            "adversarial_b": self.adversarial.generator(self.d_b(self.augment_b(fake_b))),
        }
        if self.identity_weight:
            same_a = with_weight(self.identity, identity_a[0], real_a, lesion_a)
            same_b = with_weight(self.identity, identity_b[0], real_b, lesion_b)
            losses["identity_a"] = self.identity_weight * same_a
            losses["identity_b"] = self.identity_weight * same_b

        if self.pairs:
            losses |= {
                "pairs_b": self.pairs(fake_b, batch["near_a"]),
                "pairs_a": self.pairs(fake_a, batch["near_b"]),
            }

        losses |= self.fake_losses(fake_b, real_a, "_b")
        return losses | self.fake_losses(fake_a, real_b, "_a")

    def fake_losses(self, fake: Tensor, source: Tensor, end: str) -> Losses:
        """The structure losses of fakes and the images that they are made of, (N, C, *size); `end` is
        that of their names. A variant of the method may add its own.
        """
        is_small = tuple(source.shape[2:]) != tuple(self.geometry.size)
        structure = self.in_warmup if is_small else self.further
        return structure.losses(fake, source, self.geometry.range, end)

    def discriminator_losses(self, batch: Batch) -> Losses:
        """The losses of both discriminators on real images and on fakes from the image pool."""
        losses = {}
        judges = (
            ("a", self.d_a, self.pool_a, self.augment_a),
            ("b", self.d_b, self.pool_b, self.augment_b),
        )
        for name, network, pool, augment in judges:
            fake = pool(batch[f"fake_{name}"])
            losses |= self.real_fake_losses(
                name, network, self.adversarial, batch[name], fake, augment
            )

        return losses

    def _image_loss(self, name: Any) -> Callable[..., Tensor]:
        """The loss of an option; UserError if it cannot weight lesions as asked."""
        part = bind("loss", name)
        loss = part()
        expect_lesion_weight(self.further.lesion, part.name, loss)
        return loss

    def _add_defense_noise(self, fake: Tensor) -> Tensor:
        """Add noise, drawn in float32 as that is faster, to drown what a fake hides (Bashkirova et
        al. 2019, 4.2).
        """
        if std := self.further.defense:
            return fake + std * torch.randn_like(fake, dtype=torch.float).to(fake)
        return fake
