"""Augments all images that a discriminator sees at random, at a fixed or an adaptive rate (Karras
et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.losses.adversarial import Adversarial
from gantk.plugin.spec import Part


class DiscriminatorAugment(nn.Module):
    """Random, differentiable changes of all images that one discriminator sees, real and fake.

    Args:
        augments: the parts that make the changes.
        dims: 2 or 3.
        target: 0 applies each change with its own probability. A target between 0 and 1 (0.6 in the
            paper) applies all changes together, to a share `p` of the images that adapts to
            overfitting.
        adversarial: the adversarial loss. It determines the logit of an undecided discriminator;
            None: 0.

    `p` starts at 0, rises while the discriminator overfits, and falls otherwise. This keeps r_t =
    E[sign(D(real))] of equation 1 at the target: r_t is 0 for a discriminator that cannot
    distinguish real from fake, and 1 for one that has memorised the training images.

    All state is in buffers and is updated without waiting for the device. Each rank has its own
    state.
    """

    # real images between two changes of p; 4 batches of 64 in the paper
    INTERVAL: ClassVar[int] = 16
    # real images in which p can go from 0 to 1; 500,000 of 25,000,000 in the paper
    SPEED: ClassVar[int] = 4000

    p: Tensor  # share of images that are changed
    signs: Tensor  # sum of the images' mean signs since the last update of p
    images: Tensor  # number of images since then

    def __init__(
        self,
        augments: Sequence[Part],
        dims: int,
        target: float = 0.0,
        adversarial: Adversarial | None = None,
    ):
        super().__init__()
        if target and not augments:
            raise UserError(
                "method.adapt needs changes to apply, but method.augment is empty",
                where="method.adapt",
                remedy='set augment = ["hflip", "translate", "brightness"], for example, or'
                " set method.adapt = 0.0",
            )

        self.augments = [augment(dims) for augment in augments]
        self.target = target
        if target:
            if adversarial is not None and not hasattr(adversarial, "undecided"):
                raise UserError(
                    "method.adapt needs the logit of an undecided discriminator, and the adversarial"
                    " loss has no attribute `undecided`",
                    where="method.adapt",
                    remedy="state it in the loss, or set method.adapt = 0.0",
                )
            self.undecided = getattr(adversarial, "undecided", 0.0)
            for name in ("p", "signs", "images"):
                self.register_buffer(name, torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        """Change images (N, C, *size), each in its own way; returns the same shape.

        Random numbers come from the global generator of the images' device.
        """
        changed = image
        for augment in self.augments:
            changed = augment(changed)

        if not self.target:
            return changed

        left = torch.rand(len(image), *[1] * (image.ndim - 1), device=image.device) >= self.p
        return torch.where(left, image, changed)  # the result has the memory format of the first

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Count the signs of raw logits (N, ...) of real images, and update `p` when it is due.
        Does nothing if the target is 0.
        """
        if not self.target:
            return

        signs = torch.sign(real_logits.detach().float() - self.undecided)
        self.signs += signs.flatten(1).mean(1).sum() if signs.ndim > 1 else signs.sum()
        self.images += len(signs)
        due = self.images >= self.INTERVAL
        # +1: r_t is above its target
        overfit = torch.sign(self.signs / self.images.clamp_min(1) - self.target)
        moved = (self.p + overfit * self.images / self.SPEED).clamp(0, 1)
        self.p.copy_(torch.where(due, moved, self.p))
        self.signs.masked_fill_(due, 0)
        self.images.masked_fill_(due, 0)
