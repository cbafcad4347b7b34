"""Style transfer as a post-step: a generated image takes the style of a real image, or gives its
style to one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import Percentile
from gantk.errors import UserError
from gantk.formats.files import read
from gantk.plugin.spec import Count
from gantk.prepare.module import size_image
from gantk.runs.trained import Examples
from gantk_style.curves import LossCurves
from gantk_style.objective import PAINT_DEFAULTS, PaintOptions
from gantk_style.transfer import transfer


class StylePost:
    """Style transfer on generated images (Gatys et al. 2016). The result for an image does not
    depend on its batch.

    With role = "content" a generated image keeps its content and takes the style of the other
    image. With role = "style" the other image keeps its content and takes the style of the
    generated image. The result then shows real anatomy: that of the translated image, or that of a
    training image of a sample's class.

    `post(images, examples)` takes and returns (N, C, *size) in network intensities; `examples` are
    `gantk.runs.trained.Examples`. An image file is resized to the images' size, and its 0th and
    99.5th percentiles become black and white. `record()` returns the losses of the last call.
    """

    def __init__(
        self,
        dims: int,
        range: tuple[float, float],
        *,
        image: str = "",  # file of the other image; "": real images of the run
        role: Literal["content", "style"] = "content",  # role of the generated image
        styles: Count = 4,  # number of training images whose styles are averaged (role = "content")
        how: PaintOptions = PAINT_DEFAULTS,
    ):
        self.role = role
        self.styles = styles
        self.how = how
        self.other = None
        if image:
            known = read(Path(image))
            if known.dims != dims:
                raise UserError(
                    f"'{image}' has {known.dims} dimensions, but the generated images have {dims}",
                    where="post.image",
                    remedy=f"name a {dims}-D image",
                )
            self.other, _ = network_values(known.pixels, image, range)
        self.encoder = how.encoder(range)
        self._curves: LossCurves | None = None  # of the last call

    @property
    def note(self) -> str:
        """What a training prints: that random filters are used; "" with pretrained ones."""
        return self.how.note

    def record(self) -> dict[str, Any] | None:
        """The mean losses over the steps of the last call, for metrics.json; None before one."""
        return self._curves.record() if self._curves else None

    def __call__(self, images: Tensor, examples: Examples) -> Tensor:
        """Run the transfer on the images; UserError where sizes or channels do not fit."""
        # one style for all: of the other image, or the mean of some examples
        shared = self.role == "content"
        if self.other is None:
            others = (examples(self.styles) if shared else examples.real(len(images))).to(images)
        else:
            other = torch.from_numpy(size_image(self.other, images.shape[2:], "resize"))[None].to(
                images
            )
            others = other if shared else other.expand(len(images), *other.shape[1:])

        self._curves = curves = LossCurves()
        options = {"encoder": self.encoder, "how": self.how, "steps": self.how.steps}
        batch = self.how.batch
        done = []
        for first in range(0, len(images), batch):
            pair = images[first : first + batch], others
            if not shared:
                pair = others[first : first + batch], pair[0]
            done.append(transfer(*pair, **options, shared=shared, watch=curves.watch))

        return torch.cat(done)


def network_values(
    pixels: np.ndarray, path: Path | str, range: tuple[float, float]
) -> tuple[np.ndarray, Percentile]:
    """Native pixels in network intensities, and the mapping; UserError where nearly all pixels are
    equal.
    """
    mapping = Percentile(range=range)
    if float(pixels.min()) == float(np.percentile(pixels, 99.5)):
        raise UserError(
            f"'{path}' has no contrast: nearly all its pixels are {pixels.min():g}",
            remedy="name an image with contrast",
        )

    mapping.fit([pixels])
    return np.asarray(mapping.forward(pixels), dtype=np.float32), mapping
