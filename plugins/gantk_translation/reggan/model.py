"""RegGAN: image-to-image translation learned from misaligned pairs (Kong et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.losses.edges import EdgeDirection
from gantk.losses.reconstruction import difference
from gantk.method import Batch, Geometry, Method, Phase
from gantk.plugin.spec import (
    AdversarialLoss,
    Depth,
    Discriminator,
    Generator,
    Loss,
    Positive,
    Share,
    Weight,
    Width,
)
from gantk_translation.reggan.network import Registration, roughness, warp
from gantk_translation.reggan.search import Search


class RegGAN(Method):
    """Paired translation that does without exact registration: pairs are labels with noise (Kong et
    al. 2021).

    A generator G translates x to y^ = G(x), a field T lays y^ on the target y, and G is compared
    with y through T alone. What T explains, how the target lies, G need not learn; a discriminator
    keeps y^ an image of the target domain. T comes from a network R(y^, y) that is trained with G,
    as in the paper, or is searched for each pair by itself, which is more exact. G alone
    translates, a to b. `edges`, the search and `gain` are not in the paper.
    """

    paired = True

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",
        discriminator: Discriminator = "patchgan",
        adversarial: AdversarialLoss = "bce",
        gan: Weight = 1.0,  # weight of the adversarial loss; at 0 no discriminator is trained
        correction: Positive = 20.0,  # weight of the correction loss, L1 of y and y^ after T
        # weight of the smoothness loss, squared gradient of T; of a search, correction / 20
        smoothness: Weight = 10.0,
        target_losses: list[Loss] = [],  # further losses of y^ after T and y, each with a weight
        # weight of the loss that edges of an output lie on those of its input; 0 in the paper
        edges: Weight = 0.0,
        # pixels that T moves along an axis at most, at the size that networks see
        displacement: Positive = 32.0,
        # T by R as in the paper, or searched for each pair
        registration: Literal["network", "search"] = "network",
        registration_width: Width = 32,  # filters of R's first convolution
        registration_depth: Depth = 3,  # halvings in R: T has a control point each 2**this pixels
        refine: Depth = 6,  # steps of a search at each of seven resolutions
        # share of its error that a searched T must save a pair; else the pair counts as aligned
        gain: Share = 0.2,
    ):
        super().__init__(geometry)
        self.gan = gan
        self.correction = correction
        self.smoothness = smoothness
        self.edges = edges
        self.gain = gain
        self.further = {part.name: part() for part in target_losses}
        if len(self.further) < len(target_losses):
            raise UserError(
                "two losses have one name",
                where="method.target_losses",
                remedy="give each of them once",
            )

        source = geometry.channels["a"]
        target = geometry.channels["b"]
        dims = geometry.dims
        self.g_ab = generator(source, target, dims)
        self.adversarial = adversarial()
        self.learned = registration == "network"
        if self.learned:
            self.r_ab = Registration(
                target, dims, registration_width, registration_depth, displacement
            )
        else:
            self.r_ab = Search(refine, 2 * smoothness / correction, displacement)

        if gan:
            self.d_b = discriminator(target, dims)

    def directions(self) -> list[str]:
        """`b`: a second training, with the domains the other way round, learns the way back."""
        return ["b"]

    def phases(self) -> list[Phase]:
        """G and R, min over both of L_total; then the discriminator on the translations of that
        phase.
        """
        trained = (self.g_ab, self.r_ab) if self.learned else (self.g_ab,)
        phases = [Phase("generators", trained, self.generator_losses, ema=True)]
        if self.gan:
            phases.append(Phase("discriminators", (self.d_b,), self.discriminator_losses))
        return phases

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_total = gan L_Adv + correction L_Corr + smoothness L_Smooth; L_Corr = |y - y^ o T|,
        mean over pixels.
        """
        source = batch["a"]
        real = batch["b"]
        weight = self.edges
        fake = seen = self.translate(source, "b")
        if self.learned:
            field = self.r_ab(fake, real)
        else:
            field = self.r_ab(source, fake.detach(), real, self.progress)

        # linear ones blur, and y is sharp
        laid = warp(fake, field, "bicubic" if fake.ndim == 4 else "bilinear")
        # where T saves little it would follow G's own errors, and G be free to make them
        if not self.learned:
            axes = [*range(1, fake.ndim)]
            still = (real - fake.detach()).abs().mean(axes, keepdim=True)
            off = (real - laid.detach()).abs().mean(axes, keepdim=True)
            laid = torch.where(off > (1 - self.gain) * still, fake.float(), laid)
            # half of the images reach D unwarped, so that it also judges their corners
            seen = torch.where(torch.rand_like(off) < 0.5, fake.float(), laid)
            # little at first: edges do not tell which tissue is bright
            weight = self.progress * weight

        losses = {"correction_b": self.correction * difference(real, laid).abs().mean()}
        if self.learned:
            losses["smoothness_b"] = self.smoothness * roughness(field)

        batch["fake_b"] = seen.detach()
        if self.gan:
            losses["adversarial_b"] = self.gan * self.adversarial.generator(self.d_b(seen))
        if self.edges:
            losses["edges_b"] = weight * EdgeDirection(weight=1.0)(fake, source)

        return losses | {f"{name}_b": unlike(laid, real) for name, unlike in self.further.items()}

    def discriminator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_Adv of D: images of the target domain against translations, without inputs."""
        return self.real_fake_losses("b", self.d_b, self.adversarial, batch["b"], batch["fake_b"])

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images of `a` as `b`."""
        if to != "b":
            raise UserError(
                "reggan translates a to b only",
                where="to",
                remedy="swap data.domains and train again",
            )
        return self.g_ab(image)
