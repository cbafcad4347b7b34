"""Finds images of two contrasts with similar anatomy and registers them, by MIND descriptors and
body masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gantk.losses.structure import edges, gaussian_blur
from gantk.progress import track

NEIGHBOURS = (0, 1), (1, 0), (0, -1), (-1, 0)  # of a pixel, in rows and columns
# pairs of neighbours that are compared
NEIGHBOUR_PAIRS = (0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)
BODY_THRESHOLD = 0.06  # of the body, above black: share of the range
BODY_WEIGHT = 3.0  # weight of the body's mask beside MIND
GRID_POINTS = 8  # control points along a side of a deformation
STIFFNESS = 0.02  # larger values bend less
AFFINE_STEPS = 15  # of a registration
FREE_STEPS = 25
LEARNING_RATE = 0.01  # in half images
RIM_SHARE = 0.09  # depth of a rim, share of a side
ZOOMS = torch.linspace(-0.04, 0.04, 8)  # none is 0, which would not blur
PAIRS_PER_BATCH = 512  # that are registered
IMAGES_PER_BATCH = 256  # that are compared with all others
MAX_ASSIGNED_DISTANCES = 2**25  # of an assignment
MAX_DISTANCE_RATIO = 1.5  # a partner's distance over the nearest image's


def shrink_means(images: Sequence[Tensor], side: int) -> Tensor:
    """The channel mean of each image (C, H, W), resized to a longer side of about `side` pixels:
    (N, 1, h, w).
    """
    height, width = images[0].shape[1:]
    scale = min(1.0, side / max(height, width))
    size = max(4, round(height * scale)), max(4, round(width * scale))
    means = (image.float().mean(0)[None, None] for image in images)
    return torch.cat([F.interpolate(gaussian_blur(mean, 0.7), size, mode="area") for mean in means])


def mind(image: Tensor, deviation: float = 1.0) -> Tensor:
    """MIND-SSC (Heinrich et al. 2013): the similarity of a pixel's four neighbours in six pairs,
    for any contrast.

    (N, 1, H, W) to (N, 6, H, W) from 0 to 1, with 1 for the most similar pair; `deviation` is the
    patches' Gaussian.
    """
    height, width = image.shape[2:]
    around = F.pad(image, (1,) * 4, mode="replicate")
    shifted = [around[:, :, 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in NEIGHBOURS]
    apart = gaussian_blur(
        torch.cat([(shifted[i] - shifted[j]).square() for i, j in NEIGHBOUR_PAIRS], 1), deviation
    )
    apart = apart - apart.amin(1, keepdim=True)
    noise = apart.mean(1, keepdim=True)
    # lower bound for empty air
    noise = noise.maximum(0.01 * noise.mean((1, 2, 3), keepdim=True).clamp_min(1e-6))
    return torch.exp(-apart / (noise + 1e-6))


def body(image: Tensor) -> Tensor:
    """Soft body masks, 1 where (N, 1, H, W) images of one domain are above air.

    The rim of fluid is dark in T1 and bright in T2: with MIND alone, registered heads are 2 to 3 %
    too small or large.
    """
    low = image.min()
    high = image.max()
    return gaussian_blur((image > low + BODY_THRESHOLD * (high - low)).float(), 1.0)


def most_alike(one: Tensor, other: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the `count` images of `other`, or all, most similar by MIND to each of N of `one`,
    (N, count), and of its partner (N,).

    Partners are a one-to-one assignment of least total distance (Kuhn 1955), because neighbouring
    slices share the same similar images. Where the assigned image is far away, as for heads that
    the other domain does not show, and where there are more than MAX_ASSIGNED_DISTANCES distances,
    the partner is the most similar image.
    """
    one, other = (gaussian_blur(mind(each, 2.0), 3.0).flatten(1) for each in (one, other))
    distances = torch.cat([torch.cdist(rows, other) for rows in one.split(IMAGES_PER_BATCH)])
    near, places = distances.topk(min(count, len(other)), 1, largest=False)
    partners = places[:, 0].clone()
    if distances.numel() <= MAX_ASSIGNED_DISTANCES:
        rows, columns = map(torch.from_numpy, linear_sum_assignment(distances.numpy()))
        fits = distances[rows, columns] <= MAX_DISTANCE_RATIO * near[rows, 0]
        partners[rows[fits]] = columns[fits]

    return places, partners


def grid(affine: Tensor, free: Tensor, size: Sequence[int]) -> Tensor:
    """Sampling positions (N, H, W, 2) for grid_sample, from affine maps (N, 2, 3) minus identity
    and free fields.
    """
    whole = F.affine_grid(affine + torch.eye(2, 3), [len(affine), 1, *size], align_corners=False)
    bend = F.interpolate(free, tuple(size), mode="bicubic", align_corners=True)
    return whole + bend.permute(0, 2, 3, 1)


def sample_at(image: Tensor, places: Tensor) -> Tensor:
    """Sample images (N, C, H, W) at positions from `grid`; edges are repeated."""
    return F.grid_sample(image, places, padding_mode="border", align_corners=False)


