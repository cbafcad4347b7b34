"""Near duplicates: exact and near copies of images, by a correlation of thumbnails, and how a split
treats them.

Every image has two thumbnails of 32 x 32: its whole frame, and the part that differs from the
background. Copies are images whose fine detail correlates in either, even if they were saved again,
rescaled in intensity or size, shifted, given another margin, mirrored or turned by 90 degrees.
Measured correlations:

* changed copies: 0.978 to 1
* neighbouring slices of a CT: 0.973
* T1 and T2 of one slice: 0.73
* slices of different real patients: at most 0.62 (MR) and 0.70 (CT)
* the same slice of two phantoms: at most 0.71

Of 57 real slices, changed in eight ways, this finds 98 % of the copies without a false alarm; the
perceptual hash of imagehash 66 % (7 % of shifted copies, 3 % of those with another margin). Of 189
mirrored or turned ones, also saved as JPEG, with noise or at 80 % of the size, it finds 99 %; in ten
folders of real images no more images than without are taken for copies.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from gantk.data.look import content_box
from gantk.data.preparation import Preparation, Record
from gantk.data.spread import spread
from gantk.files import sha256_of
from gantk.formats.files import is_volume

THUMBNAIL_SIDE = 32  # pixels of a thumbnail's side
MAX_REDUCED_SIDE = 128  # pixels of a side, to which larger images are averaged down first
MIN_IMAGE_SIDE = 16  # pixels; in smaller images everything looks alike
MIN_CONTENT_SIDE = 10  # pixels of the part that is not background
# least share of a thumbnail's contrast that is detail; ramps and blurs have nothing to compare
MIN_DETAIL_SHARE = 0.02
EDGE_PIXELS = 2  # pixels at a thumbnail's edge that are not compared
COPY_CORRELATION = 0.92  # correlation above which images of different known patients are copies ...
COPY_CORRELATION_OF_UNKNOWN = 0.975  # ... and where a patient is unknown
NEIGHBOUR_CORRELATION = 0.8  # above which images of different names may be of one scan
MIN_SHARE_OF_NEIGHBOURS = 0.1  # of the test images; fewer may be chance
MAX_SAMPLED_NEIGHBOURS = (
    64  # neighbours of a stack that are compared to measure how alike its slices are
)
IMAGES_PER_BLOCK = 512  # images compared with all others at once
MAX_ALL_COMPARED = 20_000  # images of a set of which the pixels of all are compared
SAMPLE_OF_LARGE_SET = 2_000  # images of a larger set of which the pixels are compared
DIGEST_BYTES = 32  # bytes of a SHA-256
SETS = ("train", "validation", "test")  # from least to most held out
Sets = dict[str, list[Record]]
_last_call: dict[str, Any] = {"digests": None}  # arguments and result of `_similar_pairs`


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of one image to find copies of it: a hash of its pixels and thumbnails."""

    name: str
    digest: str | None  # of shape and pixels; None for images without contrast
    # uint8 (2, views, 32, 32): frame and content; None where too little is to be seen
    thumbnails: np.ndarray | None
    subject: str = ""  # patient; "" where unknown
    stack: Hashable = None  # group of images in which neighbours may be slices of one scan
    position: float | None = None  # its place in the stack
    usual: float | None = None  # how alike neighbours in its stack are; None: not known yet


def fingerprint_of(name: str, pixels: np.ndarray, near: bool = True) -> Fingerprint:
    """The fingerprint of pixels (C, *spatial); without thumbnails where `near` is false."""
    if not np.nanmin(pixels) < np.nanmax(pixels):
        return Fingerprint(name, None, None)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Fingerprint(name, digest.hexdigest(), thumbnails(pixels) if near else None)


