"""L-BFGS for a batch of images, each with its own curvature, so that the images of a batch do not
affect each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

HISTORY = 10  # last steps from which the curvature is estimated
FIRST_CHANGE = 0.02  # root mean square change of an image in its first step
LARGEST_CHANGE = 0.3  # root mean square change of an image in a step
STEP_FACTOR = 4.0  # factor on the step length where the curvature is zero or negative


class ImageLBFGS(torch.optim.Optimizer):
    """L-BFGS (Liu and Nocedal 1989, algorithm 2.1) for parameters (N, ...), one problem for each of
    the N entries.

    torch's L-BFGS solves one problem over all entries and so mixes the images of a batch. This one
    has no line search, hence one gradient per step; steps are kept short instead. The scale of the
    loss does not matter; the scale of the image's values does: changes are in its units. A step of
    `lr` 1 is the full quasi-Newton step.
    """

    def __init__(self, params: Iterable, lr: float = 1.0):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Take a step along the gradient that `closure` computes; earlier changes of the images are
        accounted for.
        """
        with torch.enable_grad():
            loss = closure()

        for group in self.param_groups:
            for image in group["params"]:
                if image.grad is not None:
                    self._move(image, group)

        return loss

    def _move(self, image: Tensor, group: dict) -> None:
        now = image.reshape(len(image), -1).float()
        gradient = image.grad.reshape(len(image), -1).float()
        state = self.state[image]
        if not state:
            scale = FIRST_CHANGE / _rms(gradient)
            state |= {"moves": [], "turns": [], "inverse": [], "scale": scale}
        else:
            move = now - state["now"]
            turn = gradient - state["gradient"]
            self._remember(state, move, turn)

        move = -group["lr"] * _two_loops(gradient, state)
        move = move * (LARGEST_CHANGE / _rms(move)).clamp(max=1.0)
        state["now"] = now.clone()
        state["gradient"] = gradient.clone()
        image.add_(move.view(image.shape).to(image.dtype))

    @staticmethod
    def _remember(state: dict, move: Tensor, turn: Tensor) -> None:
        """Store the last step for the images with positive curvature along it. For the others the
        step is ignored (inverse 0) and the next ones grow, as a line search would: no minimum is
        near.
        """
        product = (move * turn).sum(1, keepdim=True)
        square = (turn * turn).sum(1, keepdim=True)
        curved = product > 1e-10 * square
        state["scale"] = torch.where(
            curved, product / square.clamp(min=1e-30), STEP_FACTOR * state["scale"]
        )
        state["inverse"] = [*state["inverse"], torch.where(curved, 1 / product, 0.0)][-HISTORY:]
        state["moves"] = [*state["moves"], move][-HISTORY:]
        state["turns"] = [*state["turns"], turn][-HISTORY:]


def _two_loops(gradient: Tensor, state: dict) -> Tensor:
    """The product of the estimated inverse Hessian and the gradient (Nocedal 1980), row by row."""
    direction = gradient.clone()
    steps = list(zip(state["moves"], state["turns"], state["inverse"], strict=True))
    weights = []
    for move, turn, factor in reversed(steps):
        weights.append(factor * (move * direction).sum(1, keepdim=True))
        direction -= weights[-1] * turn

    direction *= state["scale"]
    for (move, turn, factor), weight in zip(steps, reversed(weights), strict=True):
        direction += move * (weight - factor * (turn * direction).sum(1, keepdim=True))

    return direction


def _rms(rows: Tensor) -> Tensor:
    return rows.square().mean(1, keepdim=True).sqrt().clamp(min=1e-30)
