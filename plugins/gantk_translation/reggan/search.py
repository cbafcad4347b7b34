"""The field that lays a translation on its target, found for each pair by itself by
Levenberg-Marquardt steps.
"""

from __future__ import annotations

from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.losses.edges import along_axes, blurred, edges
from gantk_translation.reggan.network import moved

# By how much images are made smaller, in 2-D; intervals of the splines along an axis, 0: straight
# lines; blur, pixels.
LEVELS = ((4, 0, 3.0), (4, 1, 2.0), (4, 2, 1.0), (2, 2, 1.5), (2, 3, 0.7), (1, 3, 0.7), (1, 3, 0.0))
LEAST = 0.1  # differences below count by their squares, those above by themselves
GRAYS = 8  # gray levels of the joint histogram of x and y


class Search(nn.Module):
    """Finds T for each pair: edges of x, and of y^ as training goes on, are laid on those of y, and
    y^ on y.

    Then gray levels of x are laid where those of y make them likely, and the other way round, by
    the joint histogram under the field so far: edges of T1 and T2 lie 0.3 px apart, gray levels
    0.1. The fields' mean zoom, heads that G makes too small, is taken off: half of T's and its
    inverse's difference, as random fields shrink from either side.
    """

    def __init__(self, steps: int, stiffness: float, limit: float):
        super().__init__()
        self.registered = partial(registered, steps=steps, stiffness=stiffness, limit=limit)
        self.refined = partial(self.registered, steps=(steps + 1) // 2, levels=LEVELS[-1:])
        self.register_buffer("zoom", torch.zeros(()))  # running mean over the fields of a training

    @torch.no_grad()
    def forward(self, source: Tensor, fake: Tensor, real: Tensor, progress: Tensor) -> Tensor:
        # edges of x count to the end, or G draws outlines where it likes, and T follows
        late = progress.clamp(max=0.5)
        with torch.autocast(real.device.type, enabled=False):
            before = edges(source)
            after = edges(real)
            shown = torch.cat([(1 - late) * before, late * edges(fake), fake.float()], 1)
            field = self.registered(
                shown, torch.cat([(1 - late) * after, late * after, real.float()], 1)
            )
            grays = gray_levels(source)
            others = gray_levels(real)
            for _ in range(2):  # the histogram follows the field
                joint = others.flatten(2) @ moved(grays, field).flatten(2).mT
                shown = [before / 2, progress * fake.float(), grays, likely(joint, grays)]
                like = [
                    after / 2,
                    progress * real.float(),
                    likely(joint.mT.contiguous(), others),
                    others,
                ]
                field = self.refined(torch.cat(shown, 1), torch.cat(like, 1), field=field)
            back = reduce(lambda back, _: -moved(field, back), range(4), -field)
            (here, places), (there, _) = zoom(field, after), zoom(back, before)
            self.zoom.lerp_((here - there) / 2, 0.01)
            return field - self.zoom * places


def gray_levels(image: Tensor) -> Tensor:
    """Shares of GRAYS levels of an image's own range in each of its pixels: (N, C, *size) to (N,
    GRAYS, *size).
    """
    gray = image.float().mean(1, keepdim=True)
    low, high = (end([*range(1, gray.ndim)], keepdim=True) for end in (gray.amin, gray.amax))
    levels = torch.arange(float(GRAYS), device=gray.device).view(-1, *[1] * (gray.ndim - 2))
    return (
        1 - ((gray - low) / (high - low).clamp_min(1e-6) * (GRAYS - 1) - levels).abs()
    ).clamp_min(0)


def likely(joint: Tensor, grays: Tensor) -> Tensor:
    """Chances of the other image's gray levels where this has `grays`, by their joint histogram (N,
    other, this).
    """
    return (joint / joint.sum(1, keepdim=True).clamp_min(1e-6) @ grays.flatten(2)).view_as(grays)


@torch.no_grad()
def registered(
    image: Tensor,
    like: Tensor,
    steps: int,
    stiffness: float,
    limit: float,
    levels=LEVELS,
    field: Tensor | None = None,
) -> Tensor:
    """Find the field T that lays images (N, C, *size) on those they shall be `like`: (N, dims,
    *size) float32, pixels.

    For each pair by itself, T, a cubic B-spline (Rueckert et al. 1999), minimises the mean of |like
    - image o T| over pixels, channels one vector, and `stiffness` / 2 of its squared gradient: from
    `field` on, `steps` of Levenberg and Marquardt, reweighted, at each of `levels`, coarse to fine;
    one that does not lower the sum is not taken.
    """
    size = like.shape[2:]
    dims = like.ndim - 2
    field = like.new_zeros(len(like), dims, *size, dtype=torch.float32) if field is None else field
    for scale, intervals, deviation in levels:
        # volumes are halved once more
        shown = [max(min(8, side), side // (scale * (dims - 1))) for side in size]
        pair = [
            blurred(F.interpolate(each.float(), shown, mode="area"), deviation)
            for each in (image, like)
        ]
        whole, lines = (
            [*map(partial(splines, intervals, like.device), size, to)] for to in (size, shown)
        )
        changes = [
            [line.diff(dim=0) if n == m else line for n, line in enumerate(whole)]
            for m in range(dims)
        ]
        stiff = stiffness * sum(
            reduce(torch.kron, [x.mT @ x / len(x) for x in each]) for each in changes
        )
        about = partial(
            expanded,
            *pair,
            lines,
            [seen / side for seen, side in zip(shown, size, strict=True)],
            stiff,
        )
        best = about(
            along_axes(
                field, [torch.linalg.solve_ex(line.mT @ line, line.mT)[0].mT for line in whole]
            )
        )
        damping = (
            1e-3
            / len(stiff)
            * torch.eye(dims * len(stiff), device=like.device).repeat(len(like), 1, 1)
        )
        for _ in range(steps):
            # does not wait for a GPU
            change = torch.linalg.solve_ex(best[3] + damping, best[2].flatten(1))[0]
            found = about(best[0] + change.view_as(best[0]))
            better = found[1] < best[1]
            best = [
                torch.where(better.view(-1, *[1] * (x.ndim - 1)), x, y)
                for x, y in zip(found, best, strict=True)
            ]
            damping = damping * torch.where(better, 1 / 3, 8)
        field = along_axes(best[0], [line.mT for line in whole])
    return field.clamp(-limit, limit)


def expanded(
    image: Tensor, like: Tensor, lines: list, scales: list, stiff: Tensor, weights: Tensor
) -> list[Tensor]:
    """Expand what is minimised about a field's weights (N, dims, *K): them, the value (N, 1, 1),
    descent, curvature.
    """
    dims = len(lines)
    count = lines[0].shape[1]
    field = along_axes(weights, [line.mT for line in lines])
    at = moved(image, torch.stack([field[:, n] * scale for n, scale in enumerate(scales)], 1))
    slopes = [
        slope * by
        for slope, by in zip(torch.gradient(at, dim=[*range(2, at.ndim)]), scales, strict=True)
    ]
    apart = like - at
    pull = weights.flatten(2) @ stiff
    length = apart.square().sum(1, keepdim=True).sqrt()
    share = 1 / length.clamp_min(LEAST) / like[0, 0].numel()
    value = (
        torch.where(length < LEAST, length.square() / LEAST, 2 * length - LEAST)
        .flatten(1)
        .mean(1)[:, None, None]
    )
    down = along_axes(
        torch.cat([(slope * apart * share).sum(1, keepdim=True) for slope in slopes], 1), lines
    )
    both = torch.cat(
        [(one * other * share).sum(1, keepdim=True) for one in slopes for other in slopes], 1
    )
    both = along_axes(both, [(line[:, :, None] * line[:, None]).flatten(1) for line in lines])
    both = both.view(len(like), dims, dims, *[count] * 2 * dims)  # of each axis two indices
    both = both.permute(0, 1, *range(3, 3 + 2 * dims, 2), 2, *range(4, 4 + 2 * dims, 2))
    curved = both.reshape(len(like), pull[0].numel(), -1) + torch.block_diag(*[stiff] * dims)
    return [
        weights,
        value + (weights.flatten(2) * pull).sum((1, 2), keepdim=True),
        down.flatten(2) - pull,
        curved,
    ]


def splines(intervals: int, device: torch.device, side: int, shown: int) -> Tensor:
    """Return cubic B-splines over an axis of `side` pixels, (shown, K), at the middles of `shown`
    pixels in place.
    """
    at = ((torch.arange(shown, device=device) + 0.5) * (side / shown) - 0.5) / (side - 1)
    if not intervals:
        return torch.stack([1 - at, at], 1)
    off = (intervals * at[:, None] - torch.arange(-1.0, intervals + 2, device=device)).abs()
    return torch.where(off < 1, 4 - 6 * off**2 + 3 * off**3, (2 - off).clamp_min(0) ** 3) / 6


def zoom(field: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Fit each field's zoom about the middle of the edges `found`, weighed by them: the mean, and a
    zoom of 1.
    """
    share = found[:, : field.shape[1]].sum(1, keepdim=True)
    axes = [*range(2, field.ndim)]
    lines = [torch.arange(float(side), device=share.device) for side in share.shape[2:]]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    mass = share.sum(axes, keepdim=True).clamp_min(1e-6)
    places = places - (places * share).sum(axes, keepdim=True) / mass
    along, whole = ((share * places * each).flatten(1).sum(1) for each in (field, places))
    return (along / whole.clamp_min(1e-6)).mean(), places
