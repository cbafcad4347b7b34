"""Translation learned from pairs with an L1 loss only: the baseline of adversarial methods."""

from __future__ import annotations

from torch import Tensor

from gantk.losses.reconstruction import (
    expect_lesion_weight,
    expect_named_once,
    lesion_weight,
    with_weight,
)
from gantk.method import OTHER, Batch, Geometry, Losses, Method, Phase
from gantk.plugin.spec import Augment, Generator, Loss, Positive


class Regression(Method):
    """Paired translation by L1, without a discriminator: a baseline (Isola et al. 2017, table 1,
    "L1").

    It needs registered pairs `a` and `b`, with any numbers of channels. L1 learns the median of the
    possible outputs, which gives high PSNR and smooth texture. A GAN is worth its cost if its images
    look better without a larger error.
    """

    paired = True

    def __init__(
        self,
        geometry: Geometry,
        beside: int = 0,  # further input channels of a subclass's generators
        *,
        generator: Generator = "unet",  # generator network
        reconstruction: Loss = "l1",  # loss between a translation and its truth; l1 in the paper
        both: bool = False,  # also learn b -> a, with a separate generator
        # further losses between a translation and its truth, each with its own options
        target_losses: list[Loss] = [],
        lesion: Positive = 1.0,  # weight of a lesion's pixels in the L1 loss; needs data.mask = true
        vary: list[Augment] = [],  # random changes of the generator's input, not of its target
    ):
        super().__init__(geometry)
        self.vary = [change(geometry.dims) for change in vary]
        a = geometry.channels["a"]
        b = geometry.channels["b"]
        dims = geometry.dims
        self.g_ab = generator(a + beside, b, dims)
        if both:
            self.g_ba = generator(b + beside, a, dims)

        self.both = both
        self.compare = reconstruction()
        self.compared = reconstruction.name
        self.lesion = expect_lesion_weight(lesion, self.compared, self.compare)
        self.weighs_lesions = lesion != 1
        names = [self.compared, *(part.name for part in target_losses)]
        expect_named_once(names, "method.target_losses")
        self.further = {part.name: part() for part in target_losses}

    def directions(self) -> list[str]:
        """The target domains that are trained: `b`, and `a` if `both` is set."""
        return ["b", "a"] if self.both else ["b"]

    def phases(self) -> list[Phase]:
        """One phase, which trains the generators."""
        return [Phase("generators", self.networks("g"), self.generator_losses, ema=True)]

    def networks(self, kind: str) -> tuple:
        """The generators ("g") or discriminators ("d"), in the order of `directions`."""
        return tuple(getattr(self, f"{kind}_{OTHER[to]}{to}") for to in self.directions())

    def generator_losses(self, batch: Batch) -> Losses:
        """The reconstruction loss (L1 by default) and the further losses of each direction."""
        fakes = self.translate_batch(batch)
        losses = {
            f"{self.compared}_{to}": self.difference(batch, to, fake) for to, fake in fakes.items()
        }
        return losses | self.further_losses(batch, fakes)

    def further_losses(self, batch: Batch, fakes: dict[str, Tensor]) -> Losses:
        """The losses of `target_losses` in each direction."""
        losses = {}
        for name, unlike in self.further.items():
            for to, fake in fakes.items():
                losses[f"{name}_{to}"] = unlike(fake, batch[to])
        return losses

    def translate_batch(self, batch: Batch) -> dict[str, Tensor]:
        """Translate the batch in every trained direction: {"b": fake_b, ...}."""
        return {
            to: self.translate(self.vary_images(batch[OTHER[to]]), to) for to in self.directions()
        }

    def vary_images(self, image: Tensor) -> Tensor:
        """Training images after the random changes of `vary`, which imitate other scanners."""
        for change in self.vary:
            image = change(image)
        return image

    def difference(self, batch: Batch, to: str, fake: Tensor) -> Tensor:
        """The reconstruction loss of a fake and its truth (Isola et al. 2017, equation 3), with
        lesions weighted.
        """
        # both images of a pair show the same anatomy
        mask = batch.get(f"mask_{to}", batch.get(f"mask_{OTHER[to]}"))
        weight = lesion_weight(mask, self.lesion)
        return with_weight(self.compare, fake, batch[to], weight)
