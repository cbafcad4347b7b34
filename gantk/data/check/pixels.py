"""Measures pixels: how well registered pairs fit each other, if at all, and statistics of the
images of one domain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import background
from gantk.data.spread import spread
from gantk.errors import count_noun

COMPARED_SIDE = 128  # side in pixels at which pairs are compared
# Upper bounds of what is measured of a domain.
MAX_PAIRS = 16
MAX_PICTURES = 16
MAX_VOLUMES = 3
MAX_PLANES = 6  # of a volume
MIN_PAIRS = 4  # for telling chance
ALIKE = 0.75  # least share of comparisons that pairs of one anatomy win
# layouts of a picture of several images: the axis that is cut, and the number of parts
HALVES = "two images side by side"
LAYOUTS = {
    HALVES: (-1, 2),
    "three images side by side": (-1, 3),
    "two images, one above the other": (-2, 2),
}
MIN_LAYOUT_RATIO = 2.0
SHIFT = 4  # pixels of COMPARED_SIDE (3 %) by which a pair is shifted for comparison


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
        return (
            f"their edges are {self.shift:.1f} % of the width apart, and a shift of 3 % divides their"
            f" mutual information by {self.gain:.2f} (measured on {count_noun(self.count, 'pair')})"
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
    for pair in spread(pairs, MAX_PAIRS):
        one = _small(pair["a"].read())
        other = _small(pair["b"].read())
        rows.append((_shift(one, other), _gain(one, other)))

    if not rows:
        return None

    shift, gain = np.median(rows, axis=0).round(2).tolist()
    return Fit(shift, gain, len(rows))


def likeness_of(pairs: Sequence[dict[str, Record]]) -> float | None:
    """How often an image shares more information with its partner than with another pair's image,
    at most 16 pairs.

    0.5 is chance; None for less than 4 pairs. The others are of other patients at the same place
    among their slices, or a patient's neighbouring pairs where there is no other. Measured on six
    sets: 0.97 to 1 for true pairs, among them those registered by hand and those in one template's
    space (0.91 where patients are unknown); up to 0.56 with partners drawn at random, or other
    patients' at the same place (facades 0.69); 0.6 to 0.9 for pairs moved by 3 % of the width, and
    0.92 to 1 by 2 %, which `Fit` finds.
    """
    if len(pairs) < MIN_PAIRS:
        return None

    compared = [
        (subject, rank, _small(pair["a"].read()), _small(pair["b"].read()))
        for subject, rank, pair in _pairs_of_all_patients(pairs)
    ]
    shares_won = []
    for subject, rank, image, partner in compared:
        others = [b for other, at, _, b in compared if other != subject and at == rank]
        if not others:
            others = [b for other, at, _, b in compared if other == subject and abs(at - rank) == 1]
        if others:
            information = _information(image, partner)
            wins = [information > _information(image, other) for other in others]
            shares_won.append(np.mean(wins))

    return float(np.mean(shares_won)) if shares_won else None


def _pairs_of_all_patients(
    pairs: Sequence[dict[str, Record]],
) -> Iterator[tuple[str, int, dict[str, Record]]]:
    """Yield (patient, rank, pair): at most MAX_PAIRS, as many of each patient, ordered by rank.

    A patient's pairs are the middles of equal parts of the stack.
    """
    stacks: dict[str, list[dict[str, Record]]] = defaultdict(list)
    for pair in pairs:
        stacks[pair["a"].subject].append(pair)

    most = max(1, MAX_PAIRS // len(stacks))
    for subject, own in spread(list(stacks.items()), MAX_PAIRS):
        count = min(most, len(own))
        for rank in range(count):
            yield subject, rank, own[int((rank + 0.5) * len(own) / count)]


def _small(pixels: np.ndarray) -> np.ndarray:
    """The mean of the channels (of a volume its middle plane), scaled to 0..1 and resized to 128 px
    as in training.
    """
    from gantk.prepare.module import size_image

    gray = np.nan_to_num(pixels).mean(axis=0)
    gray = gray if gray.ndim == 2 else gray[len(gray) // 2]
    low, high = np.percentile(gray, [1, 99.5])
    gray = ((gray - low) / max(high - low, 1e-9)).clip(0, 1)
    return size_image(gray[None], (COMPARED_SIDE, COMPARED_SIDE))[0]


def _shift(one: np.ndarray, other: np.ndarray) -> float:
    """The shift, in percent of the width, at which the edges of two images correlate best."""
    from scipy.ndimage import gaussian_gradient_magnitude

    spectra = []
    for image in (one, other):
        edges = gaussian_gradient_magnitude(image, 1.0)
        spectra.append(np.fft.fft2(edges - edges.mean()))

    correlation = np.fft.fftshift(np.fft.ifft2(spectra[0] * spectra[1].conj()).real)
    farthest = COMPARED_SIDE // 8
    centre = slice(COMPARED_SIDE // 2 - farthest, COMPARED_SIDE // 2 + farthest + 1)
    near = correlation[centre, centre]
    best = np.array(np.unravel_index(near.argmax(), near.shape)) - farthest
    return 100 * float(np.hypot(*best)) / COMPARED_SIDE


def _gain(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two images, divided by that after a shift by 3 % of the width."""
    moved = [
        _information(one, np.roll(other, by, axis)) for by in (-SHIFT, SHIFT) for axis in (0, 1)
    ]
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
    extents = []
    for scan in spread(list(stacks.values()), MAX_VOLUMES):
        full_planes, extent = _full_planes(scan()[0])
        images += full_planes
        extents.append(extent)

    if not stacks:
        for record in spread(records, MAX_PICTURES):
            images.append(np.nan_to_num(record.read()).mean(axis=0))

    foregrounds = [_foreground(image, image) for image in images]
    empty = [float((image == background(image)).mean()) for image in images]
    mirrored = [_mirror(image, mask) for image, mask in zip(images, foregrounds, strict=True)]
    rows, columns = np.median([image.shape for image in images], axis=0)
    planes = None
    if extents:
        start, end = np.median(extents, axis=0).round(2).tolist()
        planes = (start, end)

    return Pixels(
        shape=(int(rows), int(columns)),
        content=(max(_reach(x, 0) for x in foregrounds), max(_reach(x, 1) for x in foregrounds)),
        planes=planes,
        empty=min(empty),
        seen=float(np.mean([mask.mean() for mask in foregrounds])),
        mirror=float(np.median(mirrored)),
        bright=float(np.median([_brightness(image) for image in images])),
    )


