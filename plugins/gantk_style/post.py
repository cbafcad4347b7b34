"""Style transfer after any generator: what was made takes the style of a real image, or lends its own to one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import Percentile
from gantk.data.resample import resize
from gantk.errors import UserError
from gantk.formats.files import read
from gantk_style.objective import CONTENT_LAYERS, STYLE_LAYERS, check_weights, encoder_for
from gantk_style.transfer import transfer


class StylePost:
    """Style transfer on finished images (Gatys et al. 2016): each becomes what it would become alone.

    With role "content" a generated image keeps its content and takes the style of the other image. With role "style"
    the other image keeps its content and takes the generated image's style: what comes out then shows real anatomy.

    `post(images, examples)` takes (N, C, *size) in network intensities and gives the same; `examples(n)` are training
    images. A file is brought to the images' size, its 0th and 99.5th percentiles to black and white.
    """

    def __init__(
        self,
        dims: int,
        range: tuple[float, float],
        *,
        image: str = "",  # file of the other image; "": training images
        role: Literal["content", "style"] = "content",  # what the generated image is
        styles: int = 4,  # training images whose styles are averaged, where the generated image is the content
        weights: Literal["pretrained", "random"] = "pretrained",  # of VGG19; random ones need no download
        content_layers: tuple[str, ...] = CONTENT_LAYERS,  # maps that are kept: conv1_1 to conv5_4
        style_layers: tuple[str, ...] = STYLE_LAYERS,  # maps whose Gram matrices are matched
        content_weight: float = 1.0,  # 1 is the cost of maps that have nothing of the content's
        style_weight: float = 100.0,  # 1 is the cost of Gram matrices that have nothing of the style's
        variation: float = 0.0,  # weight of the mean difference of neighbouring pixels, as a share of the range
        steps: int = 100,  # of the optimizer, for each batch
        optimizer: Literal["lbfgs", "adam"] = "lbfgs",  # both move each image by its own gradient alone
        lr: float | None = None,  # length of a step; None: 1 for lbfgs, 0.05 for adam
        init: Literal["content", "noise", "style"] = "content",  # what the result starts as
        color: Literal["style", "content", "gray"] = "style",  # content: only the brightness changes; gray: no colour
        smooth: float = 0.0,  # sigma in pixels of a Gaussian that softens the strong edges of the result
        batch: int = 16,  # images that are optimised at once
        seed: int = 0,  # of random weights and of a start from noise
    ):
        for name, value in (("styles", styles), ("batch", batch), ("steps", steps)):
            if value < 1:
                raise UserError(f"{name} = {value} is too small", where=f"post.{name}", allowed="1 or more")
        check_weights(content_weight=content_weight, style_weight=style_weight, variation=variation)
        self.dims, self.range, self.role, self.styles, self.batch = dims, range, role, styles, batch
        self.other = _file(image, dims, range) if image else None
        self.encoder = encoder_for(content_layers, style_layers, weights, seed=seed, range=range)
        self.how = dict(
            content_layers=content_layers,
            style_layers=style_layers,
            content_weight=content_weight,
            style_weight=style_weight,
            variation=variation,
            steps=steps,
            optimizer=optimizer,
            lr=lr,
            init=init,
            color=color,
            smooth=smooth,
            seed=seed,
        )

    def __call__(self, images: Tensor, examples: Callable[[int], Tensor]) -> Tensor:
        """The images after the transfer; UserError where sizes or channels do not fit."""
        shared = self.role == "content"
        others = self._others(images, examples)
        done = []
        for first in range(0, len(images), self.batch):
            made = images[first : first + self.batch]
            content, style = (made, others) if shared else (others[first : first + self.batch], made)
            done.append(self.paint(content, style, shared=shared)[0])
        return torch.cat(done)

    def paint(self, content: Tensor, style: Tensor, **more) -> tuple[Tensor, Tensor]:
        """`gantk_style.transfer.transfer` with this step's options."""
        return transfer(content, style, encoder=self.encoder, **self.how, **more)

    def _others(self, images: Tensor, examples: Callable[[int], Tensor]) -> Tensor:
        """The other images, in the size of those made: one for each of them, or some that make one style together."""
        each = self.role == "style"
        if self.other is None:
            return examples(len(images) if each else self.styles).to(images)
        other = torch.from_numpy(resize(self.other, tuple(images.shape[2:])))[None].to(images)
        return other.expand(len(images), *other.shape[1:]) if each else other


def _file(path: str, dims: int, range: tuple[float, float]) -> np.ndarray:
    """The pixels of an image file in network intensities; UserError naming it where it does not fit."""
    image = read(Path(path))
    if image.dims != dims:
        what = f"'{path}' has {image.dims} dimensions, and the images that are made have {dims}"
        raise UserError(what, where="post.image", remedy="name an image of as many dimensions")
    return network_values(image.pixels, path, range)[0]


def network_values(pixels: np.ndarray, path: Path | str, range: tuple[float, float]) -> tuple[np.ndarray, Percentile]:
    """Native pixels in network intensities, and the mapping; UserError where all pixels are alike."""
    mapping = Percentile(range=range)
    if float(pixels.min()) == float(np.percentile(pixels, 99.5)):
        what = f"'{path}' has no contrast: nearly all its pixels are {pixels.min():g}"
        raise UserError(what, remedy="name an image that shows something")
    mapping.fit([pixels])
    return np.asarray(mapping.forward(pixels), dtype=np.float32), mapping
