"""Measures pixels: how well registered pairs fit each other, if at all, and statistics of the
images of one domain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gantk.data.preparation import Record
from gantk.data.resample import Resize
from gantk.data.split.near_duplicates import background

SIDE = 128  # side in pixels at which pairs are compared
# most pairs, pictures and volumes of a domain that are measured
PAIRS = 16
PICTURES = 16
VOLUMES = 3
# pairs for telling chance; share of comparisons that a pair of one anatomy wins
FEWEST = 4
ALIKE = 0.75
AWAY = 4  # pixels of SIDE (3 %) by which a pair is shifted for comparison


@dataclass(frozen=True)
class Fit:
    """How well pairs fit each other, by medians over `count` pairs at 128 px.

    shift: the shift, in percent of the width, at which the edges correlate best. gain: mutual
    information unshifted, as a multiple of that after a shift by 3 %. Measured gain and shift on
    seven sets: 1.42 to 2.65 and 0 % on one grid, 1.16 and 0.8 % registered by hand; 1.03 to 1.07
    with another patient's image as the partner (1.14 and 1.3 % where both are in one template's
    space); 0.93 to 1.03 and 5 % after a shift by 5 %.
    """

    shift: float
    gain: float
    count: int

    @property
    def good(self) -> bool:
        """Whether the pairs fit well enough for a paired method."""
        return self.shift <= 2.0 and self.gain >= 1.1

    @property
    def rough(self) -> bool:
        """Whether the fit is so low that images of two different patients could have it."""
        return self.gain < 1.3

    def __str__(self) -> str:
        far = f"edges fit best after a shift by {self.shift:.1f} % of the width"
        return (
            f"{far}, mutual information is {self.gain:.2f} times that after 3 % ({self.count} pairs"
            " looked at)"
        )


@dataclass(frozen=True)
class Pixels:
    """Statistics of a domain's images; of volumes, of the planes with at least a third of the
    fullest one's content.
    """

    shape: tuple[int, int]  # median rows and columns
    content: tuple[int, int]  # sides of the centred box that holds all foreground
    # start and end of these planes as shares of the stack; None: pictures
    planes: tuple[float, float] | None
    empty: float  # smallest share of pixels that are exactly the background's value
    seen: float  # mean share of foreground pixels
    mirror: float  # median correlation of the content with its mirror image
    bright: float  # 99.9th percentile, as a multiple of the 99.5th


def fit_of(pairs: Sequence[dict[str, Record]]) -> Fit | None:
    """Measure how well pairs fit each other, on at most 16 spread over all; None without pairs."""
    rows = []
    for pair in pairs[:: max(1, -(-len(pairs) // PAIRS))]:
        one, other = (_small(pair[letter].read()) for letter in "ab")
        rows.append((_shift(one, other), _gain(one, other)))
    return Fit(*np.median(rows, axis=0).round(2).tolist(), len(rows)) if rows else None


def likeness_of(pairs: Sequence[dict[str, Record]]) -> float | None:
    """How often an image shares more information with its partner than with another pair's image,
    at most 16 pairs.

    0.5 is chance; None for less than 4 pairs. The others are of other patients at the same place
    among their slices, or a patient's neighbouring pairs where there is no other. Measured on six
    sets: 0.97 to 1 for true pairs, among them those registered by hand and those in one template's
    space (0.91 where patients are unknown); up to 0.56 with partners drawn at random, or other
    patients' at the same place (facades 0.69); 0.6 to 0.9 for pairs moved by 3 % of the width.
    """
    if len(pairs) < FEWEST:
        return None
    stacks: dict[str, list[dict[str, Record]]] = defaultdict(list)
    for pair in pairs:
        stacks[pair["a"].subject].append(pair)
    each = max(1, PAIRS // len(stacks))
    places = [  # of each patient, as many pairs from the middles of equal parts of the stack
        (subject, rank, own[int((rank + 0.5) * len(own) / min(each, len(own)))])
        for subject, own in [*stacks.items()][:: max(1, -(-len(stacks) // PAIRS))]
        for rank in range(min(each, len(own)))
    ]
    seen = [
        (subject, rank, *(_small(pair[letter].read()) for letter in "ab"))
        for subject, rank, pair in places
    ]
    won = []
    for subject, rank, one, partner in seen:
        others = [b for other, at, _, b in seen if other != subject and at == rank]
        others = others or [
            b for other, at, _, b in seen if other == subject and abs(at - rank) == 1
        ]
        least = _information(one, partner)
        won.append(
            np.mean([least > _information(one, other) for other in others]) if others else np.nan
        )
    return None if np.isnan(won).all() else float(np.nanmean(won))


def _small(pixels: np.ndarray) -> np.ndarray:
    """The mean of the channels (of a volume its middle plane), scaled to 0..1 and resized to 128 px
    as in training.
    """
    gray = np.nan_to_num(pixels).mean(axis=0)
    gray = gray if gray.ndim == 2 else gray[len(gray) // 2]
    low, high = np.percentile(gray, [1, 99.5])
    gray = ((gray - low) / max(high - low, 1e-9)).clip(0, 1)
    return Resize(gray.shape, (SIDE, SIDE), "pad").forward(gray[None])[0]


def _shift(one: np.ndarray, other: np.ndarray) -> float:
    """The shift, in percent of the width, at which the edges of two images correlate best."""
    from scipy.ndimage import gaussian_gradient_magnitude

    edges = (gaussian_gradient_magnitude(each, 1.0) for each in (one, other))
    first, second = (np.fft.fft2(each - each.mean()) for each in edges)
    most = SIDE // 8
    near = np.fft.fftshift(np.fft.ifft2(first * second.conj()).real)
    near = near[SIDE // 2 - most : SIDE // 2 + most + 1, SIDE // 2 - most : SIDE // 2 + most + 1]
    return (
        100
        * float(np.hypot(*(np.array(np.unravel_index(near.argmax(), near.shape)) - most)))
        / SIDE
    )


def _gain(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two images, divided by that after a shift by 3 % of the width."""
    moved = [_information(one, np.roll(other, by, axis)) for by in (-AWAY, AWAY) for axis in (0, 1)]
    return _information(one, other) / max(float(np.mean(moved)), 1e-9)