def registrations(fixed: Tensor, moving: Tensor, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Register the images `like` (N, count) of `moving` to each of the N `fixed`: after the affine
    and the free steps.

    Returns two pairs of arguments of `grid`, by image and candidate. Minimises squared differences
    of MIND and body masks; STIFFNESS is the weight of differences between neighbours of the
    GRID_POINTS x GRID_POINTS control points.
    """
    one = torch.cat([mind(fixed), BODY_WEIGHT * body(fixed)], 1)
    other = torch.cat([mind(moving), BODY_WEIGHT * body(moving)], 1)
    rows = torch.arange(len(like)).repeat_interleave(like.shape[1])
    parts = rows.split(PAIRS_PER_BATCH), like.flatten().split(PAIRS_PER_BATCH)
    batches = [*zip(*parts, strict=True)]
    coarse = []
    fine = []
    for own, its in track(batches, "matching similar slices", "batch of pairs"):
        affine = torch.zeros(len(own), 2, 3, requires_grad=True)
        free = torch.zeros(len(own), 2, GRID_POINTS, GRID_POINTS, requires_grad=True)

        def loss(own=own, its=its, affine=affine, free=free) -> Tensor:
            error = sample_at(other[its], grid(affine, free, one.shape[2:])) - one[own]
            bent = sum(free.diff(dim=axis).square().mean((1, 2, 3)).sum() for axis in (2, 3))
            return error.square().mean((1, 2, 3)).sum() + STIFFNESS * GRID_POINTS**2 * bent

        descend(loss, [affine], AFFINE_STEPS)
        coarse.append((affine.detach().clone(), free.detach().clone()))
        descend(loss, [affine, free], FREE_STEPS)
        fine.append((affine.detach(), free.detach()))

    results = []
    for moves in (coarse, fine):
        affines, frees = (torch.cat(parts) for parts in zip(*moves, strict=True))
        results.append((affines.unflatten(0, like.shape), frees.unflatten(0, like.shape)))

    return results


def descend(loss: Callable[[], Tensor], parameters: list[Tensor], steps: int) -> None:
    """Minimise by Adam, with a learning rate that falls to a tenth."""
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - 0.9 * step / steps)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def zoom_inside(fixed: Tensor, moving: Tensor) -> float:
    """The zoom that lays edges inside the bodies of images `moving` (N, 1, H, W) best on those of
    `fixed`: `zoom_affine`'s.

    Their rim is left out: fluid around the brain is as dark as air in T1 and bright in T2, so that
    outlines differ.
    """
    # enough for a mean
    fixed, moving = (images[:: -(-len(images) // PAIRS_PER_BATCH)] for images in (fixed, moving))
    depth = round(RIM_SHARE * max(fixed.shape[2:]))
    inside = 1 - F.max_pool2d(1 - (body(fixed) > 0.5).float(), 2 * depth + 1, 1, depth)
    if not inside.any():
        return 0.0

    places = F.affine_grid(
        torch.eye(2, 3).expand(len(fixed), 2, 3), fixed.shape, align_corners=False
    )
    wanted = edges(gaussian_blur(fixed, 1.0))
    costs = []
    for zoom in ZOOMS:
        apart = edges(gaussian_blur(sample_at(moving, (1 + zoom) * places), 1.0)) - wanted
        costs.append((apart.square().sum(1, keepdim=True) * inside).mean())

    least = min(range(1, len(costs) - 1), key=costs.__getitem__)
    # and the least of the parabola through the three
    before, at, after = costs[least - 1 : least + 2]
    step = (before - after) / (2 * (before - 2 * at + after).clamp_min(1e-9))
    return float(ZOOMS[least] + step.clamp(-1, 1) * (ZOOMS[1] - ZOOMS[0]))


def zoom_affine(affine: Tensor, zoom: float) -> Tensor:
    """Affine maps minus identity, (..., 2, 3), for `grid`, with 1 + zoom times the distance from
    the middle.
    """
    whole = affine + torch.eye(2, 3)
    return torch.cat([(1 + zoom) * whole[..., :2], whole[..., 2:]], -1) - torch.eye(2, 3)


def explained_share(source: Tensor, target: Tensor, each: bool = False) -> Tensor:
    """The share of the target's variance explained by a function of the source's intensity and
    blurred intensity.

    For images (N, 1, H, W) with one common function, (1,), or with `each` its own, (N,). It is
    largest for aligned images of the same anatomy, in any two contrasts.
    """
    bins = 10 if each else 20
    groups = len(source) if each else 1
    low = source.min()
    span = source.max() - low + 1e-6

    def bin_numbers(image: Tensor) -> Tensor:
        share = (image - low) / span
        return (share * (bins - 1)).round().long().view(groups, -1)

    values = target.reshape(groups, -1)
    place = bin_numbers(source) * bins + bin_numbers(gaussian_blur(source, 1.5))
    place = place + bins**2 * torch.arange(groups)[:, None]
    length = groups * bins**2
    counts = torch.bincount(place.flatten(), minlength=length).clamp_min(1)
    means = torch.bincount(place.flatten(), values.flatten(), minlength=length) / counts
    unexplained = (values - means[place]).square().mean(1)
    return 1 - unexplained / values.var(1).clamp_min(1e-12)
