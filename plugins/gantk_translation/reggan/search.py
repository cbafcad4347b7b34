"""The field that lays a translation on its target, found for each pair by itself by
Levenberg-Marquardt steps.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.losses.structure import along_axes, edges, gaussian_blur

# By how much images are made smaller, in 2-D; intervals of the splines along an axis, 0: straight
# lines; blur, pixels.
LEVELS = ((4, 0, 3.0), (4, 1, 2.0), (4, 2, 1.0), (2, 2, 1.5), (2, 3, 0.7), (1, 3, 0.7), (1, 3, 0.0))
HUBER_WIDTH = 0.1  # differences below count by their squares, those above by themselves
GRAY_LEVELS = 8  # gray levels of the joint histogram of x and y


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
        self.registered = partial(find_field, steps=steps, stiffness=stiffness, limit=limit)
        self.refined = partial(self.registered, steps=(steps + 1) // 2, levels=LEVELS[-1:])
        self.register_buffer("zoom", torch.zeros(()))  # running mean over the fields of a training

    @torch.no_grad()
    def forward(self, source: Tensor, fake: Tensor, real: Tensor, progress: Tensor) -> Tensor:
        """The field (N, dims, *size), in pixels, that lays `fake`, the translation of `source`, on
        `real`; `progress` is the share of the training that is over.
        """
        # edges of x count to the end, or G draws outlines where it likes, and T follows
        late = progress.clamp(max=0.5)
        with torch.autocast(real.device.type, enabled=False):
            before = edges(source)
            after = edges(real)
            image = torch.cat([(1 - late) * before, late * edges(fake), fake.float()], 1)
            like = torch.cat([(1 - late) * after, late * after, real.float()], 1)
            field = self.registered(image, like)
            source_grays = gray_levels(source)
            real_grays = gray_levels(real)
            for _ in range(2):  # the histogram follows the field
                joint = real_grays.flatten(2) @ warp(source_grays, field).flatten(2).mT
                expected_real = gray_chances(joint, source_grays)
                expected_source = gray_chances(joint.mT.contiguous(), real_grays)
                image = [before / 2, progress * fake.float(), source_grays, expected_real]
                like = [after / 2, progress * real.float(), expected_source, real_grays]
                field = self.refined(torch.cat(image, 1), torch.cat(like, 1), field=field)

            inverse = -field
            for _ in range(4):  # fixed-point iterations
                inverse = -warp(field, inverse)

            forth, places = zoom(field, after)
            back, _ = zoom(inverse, before)
            self.zoom.lerp_((forth - back) / 2, 0.01)
            return field - self.zoom * places


def warp(image: Tensor, field: Tensor, mode: str = "bilinear") -> Tensor:
    """`image` o T: (N, C, *size) sampled where `field` (N, dims, *size), in pixels, points to;
    float32, edges repeated.

    Channel k of the field is along axis k of the size. Of zeros it leaves the image as it is.
    `mode` is grid_sample's.
    """
    # grid_sample has -1 and 1 in the middle of the outermost pixels, and wants x first
    sides = image.shape[2:]
    at = torch.meshgrid(
        *(torch.linspace(-1, 1, side, device=field.device) for side in sides), indexing="ij"
    )
    at = [line + field[:, n].float() * (2 / max(1, sides[n] - 1)) for n, line in enumerate(at)]
    return F.grid_sample(
        image.float(), torch.stack(at[::-1], -1), mode, padding_mode="border", align_corners=True
    )


def gray_levels(image: Tensor) -> Tensor:
    """Shares of GRAY_LEVELS levels of an image's own range in each of its pixels: (N, C, *size) to
    (N, GRAY_LEVELS, *size).
    """
    gray = image.float().mean(1, keepdim=True)
    axes = [*range(1, gray.ndim)]
    low = gray.amin(axes, keepdim=True)
    high = gray.amax(axes, keepdim=True)
    levels = torch.arange(float(GRAY_LEVELS), device=gray.device).view(-1, *[1] * (gray.ndim - 2))
    level = (gray - low) / (high - low).clamp_min(1e-6) * (GRAY_LEVELS - 1)
    return (1 - (level - levels).abs()).clamp_min(0)


def gray_chances(joint: Tensor, grays: Tensor) -> Tensor:
    """Chances of the other image's gray levels where this has `grays`, by their joint histogram (N,
    other, this).
    """
    chances = joint / joint.sum(1, keepdim=True).clamp_min(1e-6)
    return (chances @ grays.flatten(2)).view_as(grays)


@torch.no_grad()
def find_field(
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
    if field is None:
        field = like.new_zeros(len(like), dims, *size, dtype=torch.float32)

    for scale, intervals, deviation in levels:
        # volumes are halved once more
        small = [max(min(8, side), side // (scale * (dims - 1))) for side in size]
        small_image = shrink(image, small, deviation)
        small_like = shrink(like, small, deviation)
        # splines along each axis, at the pixels of the images and of the small ones
        whole_lines = [splines(intervals, like.device, side, side) for side in size]
        small_lines = [
            splines(intervals, like.device, side, to) for side, to in zip(size, small, strict=True)
        ]
        stiff = stiffness * bending(whole_lines)
        scales = [to / side for side, to in zip(size, small, strict=True)]
        linearised = partial(
            linearise_objective, small_image, small_like, small_lines, scales, stiff
        )
        projections = [torch.linalg.solve_ex(line.mT @ line, line.mT)[0].mT for line in whole_lines]
        start = along_axes(field, projections)
        weights = levenberg_marquardt(linearised, start, stiff, steps)
        field = along_axes(weights, [line.mT for line in whole_lines])

    return field.clamp(-limit, limit)


def shrink(image: Tensor, size: list[int], deviation: float) -> Tensor:
    """Resize images to `size` by means of areas, in float32, and blur them."""
    return gaussian_blur(F.interpolate(image.float(), size, mode="area"), deviation)


def bending(lines: list[Tensor]) -> Tensor:
    """The matrix M for which weights w have the mean squared gradient w' M w of their field."""
    total = 0
    for axis in range(len(lines)):
        factors = [line.diff(dim=0) if n == axis else line for n, line in enumerate(lines)]
        total = total + reduce(torch.kron, [x.mT @ x / len(x) for x in factors])
    return total


