"""Near duplicates: exact and near copies of images, by a correlation of thumbnails, and how a split treats them.

Every image is kept as two thumbnails of 32 x 32: its whole frame, and what differs from the background. Copies are
images whose fine detail correlates in either, so that they are found when they were saved again, rescaled in intensity
or size, shifted, or given another margin. Measured: changed copies 0.978 to 1, at most 0.71 the same slice of another
phantom, 0.62 (MR) and 0.70 (CT) slices of other real patients, 0.73 T1 and T2 of one slice, 0.973 neighbours in a CT.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from gantk.data.preparation import Preparation, Record
from gantk.formats.files import is_volume

SIDE = 32  # pixels of a thumbnail's side
ENOUGH = 128  # pixels of a side from which on images are averaged down before anything else
SMALLEST = 16  # pixels of an image's side ...
LEAST = 10  # ... and of its content's, below which everything looks alike
DETAIL = 0.02  # share of a thumbnail's contrast that is detail, below which there is nothing to compare: ramps, blurs
EDGE = 2  # pixels at a thumbnail's edge that are not compared
COPY = 0.92  # correlation above which images of different known patients are copies ...
COPY_OF_UNKNOWN = 0.975  # ... and where a patient is unknown
SAMPLED = 64  # neighbours of a stack that are compared to know how alike its slices are
BLOCK = 512  # images compared with all others at once
DIGEST = 32  # bytes of a SHA-256
HELD_OUT_FIRST = ("test", "validation", "train")

Sets = dict[str, list[Record]]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of one image to find copies of it: a hash of its pixels and thumbnails."""

    name: str
    digest: str | None  # of shape and pixels; None for images without contrast
    thumbnails: np.ndarray | None  # uint8 (2, views, 32, 32): frame and content; None where too little is to be seen
    subject: str = ""  # patient; "" where unknown
    stack: Hashable = None  # images among which neighbours may be slices of one scan
    position: float | None = None  # its place in the stack
    group: Hashable = None  # the set that it belongs to
    usual: float | None = None  # how alike neighbours in its stack are; None: not known yet


Known = Mapping[tuple[str, str], Fingerprint]  # by domain and key of a record


def fingerprint_of(name: str, pixels: np.ndarray, near: bool = True) -> Fingerprint:
    """The fingerprint of pixels (C, *spatial); without thumbnails where `near` is false."""
    if not np.nanmin(pixels) < np.nanmax(pixels):
        return Fingerprint(name, None, None)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Fingerprint(name, digest.hexdigest(), thumbnails(pixels) if near else None)


def fingerprint(record: Record, group: Hashable = None, near: bool = True) -> Fingerprint:
    """The fingerprint of a record, which is read once."""
    return _placed(fingerprint_of(record.key, record.read(), near), record, group)


def cached_fingerprint(
    preparation: Preparation, record: Record, group: Hashable = None, near: bool = True
) -> Fingerprint:
    """`fingerprint`, decoded from the record's file only where no earlier run has.

    The image that the networks see is brought to size on the way, so that a first epoch decodes nothing again.
    """
    row = preparation.kept("thumbnails", record, lambda one: _packed(fingerprint(one))) if near else None
    if row is None:
        return fingerprint(record, group, near)
    preparation.to_size(record)
    digest = row[2 : 2 + DIGEST].tobytes().hex() if row[0] else None
    kept = row[2 + DIGEST :].reshape(2, -1, SIDE, SIDE) if row[1] else None
    return _placed(Fingerprint(record.key, digest, kept), record, group)


def _placed(one: Fingerprint, record: Record, group: Hashable) -> Fingerprint:
    stack = record.domain, record.label
    return replace(one, subject=record.subject, stack=stack, position=record.position, group=group)


def _packed(one: Fingerprint) -> np.ndarray:
    """Digest and thumbnails as bytes; as many for every image with as many views, as all of one file have."""
    digest = bytes.fromhex(one.digest) if one.digest else bytes(DIGEST)
    kept = b"" if one.thumbnails is None else one.thumbnails.tobytes()
    return np.frombuffer(bytes([one.digest is not None, len(kept) > 0]) + digest + kept, np.uint8)


# --- thumbnails


