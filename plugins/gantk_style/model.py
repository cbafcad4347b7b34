"""Style transfer as a method: training optimises the pixels of a canvas; the network is never
trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.method import Batch, Geometry, Losses, Method, Phase, Stage
from gantk.plugin.spec import Count
from gantk_style.encoder import VGG19, check_colours
from gantk_style.lbfgs import ImageLBFGS
from gantk_style.objective import DEFAULTS, Objective, StyleOptions
from gantk_style.transfer import bounds, transfer


class Canvas(nn.Module):
    """The images that training optimises, as a module for the phase."""

    def __init__(self, image: Tensor, encoder: VGG19):
        super().__init__()
        self.image = nn.Parameter(image)
        self.check_size = encoder.check_size


class Style(Method):
    """Style transfer: images of `a` in the style of images of `b`, by optimising pixels (Gatys et
    al. 2016).

    The method stores the first batch: contents of `a`, and styles of `b`, whose Gram matrices are
    averaged. It ignores later batches; training minimises the objective over the pixels. What it
    learns on one image does not help with another. `translate` therefore optimises each image from
    the start, for `translate_steps`, towards the stored styles. Before the first batch it returns
    images unchanged.

    Images are gray or RGB, with sides of 16 pixels or more. Volumes are processed slice by slice,
    with the style of the whole volume.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        how: StyleOptions = DEFAULTS,
        images: Count = 1,  # number of contents and styles to store, at most train.batch
        translate_steps: Count = 100,  # optimizer steps of a translation
    ):
        super().__init__(geometry)
        self.how = how
        self.note = how.note
        self.translate_steps = translate_steps
        # in a list, so that its 80 MB are not in the state_dict
        self._frozen = [how.encoder(geometry.range)]
        channels = geometry.channels
        for count in channels.values():
            check_colours(count)
        self.register_buffer("contents", torch.zeros(images, channels["a"], *geometry.size))
        self.register_buffer("styles", torch.zeros(images, channels["b"], *geometry.size))
        self.canvas = Canvas(torch.zeros_like(self.contents), self._frozen[0])
        self.register_buffer("placed", torch.zeros(()))  # 1 once contents and styles are stored

    def phases(self) -> list[Phase]:
        """One phase for the canvases, with an optimizer that treats each image separately."""
        return [Phase("canvas", (self.canvas,), self.losses, optimizer=ImageLBFGS)]

    def directions(self) -> list[str]:
        """Only `b`: contents in the style of `b`."""
        return ["b"]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Store the first images of `a` and `b`, unless a resumed checkpoint holds them."""
        if not bool(self.placed):
            count = len(self.contents)
            brought = min(len(batch["a"]), len(batch["b"]))
            if brought < count:
                raise UserError(
                    f"{count} images are painted at once, but a step brings only {brought}",
                    where="method.images",
                    remedy=f"set train.batch = {count}",
                )

            self.contents.copy_(batch["a"][:count])
            self.styles.copy_(batch["b"][:count])
            self.canvas.image.data.copy_(self.contents)
            self.placed.fill_(1.0)

        encoder = self._frozen[0].to(self.contents.device)
        self._objective = Objective(self.contents, self.styles, encoder, self.how)
        self._bounds = bounds(self.contents, self.geometry.range)

    def losses(self, batch: Batch) -> Losses:
        """Content and style losses, each the mean over the canvases; the batch is ignored."""
        with torch.no_grad():
            self.canvas.image.clamp_(*self._bounds)
        return {name: each.mean() for name, each in self._objective(self.canvas.image).items()}

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Optimise images of `a` towards the stored styles."""
        if image.is_meta or not bool(self.placed):
            return image.clone()
        steps = self.translate_steps
        return transfer(image, self.styles, encoder=self._frozen[0], how=self.how, steps=steps)
