"""Who looks like whom: near copies among images, told from slices that are alike because they are neighbours."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gantk.data.items import Record
from gantk.data.split.image_hash import ALIKE, Look, likely_copies, likenesses, look_of

SAME = 0.98  # correlation of detail where patients are unknown: of other contrasts of one slice it reached 0.965
SAME_BITS = 24  # of 255 that their hashes may differ in; of copies that were saved again or resized it is 14
SAMPLED = 64  # neighbours of a stack that tell how alike its slices are


@dataclass(frozen=True, eq=False)
class Seen:
    """One image after one reading: what names its pixels, and what they look like."""

    name: str
    subject: str  # patient; "" where unknown
    stack: Hashable  # images among which neighbours may be slices of one scan
    position: float | None  # its place in the stack
    group: Hashable  # the set that it belongs to
    digest: str | None  # of shape and pixels; None for images without contrast
    look: Look | None  # None also where there is too little to compare
    usual: float | None = None  # how alike neighbours in its stack are; None: not known yet


def see(record: Record, group: Hashable = None, near: bool = True) -> Seen:
    """A record read once."""
    return seen_pixels(
        record.read(), record.key, record.subject, (record.domain, record.label), record.position, group, near
    )


def seen_pixels(
    pixels: np.ndarray,
    name: str,
    subject: str = "",
    stack: Hashable = None,
    position: float | None = None,
    group: Hashable = None,
    near: bool = True,
) -> Seen:
    """The same for pixels (C, *spatial) that are at hand."""
    low, high = np.nanmin(pixels), np.nanmax(pixels)
    if not low < high:
        return Seen(name, subject, stack, position, group, None, None)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    look = look_of(pixels) if near else None
    return Seen(name, subject, stack, position, group, digest.hexdigest(), look)


def near_copies(seen: Sequence[Seen], apart: bool = True) -> list[tuple[int, int, float]]:
    """Pairs of near copies, the first index smaller, with their likeness; in order. Exact copies are not among them.

    `apart`: only pairs of different groups. Images of one known patient are never compared: slices of one scan are
    alike by nature. Different patients are copies above 0.92; where a patient is unknown, images have to be nearly
    equal, and clearly more alike than slices side by side in their stacks are.
    """
    pairs = _likely(seen, apart)
    # The second image is brought onto the first: which is which must not depend on who asks.
    ordered = [sorted((seen[i], seen[j]), key=lambda each: each.digest) for i, j in pairs]
    scores = likenesses([(one.look, other.look) for one, other in ordered])
    usual = {each.stack: each.usual for each in seen if each.usual is not None}
    found = []
    for (i, j), score in zip(pairs, scores, strict=True):
        one, other = seen[i], seen[j]
        if score < (ALIKE if one.subject and other.subject else SAME):
            continue
        stacks = {each.stack for each in (one, other) if not each.subject}
        usual |= {stack: usual_likeness(seen, stack) for stack in stacks - usual.keys()}
        if any(1 - score > (1 - usual[stack]) / 3 for stack in stacks):
            continue
        found.append((i, j, float(score)))
    return found


def usual_likeness(seen: Iterable[Seen], stack: Hashable) -> float:
    """How alike most slices side by side in a stack of an unknown patient are at most: the upper quartile.

    Low where its images have no such order, as pictures collected from the web.
    """
    members = [each for each in seen if each.look and not each.subject and each.stack == stack]
    ordered = sorted((each for each in members if each.position is not None), key=lambda each: each.position)
    beside = [(one, other) for one, other in zip(ordered, ordered[1:], strict=False) if one.digest != other.digest]
    scores = likenesses([(one.look, other.look) for one, other in beside[:: max(1, len(beside) // SAMPLED)]])
    return float(np.percentile(scores, 75)) if len(scores) else 0.0


def _likely(seen: Sequence[Seen], apart: bool) -> list[tuple[int, int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, each in enumerate(seen):
        if each.look is not None:
            groups[each.group if apart else None].append(i)
    members = list(groups.values())
    pairs = set()
    for number, ours in enumerate(members):
        for others in members[number + 1 :] if apart else [ours]:
            found = likely_copies([seen[i].look for i in ours], [seen[j].look for j in others])
            pairs |= {(*sorted((ours[i], others[j])), bits) for i, j, bits in found.tolist()}
    return sorted((i, j) for i, j, bits in pairs if i != j and _comparable(seen[i], seen[j], bits))


def _comparable(one: Seen, other: Seen, bits: int) -> bool:
    """Whether the pixels differ, patients are not one, and hashes are near enough for what is known of patients."""
    if one.digest == other.digest:
        return False
    return one.subject != other.subject if one.subject and other.subject else bits <= SAME_BITS
