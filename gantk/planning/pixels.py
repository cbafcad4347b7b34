"""Statistics of the pixels of one domain, by which a recipe is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gantk.data.look import background_level
from gantk.data.preparation import Record
from gantk.data.spread import spread

# of a domain that are measured
MAX_PICTURES = 16
MAX_VOLUMES = 3
MAX_PLANES = 12  # of a volume


@dataclass(frozen=True)
class Pixels:
    """Statistics of a domain's images; of volumes, of the planes with at least a third of the
    fullest one's content.
    """

    shape: tuple[int, int]  # median rows and columns
    content: tuple[int, int]  # sides of the centred box that holds all foreground
    empty: float  # smallest share of pixels that are exactly the background's value
    seen: float  # mean share of foreground pixels
    mirror: float  # median correlation of the content with its mirror image


def pixels_of(records: Sequence[Record]) -> Pixels:
    """Measure some images of a domain."""
    stacks = {record.scan_key: record.scan for record in records if record.scan}
    images = []
    for scan in spread(list(stacks.values()), MAX_VOLUMES):
        images += _full_planes(scan()[0])

    if not stacks:
        for record in spread(records, MAX_PICTURES):
            images.append(np.nan_to_num(record.read()).mean(axis=0))

    foregrounds = [_foreground(image) for image in images]
    empty = [float((image == background_level(image)).mean()) for image in images]
    mirrored = [_mirror(image, mask) for image, mask in zip(images, foregrounds, strict=True)]
    rows, columns = np.median([image.shape for image in images], axis=0)
    return Pixels(
        shape=(int(rows), int(columns)),
        content=(max(_reach(x, 0) for x in foregrounds), max(_reach(x, 1) for x in foregrounds)),
        empty=min(empty),
        seen=float(np.mean([mask.mean() for mask in foregrounds])),
        mirror=float(np.median(mirrored)),
    )


def _full_planes(stack: np.ndarray) -> list[np.ndarray]:
    """Some planes of those with at least a third of the fullest one's content."""
    areas = _foreground(stack).mean(axis=(1, 2))
    full = np.flatnonzero(areas >= areas.max() / 3)
    return [stack[i] for i in spread(full, MAX_PLANES)]


def _foreground(image: np.ndarray) -> np.ndarray:
    """The foreground mask of a picture or volume."""
    air = background_level(image)
    bright = abs(float(np.percentile(image.ravel()[::16], 99.5)) - air)
    return np.abs(image - air) > 0.05 * max(bright, 1e-9)


def _reach(foreground: np.ndarray, axis: int) -> int:
    """Length of the shortest centred interval with all lines of more than 1 % foreground."""
    lines = np.flatnonzero(foreground.mean(axis=1 - axis) > 0.01)
    side = foreground.shape[axis]
    if not len(lines):
        return side
    return int(2 * max(side / 2 - lines[0], lines[-1] + 1 - side / 2))


def _mirror(image: np.ndarray, foreground: np.ndarray) -> float:
    """Correlation of an image's content with its mirror image."""
    columns = np.flatnonzero(foreground.mean(axis=0) > 0.01)
    content = image
    if len(columns) > 1:
        content = image[:, columns[0] : columns[-1] + 1]
    if not content.std() > 0:
        return 0.0
    return float(np.corrcoef(content.ravel(), content[:, ::-1].ravel())[0, 1])
