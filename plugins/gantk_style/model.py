"""Style transfer as a method: the canvas is what a training changes, and the network is never trained."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.method import Batch, Geometry, Method, Phase, Stage
from gantk.nets.pretrained import VGG19
from gantk_style.canvas import bounds, shown
from gantk_style.objective import CONTENT_LAYERS, STYLE_LAYERS, Objective, check_weights, encoder_for
from gantk_style.transfer import check_channels, first_canvas, make_rule, transfer


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
        weights: Literal["pretrained", "random"] = "pretrained",  # of VGG19; random ones need no download
        content_layers: tuple[str, ...] = CONTENT_LAYERS,  # maps that are kept: conv1_1 to conv5_4
        style_layers: tuple[str, ...] = STYLE_LAYERS,  # maps whose Gram matrices are matched
        content_weight: float = 1.0,  # 1 is the cost of maps that have nothing of the content's
        style_weight: float = 100.0,  # 1 is the cost of Gram matrices that have nothing of the style's
        variation: float = 0.0,  # weight of the mean difference of neighbouring pixels, as a share of the range
        optimizer: Literal["lbfgs", "adam"] = "lbfgs",  # of the canvases; both move each by its own gradient alone
        lr: float | None = None,  # length of a step; None: 1 for lbfgs, 0.05 for adam
        init: Literal["content", "noise", "style"] = "content",  # what a canvas starts as
        color: Literal["style", "content", "gray"] = "style",  # content: only the brightness changes; gray: no colour
        smooth: float = 0.0,  # sigma in pixels of a Gaussian that softens the strong edges of a translation
        images: int = 1,  # contents and styles that are placed: at most train.batch
        translate_steps: int = 100,  # steps that a translation takes
        seed: int = 0,  # of random weights and of a start from noise
    ):
        super().__init__(geometry)
        for name, value in (("images", images), ("translate_steps", translate_steps)):
            if value < 1:
                raise UserError(f"{name} = {value} is too small", where=f"method.{name}", allowed="1 or more")
        check_weights(content_weight=content_weight, style_weight=style_weight, variation=variation)
        encoder = encoder_for(content_layers, style_layers, weights, seed=seed, range=geometry.range)
        self.aims = dict(
            content_layers=content_layers,
            style_layers=style_layers,
            content_weight=content_weight,
            style_weight=style_weight,
            variation=variation,
        )
        self.init, self.color, self.seed, self.optimizer, self.lr = init, color, seed, optimizer, lr
        self.translate_steps, self.smooth = translate_steps, smooth
        contents, styles = (torch.zeros(images, geometry.channels[x], *geometry.size) for x in self.reads)
        check_channels(shown(contents, color), shown(styles, color))
        self.canvas = Canvas(torch.zeros_like(shown(contents, color)), encoder)
        self.register_buffer("contents", contents)
        self.register_buffer("styles", styles)
        self.register_buffer("placed", torch.zeros(()))  # 1 once contents and styles are there

    def phases(self) -> list[Phase]:
        """One: the canvases, by an optimizer that moves each by its own gradient."""
        rule = partial(make_rule, self.optimizer, lr=self.lr)
        return [Phase("canvas", (self.canvas,), self.losses, optimizer=rule)]

    def directions(self) -> list[str]:
        """Into the domain that gives the styles."""
        return ["b"]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Place the first images of `a` and `b`, once: a resumed training has them already."""
        if not bool(self.placed):
            self._place(batch["a"], batch["b"])
        self.canvas.aim(*self._shown(), self.geometry.range, self.aims)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Content, style and variation, each the mean over the canvases; the batch is not looked at."""
        return {name: each.mean() for name, each in self.canvas().items()}

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images of `a` in the placed styles."""
        if to != "b":
            raise UserError(
                "style transfer goes from the contents' domain to the styles' alone", where="to", allowed="b"
            )
        if image.is_meta or not bool(self.placed):
            return image.clone()
        return transfer(
            image,
            self.styles,
            encoder=self.canvas.encoder,
            steps=self.translate_steps,
            optimizer=self.optimizer,
            lr=self.lr,
            init=self.init,
            smooth=self.smooth,
            color=self.color,
            seed=self.seed,
            **self.aims,
        )[0]

    def _place(self, contents: Tensor, styles: Tensor) -> None:
        count = len(self.contents)
        if min(len(contents), len(styles)) < count:
            what = f"{count} images are to be placed, and a step brings {min(len(contents), len(styles))}"
            raise UserError(what, where="method.images", remedy=f"set train.batch = {count}")
        self.contents.copy_(contents[:count])
        self.styles.copy_(styles[:count])
        self.canvas.image.data.copy_(first_canvas(*self._shown(), self.init, self.geometry.range, self.seed))
        self.placed.fill_(1.0)

    def _shown(self) -> tuple[Tensor, Tensor]:
        return shown(self.contents, self.color), shown(self.styles, self.color)


class Canvas(nn.Module):
    """The images that a training changes, and what they are brought to. Of its parts a checkpoint holds the images."""

    def __init__(self, image: Tensor, encoder: VGG19):
        super().__init__()
        self.image = nn.Parameter(image)
        self._frozen = [encoder]  # no submodule: its 80 MB are the same in every run
        self._objective: Objective | None = None

    @property
    def encoder(self) -> VGG19:
        """The network that sees; it never changes."""
        return self._frozen[0]

    def aim(self, content: Tensor, style: Tensor, limits: tuple[float, float], aims: dict) -> None:
        """Say what the images are to become."""
        encoder = self.encoder.to(self.image.device)
        self._objective, self._bounds = Objective(content, style, encoder=encoder, **aims), bounds(content, limits)

    def forward(self) -> dict[str, Tensor]:
        """The losses of the images, (N,) each, once their values are back within bounds."""
        with torch.no_grad():
            self.image.clamp_(*self._bounds)
        return self._objective(self.image)

    def check_size(self, size: tuple[int, ...]) -> None:
        """UserError where the network sees nothing in images of that size."""
        self.encoder.check_size(size)
