"""Uncertainty maps of translations: the spread, pixel by pixel, over changes that should not affect
the result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.method import Method
from gantk_trust.uncertainty.judging import judge_uncertainty

FLIPS = ((-1,), (-2,), (-1, -2))  # axes that are mirrored: columns, rows, both


class Flips:
    """Standard deviation over an image and its mirror images, each translated and mirrored back
    (Wang et al. 2019).

    The map is in network intensities.
    """

    needs = ""  # requirement on the run, for messages
    scale = 1.0  # factor on the spread, fitted to a run's validation patients
    judge = staticmethod(judge_uncertainty)

    def had(self, method: Method) -> bool:
        """Whether this kind is possible for a method."""
        return True

    def check(self, method: Method) -> None:
        """Raise UserError where this kind is not possible."""
        if not self.had(method):
            what = f"this kind of uncertainty needs {self.needs}"
            raise UserError(
                what, where="uncertainty", remedy="use flips, which works for every run"
            )

    def kind_for(self, method: Method) -> str:
        """The name of the kind that is computed."""
        return type(self).__name__.lower()

    @torch.no_grad()
    def maps(self, method: Method, to: str, image: Tensor) -> tuple[Tensor, Tensor]:
        """The plain translation of images (N, C, *size) and its uncertainty, 0 or more: (N, D,
        *size), float32.

        UserError where this kind is not possible. The translation is, to the bit, that without
        uncertainty.
        """
        self.check(method)
        plain = method.translate(image, to).float()
        return plain, self.spread(method, to, image, plain) * self.scale

    def spread(self, method: Method, to: str, image: Tensor, plain: Tensor) -> Tensor:
        """The uncertainty of the translation `plain`."""
        mirrored = (method.translate(image.flip(axes), to).float().flip(axes) for axes in FLIPS)
        return torch.stack([plain, *mirrored]).std(0)


class Cycle(Flips):
    """Absolute difference between an image and its back-translation, for two-way methods."""

    needs = "a translation back to the source domain: a two-way method, such as cyclegan"

    def had(self, method: Method) -> bool:
        return len(method.directions()) == 2

    def spread(self, method: Method, to: str, image: Tensor, plain: Tensor) -> Tensor:
        back = method.translate(plain.to(image.dtype), {"a": "b", "b": "a"}[to]).float()
        error = (back - image).abs()  # both domains have the same network intensities: no factor
        return error if error.shape == plain.shape else error.mean(1, keepdim=True).expand_as(plain)


class Members(Flips):
    """Standard deviation over the models of an ensemble. Not available for a single run."""

    needs = "several runs: `gantk translate RUN1,RUN2 IN OUT`"

    def had(self, method: Method) -> bool:
        return False


class Auto(Flips):
    """The best default: twice the flips map, the cycle map for two-way methods, and half the slope of
    the translation, averaged over 3 pixels a side.

    The slope, the change from pixel to pixel, is the error of an edge that is shifted. The average
    removes the noise of single pixels. Each of the two raised the AUROC for errors above 10 % of the
    range by 0.03.
    """

    def kind_for(self, method: Method) -> str:
        return "flips+cycle+slope" if len(method.directions()) == 2 else "flips+slope"

    def spread(self, method: Method, to: str, image: Tensor, plain: Tensor) -> Tensor:
        mirrored = super().spread(method, to, image, plain)
        spread = 2 * mirrored + slope(plain) / 2
        if len(method.directions()) == 2:
            spread = spread + Cycle().spread(method, to, image, plain)

        mean = F.avg_pool2d if spread.ndim == 4 else F.avg_pool3d
        return mean(spread, 3, stride=1, padding=1, count_include_pad=False)


def slope(image: Tensor) -> Tensor:
    """The length of the gradient (N, C, *size), in intensity per pixel; an axis of one pixel has
    none.
    """
    axes = [axis for axis in range(2, image.ndim) if image.shape[axis] > 1]
    return sum(
        (step.square() for step in torch.gradient(image, dim=axes)), torch.zeros_like(image)
    ).sqrt()
