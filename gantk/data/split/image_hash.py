"""How alike two images look: a hash that finds likely copies among thousands, and a correlation that makes sure.

Every image is kept as thumbnails of 64 x 64: the whole frame, and what is in it (cut out of its background), so that
copies are found that were saved again, rescaled in intensity or size, shifted, or given another margin. The hash is the
signs of the low frequencies of a thumbnail (DCT; Zauner, Implementation and benchmarking of perceptual image hash
functions, 2010, section 3.2.1), the correlation that of its fine detail after alignment (Lucas and Kanade, 1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIDE = 64  # of a thumbnail
COARSE = 16  # frequencies of each axis that the hash looks at: 255 bits without the mean
ENOUGH = 128  # pixels on each side from which on images are averaged down before anything else
NEAR_BITS = 48  # of 255 that two copies may differ in; unrelated heads differ in 50 and more
SMALLEST = 16  # pixels on each side ...
LEAST = 10  # ... and of the content: below that everything looks alike
DETAIL = 0.02  # share of a thumbnail's contrast that is detail, below which there is nothing to compare: ramps, blurs
EDGE = 3  # pixels of a thumbnail's edge that are not compared: alignment moves them in and out
ALIKE = 0.92  # correlation of detail above which images are copies; of unrelated patients it reached 0.86, of real
# near copies of the web 0.990 to 1, of pictures made smaller by 10 % and saved as JPEG 0.94 to 0.998
BATCH = 64  # pairs aligned at once


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of an image, about 8 KB: thumbnails of its whole frame and of its content, and their hashes.

    A volume is three planes through the middle of its content, one along each axis.
    """

    thumbnails: np.ndarray  # uint8 (2, views, SIDE, SIDE)
    hashes: np.ndarray  # uint64 (2, 4 views): 255 bits for each view


def look_of(pixels: np.ndarray) -> Look | None:
    """The look of native pixels (C, H, W) or (C, D, H, W), any intensities; channels of NaN are left out.

    None where there is too little to compare: no contrast, fewer than 16 pixels on a side, or nothing but a ramp.
    """
    gray = _gray(pixels)
    if gray is None or min(gray.shape) < SMALLEST:
        return None
    content = _content(gray)
    if any(high - low < LEAST for low, high in content):
        return None
    thumbnails = []
    for box in ([(-0.5, side - 0.5) for side in gray.shape], content):
        views = [_resampled(view, where) for view, where in _views(gray, box)]
        thumbnails.append([_eight_bits(view) for view in views])
    kept = np.array(thumbnails)
    if _detail_share(kept) < DETAIL:
        return None
    return Look(kept, np.array([np.concatenate([_hash(view) for view in views]) for views in kept]))