def thumbnails(pixels: np.ndarray) -> np.ndarray | None:
    """uint8 (2, views, 32, 32) of pixels (C, H, W) or (C, D, H, W), any intensities: whole frame, content.

    A volume has three views, the planes through the middle along each axis; channels of NaN are left out. None where
    there is too little to compare: no contrast, fewer than 16 pixels on a side, or nothing but a ramp.
    """
    gray = _gray(pixels)
    if gray is None or min(gray.shape) < SMALLEST:
        return None
    content = _content(gray)
    if any(high - low < LEAST for low, high in content):
        return None
    frame = [(0, side) for side in gray.shape]
    kept = np.array([[_thumbnail(*view) for view in _views(gray, box)] for box in (frame, content)])
    inner = kept[..., EDGE:-EDGE, EDGE:-EDGE].astype(np.float32)
    share = _high_pass(kept).std(axis=(-2, -1)) / np.maximum(inner.std(axis=(-2, -1)), 1e-6)
    return kept if share.mean(axis=1).min() >= DETAIL else None


def content_size(pixels: np.ndarray) -> tuple[float, float] | None:
    """Height and width, as shares of the sides of a picture (C, H, W), of what is in it; None without contrast."""
    gray = _gray(pixels)
    if gray is None:
        return None
    height, width = ((high - low) / side for (low, high), side in zip(_content(gray), gray.shape, strict=True))
    return height, width


def _gray(pixels: np.ndarray) -> np.ndarray | None:
    """The mean of the channels, each from 0 to 1 between its 1st and 99.5th percentile, averaged down to 128 pixels or
    more on each side; None without contrast."""
    import torch
    from torch.nn.functional import avg_pool2d, avg_pool3d

    channels, pool = [], avg_pool2d if pixels.ndim == 3 else avg_pool3d
    for channel in pixels:
        factors = [max(1, side // ENOUGH) for side in channel.shape]
        small = pool(torch.from_numpy(np.float32(channel))[None], factors)[0].numpy()
        low, high = np.percentile(small, [1, 99.5])
        if not high > low:  # small things on a large background
            low, high = small.min(), small.max()
        if np.isfinite(low) and high > low:
            channels.append(((small - low) / (high - low)).clip(0, 1))
    return np.mean(channels, axis=0, dtype=np.float32) if channels else None


def _content(gray: np.ndarray) -> list[tuple[float, float]]:
    """Where 98 % of the difference from the background lies along each axis, in pixels: not its outermost pixels, which
    noise and letters at the border would move."""
    faces = [np.take(gray, end, axis).ravel() for axis in range(gray.ndim) for end in (0, -1)]
    differs = np.abs(gray - np.median(np.concatenate(faces)))
    differs[differs < 0.1] = 0
    box = []
    for axis in range(gray.ndim):
        along = differs.sum(axis=tuple(other for other in range(gray.ndim) if other != axis))
        share = np.concatenate([[0], np.cumsum(along)]) / max(along.sum(), 1)
        low, high = np.interp([0.01, 0.99], share, np.arange(len(share))) if along.any() else (0, 0)
        box.append((float(low), float(high)))
    return box


def _views(gray: np.ndarray, box: list[tuple[float, float]]) -> Iterator[tuple[np.ndarray, list[tuple[float, float]]]]:
    """Planes, each with its part of the box: a picture itself, three planes through the middle of a volume's box."""
    if gray.ndim == 2:
        yield gray, box
        return
    for axis in range(3):
        middle = np.clip(sum(box[axis]) / 2 - 0.5, 0, gray.shape[axis] - 1)
        below = min(int(middle), gray.shape[axis] - 2)
        plane = np.take(gray, below, axis) * (below + 1 - middle) + np.take(gray, below + 1, axis) * (middle - below)
        yield plane, [box[other] for other in range(3) if other != axis]


def _thumbnail(plane: np.ndarray, box: list[tuple[float, float]]) -> np.ndarray:
    """The box of a plane as 32 x 32 pixels of 8 bits, averaged where it is larger."""
    from PIL import Image

    (top, bottom), (left, right) = box
    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))
    return np.round((small - small.min()) * (255 / max(np.ptp(small), 1e-12))).astype(np.uint8)


def _high_pass(kept: np.ndarray) -> np.ndarray:
    """Thumbnails without what is coarser than about 3 of their pixels, and without their edge."""
    from scipy.ndimage import gaussian_filter  # translating needs this module's neighbours, and none of scipy

    pixels = kept.astype(np.float32)
    return (pixels - gaussian_filter(pixels, (0, 0, 1, 1)))[..., EDGE:-EDGE, EDGE:-EDGE]


