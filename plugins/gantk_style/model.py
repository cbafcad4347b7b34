"""Style transfer as a method: the canvas is what a training changes, and the network is never trained."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.method import Batch, Geometry, Method, Phase, Stage
from gantk.plugin.spec import Count
from gantk_style.encoder import VGG19
from gantk_style.objective import DEFAULTS, How, Objective
from gantk_style.transfer import bounds, check_channels, first_canvas, make_rule, shown, transfer


class Canvas(nn.Module):
    """The images that a training changes: all of the method that a checkpoint holds besides the images it looks at."""

    def __init__(self, image: Tensor, encoder: VGG19):
        super().__init__()
        self.image = nn.Parameter(image)
        self.check_size = encoder.check_size


class Style(Method):
    """Style transfer: images of `a` in the style of images of `b`, by optimising pixels (Gatys et al. 2016).

    The first step's images are placed: contents of `a`, and styles of `b`, whose Gram matrices are averaged. From then
    on batches are not looked at, and the canvases are brought down the objective. Nothing that is learnt on one image
    serves another, so `translate` optimises each of its images anew, for `translate_steps`, towards the styles placed.
    Before any are placed it gives the images back as they are.

    Sizes from 16 pixels, gray or RGB; volumes are seen slice by slice, with the style of the whole volume.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        how: How = DEFAULTS,
        images: Count = 1,  # contents and styles that are placed: at most train.batch
        translate_steps: Count = 100,  # steps that a translation takes
    ):
        super().__init__(geometry)
        self.how, self.translate_steps = how, translate_steps
        self._frozen = [how.encoder(geometry.range)]  # no submodule: its 80 MB are the same in every run
        contents, styles = (torch.zeros(images, geometry.channels[x], *geometry.size) for x in self.reads)
        check_channels(shown(contents, how.color), shown(styles, how.color))
        self.canvas = Canvas(torch.zeros_like(shown(contents, how.color)), self._frozen[0])
        self.register_buffer("contents", contents)
        self.register_buffer("styles", styles)
        self.register_buffer("placed", torch.zeros(()))  # 1 once contents and styles are there

    def phases(self) -> list[Phase]:
        """One: the canvases, by an optimizer that moves each by its own gradient."""
        return [Phase("canvas", (self.canvas,), self.losses, optimizer=partial(make_rule, self.how))]

    def directions(self) -> list[str]:
        """From contents to styles."""
        return ["b"]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Place the first images of `a` and `b`, once: a resumed training has them already."""
        if not bool(self.placed):
            count, brought = len(self.contents), min(len(batch["a"]), len(batch["b"]))
            if brought < count:
                what = f"{count} images are to be placed, and a step brings {brought}"
                raise UserError(what, where="method.images", remedy=f"set train.batch = {count}")
            self.contents.copy_(batch["a"][:count])
            self.styles.copy_(batch["b"][:count])
            self.canvas.image.data.copy_(first_canvas(*self._shown(), self.how, self.geometry.range))
            self.placed.fill_(1.0)
        self._objective = Objective(*self._shown(), self._frozen[0].to(self.contents.device), self.how)
        self._bounds = bounds(self._shown()[0], self.geometry.range)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Content, style and variation, each the mean over the canvases; the batch is not looked at."""
        with torch.no_grad():
            self.canvas.image.clamp_(*self._bounds)
        return {name: each.mean() for name, each in self._objective(self.canvas.image).items()}

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images of `a` in the placed styles."""
        if to != "b":
            what = "style transfer goes from the contents' domain to the styles' alone"
            raise UserError(what, where="to", allowed="b")
        if image.is_meta or not bool(self.placed):
            return image.clone()
        return transfer(image, self.styles, encoder=self._frozen[0], how=self.how, steps=self.translate_steps)[0]

    def _shown(self) -> tuple[Tensor, Tensor]:
        return shown(self.contents, self.how.color), shown(self.styles, self.how.color)
