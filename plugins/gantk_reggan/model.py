"""RegGAN: image-to-image translation learned from misaligned pairs (Kong et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantk.errors import UserError
from gantk.losses.structure import LocalNCC
from gantk.method import Batch, Geometry, Method, Phase
from gantk.plugin.spec import AdversarialLoss, Discriminator, Generator, Loss, Positive, Weight
from gantk_reggan.registration import centred, edges, moved, registered, zoom
from gantk_reggan.registration import correction as correction_loss

OTHER = {"a": "b", "b": "a"}
Steps = Annotated[int, Field(ge=1, le=100)]
RATE = 0.01  # at which the mean zoom of the fields follows that of a step


class RegGAN(Method):
    """Paired translation that does without exact registration: pairs are labels with noise (Kong et al. 2021).

    A generator G translates x to y^ = G(x), a field T lays y^ on the target y, and G is compared with y through T
    alone. What T explains, how the target lies, G need not learn; a discriminator keeps y^ an image of the target
    domain. In the paper a network R(y^, y) learns T; here T is sought for each pair by itself, which is nearer to the
    truth. `both` and `local_ncc` are additions.
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
        smoothness: Weight = 1.0,  # weight of the smoothness loss, the squared gradient of T's bend; 10 in the paper
        target_losses: list[Loss] = [],  # further losses of y^ after T and y, each with a weight
        local_ncc: Weight = 0.0,  # weight at the end of the loss local_ncc: an output lies on its input; 0 in the paper
        displacement: Positive = 16.0,  # pixels that T moves along an axis at most, at the size that networks see
        refine: Steps = 6,  # steps by which T is improved, at each of four sizes of the images
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
        self.gan, self.correction = gan, correction
        self.search = {"steps": refine, "stiffness": 2 * smoothness / correction, "limit": displacement}
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
            self.register_buffer(f"zoom_{way}", torch.zeros(()))  # running mean over the fields of a training
            if gan:
                setattr(self, f"d_{to}", discriminator(target, dims))

    def directions(self) -> list[str]:
        """`b`, and `a` where both ways are trained."""
        return ["b", "a"] if self.both else ["b"]

    def phases(self) -> list[Phase]:
        """G, min of L_total; then the discriminators on the translations that this left."""
        makers = tuple(getattr(self, f"g_{OTHER[to]}{to}") for to in self.directions())
        first = Phase("generators", makers, self.generator_losses, ema=True)
        judges = tuple(getattr(self, f"d_{to}") for to in self.directions()) if self.gan else ()
        return [first, *([Phase("discriminators", judges, self.discriminator_losses)] if judges else [])]

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_total = gan L_Adv + correction L_Corr of each direction; L_Smooth is T's alone."""
        losses = {}
        for to in self.directions():
            source, real = batch[OTHER[to]], batch[to]
            fake = self.translate(source, to)
            field = self.field(source, fake.detach(), real, to)
            laid = moved(fake, field)
            # D sees some as T moved them, as smooth as a y that was resampled, and some whole, to their corners.
            whole = torch.rand(len(fake), *[1] * (fake.ndim - 1), device=fake.device) < 0.5
            batch[f"fake_{to}"] = (seen := torch.where(whole, fake.float(), laid)).detach()
            if self.gan:
                losses[f"adversarial_{to}"] = self.gan * self.adversarial.generator(getattr(self, f"d_{to}")(seen))
            if self.local_ncc:  # little at first: it is blind to which tissue is bright, and holds on to what it finds
                losses[f"local_ncc_{to}"] = self.progress * self.local_ncc * self.unlike(fake, source)
            losses[f"correction_{to}"] = self.correction * correction_loss(laid, real)
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

    @torch.no_grad()
    def field(self, source: Tensor, fake: Tensor, real: Tensor, to: str) -> Tensor:
        """T: by how many pixels along each axis y^ has to be sampled elsewhere, (N, dims, *size) float32.

        Edges of x, at first, and of y^, later, shall lie on those of y, and y^ on y. A zoom that fields have in the
        mean is taken off: no misalignment, but heads that G makes too small or too large.
        """
        late, mean = (2 * self.progress).clamp(max=1), getattr(self, f"zoom_{OTHER[to]}{to}")
        with torch.autocast(real.device.type, enabled=False):
            own = edges(real)
            shown = torch.cat([(1 - late) * edges(source), late * edges(fake), fake.float()], 1)
            like = torch.cat([(1 - late) * own, late * own, real.float()], 1)
            field, places = registered(shown, like, **self.search), centred(own)
            mean.lerp_(zoom(field, places, own), RATE)
            return field - mean * places

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images of `a` as `b`, or of `b` as `a` where both ways were trained."""
        if to == "a" and not self.both:
            what = "this method was trained to translate a to b only"
            raise UserError(what, where="method.both", remedy="train with method.both = true")
        return self.g_ab(image) if to == "b" else self.g_ba(image)
