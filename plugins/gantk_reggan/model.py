"""RegGAN: image-to-image translation learned from misaligned pairs (Kong et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.losses.structure import LocalNCC
from gantk.method import Batch, Geometry, Method, Phase
from gantk.plugin.spec import AdversarialLoss, Depth, Discriminator, Generator, Loss, Positive, Weight, Width
from gantk_reggan.network import Registration, moved, roughness
from gantk_reggan.network import correction as correction_loss
from gantk_reggan.search import Search

OTHER = {"a": "b", "b": "a"}
Steps = Annotated[int, Field(ge=1, le=100)]
Passes = Annotated[int, Field(ge=1, le=16)]


class RegGAN(Method):
    """Paired translation that does without exact registration: pairs are labels with noise (Kong et al. 2021).

    A generator G translates x to y^ = G(x), a field T lays y^ on the target y, and G is compared with y through T
    alone. What T explains, how the target lies, G need not learn; a discriminator keeps y^ an image of the target
    domain. T comes from a network R(y^, y) that is trained with G, as in the paper, or is searched for each pair by
    itself, which is more exact. G alone translates. `both`, `local_ncc` and the search are additions to the paper.
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
        correction: Weight = 20.0,  # weight of the correction loss, L1 of y and y^ after T
        smoothness: Weight = 10.0,  # weight of the smoothness loss, the squared gradient of T; 1 suits a search
        target_losses: list[Loss] = [],  # further losses of y^ after T and y, each with a weight
        local_ncc: Weight = 0.0,  # weight of the loss local_ncc: an output lies on its input; 0 in the paper
        displacement: Positive = 16.0,  # pixels that T moves along an axis at most, at the size that networks see
        registration: Literal["network", "search"] = "network",  # T by R as in the paper, or searched for each pair
        registration_width: Width = 32,  # filters of R's first convolution
        registration_depth: Depth = 3,  # halvings in R: T has a control point each 2**this pixels
        passes: Passes = 2,  # passes of R, each on y^ as it was moved so far; 1 in the paper
        refine: Steps = 6,  # steps of a search at each of four sizes of the images
        both: bool = False,  # learn b -> a too, with networks of its own
    ):
        super().__init__(geometry)
        if not correction:
            what, remedy = "without the correction loss nothing ties an output to its pair", "set it to 20, the paper's"
            raise UserError(what, where="method.correction", allowed="above 0", remedy=remedy)
        if displacement > min(geometry.size):
            size = " x ".join(map(str, geometry.size))
            what = f"a displacement of {displacement:g} pixels moves images of {size} away"
            allowed, remedy = f"up to {min(geometry.size)}", "set it to what pairs are off"
            raise UserError(what, where="method.displacement", allowed=allowed, remedy=remedy)
        self.gan, self.correction, self.smoothness = gan, correction, smoothness
        self.learned = registration == "network"
        self.both, self.adversarial = both, adversarial()
        self.local_ncc, self.unlike = local_ncc, LocalNCC()
        self.further = {part.name: part() for part in target_losses}
        if len(self.further) < len(target_losses):
            what, remedy = "two of the target_losses have one name, and one alone would count", "give each once"
            raise UserError(what, where="method.target_losses", remedy=remedy)
        channels, dims = geometry.channels, geometry.dims
        for to in self.directions():
            source, target, way = channels[OTHER[to]], channels[to], f"{OTHER[to]}{to}"
            setattr(self, f"g_{way}", generator(source, target, dims))
            if self.learned:
                size = {"width": registration_width, "depth": registration_depth, "passes": passes}
                registered = Registration(target, dims, limit=displacement, **size)
            else:
                registered = Search(refine, 2 * smoothness / correction, displacement)
            setattr(self, f"r_{way}", registered)
            if gan:
                setattr(self, f"d_{to}", discriminator(target, dims))

    def directions(self) -> list[str]:
        """`b`, and `a` where both ways are trained."""
        return ["b", "a"] if self.both else ["b"]

    def networks(self, kind: str) -> tuple[nn.Module, ...]:
        """Generators ("g") or registrations ("r"), in the order of `directions`."""
        return tuple(getattr(self, f"{kind}_{OTHER[to]}{to}") for to in self.directions())

    def phases(self) -> list[Phase]:
        """G and R, min over both of L_total; then the discriminators on the translations of that phase."""
        trained = self.networks("g") + (self.networks("r") if self.learned else ())
        first = Phase("generators", trained, self.generator_losses, ema=True)
        judges = tuple(getattr(self, f"d_{to}") for to in self.directions()) if self.gan else ()
        return [first, *([Phase("discriminators", judges, self.discriminator_losses)] if judges else [])]

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_total = gan L_Adv + correction L_Corr + smoothness L_Smooth, of each direction."""
        losses = {}
        for to in self.directions():
            source, real = batch[OTHER[to]], batch[to]
            fake = self.translate(source, to)
            field = self.field(source, fake, real, to)
            laid, seen, ncc = moved(fake, field), fake, self.local_ncc
            if not self.learned:
                # D sees half as T moved them, as smooth as a resampled y, and half whole, to their corners.
                whole = torch.rand(len(fake), *[1] * (fake.ndim - 1), device=fake.device) < 0.5
                seen = torch.where(whole, fake.float(), laid)
                ncc = self.progress * ncc  # little at first: local_ncc does not see which tissue is bright
            batch[f"fake_{to}"] = seen.detach()
            if self.gan:
                losses[f"adversarial_{to}"] = self.gan * self.adversarial.generator(getattr(self, f"d_{to}")(seen))
            if self.local_ncc:
                losses[f"local_ncc_{to}"] = ncc * self.unlike(fake, source)
            losses[f"correction_{to}"] = self.correction * correction_loss(laid, real)
            if self.learned:
                losses[f"smoothness_{to}"] = self.smoothness * roughness(field)
            for name, unlike in self.further.items():
                losses[f"{name}_{to}"] = unlike(laid, real)
        return losses

    def discriminator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_Adv of D: images of the target domain against translations, with no input beside them."""
        losses = {}
        for to in self.directions():
            judge = getattr(self, f"d_{to}")
            losses |= self.telling_apart(to, judge, self.adversarial, batch[to], batch[f"fake_{to}"])
        return losses

    def field(self, source: Tensor, fake: Tensor, real: Tensor, to: str) -> Tensor:
        """T: by how many pixels along each axis y^ has to be sampled elsewhere, (N, dims, *size) float32."""
        registration = getattr(self, f"r_{OTHER[to]}{to}")
        return registration(fake, real) if self.learned else registration(source, fake.detach(), real, self.progress)

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images of `a` as `b`, or of `b` as `a` where both ways were trained."""
        if to == "a" and not self.both:
            what = "this method was trained to translate a to b only"
            raise UserError(what, where="method.both", remedy="train with method.both = true")
        return self.g_ab(image) if to == "b" else self.g_ba(image)
