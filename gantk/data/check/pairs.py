"""Measures how well registered pairs fit each other, if at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gantk.data.check.findings import Problem, problem
from gantk.data.dataset import Study
from gantk.data.look import scale_to_unit
from gantk.data.preparation import Record
from gantk.data.sources.pairing import complete_pairs
from gantk.data.spread import spread
from gantk.errors import count_noun
from gantk.formats.files import is_volume, read

COMPARED_SIDE = 128  # side in pixels at which pairs are compared
# that are measured
MAX_PAIRS = 16
MAX_PICTURES = 16
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

    def __str__(self) -> str:
        return (
            f"their edges are {self.shift:.1f} % of the width apart, and a shift of 3 % divides their"
            f" mutual information by {self.gain:.2f} (measured on {count_noun(self.count, 'pair')})"
        )


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
    return size_image(scale_to_unit(gray)[None], (COMPARED_SIDE, COMPARED_SIDE))[0]


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


def no_true_pairs(study: Study) -> Iterator[Problem]:
    """Warn of registered pairs that are not more similar than images of different patients, as if
    only their names were equal, or that are no halves of a picture.
    """
    pairs = []
    wholes = []
    for pair in complete_pairs(study.records).values():
        path = pair["a"].path
        if path is None:
            continue
        pairs.append(pair)
        if path == pair["b"].path and not is_volume(path):
            wholes.append(path)
    if not pairs:
        return

    layout = HALVES
    if wholes:
        layout = layout_of([read(path).pixels for path in spread(wholes, MAX_PICTURES)])
    if layout != HALVES:
        what = f"the pictures seem to show {layout}, so that their halves are no pairs, such as:"
        remedy = "save each image as a file of its own, in a folder for each domain"
        yield problem("pairs", "warning", what, [wholes[0].name], remedy)
        return

    likeness = likeness_of(pairs)
    if likeness is None or likeness >= ALIKE:
        return

    remedies = []
    used = "the scores are computed from them"
    if study.guessed:
        used = "paired methods learn from them, and scores are computed from them"
    elif study.method.paired:
        used = "this method learns from them"
        remedies.append("use dualgan or another unpaired method")
    if "pairs" in study.table.source.options:
        remedies.append("set data.source.pairs to none, or to a CSV of the true pairs")
    first = pairs[0]
    what = (
        f"the pairs may show different patients or be badly aligned, but {used}. Images match"
        f" their own partner better than other images in only {likeness:.0%} of comparisons (chance"
        f" is 50 %). The first pair is '{first['a'].key}' and '{first['b'].key}'. If these are not"
        f" pairs: {' or '.join(remedies) or 'correct them'}"
    )
    yield problem("pairs", "warning", what)


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
