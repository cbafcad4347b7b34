"""RegGAN: image-to-image translation learned from misaligned pairs (Kong et al., NeurIPS 2021)."""

from __future__ import annotations

import torch

from gantk.losses.reconstruction import difference
from gantk.losses.structure import EdgeDirection
from gantk.method import Batch, Geometry, Losses, Method, Phase
from gantk.plugin.spec import (
    AdversarialLoss,
    Depth,
    Discriminator,
    Generator,
    Positive,
    Weight,
)
from gantk_translation.reggan.search import Search, warp

# share by which a searched T must reduce a pair's error; else the pair counts as aligned
MIN_GAIN = 0.2


class RegGAN(Method):
    """Paired translation that needs no exact registration: it treats misaligned pairs as noisy
    labels (Kong et al. 2021).

    A generator G translates x to y^ = G(x). A displacement field T aligns y^ with the target y, and
    the loss compares y^ after T with y, so G need not learn the misalignment that T explains. A
    discriminator keeps y^ an image of the target domain. T comes from a search for each pair, which is
    more exact than the paper's network R(y^, y). At inference only G is used, from a to b. `edges`,
    the search and MIN_GAIN are not in the paper.
    """

    paired = True

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",  # generator network
        discriminator: Discriminator = "patchgan",  # discriminator network
        adversarial: AdversarialLoss = "bce",  # adversarial loss
        gan: Weight = 1.0,  # weight of the adversarial loss; 0 = no discriminator
        correction: Positive = 80.0,  # weight of the correction loss: L1 of y and y^ after T
        # weight of the squared gradient of T beside the correction, in the search alone
        smoothness: Weight = 4.0,
        # weight of the loss that aligns edges of an output with those of its input; 0 in the paper
        edges: Weight = 0.0,
        # largest displacement of T along an axis, in pixels of the network's input
        displacement: Positive = 32.0,
        refine: Depth = 6,  # search steps at each of seven resolutions
    ):
        super().__init__(geometry)
        self.gan = gan
        self.correction = correction
        self.edges = edges
        source = geometry.channels["a"]
        target = geometry.channels["b"]
        dims = geometry.dims
        self.g_ab = generator(source, target, dims)
        self.adversarial = adversarial()
        self.r_ab = Search(refine, 2 * smoothness / correction, displacement)
        if gan:
            self.d_b = discriminator(target, dims)

    def phases(self) -> list[Phase]:
        """G, then the discriminator on the translations of that phase."""
        phases = [Phase("generators", (self.g_ab,), self.generator_losses, ema=True)]
        if self.gan:
            phases.append(Phase("discriminators", (self.d_b,), self.discriminator_losses))
        return phases

    def generator_losses(self, batch: Batch) -> Losses:
        """L_total = gan L_Adv + correction L_Corr; L_Corr = |y - y^ o T|, mean over pixels."""
        source = batch["a"]
        real = batch["b"]
        fake = self.translate(source, "b")
        field = self.r_ab(source, fake.detach(), real, self.progress)
        # linear ones blur, and y is sharp
        laid = warp(fake, field, "bicubic" if fake.ndim == 4 else "bilinear")
        # where T saves little it would follow G's own errors, and G be free to make them
        axes = [*range(1, fake.ndim)]
        still = (real - fake.detach()).abs().mean(axes, keepdim=True)
        off = (real - laid.detach()).abs().mean(axes, keepdim=True)
        laid = torch.where(off > (1 - MIN_GAIN) * still, fake.float(), laid)
        # half of the images reach D unwarped, so that it also judges their corners
        seen = torch.where(torch.rand_like(off) < 0.5, fake.float(), laid)
        losses = {"correction_b": self.correction * difference(real, laid).abs().mean()}
        batch["fake_b"] = seen.detach()
        if self.gan:
            losses["adversarial_b"] = self.gan * self.adversarial.generator(self.d_b(seen))
        if self.edges:
            # little at first: edges do not tell which tissue is bright
            weight = self.progress * self.edges
            losses["edges_b"] = weight * EdgeDirection(weight=1.0)(fake, source)

        return losses

    def discriminator_losses(self, batch: Batch) -> Losses:
        """L_Adv of D: images of the target domain against translations, without inputs."""
        return self.real_fake_losses("b", self.d_b, self.adversarial, batch["b"], batch["fake_b"])
