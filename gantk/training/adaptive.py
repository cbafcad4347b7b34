"""What the discriminators see is changed at random: always, or only as far as they overfit (Karras et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.losses.adversarial import Adversarial
from gantk.plugin.spec import Part


class DiscriminatorAugment(nn.Module):
    """Random, differentiable changes of all images on their way to one discriminator, real and fake alike.

    With `target` 0 every image takes each change with the change's own p. With a target in (0, 1), 0.6 in the paper,
    they are applied, all together, to a share `p` of the images only. `p` starts at 0, rises while the discriminator
    overfits, and falls otherwise: r_t = E[sign(D(real))] of equation 1 is held at the target, 0 for a discriminator
    that cannot tell, 1 for one that knows every training image. `augments` are parts to build the changes from; `game`
    says at which logit its discriminator is undecided (None: 0). Everything remembered is in buffers, and nothing waits
    for the device. Like the image pool, each process of several keeps its own.
    """

    INTERVAL: ClassVar[int] = 16  # real images between two changes of p; 4 batches of 64 in the paper
    SPEED: ClassVar[int] = 4000  # real images in which p can go from 0 to 1; 500,000 of 25,000,000 in the paper

    def __init__(self, augments: Sequence[Part], dims: int, target: float = 0.0, game: Adversarial | None = None):
        super().__init__()
        if target and not augments:
            remedy = 'name some, as in augment = ["hflip", "translate", "brightness"], or set method.adapt = 0.0'
            raise UserError("adapt needs changes to apply, and augment names none", where="method.adapt", remedy=remedy)
        self.augments = [augment(dims) for augment in augments]
        self.target = target
        if target:
            self.undecided = undecided(game) if game is not None else 0.0
            for name in ("p", "signs", "images"):  # share of images that are changed; since it last moved: the sum of
                self.register_buffer(name, torch.zeros(()))  # mean signs, and over how many images

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, *size) to the same shape; each image draws its own, from the global generator of its device."""
        changed = image
        for augment in self.augments:
            changed = augment(changed)
        if not self.target:
            return changed
        left = torch.rand(len(image), *[1] * (image.ndim - 1), device=image.device) >= self.p
        return torch.where(left, image, changed)  # the first of the two gives the result its memory format

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Note what the discriminator said of real images, (N, ...) raw logits; nothing where the target is 0."""
        if not self.target:
            return
        signs = torch.sign(real_logits.detach().float() - self.undecided)
        self.signs += signs.flatten(1).mean(1).sum() if signs.ndim > 1 else signs.sum()
        self.images += len(signs)
        due = self.images >= self.INTERVAL
        overfit = torch.sign(self.signs / self.images.clamp_min(1) - self.target)  # +1: r_t is above its target
        moved = (self.p + overfit * self.images / self.SPEED).clamp(0, 1)
        self.p.copy_(torch.where(due, moved, self.p))
        self.signs.masked_fill_(due, 0)
        self.images.masked_fill_(due, 0)


def undecided(game: Adversarial) -> float:
    """The logit that serves a discriminator best where real and fake look the same: 1/2 for least squares, else 0.

    Found by trying logits from -1 to 1; where many are as good as the best (hinge, Wasserstein), it is their middle.
    """
    logits = torch.linspace(-1, 1, 401, device="cpu")
    losses = torch.stack([game.discriminator(logit[None], logit[None]) for logit in logits])
    best = logits[losses <= losses.min() + 1e-7]
    return round(float((best[0] + best[-1]) / 2), 3)
