"""L-BFGS for a batch of images, each with a curvature of its own: what one image needs never moves another."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

BOLDER = 4.0  # times longer are steps where the curvature is none or negative


class ImageLBFGS(torch.optim.Optimizer):
    """L-BFGS (Liu and Nocedal 1989, algorithm 2.1) for parameters (N, ...), one problem for each of the N entries.

    Torch's own takes all entries for one problem and so mixes the images of a batch. There is no line search, hence one
    gradient a step; steps are kept short instead. The size of the loss does not matter, the size of the image's values
    does: `first` and `longest` are in its units.

    Args:
        lr: length of a step; 1 is Newton's.
        history: steps that the curvature is estimated from.
        first: root mean square change of an image in its first step.
        longest: root mean square change of an image that no step exceeds.
    """

    def __init__(self, params: Iterable, lr: float = 1.0, history: int = 10, first: float = 0.02, longest: float = 0.3):
        super().__init__(params, dict(lr=lr, history=history, first=first, longest=longest))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step from the gradient that `closure` leaves; what else moved the images since the last is seen too."""
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for image in group["params"]:
                if image.grad is not None:
                    self._move(image, group)
        return loss

    def _move(self, image: Tensor, group: dict) -> None:
        now, gradient = (tensor.reshape(len(image), -1).float() for tensor in (image, image.grad))
        state = self.state[image]
        if not state:
            scale = group["first"] / _rms(gradient)
            state |= {"moves": [], "turns": [], "inverse": [], "scale": scale}
        else:
            self._remember(state, now - state["now"], gradient - state["gradient"], group["history"])
        move = -group["lr"] * _two_loops(gradient, **{k: state[k] for k in ("moves", "turns", "inverse", "scale")})
        move = move * (group["longest"] / _rms(move)).clamp(max=1.0)
        state["now"], state["gradient"] = now.clone(), gradient.clone()
        image.add_(move.view(image.shape).to(image.dtype))

    @staticmethod
    def _remember(state: dict, move: Tensor, turn: Tensor, history: int) -> None:
        """Keep the last step where the slope rose along it. Where it fell, that step counts nothing (inverse 0), and
        the next ones grow: there is no bottom near, and a line search would look further."""
        product, square = (move * turn).sum(1, keepdim=True), (turn * turn).sum(1, keepdim=True)
        curved = product > 1e-10 * square
        state["scale"] = torch.where(curved, product / square.clamp(min=1e-30), BOLDER * state["scale"])
        state["inverse"] = [*state["inverse"], torch.where(curved, 1 / product, 0.0)][-history:]
        state["moves"], state["turns"] = [*state["moves"], move][-history:], [*state["turns"], turn][-history:]


def _two_loops(gradient: Tensor, moves: list, turns: list, inverse: list, scale: Tensor) -> Tensor:
    """The inverse Hessian's product with the gradient (Nocedal 1980), row by row."""
    direction, weights = gradient.clone(), []
    for move, turn, factor in zip(reversed(moves), reversed(turns), reversed(inverse), strict=True):
        weights.append(factor * (move * direction).sum(1, keepdim=True))
        direction -= weights[-1] * turn
    direction *= scale
    for move, turn, factor, weight in zip(moves, turns, inverse, reversed(weights), strict=True):
        direction += move * (weight - factor * (turn * direction).sum(1, keepdim=True))
    return direction


def _rms(rows: Tensor) -> Tensor:
    return rows.square().mean(1, keepdim=True).sqrt().clamp(min=1e-30)
