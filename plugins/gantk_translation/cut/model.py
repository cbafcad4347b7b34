"""CUT: contrastive learning for unpaired image-to-image translation (Park et al., ECCV 2020)."""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantk.errors import UserError
from gantk.method import Batch, Geometry, Losses, Method, Phase, Stage
from gantk.plugin.spec import (
    AdversarialLoss,
    Discriminator,
    Few,
    Kind,
    Part,
    Positive,
    Weight,
    Width,
)
from gantk_translation.additions import PUBLISHED, Additions, low_res_stages
from gantk_translation.cut.patchnce import PatchNCE

# a generator that returns its encoder's maps
Encoding = Annotated[Part, Kind("generator", having=("features",))]
Places = Annotated[int, Field(ge=2, le=2**20)]


class CUT(Method):
    """Unpaired one-way translation, a -> b: adversarial + patchwise contrastive loss, no cycle
    (Park et al. 2020).

    It has one generator and one discriminator, so it costs about half as much as CycleGAN. The
    weights are those of equation 5, with lambda_X = lambda_Y = `nce`. `nce = 10.0` with
    `nce_identity = false` is the paper's FastCUT. The paper compares features of the image itself,
    of both halvings and of the first and fifth block of a ResNet: layers = [0, 2, 3, 4, 5] with
    generator "resnet". Structure losses, low_res_warmup and adapt are additions; 0 = the paper.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Encoding = "resnet",  # generator network
        discriminator: Discriminator = "patchgan",  # discriminator network
        adversarial: AdversarialLoss = "ls",  # adversarial loss
        nce: Weight = 1.0,  # weight of the contrastive loss; 10 in FastCUT
        # also compare g_ab(b) with b (identity); false in FastCUT
        nce_identity: bool = True,
        # maps to compare: 0 is the image, 1, 2, ... are the encoder's maps; None: all
        layers: tuple[Few, ...] | None = None,
        width: Width = 256,  # features in the layers of the heads
        patches: Places = 256,  # positions per map: one positive, all others negatives
        temperature: Positive = 0.07,  # temperature of the softmax over positions; below 1 sharpens it
        further: Additions = PUBLISHED,
    ):
        super().__init__(geometry)
        a = geometry.channels["a"]
        b = geometry.channels["b"]
        dims = geometry.dims
        if a != b:
            raise UserError(
                "cut encodes its output with its own encoder, which needs domains with equal numbers"
                f" of channels, but these have {a} and {b}",
                where="method.name",
                remedy="use cyclegan, dualgan or munit with identity = 0.0",
            )

        self.g_ab = generator(a, b, dims)
        self.d_b = discriminator(b, dims)
        with torch.no_grad():  # on the meta device, without arithmetic
            image = torch.empty(1, a, *geometry.size, device="meta")
            maps = [image, *copy.deepcopy(self.g_ab).to("meta").features(image)]
        channels = [each.shape[1] for each in maps]
        self.layers = sorted(set(range(len(maps)) if layers is None else layers))
        if not self.layers or self.layers[-1] >= len(maps):
            raise UserError(
                f"layers = {self.layers} contains maps that the generator does not have",
                where="method.layers",
                allowed=f"0 (the image) to {len(maps) - 1} (its deepest map)",
            )

        kept = [channels[layer] for layer in self.layers]
        self.nce = PatchNCE(kept, width=width, patches=patches, temperature=temperature)
        self.adversarial = adversarial()
        self.further = further
        self.augment_b = further.discriminator_augment(dims, self.adversarial)
        self.weight = nce
        self.nce_identity = nce_identity and nce > 0

    def phases(self) -> list[Phase]:
        """The generator with the contrastive heads, then the discriminator on the first phase's
        fakes.
        """
        return [
            Phase("generator", (self.g_ab, self.nce), self.generator_losses, ema=True),
            Phase("discriminator", (self.d_b,), self.discriminator_losses),
        ]

    def stages(self, steps: int) -> list[Stage]:
        """One stage at the recipe's size; before it one at half that size if `low_res_warmup` is
        above 0.
        """
        return low_res_stages(self.geometry.size, steps, self.further.low_res_warmup)

    def generator_losses(self, batch: Batch) -> Losses:
        """Adversarial and contrastive losses (equation 5), and structure losses with a weight above
        0.
        """
        real_a = batch["a"]
        real_b = batch["b"]
        fake_b, *same_b = self.batched_forward(
            self.g_ab, real_a, *([real_b] if self.nce_identity else [])
        )
        batch["fake_b"] = fake_b.detach()
        losses = {"adversarial": self.adversarial.generator(self.d_b(self.augment_b(fake_b)))}
        if self.weight:
            outputs = [fake_b, *same_b]
            sources = [real_a, real_b][: len(outputs)]
            with torch.no_grad():
                keys = self.batched_forward(self.g_ab, *sources, call=self._maps)
            queries = self.batched_forward(self.g_ab, *outputs, call=self._maps)
            for name, *maps in zip(("nce", "nce_identity"), queries, keys, strict=False):
                losses[name] = self.weight * self.nce(*maps)

        return losses | self.further.losses(fake_b, real_a, self.geometry.range)

    def discriminator_losses(self, batch: Batch) -> Losses:
        """Real against fake images of b."""
        return self.real_fake_losses(
            "b", self.d_b, self.adversarial, batch["b"], batch["fake_b"], self.augment_b
        )

    def _maps(self, image: Tensor) -> list[Tensor]:
        maps = [image, *self.g_ab.features(image)]
        return [maps[layer] for layer in self.layers]
