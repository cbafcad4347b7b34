"""Losses that compare two images pixel by pixel: in a pair, after a cycle, or where nothing should change."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from gantk.errors import UserError


class L1:
    """Mean absolute difference, in intensity units; keeps edges where the mean square blurs (Isola et al., 2017)."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return difference(output, target).abs().mean()


class L2:
    """Mean square difference, in squared intensity units."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return difference(output, target).square().mean()


class Charbonnier:
    """A smooth L1, mean sqrt(d^2 + epsilon^2) - epsilon: 0 for equal images (Charbonnier et al., 1994)."""

    def __init__(
        self,
        *,
        epsilon: float = 0.001,  # differences well below this count squared, in intensity units
    ):
        if epsilon <= 0:
            raise UserError(f"epsilon = {epsilon} must be positive", where="epsilon")
        self.epsilon = epsilon

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return ((difference(output, target).square() + self.epsilon**2).sqrt() - self.epsilon).mean()


class Norm:
    """Mean absolute ("l1") or mean square ("l2") difference."""

    def __init__(
        self,
        *,
        norm: Literal["l1", "l2"] = "l1",  # l2 is harder on large differences and blurs
    ):
        if norm not in ("l1", "l2"):
            raise UserError(f"there is no norm '{norm}'", where="norm", allowed="l1, l2")
        self.compare = L1() if norm == "l1" else L2()

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return self.compare(output, target)


class Cycle(Norm):
    """An image that went to the other domain and back is itself: `cycle(cycled_a, real_a)` (Zhu et al., 2017)."""


class Identity(Norm):
    """A generator leaves images of its target domain alone: `identity(g_ab(real_b), real_b)` (Zhu et al., 2017)."""


def difference(output: Tensor, target: Tensor) -> Tensor:
    """output - target in float32; the shapes must agree, since broadcasting would compare the wrong pixels."""
    if output.shape != target.shape:
        shapes = f"{tuple(output.shape)} with {tuple(target.shape)}"
        raise UserError(f"a pixel-by-pixel loss cannot compare {shapes}", allowed="two images of one shape")
    return output.float() - target.float()