def fingerprint(
    record: Record, near: bool = True, preparation: Preparation | None = None
) -> Fingerprint:
    """The fingerprint of a record; with a cached `preparation`, records that an earlier run has
    read are not read.

    The network image is then prepared and cached too, so that the first epoch decodes nothing
    again.
    """
    row = None
    if preparation is not None and near:
        row = preparation.from_cache("fingerprints", record, _fingerprint_bytes)
    if preparation is None or row is None:
        return place_fingerprint(fingerprint_of(record.key, record.read(), near), record)

    preparation.to_size(record)
    digest = row[:DIGEST_BYTES]
    images = row[DIGEST_BYTES:].reshape(2, -1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    known = Fingerprint(
        record.key,
        digest.tobytes().hex() if digest.any() else None,
        images if images.any() else None,
    )
    return place_fingerprint(known, record)


def _fingerprint_bytes(record: Record) -> np.ndarray:
    """Digest and thumbnails as bytes; zeros where there are none."""
    one = fingerprint(record)
    content = b"" if one.thumbnails is None else one.thumbnails.tobytes()
    return np.frombuffer(
        (bytes.fromhex(one.digest) if one.digest else bytes(DIGEST_BYTES)) + content, np.uint8
    )


def place_fingerprint(fingerprint: Fingerprint, record: Record) -> Fingerprint:
    """A fingerprint with the key, patient, stack and position of a record."""
    stack = record.domain, record.label
    return replace(
        fingerprint, name=record.key, subject=record.subject, stack=stack, position=record.position
    )


# --- thumbnails


def thumbnails(pixels: np.ndarray) -> np.ndarray | None:
    """uint8 (2, views, 32, 32) of pixels (C, H, W) or (C, D, H, W), any intensities: whole frame,
    content.

    A volume has three views, the planes through the middle along each axis; channels of NaN are
    left out. None where there is too little to compare: no contrast, fewer than 16 pixels on a
    side, or nothing but a ramp.
    """
    gray = _gray(pixels)
    if gray is None or min(gray.shape) < MIN_IMAGE_SIDE:
        return None

    content = content_box(gray)
    if any(high - low < MIN_CONTENT_SIDE for low, high in content):
        return None

    frame: list[tuple[float, float]] = [(0, side) for side in gray.shape]
    images = np.array(
        [[_thumbnail(*view) for view in _views(gray, box)] for box in (frame, content)]
    )
    inner = images[..., EDGE_PIXELS:-EDGE_PIXELS, EDGE_PIXELS:-EDGE_PIXELS].astype(np.float32)
    share = _high_pass(images).std(axis=(-2, -1)) / np.maximum(inner.std(axis=(-2, -1)), 1e-6)
    return images if share.mean(axis=1).min() >= MIN_DETAIL_SHARE else None


def _gray(pixels: np.ndarray) -> np.ndarray | None:
    """The mean of the channels, each from 0 to 1 between its 1st and 99.5th percentile, averaged
    down to 128 pixels or more on each side; None without contrast.
    """
    channels = []
    factors = [max(1, side // MAX_REDUCED_SIDE) for side in pixels.shape[1:]]
    for channel in pixels:
        small: np.ndarray = channel.astype(np.float32)
        if max(factors) > 1:
            from torch import from_numpy, nn

            pool = nn.functional.avg_pool2d if pixels.ndim == 3 else nn.functional.avg_pool3d
            small = pool(from_numpy(small)[None], factors)[0].numpy()

        low, high = np.percentile(small, [1, 99.5])
        if not high > low:  # small things on a large background
            low = small.min()
            high = small.max()
        if np.isfinite(low) and high > low:
            channels.append(((small - low) / (high - low)).clip(0, 1))

    return np.stack(channels).mean(axis=0, dtype=np.float32) if channels else None


def _views(
    gray: np.ndarray, box: list[tuple[float, float]]
) -> Iterator[tuple[np.ndarray, list[tuple[float, float]]]]:
    """Yield planes with their part of the box: a picture itself; three planes through the middle of
    a volume's box.
    """
    if gray.ndim == 2:
        yield gray, box
        return

    for axis in range(3):
        middle = np.clip(sum(box[axis]) / 2 - 0.5, 0, gray.shape[axis] - 1)
        below = min(int(middle), gray.shape[axis] - 2)
        plane = np.take(gray, below, axis) * (below + 1 - middle) + np.take(
            gray, below + 1, axis
        ) * (middle - below)
        yield plane, [box[other] for other in range(3) if other != axis]


def _thumbnail(plane: np.ndarray, box: list[tuple[float, float]]) -> np.ndarray:
    """The box of a plane as 32 x 32 pixels of 8 bits, averaged where it is larger."""
    from PIL import Image

    (top, bottom), (left, right) = box
    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    small = np.asarray(
        picture.resize(
            (THUMBNAIL_SIDE, THUMBNAIL_SIDE),
            Image.Resampling.BILINEAR,
            box=(left, top, right, bottom),
        )
    )
    return np.round((small - small.min()) * (255 / max(np.ptp(small), 1e-12))).astype(np.uint8)


def _high_pass(images: np.ndarray) -> np.ndarray:
    """Thumbnails without what is coarser than about 3 of their pixels, and without their edge."""
    # here, since translating imports this module without scipy
    from scipy.ndimage import gaussian_filter

    pixels = images.astype(np.float32)
    return (pixels - gaussian_filter(pixels, 1, axes=(-2, -1)))[
        ..., EDGE_PIXELS:-EDGE_PIXELS, EDGE_PIXELS:-EDGE_PIXELS
    ]


def _detail(images: np.ndarray) -> np.ndarray:
    """float32 (..., 4, n) of thumbnails, whose dot products are the mean correlation of the views'
    detail: of frame and content as they are, and of both turned upright.
    """
    detail = _high_pass(images)
    detail -= detail.mean(axis=(-2, -1), keepdims=True)
    detail /= np.maximum(np.linalg.norm(detail, axis=(-2, -1), keepdims=True), 1e-6)
    both = np.concatenate([detail, _upright(detail)], axis=-4)
    return both.reshape(*both.shape[:-3], -1) / np.float32(np.sqrt(images.shape[-3]))


def _upright(detail: np.ndarray) -> np.ndarray:
    """Each image (..., n, n) mirrored and turned by 90 degrees so that all eight versions of one
    become the same: the strongest detail is at the top, at the left, and rather at the top.
    """
    places = np.arange(detail.shape[-1]) - (detail.shape[-1] - 1) / 2
    strength = np.abs(detail) ** 3  # noise counts less
    down = (strength.sum(axis=-1) * places).sum(axis=-1)[..., None, None]
    right = (strength.sum(axis=-2) * places).sum(axis=-1)[..., None, None]
    upright = np.where(down > 0, detail[..., ::-1, :], detail)
    upright = np.where(right > 0, upright[..., ::-1], upright)
    return np.where(np.abs(right) > np.abs(down), upright.swapaxes(-2, -1), upright)


# --- which images are copies


def near_copies(images: Sequence[Fingerprint]) -> list[tuple[int, int, float]]:
    """Pairs of near copies, the first index smaller, with their correlation; in order. Exact copies
    are not among them.

    Images of one known patient are never copies, because slices of one scan are similar. Images of
    different patients are copies above a correlation of 0.92. Images of unknown patients are copies
    above 0.975, if they are clearly more similar than neighbouring slices.
    """
    likeness = {one.stack: one.usual for one in images if one.usual is not None}

    def stands_out(one: Fingerprint, other: Fingerprint, score: float) -> bool:
        stacks = {each.stack for each in (one, other) if not each.subject}
        likeness.update(
            {stack: _neighbours_likeness(images, stack) for stack in stacks - likeness.keys()}
        )
        return all(1 - score <= (1 - likeness[stack]) / 3 for stack in stacks)

    copies = []
    for i, j, score in _alike(images):
        first = images[i]
        second = images[j]
        known = first.subject and second.subject
        least = COPY_CORRELATION if known else COPY_CORRELATION_OF_UNKNOWN
        if score >= least and stands_out(first, second, score):
            copies.append((i, j, score))

    return sorted(copies)


def _alike(images: Sequence[Fingerprint]) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of images, the first index smaller, that are not of one known patient, and whose
    detail correlates as that of neighbouring slices.
    """
    places: dict[str, list[int]] = defaultdict(list)
    thumbnails_of: dict[str, np.ndarray] = {}
    for n, image in enumerate(images):
        if image.thumbnails is not None and image.digest is not None:
            places[image.digest].append(n)
            thumbnails_of.setdefault(image.digest, image.thumbnails)

    for one, other, score in _similar_pairs(thumbnails_of):
        for i, j in (sorted(pair) for pair in product(places[one], places[other])):
            if not images[i].subject or images[i].subject != images[j].subject:
                yield i, j, score


def like_training(
    splits: Mapping[str, Sequence[Record]], fingerprints: Mapping[tuple[str, str], Fingerprint]
) -> int:
    """How many test images look like the neighbouring slice of a training image of another, or an
    unknown, patient; 0 for so few that it may be chance. In a split by blocks, which keeps slices
    apart, they are as similar as neighbours in the order of the files.

    Measured shares: 0.18 to 0.9 where slices of one scan are in both sets, 0 where no patient is.
    """
    by_block = getattr(splits, "by", "") == "block"
    records = [(name, record.id) for name in SETS for record in splits.get(name, ())]
    seen = [(name, fingerprints[key]) for name, key in records if key in fingerprints]
    alike = set()
    for i, j, score in _alike([image for _, image in seen]):
        side, image = seen[j]
        is_apart = by_block and score < (image.usual or 0)
        if (seen[i][0], side) == ("train", "test") and not is_apart:
            alike.add(j)

    tested = sum(name == "test" for name, _ in records)
    return len(alike) if len(alike) >= MIN_SHARE_OF_NEIGHBOURS * tested else 0


def _similar_pairs(thumbnails: Mapping[str, np.ndarray]) -> list[tuple[str, str, float]]:
    """Pairs of digests whose thumbnails' detail correlates, with the score. The last result is
    kept, since a split, its check and the list of copies compare the same images.
    """
    if thumbnails.keys() == _last_call["digests"]:
        return _last_call["alike"]

    pairs = []
    for shape in {each.shape for each in thumbnails.values()}:  # pictures only with pictures
        names = [name for name, each in thumbnails.items() if each.shape == shape]
        parts = (
            names[start : start + IMAGES_PER_BLOCK]
            for start in range(0, len(names), IMAGES_PER_BLOCK)
        )
        detail = np.concatenate(
            [_detail(np.stack([thumbnails[name] for name in part])) for part in parts]
        )
        for start in range(0, len(names), IMAGES_PER_BLOCK):
            block = detail[start : start + IMAGES_PER_BLOCK]
            scores = np.max(
                [block[:, k] @ detail[start:, k].T for k in range(detail.shape[1])], axis=0
            )
            rows, columns = np.nonzero(scores >= NEIGHBOUR_CORRELATION)
            alike = zip(rows, columns, scores[rows, columns].tolist(), strict=True)
            pairs += [(names[start + i], names[start + j], score) for i, j, score in alike if i < j]

    _last_call.update(digests={*thumbnails}, alike=pairs)
    return pairs


def _neighbours_likeness(images: Sequence[Fingerprint], stack: Hashable) -> float:
    """How alike neighbouring slices in a stack of unknown patients are: the upper quartile of their
    correlations.

    Low where its images have no order, such as pictures collected from the web.
    """
    placed = []
    for one in images:
        if one.thumbnails is None or one.position is None:
            continue
        if not one.subject and one.stack == stack:
            placed.append((one.position, one.digest, one.thumbnails))

    ordered = sorted(placed, key=lambda each: each[0])
    neighbours = []
    for (_, digest, first), (_, other_digest, second) in pairwise(ordered):
        if digest != other_digest and first.shape == second.shape:
            neighbours.append((first, second))

    pairs = spread(neighbours, MAX_SAMPLED_NEIGHBOURS)
    scores = [(_detail(first) * _detail(second)).sum(axis=1).max() for first, second in pairs]
    return float(np.percentile(scores, 75)) if scores else 0.0


# --- how a split treats copies


def sample_indices(keys: Sequence[str]) -> list[int]:
    """The indices of images whose pixels are compared: all up to MAX_ALL_COMPARED, else
    SAMPLE_OF_LARGE_SET, by a hash of their keys.
    """
    if len(keys) <= MAX_ALL_COMPARED:
        return list(range(len(keys)))
    by_hash = sorted(range(len(keys)), key=lambda n: crc32(keys[n].encode()))
    return sorted(by_hash[:SAMPLE_OF_LARGE_SET])


def fingerprints_of_unknown(
    records: Sequence[Record], known: dict[tuple[str, str], Fingerprint]
) -> list[Fingerprint]:
    """Fingerprints of images from files without known patients, each read once and added to
    `known`; [] if any patient is known.

    Fingerprints of images that are not `sample_indices` are empty, and not added.
    """
    if any(record.subject or not record.files for record in records):
        return []

    chosen = set(sample_indices([record.key for record in records]))
    empty = Fingerprint("", None, None)
    images = [
        known.get(r.id) or (fingerprint(r) if n in chosen else place_fingerprint(empty, r))
        for n, r in enumerate(records)
    ]
    likeness = {
        stack: _neighbours_likeness(images, stack) for stack in {one.stack for one in images}
    }
    images = [replace(one, usual=likeness[one.stack]) for one in images]
    known |= {r.id: one for r, one in zip(records, images, strict=True) if one.digest}
    return images


def exact_copies(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Pairs of records whose files hold the same bytes (of volumes, the same plane): the index of
    the first such record and the index of each later one.

    Files of a size that no other file has are not read.
    """
    digest_of = _digests({path for record in records for path in record.files})
    pairs: list[tuple[int, int]] = []
    firsts: dict[Hashable, int] = {}
    for number, record in enumerate(records):
        if not record.files or not all(path in digest_of for path in record.files):
            continue
        digests = tuple(digest_of[path] for path in record.files)
        is_plane = record.scan_key or is_volume(record.files[0])
        first = firsts.setdefault((digests, record.position if is_plane else None), number)
        if first != number:
            pairs.append((first, number))

    return pairs


def _digests(paths: set[Path]) -> dict[Path, str]:
    """The digest of each file that has another one's size."""
    sizes = {path: os.stat(path).st_size for path in paths}
    count = Counter(sizes.values())
    return {path: sha256_of(path) for path, size in sizes.items() if count[size] > 1}


def unit_of(record: Record) -> tuple[str, str]:
    """The unit that a split by image never divides: a registered pair, or one image."""
    return ("pair", record.pair) if record.pair is not None else record.id


def first_of_copies(
    records: Sequence[Record], pairs: Iterable[tuple[int, int]]
) -> dict[Hashable, Hashable]:
    """By unit, the unit that represents its copies, direct or through other copies."""
    first: dict[Hashable, Hashable] = {}

    def root(name: Hashable) -> Hashable:
        while first.get(name, name) != name:
            name = first[name]
        return name

    for i, j in pairs:
        one = root(unit_of(records[i]))
        other = root(unit_of(records[j]))
        first |= {one: one, other: one}

    return {name: root(name) for name in first}


def settle_copies(
    places: Sequence[str],
    records: Sequence[Record],
    pairs: Sequence[tuple[int, int]],
    *,
    drop: bool,
) -> Sets:
    """The sets of records by their `places`; copies, and the images that are registered with them,
    move to the most held-out set that holds any of them, or with `drop` are left out of all others.

    Where a set would lose a whole domain, all stay: `check_leakage` refuses such data.
    """
    first = first_of_copies(records, pairs)
    groups = [first.get(unit_of(record)) for record in records]
    most: dict[Hashable, str] = {}
    for group, place in zip(groups, places, strict=True):
        if group and place:
            most[group] = max(most.get(group, place), place, key=SETS.index)

    settled = []
    for group, place in zip(groups, places, strict=True):
        target = most.get(group, place) if place else ""
        settled.append("" if drop and target != place else target)

    old = _sets_of(places, records)
    new = _sets_of(settled, records)
    lost = [name for name in SETS if {r.domain for r in new[name]} != {r.domain for r in old[name]}]
    return old if lost else new


def _sets_of(places: Sequence[str], records: Sequence[Record]) -> Sets:
    """Records by set; those without one ("") are left out."""
    return {
        name: [r for r, place in zip(records, places, strict=True) if place == name]
        for name in SETS
    }
