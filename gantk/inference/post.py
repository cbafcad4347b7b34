"""Post-steps: what a recipe's `[[post]]` tables do to every image that the networks made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gantk.recipe.tables import Model


class Posts:
    """A recipe's post-steps, built once: `Posts(model, range)(images, examples)`.

    A post-step is built with (dims, range) and called with images (N, C, *size) in network intensities and
    `examples`, n -> (n, C, *size) training images of the same domain; it returns images of the same shape.
    """

    def __init__(self, model: Model, range: tuple[float, float]):
        self.steps = [part(model.data.dims, range) for part in model.post]

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __call__(self, images: Tensor, examples: Callable[[int], Tensor]) -> Tensor:
        for step in self.steps:
            with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):  # a step may optimise
                images = step(images.detach().float(), examples).detach()
        return images


def spread_examples(images: Sequence[Tensor]) -> Callable[[int], Tensor]:
    """`examples` over a set of prepared images: n of them, evenly spread."""

    def examples(n: int) -> Tensor:
        step = max(1, len(images) // n)
        return torch.stack([images[(i * step) % len(images)] for i in range(n)])

    return examples
