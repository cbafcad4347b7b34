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
from gantk.formats.files import is_volume

COMPARED_SIDE = 128  # side in pixels at which pairs are compared
MAX_PAIRS = 16  # that are measured
MIN_PAIRS = 4  # for telling chance
# pairs of one anatomy that a network can learn from, see `Fit`
MIN_LIKENESS = 0.75
MAX_SHIFT = 2.0
MIN_GAIN = 1.1
SHIFT = 4  # pixels of COMPARED_SIDE (3 %) by which a pair is shifted for comparison


@dataclass(frozen=True)
class Fit:
    """How well pairs fit each other, measured on `count` pairs at 128 px.

    shift: the median shift, in percent of the width, at which the edges correlate best. gain: the
    median of mutual information unshifted, as a multiple of that after a shift by 3 %. likeness:
    how often an image shares more information with its partner than with another pair's image; None
    for less than 4 pairs. The others are of other patients at the same place among their slices, or
    a patient's neighbouring pairs where there is no other.

    | pairs of six real sets                      | shift      | gain         | likeness     |
    |---------------------------------------------|------------|--------------|--------------|
    | true, registered by hand or on one template | 0 to 0.8   | 1.19 to 2.49 | 0.97 to 1    |
    | partners drawn at random                    | 1.8 to 11  | 1.03 to 1.11 | 0.47 to 0.63 |
    | moved by 2 % of the width                   | 1.8 to 2.2 | 1.08 to 1.23 | 0.88 to 1    |
    | moved by 5 %                                | 4.4 to 5.3 | 0.97 to 1.04 | 0.53 to 0.84 |
    """

    shift: float
    gain: float
    likeness: float | None
    count: int

    @property
    def good(self) -> bool:
        """Whether the pairs fit well enough for a paired method and for scores."""
        alike = self.likeness is None or self.likeness >= MIN_LIKENESS
        return alike and self.shift <= MAX_SHIFT and self.gain >= MIN_GAIN

    def __str__(self) -> str:
        partners = ""
        if self.likeness is not None:
            partners = (
                "images match their own partner better than other images in"
                f" {self.likeness:.0%} of comparisons (chance is 50 %), "
            )
        return (
            f"{partners}their edges are {self.shift:.1f} % of the width apart, and a shift of 3 %"
            f" divides their mutual information by {self.gain:.2f} (measured on"
            f" {count_noun(self.count, 'pair')})"
        )


def fit_of(pairs: Sequence[dict[str, Record]]) -> Fit | None:
    """Measure how well pairs fit each other, on at most 16 of all patients; None without pairs."""
    compared = [
        (subject, rank, _small(pair["a"].read()), _small(pair["b"].read()))
        for subject, rank, pair in _pairs_of_all_patients(pairs)
    ]
    if not compared:
        return None

    rows = [(_shift(one, other), _gain(one, other)) for _, _, one, other in compared]
    shift, gain = np.median(rows, axis=0).round(2).tolist()
    return Fit(shift, gain, _likeness(compared), len(compared))


def _likeness(compared: Sequence[tuple[str, int, np.ndarray, np.ndarray]]) -> float | None:
    """The likeness of `Fit` for (patient, rank, image, partner)."""
    if len(compared) < MIN_PAIRS:
        return None

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

    most = max(1, MAX_PAIRS // max(1, len(stacks)))
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
    """Warn of registered pairs that do not fit each other, as if only their names were equal, or
    as if pictures showed something else than two images side by side.
    """
    pairs = [pair for pair in complete_pairs(study.records).values() if pair["a"].path]
    fit = fit_of(pairs)
    if fit is None or fit.good:
        return

    first = pairs[0]
    path = first["a"].path
    are_halves = path == first["b"].path and path is not None and not is_volume(path)
    if fit.likeness is None and not are_halves:
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
    if are_halves:
        remedies.append(
            "where pictures show more than two images, or one above the other, save each image as a"
            " file of its own, in a folder for each domain"
        )
    what = (
        f"the pairs may show different patients or be badly aligned, but {used}: {fit}. The first"
        f" pair is '{first['a'].key}' and '{first['b'].key}'. If these are not pairs:"
        f" {' or '.join(remedies) or 'correct them'}"
    )
    yield problem("pairs", "warning", what)