def _detail(kept: np.ndarray) -> np.ndarray:
    """float32 (2, numbers) of thumbnails: products of these, summed, are the views' mean correlation of detail."""
    detail = _high_pass(kept)
    detail -= detail.mean(axis=(-2, -1), keepdims=True)
    detail /= np.maximum(np.linalg.norm(detail, axis=(-2, -1), keepdims=True), 1e-6)
    return detail.reshape(2, -1) / np.float32(np.sqrt(kept.shape[1]))


# --- which images are copies


def near_copies(images: Sequence[Fingerprint], apart: bool = True) -> list[tuple[int, int, float]]:
    """Pairs of near copies, the first index smaller, with their correlation; in order. Exact copies are not among them.

    `apart`: only pairs of different groups. Images of one known patient are never copies: slices of one scan are alike
    by nature. Different patients' are above 0.92; where a patient is unknown, above 0.975 and clearly more alike than
    slices side by side in their stacks are.
    """
    usual = {one.stack: one.usual for one in images if one.usual is not None}
    shapes = {one.thumbnails.shape for one in images if one.thumbnails is not None}
    found = []
    for shape in shapes:  # pictures with pictures, volumes with volumes
        members = [i for i, one in enumerate(images) if one.thumbnails is not None and one.thumbnails.shape == shape]
        detail = np.stack([_detail(images[i].thumbnails) for i in members])
        for start in range(0, len(members), BLOCK):
            frame, content = (detail[start : start + BLOCK, k] @ detail[:, k].T for k in (0, 1))
            scores = np.maximum(frame, content)
            for row, column in np.argwhere(scores >= COPY).tolist():
                i, j, score = members[start + row], members[column], float(scores[row, column])
                if i >= j or (apart and images[i].group == images[j].group):
                    continue
                if _is_copy(images[i], images[j], score, images, usual):
                    found.append((i, j, score))
    return sorted(found)


def _is_copy(one: Fingerprint, other: Fingerprint, score: float, images: Sequence[Fingerprint], usual: dict) -> bool:
    if one.digest == other.digest:
        return False
    if one.subject and other.subject:
        return one.subject != other.subject
    stacks = {each.stack for each in (one, other) if not each.subject} if score >= COPY_OF_UNKNOWN else set()
    for stack in stacks - usual.keys():
        usual[stack] = _neighbours_likeness(images, stack)
    return bool(stacks) and all(1 - score <= (1 - usual[stack]) / 3 for stack in stacks)


