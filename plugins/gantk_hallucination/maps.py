"""Where an output shows what is not there, or lacks what is: maps against a truth, and against the input alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.method import Method
from gantk.plugin.loader import registry
from gantk.plugin.spec import Seed

FINE, COARSE = 1.0, 6.0  # pixels: deviations of the Gaussians between whose widths a lesion lies
NOISE, EDGE = 0.025, 0.5  # of the range: a difference as large is noise; and how far a pixel's slope excuses one
BINS = 24  # of intensity, in which what usually goes with one is averaged


def disagreement(one: Tensor, other: Tensor, span: float) -> Tensor:
    """How far two images (N, C, *size) differ at the size of a lesion, in units of what noise and edges excuse.

    The difference is band-passed, so that a tone that is off everywhere does not count, and divided by noise and by
    the slope of `other`: a shift of an edge by half a pixel is no lesion. 0 equal, (N, 1, *size).
    """
    apart = blurred(one - other, FINE) - blurred(one - other, COARSE)
    excused = NOISE * span + EDGE * blurred(slope(blurred(other, FINE)), 1.5 * FINE)
    return (apart.abs() / excused).mean(1, keepdim=True)


def usual(output: Tensor, given: Tensor, low: float, span: float) -> Tensor:
    """What an output (N, C, *size) has on average where its input has the same intensity, image by image."""
    made = output.flatten(2).mean(1)
    place = ((given.flatten(2).mean(1) - low) / span).clamp(0, 1) * (BINS - 1)
    below = place.floor().long().clamp_max(BINS - 2)
    part = place - below
    count, total = (torch.zeros(len(made), BINS, device=made.device) for _ in range(2))
    for bins, share in ((below, 1 - part), (below + 1, part)):
        count.scatter_add_(1, bins, share)
        total.scatter_add_(1, bins, share * made)
    total, count = (blurred(each[:, None], 1.0, 1)[:, 0] for each in (total, count))
    mean = total / count.clamp_min(1e-6)
    found = mean.gather(1, below) * (1 - part) + mean.gather(1, below + 1) * part
    return found.reshape(len(made), 1, *output.shape[2:])


class Suspicion:
    """Where a translation may show what its input does not, or lack what it does: no truth is needed.

    The sum of three disagreements: the input against the translation brought back (two-way methods), each of both
    against what usually goes with the other's intensity, and the spread over mirror images. Above about 1 it is more
    than noise and edges explain. What a network invents and undoes again on its way back is not found.
    """

    needs, scale = "", 1.0

    def __init__(
        self,
        *,
        seed: Seed = 0,  # nothing is drawn
    ):
        self.flips = registry().get("uncertainty", "flips").load()(seed=seed)

    def had(self, method: Method, checkpoints: int) -> bool:
        """Every method can have it."""
        return True

    def check(self, method: Method, checkpoints: int) -> None:
        """Nothing is missing."""

    def chosen(self, method: Method) -> str:
        """The kind that is made, by name."""
        return "suspicion"

    @torch.no_grad()
    def maps(
        self, method: Method, to: str, image: Tensor, others: Sequence[Mapping[str, Tensor]] = ()
    ) -> tuple[Tensor, Tensor]:
        """The plain translation of images (N, C, *size) and its suspicion, 0 or more: (N, D, *size), float32."""
        plain = method.translate(image, to).float()
        spread = self.flips.spread(method, to, image, plain, others)
        found = suspicion(method, to, image.float(), plain) + blurred(spread, FINE).mean(1, keepdim=True)
        return plain, (found * self.scale).expand_as(plain)


def suspicion(method: Method, to: str, image: Tensor, output: Tensor) -> Tensor:
    """How little an output (N, D, *size), by whatever it was made, fits its input: (N, 1, *size)."""
    low, high = method.geometry.range
    span, seen = high - low, image if image.shape == output.shape else image.mean(1, keepdim=True)
    pairs = [(output, usual(output, seen, low, span)), (seen, usual(seen, output, low, span))]
    found = sum(disagreement(one.mean(1, keepdim=True), other, span) for one, other in pairs) / 2
    if len(method.directions()) == 2:
        back = method.translate(output.to(image.dtype), {"a": "b", "b": "a"}[to]).float()
        found = found / 4 + disagreement(back, image, span)
    return found


def slope(image: Tensor) -> Tensor:
    """The length of the gradient (N, C, *size), in intensity a pixel."""
    return sum(step.square() for step in torch.gradient(image, dim=list(range(2, image.ndim)))).sqrt()


def blurred(image: Tensor, deviation: float, axes: int | None = None) -> Tensor:
    """The image (N, C, *size) through a Gaussian along its last `axes`; None: along all of its size."""
    reach = max(1, round(3 * deviation))
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, device=image.device) ** 2) / (2 * deviation**2))
    kernel = (kernel / kernel.sum())[None, None]
    for axis in range(image.ndim - (axes or image.ndim - 2), image.ndim):
        rows = image.movedim(axis, -1)
        padded = F.pad(rows.reshape(-1, 1, rows.shape[-1]), (reach, reach), mode="replicate")
        image = F.conv1d(padded, kernel.to(image.dtype)).reshape(rows.shape).movedim(-1, axis)
    return image
