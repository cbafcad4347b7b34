"""Losses that compare two images pixel by pixel, in a pair or after a cycle.

They accept a non-negative `weight` (N, 1, *size) that gives some pixels more influence: see
`weighted_mean`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from gantk.errors import UserError


class L1:
    """Mean absolute difference, in intensity units; blurs edges less than the mean square (Isola et
    al., 2017).
    """

    takes = "images"

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return weighted_mean(difference(output, target).abs(), weight)


class L2:
    """Mean square difference, in squared intensity units; one large error costs more than many
    small ones.
    """

    takes = "images"

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return weighted_mean(difference(output, target).square(), weight)


class Norm:
    """Mean absolute ("l1") or mean square ("l2") difference."""

    takes = "images"

    def __init__(
        self,
        *,
        norm: Literal["l1", "l2"] = "l1",  # l2 penalises large differences more, and blurs edges
    ):
        self.compare = L1() if norm == "l1" else L2()

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.compare(output, target, weight)


class Cycle(Norm):
    """Cycle consistency of an image translated there and back: `cycle(cycled_a, real_a)` (Zhu et
    al., 2017).
    """


class Identity(Norm):
    """Keeps images of the target domain unchanged: `identity(g_ab(real_b), real_b)` (Zhu et al.,
    2017).
    """


def difference(output: Tensor, target: Tensor) -> Tensor:
    """output - target in float32; the shapes must agree, since broadcasting would compare the wrong
    pixels.
    """
    if output.shape != target.shape:
        shapes = f"{tuple(output.shape)} and {tuple(target.shape)}"
        raise UserError(
            f"a pixel-by-pixel loss cannot compare images of the shapes {shapes}",
            allowed="two images of the same shape",
        )

    return output.float() - target.float()


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of values (N, C, *size), weighted per pixel by (N, 1, *size); None: an unweighted mean.

    Weights are divided by their image's own mean, so that every image counts the same and a batch's
    loss is the mean of its images' losses. A weight that is 0 everywhere gives a loss of 0.
    """
    if weight is None:
        return values.mean()

    weight = weight.float()
    mean = weight.mean(tuple(range(1, weight.ndim)), keepdim=True)
    return (values * weight / mean.clamp_min(1e-6)).mean()


def lesion_weight(mask: Tensor | None, lesion: float) -> Tensor | None:
    """The weights 1 + (lesion - 1) x mask of a lesion mask (N, 1, *size) from 0 to 1; None where
    lesion is 1.

    UserError if lesion is not 1 and the batch has no mask.
    """
    if lesion == 1:
        return None

    if mask is None:
        raise UserError(
            f"lesion = {lesion:g} weights the pixels of lesions, but the batch has no lesion masks",
            where="method.lesion",
            remedy="set data.mask = true, or method.lesion = 1.0",
        )

    return 1 + (lesion - 1) * mask.float()


def expect_named_once(names: list[str], where: str) -> None:
    """UserError where two losses have one name."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(
            f"two losses are called '{twice[0]}', so one would be lost",
            where=where,
            remedy="list each loss once",
        )


def expect_lesion_weight(lesion: float, name: str, loss: Callable[..., Tensor]) -> float:
    """The weight of lesions' pixels; UserError where it is not 1 and the loss `name` of images has no
    parameter `weight`.
    """
    if lesion != 1 and "weight" not in inspect.signature(loss).parameters:
        raise UserError(
            f"the loss '{name}' takes no `weight` of pixels, so lesions cannot have another weight",
            where="method.lesion",
            remedy="set method.lesion = 1.0",
        )
    return lesion


def with_weight(
    loss: Callable[..., Tensor], output: Tensor, target: Tensor, weight: Tensor | None
) -> Tensor:
    """The loss of output and target with a weight map; None: without, as for a loss that takes none."""
    return loss(output, target) if weight is None else loss(output, target, weight)