def likely_copies(one: Sequence[Look], other: Sequence[Look], bits: int = NEAR_BITS) -> np.ndarray:
    """(n, 3): the indices of pairs of which the hashes of frames or of contents differ in few bits, and in how many of
    255, the mean of a volume's views; in order."""
    if not one or not other:
        return np.empty((0, 3), dtype=np.intp)
    found = []
    for views in sorted({look.hashes.shape[1] for look in one}):  # pictures with pictures, volumes with volumes
        left, right = ([i for i, look in enumerate(looks) if look.hashes.shape[1] == views] for looks in (one, other))
        if not right:
            continue
        those = np.stack([other[j].hashes for j in right])
        room = max(1, 2**22 // those.size)
        for start in range(0, len(left), room):
            these = np.stack([one[i].hashes for i in left[start : start + room]])
            differing = _set_bits(these[:, None] ^ those[None]).min(axis=-1)
            rows, columns = np.nonzero(differing <= bits * views // 4)
            each = differing[rows, columns] * 4 // views
            found.append(np.stack([np.take(left, rows + start), np.take(right, columns), each], axis=-1))
    return np.concatenate(found) if found else np.empty((0, 3), dtype=np.intp)


def likenesses(pairs: Sequence[tuple[Look, Look]]) -> np.ndarray:
    """Correlation of the fine detail of each pair after alignment, -1 to 1: the better of frame and content."""
    scores = np.zeros(len(pairs))
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        for shape in {one.thumbnails.shape for one, _ in batch}:
            places = [i for i, (one, two) in enumerate(batch) if one.thumbnails.shape == shape == two.thumbnails.shape]
            one, two = (np.stack([batch[i][side].thumbnails for i in places]) for side in (0, 1))
            flat = (-1, SIDE, SIDE)
            each = _detail_correlation(one.reshape(flat).astype(np.float32), two.reshape(flat).astype(np.float32))
            scores[np.add(places, start)] = each.reshape(len(places), 2, -1).mean(axis=-1).max(axis=-1)
    return scores


def mirrored_likeness(look: Look) -> float:
    """Correlation, -1 to 1, of a picture's content with its left-right mirror image, aligned: heads seen from above or
    in front are about symmetric (0.5 to 1), from the side they are not (0.1 to 0.7)."""
    content = look.thumbnails[1].astype(np.float32)
    inner = (slice(None), slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    mirrored = _aligned(content, np.ascontiguousarray(content[..., ::-1]))
    return float(_correlation(content[inner], mirrored[inner]).mean())


def shape_of_content(pixels: np.ndarray) -> tuple[float, float] | None:
    """Height and width in pixels of what is in a picture (C, H, W); None without contrast."""
    gray = _gray(pixels)
    if gray is None:
        return None
    scale = [side / now for side, now in zip(pixels.shape[1:], gray.shape, strict=True)]
    height, width = ((high - low) * by for (low, high), by in zip(_content(gray), scale, strict=True))
    return height, width


def traits_of(look: Look) -> np.ndarray:
    """float32 numbers from 0 to 1 by which contrasts differ: brightness shared out over what is in an image, and over
    its places. Native intensities have no part in it."""
    traits = []
    for view in look.thumbnails[1].astype(np.float32) / 255:
        border = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
        inside = view[np.abs(view - np.median(border)) > 0.1]
        quantiles = np.percentile(inside if inside.size > 200 else view, np.arange(5, 100, 5))
        places = view.reshape(8, SIDE // 8, 8, SIDE // 8).mean(axis=(1, 3))
        traits += [quantiles, places.ravel()]
    return np.concatenate(traits).astype(np.float32)


def _gray(pixels: np.ndarray) -> np.ndarray | None:
    """The mean of the channels, each from 0 to 1 between its 1st and 99.5th percentile, averaged down to 128 pixels or
    more on each side; None without contrast."""
    total, count = np.float32(0), 0
    for channel in pixels:
        small = _averaged(channel)
        low, high = np.percentile(small, [1, 99.5])
        if not high > low:  # of small things on a large background
            low, high = small.min(), small.max()
        if np.isfinite(low) and high > low:
            scaled = (small - np.float32(low)) * np.float32(1 / (high - low))
            total, count = total + np.clip(scaled, 0, 1, out=scaled), count + 1
    return total / np.float32(count) if count else None


def _averaged(channel: np.ndarray) -> np.ndarray:
    factors = [max(1, side // ENOUGH) for side in channel.shape]
    for axis, factor in enumerate(factors):
        if factor > 1:
            whole = np.moveaxis(channel, axis, 0)[: channel.shape[axis] // factor * factor]
            channel = np.moveaxis(sum(whole[start::factor] for start in range(factor)) / np.float32(factor), 0, axis)
    return channel


def _content(gray: np.ndarray) -> list[tuple[float, float]]:
    """Where most of what differs from the background lies along each axis, in pixels and with a margin of 6 %."""
    faces = [np.take(gray, end, axis).ravel() for axis in range(gray.ndim) for end in (0, -1)]
    differs = np.abs(gray - np.median(np.concatenate(faces))) > 0.15
    box = []
    for axis in range(gray.ndim):
        along = differs.sum(axis=tuple(other for other in range(gray.ndim) if other != axis), dtype=np.float64)
        share = np.concatenate([[0], np.cumsum(along)]) / max(along.sum(), 1)
        # Shares of the content, not its outermost pixels: noise and letters at the border would move those.
        low, high = np.interp([0.01, 0.99], share, np.arange(len(share)) - 0.5) if along.any() else (0.0, 0.0)
        margin = 0.06 * (high - low)
        box.append((low - margin, high + margin))
    return box


def _views(gray: np.ndarray, box: list[tuple[float, float]]) -> list[tuple[np.ndarray, list[tuple[float, float]]]]:
    """Planes to look at, each with its part of the box: a picture itself, three planes through a volume's middle."""
    if gray.ndim == 2:
        return [(gray, box)]
    views = []
    for axis in range(3):
        middle = np.clip(sum(box[axis]) / 2, 0, gray.shape[axis] - 1)
        below = min(int(middle), gray.shape[axis] - 2)
        plane = np.take(gray, below, axis) * (below + 1 - middle) + np.take(gray, below + 1, axis) * (middle - below)
        views.append((plane, [box[other] for other in range(3) if other != axis]))
    return views


def _resampled(plane: np.ndarray, box: list[tuple[float, float]]) -> np.ndarray:
    """SIDE x SIDE pixels of a box; outside the plane its edge goes on."""
    rows, columns = (_weights(low, high, side) for (low, high), side in zip(box, plane.shape, strict=True))
    return rows @ plane @ columns.T


def _weights(low: float, high: float, side: int) -> np.ndarray:
    """float32 (SIDE, side): linear interpolation, widened where it makes things smaller, so that nothing is skipped."""
    step = (high - low) / SIDE
    centres = np.clip(low + (np.arange(SIDE) + 0.5) * step, 0, side - 1)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(side)) / max(1.0, step))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _eight_bits(view: np.ndarray) -> np.ndarray:
    low, high = view.min(), view.max()
    return np.round((view - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def _detail_share(thumbnails: np.ndarray) -> float:
    """Detail beside contrast, by standard deviations, the least of frame and content; away from the edge."""
    inner = (..., slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    pixels = thumbnails.astype(np.float32)
    detail, whole = (part[inner].std(axis=(-2, -1)).mean(axis=-1) for part in (_detail(pixels), pixels))
    return float((detail / np.maximum(whole, 1e-6)).min())


def _hash(thumbnail: np.ndarray) -> np.ndarray:
    """uint64 (4): which of the low frequencies, without the mean, are above their median."""
    from scipy.fft import dctn  # translating needs this module's neighbours, and none of scipy

    low = dctn(_halved(thumbnail[None])[0], norm="ortho")[:COARSE, :COARSE].ravel()[1:]
    return np.packbits(np.append(low > np.median(low), False)).view(np.uint64)


def _set_bits(words: np.ndarray) -> np.ndarray:
    """How many bits are set in the last axis of uint64."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(words).sum(axis=-1, dtype=np.int32)
    return _BITS[np.ascontiguousarray(words).view(np.uint8)].sum(axis=-1, dtype=np.int32)


_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


def _detail(thumbnails: np.ndarray) -> np.ndarray:
    """What is finer than about 5 pixels."""
    from scipy.ndimage import gaussian_filter

    sigma = (0,) * (thumbnails.ndim - 2) + (2.0, 2.0)
    return thumbnails - gaussian_filter(thumbnails, sigma, truncate=3.0)


def _detail_correlation(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(n) correlations of detail of float32 (n, SIDE, SIDE) each, the second aligned with the first."""
    inner = (slice(None), slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    return _correlation(_detail(one)[inner], _detail(_aligned(one, two))[inner])


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n) correlations of (n, rows, columns) each."""
    parts = [part.reshape(len(part), -1) for part in (one, other)]
    parts = [part - part.mean(axis=1, keepdims=True) for part in parts]
    norm = np.sqrt((parts[0] ** 2).sum(axis=1) * (parts[1] ** 2).sum(axis=1))
    return (parts[0] * parts[1]).sum(axis=1) / np.maximum(norm, 1e-6)


def _aligned(one: np.ndarray, two: np.ndarray, steps: int = 5) -> np.ndarray:
    """The second images shifted and stretched along both axes until they differ least from the first: Gauss-Newton
    over shift, stretch, gain and offset, at half the size."""
    target, small = _halved(one), _halved(two)
    place = _places(SIDE // 2)
    moved = np.zeros((len(one), 4), dtype=np.float32)  # shift of rows and columns, stretch of rows and columns
    for _ in range(steps):
        warped = _warped(small, moved, place)
        down, across = np.gradient(warped, axis=(1, 2))
        slopes = [down, across, down * place[:, None], across * place, warped, np.ones_like(warped)]
        system = np.stack(slopes, axis=1).reshape(len(one), 6, -1)
        square = system @ system.transpose(0, 2, 1) + 1e-3 * np.eye(6, dtype=np.float32)
        wanted = system @ target.reshape(len(one), -1, 1)
        solved = np.linalg.solve(square.astype(np.float64), wanted.astype(np.float64))[..., 0]
        gain = np.where(np.abs(solved[:, 4:5]) > 0.1, solved[:, 4:5], 1)
        moved += np.clip(solved[:, :4] / gain, [-1, -1, -0.05, -0.05], [1, 1, 0.05, 0.05]).astype(np.float32)
    return _warped(two, moved * np.float32([2, 2, 1, 1]), _places(SIDE))


def _halved(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))


def _places(side: int) -> np.ndarray:
    """Where pixels are, from the middle."""
    return np.arange(side, dtype=np.float32) - (side - 1) / 2


def _warped(images: np.ndarray, moved: np.ndarray, place: np.ndarray) -> np.ndarray:
    rows, columns = (
        np.clip(place * (1 + moved[:, 2 + axis, None]) + moved[:, axis, None], place[0], place[-1]) for axis in (0, 1)
    )
    down, across = (np.maximum(0, 1 - np.abs(at[:, :, None] - place)) for at in (rows, columns))
    return down @ images @ across.transpose(0, 2, 1)