class Linearised(NamedTuple):
    """The objective near `weights`, for each pair of images."""

    weights: Tensor  # (N, dims, *K)
    value: Tensor  # (N, 1, 1)
    descent: Tensor  # direction, (N, dims, K in all)
    hessian: Tensor  # Gauss-Newton's


def levenberg_marquardt(linearised, weights: Tensor, stiff: Tensor, steps: int) -> Tensor:
    """Minimise from `weights` on, (N, dims, *K), each pair with its own damping; returns the best
    weights.

    `linearised(weights)` returns a Linearised.
    """
    dims = weights.shape[1]
    best = linearised(weights)
    identity = torch.eye(dims * len(stiff), device=weights.device)
    damping = 1e-3 / len(stiff) * identity.repeat(len(weights), 1, 1)
    for _ in range(steps):
        # solve_ex does not wait for a GPU
        change = torch.linalg.solve_ex(best.hessian + damping, best.descent.flatten(1))[0]
        tried = linearised(best.weights + change.view_as(best.weights))
        better = tried.value < best.value
        best = Linearised(*map(partial(choose, better), tried, best))
        damping = damping * torch.where(better, 1 / 3, 8)

    return best.weights


def choose(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """For each pair the `new` entry where it is better, (N, 1, 1), else the `old` one."""
    return torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)


def linearise_objective(
    image: Tensor, like: Tensor, lines: list, scales: list, stiff: Tensor, weights: Tensor
) -> Linearised:
    """Linearise the objective at `weights`, (N, dims, *K)."""
    dims = len(lines)
    field = along_axes(weights, [line.mT for line in lines])
    scaled = torch.stack([field[:, n] * scale for n, scale in enumerate(scales)], 1)
    at = warp(image, scaled)
    gradients = torch.gradient(at, dim=[*range(2, at.ndim)])
    slopes = [slope * scale for slope, scale in zip(gradients, scales, strict=True)]
    apart = like - at

    # the value: a Huber norm of the differences, and the bending of the field
    pull = weights.flatten(2) @ stiff
    length = apart.square().sum(1, keepdim=True).sqrt()
    small = length < HUBER_WIDTH
    huber = torch.where(small, length.square() / HUBER_WIDTH, 2 * length - HUBER_WIDTH)
    bent = (weights.flatten(2) * pull).sum((1, 2), keepdim=True)
    value = huber.flatten(1).mean(1)[:, None, None] + bent

    # reweighted least squares: each pixel counts by its share
    share = 1 / length.clamp_min(HUBER_WIDTH) / like[0, 0].numel()
    pulled = []
    products = []
    for one in slopes:
        pulled.append((one * apart * share).sum(1, keepdim=True))
        products += [(one * other * share).sum(1, keepdim=True) for other in slopes]

    descent = along_axes(torch.cat(pulled, 1), lines).flatten(2) - pull
    curvature = curvature_matrix(torch.cat(products, 1), lines)
    return Linearised(weights, value, descent, curvature + torch.block_diag(*[stiff] * dims))


def curvature_matrix(products: Tensor, lines: list[Tensor]) -> Tensor:
    """The matrix (N, weights, weights) of products of slopes, (N, dims * dims, *size), summed over
    the pixels of every two splines.
    """
    dims = len(lines)
    pairs_of_lines = [(line[:, :, None] * line[:, None]).flatten(1) for line in lines]
    sums = along_axes(products, pairs_of_lines)
    # each axis has two indices: those of the rows come first, then those of the columns
    indices = [lines[0].shape[1]] * (2 * dims)
    sums = sums.view(len(products), dims, dims, *indices)
    rows = range(3, 3 + 2 * dims, 2)
    columns = range(4, 4 + 2 * dims, 2)
    square = dims * lines[0].shape[1] ** dims
    return sums.permute(0, 1, *rows, 2, *columns).reshape(len(products), square, square)


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
    along = (share * places * field).flatten(1).sum(1)
    whole = (share * places * places).flatten(1).sum(1)
    return (along / whole.clamp_min(1e-6)).mean(), places