def _neighbours_likeness(images: Sequence[Fingerprint], stack: Hashable) -> float:
    """How alike most slices side by side in a stack of an unknown patient are at most: the upper quartile.

    Low where its images have no such order, as pictures collected from the web.
    """
    members = [one for one in images if one.thumbnails is not None and not one.subject and one.stack == stack]
    ordered = sorted((one for one in members if one.position is not None), key=lambda one: one.position)
    beside = [
        (one.thumbnails, other.thumbnails)
        for one, other in zip(ordered, ordered[1:], strict=False)
        if one.digest != other.digest and one.thumbnails.shape == other.thumbnails.shape
    ]
    sampled = beside[:: max(1, len(beside) // SAMPLED)]
    scores = [(_detail(one) * _detail(other)).sum(axis=1).max() for one, other in sampled]
    return float(np.percentile(scores, 75)) if scores else 0.0


# --- what a split does with them


def unit_of(record: Record) -> tuple[str, str]:
    """What a split by image never divides: a registered pair, or one image."""
    return ("pair", record.pair) if record.pair is not None else (record.domain, record.key)


def fingerprints_of_unknown(records: Sequence[Record]) -> dict[tuple[str, str], Fingerprint]:
    """Fingerprints of images of files, by domain and key, where nobody knows whose they are; each is read once."""
    if any(record.subject or not record.files for record in records):
        return {}
    known = {(record.domain, record.key): fingerprint(record) for record in records}
    images = list(known.values())
    usual = {stack: _neighbours_likeness(images, stack) for stack in {one.stack for one in images}}
    return {key: replace(one, usual=usual[one.stack]) for key, one in known.items()}


def copies(
    records: Sequence[Record], unit: Callable[[Record], Hashable], known: Known = MappingProxyType({})
) -> dict[Hashable, Hashable]:
    """For every unit (an image, or a pair) that shares a file's content with others, the first of these.

    With fingerprints, near copies share it too.
    """
    first: dict[Hashable, Hashable] = {}

    def root(name: Hashable) -> Hashable:
        while first.get(name, name) != name:
            name = first[name]
        return name

    def join(one: Hashable, other: Hashable) -> None:
        first.update({root(one): root(one), root(other): root(one)})

    holders: dict[Hashable, Hashable] = {}
    for record, content in zip(records, _contents(records), strict=True):
        if content is not None:
            join(holders.setdefault(content, unit(record)), unit(record))
    members = [record for record in records if (record.domain, record.key) in known]
    for i, j, _ in near_copies([known[record.domain, record.key] for record in members], apart=False):
        join(unit(members[i]), unit(members[j]))
    return {name: root(name) for name in first}


def without_copies(sets: Mapping[str, list[Record]], known: Known) -> tuple[Sets, int]:
    """Sets of which none has a copy, exact or near, of what a more held-out one holds; how many images were left out.

    The partner of an image that is left out goes with it. Where a set would lose a whole domain nothing is left out:
    such data are for `check_leakage` to refuse.
    """
    records = [record for name in sets for record in sets[name]]
    contents = dict(zip(map(id, records), _contents(records), strict=True))
    held: set = set()
    again: set[int] = set()
    for name in HELD_OUT_FIRST:
        again |= {id(record) for record in sets[name] if contents[id(record)] in held}
        held |= {contents[id(record)] for record in sets[name]} - {None}
    kept = _without(sets, again)
    kept = _without(kept, {id(record) for _, record in _copies_of_held_out(kept, known)})
    return kept, len(records) - sum(map(len, kept.values()))


def _without(sets: Mapping[str, list[Record]], gone: set[int]) -> Sets:
    kept = {}
    for name, members in sets.items():
        pairs = {record.pair for record in members if id(record) in gone} - {None}
        kept[name] = [record for record in members if id(record) not in gone and record.pair not in pairs]
    return dict(sets) if _lost_a_domain(sets, kept) else kept


def with_near_copies(sets: Mapping[str, list[Record]], known: Known) -> Sets:
    """Sets of which near copies of held-out images, and their partners, have gone to the side of these."""
    moved = dict(sets)
    while to := {id(record): name for name, record in reversed(list(_copies_of_held_out(moved, known)))}:
        placed = [(name, record) for name, members in moved.items() for record in members]
        of_pair = {record.pair: to[id(record)] for _, record in placed if record.pair and id(record) in to}
        placed = [(to.get(id(r)) or of_pair.get(r.pair or "", name), r) for name, r in placed]
        moved = {name: [record for place, record in placed if place == name] for name in moved}
    return dict(sets) if _lost_a_domain(sets, moved) else moved


def _copies_of_held_out(sets: Mapping[str, list[Record]], known: Known) -> Iterator[tuple[str, Record]]:
    """(set, record) for every image that is a near copy of one in a set that is more held out than its own."""
    ordered = [
        (name, record) for name in HELD_OUT_FIRST for record in sets[name] if (record.domain, record.key) in known
    ]
    images = [replace(known[record.domain, record.key], group=name) for name, record in ordered]
    for i, j, _ in near_copies(images):
        yield ordered[i][0], ordered[j][1]


def _lost_a_domain(sets: Mapping[str, list[Record]], kept: Mapping[str, list[Record]]) -> bool:
    return any({record.domain for record in sets[name]} != {record.domain for record in kept[name]} for name in sets)


def _contents(records: Sequence[Record]) -> list[Hashable | None]:
    """What copies share: their files' bytes, and the plane of a volume. None where no other file has the same size,
    which says as much without reading it, and for computed images."""
    sizes: dict[int, set[Path]] = defaultdict(set)
    for path in {path for record in records for path in record.files}:
        sizes[path.stat().st_size].add(path)
    alike = [path for paths in sizes.values() if len(paths) > 1 for path in paths]
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in alike}
    found: list[Hashable | None] = []
    for record in records:
        parts = tuple(digests.get(path) for path in record.files)
        sliced = record.scan_key or (record.files and is_volume(record.files[0]))
        found.append((parts, record.position if sliced else None) if parts and None not in parts else None)
    return found