def _brightness(image: np.ndarray) -> float:
    """The 99.9th percentile above the background as a multiple of the 99.5th."""
    high, highest = np.percentile(image - background(image), [99.5, 99.9])
    return highest / max(high, 1e-9)


def _full_planes(stack: np.ndarray) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Some planes of those with at least a third of the fullest one's content, and the start
    and end of these as shares of the stack.
    """
    areas = np.array([_foreground(plane, stack).mean() for plane in stack])
    full = np.flatnonzero(areas >= areas.max() / 3)
    extent = (full[0] / len(areas), (full[-1] + 1) / len(areas))
    return [stack[i] for i in spread(full, MAX_PLANES)], extent


def _foreground(image: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The foreground mask of an image, with a threshold from the volume that it belongs to."""
    air = background(whole)
    bright = abs(float(np.percentile(whole.ravel()[::16], 99.5)) - air)
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


def unlike_pairs(
    pairs: Sequence[dict[str, Record]], used: str, remedies: Sequence[str]
) -> str | None:
    """Say that pairs are not more similar than images of different patients, as if only their names
    were equal; None where they are. `used` says what for.
    """
    likeness = likeness_of(pairs)
    if likeness is None or likeness >= ALIKE:
        return None

    first = pairs[0]
    return (
        f"the pairs may show different patients or be badly aligned, but {used}. Images match"
        f" their own partner better than other images in only {likeness:.0%} of comparisons (chance"
        f" is 50 %). The first pair is '{first['a'].key}' and '{first['b'].key}'. If these are not"
        f" pairs: {' or '.join(remedies) or 'correct them'}"
    )


def layout_of(pictures: Sequence[np.ndarray]) -> str:
    """How pictures (C, H, W) of several images are laid out, a key of LAYOUTS: the cut whose first
    two parts share the most information, if this is twice what the halves side by side share.

    Measured as multiples of that: 17 to 30 for three side by side and two one above the other; for
    true halves 0.1 to 0.25, and for facades, which repeat themselves, 1.3 to 1.6.
    """
    shared = {}
    for name, (axis, count) in LAYOUTS.items():
        found = []
        for picture in pictures:
            side = picture.shape[axis] // count
            parts = [picture.take(range(k * side, (k + 1) * side), axis) for k in range(2)]
            found.append(_information(*map(_small, parts)))
        shared[name] = float(np.median(found))

    best = max(shared, key=lambda name: shared[name])
    return best if shared[best] > MIN_LAYOUT_RATIO * shared[HALVES] else HALVES