def _information(one: np.ndarray, other: np.ndarray) -> float:
    from sklearn.metrics import mutual_info_score

    return float(
        mutual_info_score(None, None, contingency=np.histogram2d(one.ravel(), other.ravel(), 24)[0])
    )


def pixels_of(records: Sequence[Record]) -> Pixels:
    """Measure some images of a domain."""
    stacks = {record.scan_key: record.scan for record in records if record.scan}
    images = []
    ranges = []
    for scan in [*stacks.values()][:: max(1, -(-len(stacks) // VOLUMES))]:
        stack = scan()[0]
        areas = np.array([_differs(plane, stack).mean() for plane in stack])
        full = np.flatnonzero(areas >= areas.max() / 3)
        ranges.append((full[0] / len(areas), (full[-1] + 1) / len(areas)))
        images += [stack[i] for i in full[:: max(1, len(full) // 6)]]
    if not stacks:
        images = [
            np.nan_to_num(r.read()).mean(axis=0)
            for r in records[:: max(1, -(-len(records) // PICTURES))]
        ]
    differ = [_differs(image, image) for image in images]
    highs = [np.percentile(image - background(image), [99.5, 99.9]) for image in images]
    return Pixels(
        tuple(int(np.median([image.shape[axis] for image in images])) for axis in (0, 1)),
        tuple(max(_reach(each, axis) for each in differ) for axis in (0, 1)),
        tuple(np.median(ranges, axis=0).round(2).tolist()) if ranges else None,
        float(min((image == background(image)).mean() for image in images)),
        float(np.mean([each.mean() for each in differ])),
        float(np.median([_mirror(*each) for each in zip(images, differ, strict=True)])),
        float(np.median([most / max(high, 1e-9) for high, most in highs])),
    )


def _differs(image: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The foreground mask of an image, with a threshold from the whole volume that it belongs to."""
    air = background(whole)
    return np.abs(image - air) > 0.05 * max(
        abs(float(np.percentile(whole.ravel()[::16], 99.5)) - air), 1e-9
    )


def _reach(differs: np.ndarray, axis: int) -> int:
    """Length of the shortest centred interval that holds all lines with more than 1 % foreground."""
    lines = np.flatnonzero(differs.mean(axis=1 - axis) > 0.01)
    side = differs.shape[axis]
    return int(2 * max(side / 2 - lines[0], lines[-1] + 1 - side / 2)) if len(lines) else side


def _mirror(image: np.ndarray, differs: np.ndarray) -> float:
    """Correlation of an image's content with its mirror image."""
    columns = np.flatnonzero(differs.mean(axis=0) > 0.01)
    part = image[:, columns[0] : columns[-1] + 1] if len(columns) > 1 else image
    return float(np.corrcoef(part.ravel(), part[:, ::-1].ravel())[0, 1]) if part.std() > 0 else 0.0


def warning_of_unlike_pairs(data) -> str | None:
    """A warning where pairs are no more alike than images of different patients: only their names
    may be equal. `data` is a gantk.data.dataset.Data.
    """
    pairs = [
        pair
        for split in data.splits
        for pair in data.pairs(split)
        if pair["a"].path and pair["b"].path
    ]
    if len(data.letters) < 2 or not pairs:
        return None
    likeness = likeness_of(pairs)
    if likeness is None or likeness >= ALIKE:
        return None
    used = "this method learns from them" if data.paired else "scores are computed from them"
    remedies = []
    if data.paired:
        remedies.append("dualgan or another unpaired method")
    if "pairs" in data.table.source.options:
        remedies.append("--set data.source.pairs=none, or =FILE for a CSV of pairs")
    first = pairs[0]
    return (
        f"pairs may be of different patients, or lie far from each other, and {used}: only in"
        f" {likeness:.0%} of comparisons an image fits its partner better than another's (chance is"
        f" 50 %). The first: '{first['a'].key}' and '{first['b'].key}'. If they are no pairs:"
        f" {', '.join(remedies) or 'correct them'}"
    )
