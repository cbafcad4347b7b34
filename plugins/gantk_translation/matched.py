"""An order of batches that combines images of two unpaired domains that show the head at similar
height.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gantk import Batches, Record
from gantk.errors import UserError

DRAW_SEED = 0x6D617463  # seed of the draws among similar images, different from that of the shuffle
NEAR_SHARE = 0.1  # of the other domain's images, the nearest ones, of which one is drawn
BODY_SHARE = 0.05  # of the range above black: brighter pixels belong to the body
OUTLINE_SIDE = 24  # side in pixels at which outlines are compared
IMAGES_PER_BATCH = 1024  # images per batch of the comparison


class Matched:
    """Draws unpaired slices of similar anatomical height together, so that discriminators see
    similar anatomy in real and fake images.

    Height is the position of a slice in its scan; where one has none, outlines of the body are
    compared. The larger domain is shuffled as usual. Each of its images is combined with one of the nearest
    images of the other domain, drawn by seed and position in the order. The order has no state and
    does not depend on ranks and workers.
    """

    def __call__(self, batches: Batches) -> Callable[[int], dict[str, int]]:
        """The order for these batches; UserError where they are paired."""
        sets = batches.sets
        if batches.paired or set(sets) != {"a", "b"}:
            what = "the order 'matched' is for two domains without pairs, but this method needs "
            what += "pairs" if batches.paired else "one domain"
            raise UserError(
                what, where="data.order", remedy="leave out data.order, or use an unpaired method"
            )

        heights = {letter: heights_of(images.records) for letter, images in sets.items()}
        if None in heights.values():
            heights = {letter: outlines(images) for letter, images in sets.items()}

        leads, follows = ("a", "b") if len(sets["a"]) >= len(sets["b"]) else ("b", "a")
        candidates = max(1, round(NEAR_SHARE * len(sets[follows])))
        near = nearest(heights[leads], heights[follows], candidates)
        if sets[follows].weights:
            shares = np.frombuffer(sets[follows].weights)
        else:
            shares = np.ones(len(sets[follows]))

        return partial(images_at, batches, (leads, follows), near, shares)


def images_at(
    batches: Batches,
    letters: tuple[str, str],  # of the domain that is shuffled, and of the other one
    near: list[np.ndarray],  # similar images of the other domain, for each image
    shares: np.ndarray,  # their weights
    place: int,
) -> dict[str, int]:
    """The index of an image for each domain, as a function of the seed and a position in the order."""
    first = batches.image_at(letters[0], place)
    ends = np.cumsum(shares[near[first]])
    drawn = np.random.default_rng([batches.seed, DRAW_SEED, place]).random() * ends[-1]
    other = near[first][min(np.searchsorted(ends, drawn, side="right"), len(ends) - 1)]
    return dict(zip(letters, (first, int(other)), strict=True))


def heights_of(records: Sequence[Record]) -> torch.Tensor | None:
    """The relative height of each slice in its scan, 0 lowest to 1 highest: (N, 1); None if one has
    no position.

    A scan is identified by `scan_key`, or by patient and folder.
    """
    stacks = defaultdict(list)
    for number, record in enumerate(records):
        scan = record.scan_key or record.key.rpartition("/")[0]
        stacks[record.subject, scan].append(number)

    if any(record.position is None for record in records):
        return None
    if any(len(stack) < 2 for stack in stacks.values()):
        return None

    heights = torch.zeros(len(records), 1)
    for stack in stacks.values():
        places = torch.tensor([records[number].position for number in stack])
        span = places.max() - places.min()
        if not span:
            return None
        heights[stack, 0] = (places - places.min()) / span

    return heights


def outlines(images: Any) -> torch.Tensor:
    """Masks of the body of each image of a domain at OUTLINE_SIDE pixels, (N, pixels): similar for
    head slices of similar height.
    """
    low, high = images.intensity.range
    masks = []
    for image in images:
        mask = body(image.amax(0)[None, None] > low + BODY_SHARE * (high - low))
        masks.append(F.interpolate(mask, (OUTLINE_SIDE,) * (image.ndim - 1), mode="area").flatten())

    return torch.stack(masks)


def nearest(own: torch.Tensor, others: torch.Tensor, count: int) -> list[np.ndarray]:
    """For each row of `own` the indices of the `count` nearest rows of `others`, with all ties."""
    indices = []
    for rows in own.split(IMAGES_PER_BATCH):
        distances = torch.cdist(rows, others, p=1)
        limit = distances.kthvalue(count, keepdim=True).values + 1e-6
        indices += [each.nonzero().flatten().numpy() for each in distances <= limit]
    return indices


def body(bright: torch.Tensor) -> torch.Tensor:
    """The mask (1 or 0) of pixels that have bright pixels on both sides along every axis, from (N,
    1, *size), bool. It includes the skull, which is dark in MR and bright in CT.

    Single bright pixels, such as noise in air, are removed first by a median over 3 pixels a side.
    """
    pool = F.avg_pool2d if bright.ndim == 4 else F.avg_pool3d
    dims = bright.ndim - 2
    kept = (pool(F.pad(bright.float(), (1,) * (2 * dims)), 3, 1) > 0.5).float()
    axes = range(2, 2 + dims)
    ahead = [kept.cummax(axis).values for axis in axes]
    behind = [kept.flip(axis).cummax(axis).values.flip(axis) for axis in axes]
    return torch.stack(ahead + behind).amin(0)
