"""Measures how well registered pairs fit each other, if at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from gantk.data.check.findings import Problem, problem
from gantk.data.dataset import Study
from gantk.data.look import scale_to_unit
from gantk.data.preparation import Record
from gantk.data.sources.pairing import complete_pairs
from gantk.data.spread import spread
from gantk.errors import count_noun, join_first
from gantk.formats.files import is_volume

COMPARED_SIDE = 128  # side in pixels at which pairs are compared
MAX_PAIRS = 16  # that are measured of all
MAX_HELD_OUT_PAIRS = 64  # that are measured of test and validation, on which scores stand
MIN_PAIRS = 4  # for telling chance
# pairs of one anatomy that a network can learn from, see `Fit`
MIN_LIKENESS = 0.75
MAX_SHIFT = 2.0
MIN_GAIN = 1.1
SHIFT = 4  # pixels of COMPARED_SIDE (3 %) by which a pair is shifted for comparison
MIN_EXCHANGE_GAIN = 1.15  # of mutual information, from which partners are exchanged
# of mutual information, from which a turned partner or another of its slices is the right one. True
# pairs of six real sets reach 1.05 turned and 1.07 three slices away; mirrored ones 1.1 in 97 %
MIN_PLACE_GAIN = 1.1
SLICES_AWAY = 3
INFORMATION_BY_ROUNDING = 1e-9  # in nats, that a constant image shares with another
LEVELS = 24  # gray levels of which the mutual information is computed


@dataclass(frozen=True)
class Fit:
    """How well pairs fit each other, measured on `count` of `total` pairs at 128 px.

    shift: the median shift, in percent of the width, at which the edges correlate best. gain: the
    median of mutual information unshifted, as a multiple of that after a shift by 3 %. likeness:
    how often an image shares more information with its partner than with another pair's image; None
    for less than 4 pairs. The others are of other patients at the same place among their slices, or
    a patient's neighbouring pairs where there is no other. exchanged: names of the pairs whose
    images share more information with each other's partners than with their own. unlike: those of
    which likeness and gain are both too low. turned: those whose partners fit better mirrored or upside
    down. moved: those whose partners fit better three slices away. Of patients the first pair of each
    stands for all.

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
    total: int
    exchanged: tuple[str, ...]
    unlike: tuple[str, ...]
    turned: tuple[str, ...]
    moved: tuple[str, ...]

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
            f" {self.count} of {count_noun(self.total, 'pair')})"
        )


class Compared(NamedTuple):
    """A pair at 128 px, as it is measured."""

    name: str
    subject: str
    rank: int  # its place among the patient's measured pairs
    image: np.ndarray  # (128, 128) from 0 to 1
    partner: np.ndarray
    away: list[np.ndarray]  # what lies SLICES_AWAY before and behind the partner, if it is a slice

    @property
    def turned(self) -> list[np.ndarray]:
        """The partner mirrored, upside down, and both."""
        return [self.partner[:, ::-1], self.partner[::-1], self.partner[::-1, ::-1]]


def fit_of(pairs: Sequence[dict[str, Record]], most: int = MAX_PAIRS) -> Fit | None:
    """Measure how well pairs fit each other, on at most `most` of all patients; None without pairs."""
    compared = [
        Compared(
            pair["a"].scan_key or pair["a"].key,
            subject,
            rank,
            _small(pair["a"].read()),
            _small(pair["b"].read()),
            [_small(record.read()) for record in away],
        )
        for subject, rank, pair, away in _pairs_of_all_patients(pairs, most)
    ]
    if not compared:
        return None

    levels = [(_levels(each.image), _levels(each.partner)) for each in compared]
    shifts = [_shift(each.image, each.partner) for each in compared]
    gains = [_gain(*own) for own in levels]
    information = np.array([[_information(a, b) for _, b in levels] for a, _ in levels])
    shares_won = _shares_won(compared, information)
    known = shares_won[~np.isnan(shares_won)]
    likeness = None
    if len(compared) >= MIN_PAIRS and known.size:
        likeness = float(np.mean(known))

    groups = _groups(compared)
    unlike = [
        compared[own[0]].name
        for own in groups
        if np.mean(shares_won[own]) < MIN_LIKENESS and np.median(np.array(gains)[own]) < MIN_GAIN
    ]
    images = [image for image, _ in levels]
    placed_better = partial(_placed_better, compared, groups, images, information.diagonal())
    return Fit(
        shift=round(float(np.median(shifts)), 2),
        gain=round(float(np.median(gains)), 2),
        likeness=likeness,
        count=len(compared),
        total=len(pairs),
        exchanged=_exchanged_pairs(compared, groups, information),
        unlike=tuple(unlike) if likeness is not None else (),
        turned=placed_better([each.turned for each in compared]),
        moved=placed_better([each.away for each in compared]),
    )


def _groups(compared: Sequence[Compared]) -> list[list[int]]:
    """The places of the pairs of each patient; of one patient, or unknown ones, of each pair."""
    patients = {each.subject for each in compared}
    groups: dict[str, list[int]] = defaultdict(list)
    for number, each in enumerate(compared):
        groups[each.subject if len(patients) > 1 else each.name].append(number)
    return [*groups.values()]


def _shares_won(compared: Sequence[Compared], information: np.ndarray) -> np.ndarray:
    """For each pair, how often its image shares more information with its partner than with another
    one, as of `Fit`; NaN without others, and where one of the two is constant and so shares nothing.
    `information` (N, N) is that of each image with each partner.
    """
    subjects = np.unique([each.subject for each in compared], return_inverse=True)[1]
    ranks = np.array([each.rank for each in compared])
    shares_won = np.full(len(compared), np.nan)
    for number, own in enumerate(information):
        others = (subjects != subjects[number]) & (ranks == ranks[number])
        if not others.any():
            others = (subjects == subjects[number]) & (np.abs(ranks - ranks[number]) == 1)
        if others.any() and own[number] > INFORMATION_BY_ROUNDING:
            shares_won[number] = np.mean(own[number] > own[others])
    return shares_won


def _exchanged_pairs(
    compared: Sequence[Compared], groups: Sequence[list[int]], information: np.ndarray
) -> tuple[str, ...]:
    """The names of the pairs, of patients the first of each, of which two share clearly more
    information with each other's partners than with their own.

    Of four real sets, the largest ratio of two true pairs was 1.11; of exchanged ones, 98 % exceed
    MIN_EXCHANGE_GAIN.
    """
    names = set()
    for one, other in combinations(groups, 2):
        own = min(len(one), len(other))
        x, y = one[:own], other[:own]
        crossed = information[x, y].mean(), information[y, x].mean()
        straight = information[x, x].mean(), information[y, y].mean()
        are_both = crossed[0] > straight[0] and crossed[1] > straight[1]
        if are_both and sum(crossed) >= MIN_EXCHANGE_GAIN * sum(straight):
            names |= {compared[one[0]].name, compared[other[0]].name}
    return tuple(sorted(names))


def _placed_better(
    compared: Sequence[Compared],
    groups: Sequence[list[int]],
    images: Sequence[np.ndarray],
    straight: np.ndarray,
    places: Sequence[list[np.ndarray]],
) -> tuple[str, ...]:
    """The names of the pairs, of patients the first of each, whose image shares clearly more
    information with its partner at one of the pair's `places` than as it is (`straight`). `images`
    are gray levels.
    """
    names = []
    for group in groups:
        with_places = [number for number in group if places[number]]
        if not with_places:
            continue

        shared = [
            [_information(images[number], _levels(partner)) for partner in places[number]]
            for number in with_places
        ]
        elsewhere = np.mean(shared, axis=0).max()
        least = MIN_PLACE_GAIN * np.mean(straight[with_places])
        if elsewhere > max(least, INFORMATION_BY_ROUNDING):
            names.append(compared[group[0]].name)
    return tuple(names)


def _pairs_of_all_patients(
    pairs: Sequence[dict[str, Record]], limit: int
) -> Iterator[tuple[str, int, dict[str, Record], list[Record]]]:
    """Yield (patient, rank, pair, the slices SLICES_AWAY before and behind the second image): at most
    `limit` pairs, as many of each patient, ordered by rank.

    A patient's pairs are the middles of equal parts of the stack.
    """
    stacks: dict[str, list[dict[str, Record]]] = defaultdict(list)
    for pair in pairs:
        stacks[pair["a"].subject].append(pair)

    most = max(1, limit // max(1, len(stacks)))
    for subject, own in spread(list(stacks.items()), limit):
        count = min(most, len(own))
        for rank in range(count):
            middle = int((rank + 0.5) * len(own) / count)
            scan = own[middle]["b"].scan_key
            ends = middle - SLICES_AWAY, middle + SLICES_AWAY
            away = [own[end]["b"] for end in ends if 0 <= end < len(own)]
            are_slices = scan and all(record.scan_key == scan for record in away)
            yield subject, rank, own[middle], away if are_slices and len(away) == 2 else []


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


def _levels(image: np.ndarray) -> np.ndarray:
    """The gray levels, from 0 to LEVELS - 1, of an image from its least to its largest value."""
    low, high = image.min(), image.max()
    return np.minimum((image - low) * (LEVELS / max(high - low, 1e-9)), LEVELS - 1).astype(np.intp)


def _gain(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two images, divided by that after a shift by 3 % of the width."""
    moved = [
        _information(one, np.roll(other, by, axis)) for by in (-SHIFT, SHIFT) for axis in (0, 1)
    ]
    return _information(one, other) / max(float(np.mean(moved)), 1e-9)


def _information(one: np.ndarray, other: np.ndarray) -> float:
    """The mutual information of two images of gray levels, in nats."""
    counts = np.bincount((LEVELS * one + other).ravel(), minlength=LEVELS**2)
    joint = counts.reshape(LEVELS, LEVELS) / one.size
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def measured_sets(study: Study) -> list[tuple[str, list[dict[str, Record]], int]]:
    """(name, pairs with files, how many are measured at most) of all pairs, and of test and
    validation.
    """
    held_out = [*study.splits.get("test", ()), *study.splits.get("validation", ())]
    sets = []
    for which, records, most in (
        ("", study.records, MAX_PAIRS),
        ("test and validation ", held_out, MAX_HELD_OUT_PAIRS),
    ):
        pairs = [pair for pair in complete_pairs(records).values() if pair["a"].path]
        sets.append((which, pairs, most))
    return sets


def measured_in_words(study: Study) -> str:
    """How many of the pairs are measured: `16 of 110 pairs and 35 of 35 test pairs measured`."""
    counts = []
    for which, pairs, most in measured_sets(study):
        measured = len([*_pairs_of_all_patients(pairs, most)])
        if pairs:
            counts.append(f"{measured} of {count_noun(pairs, f'{which}pair')}")
    return f"{' and '.join(counts)} measured" if counts else "none measured"


def no_true_pairs(study: Study) -> Iterator[Problem]:
    """Warn of registered pairs, of all and of those of test and validation, that do not fit each
    other, as if only their names were equal, or as if pictures showed something else than two
    images side by side; and of exchanged partners.
    """
    told: set[str] = set()
    for which, pairs, most in measured_sets(study):
        fit = fit_of(pairs, most)
        if fit is None:
            continue
        if not which and not fit.good:
            misfit = _misfit(study, pairs[0], fit)
            if misfit:
                yield misfit
                return

        counted = f"({fit.count} of {count_noun(fit.total, 'pair')} were measured)"
        for found, what in (
            (
                fit.exchanged,
                f"the partners of these {which}pairs seem to be exchanged, because two images fit"
                f" each other's partner better than their own {counted}:",
            ),
            (
                fit.turned,
                f"the partners of these {which}pairs seem to be mirrored or upside down, because images"
                f" fit them better turned {counted}:",
            ),
            (
                fit.moved,
                f"the partners of these {which}pairs seem to lie some slices away, because images fit"
                f" the slices {SLICES_AWAY} before or behind them better {counted}:",
            ),
            (
                fit.unlike,
                f"the partners of these {which}pairs may be of other patients or badly aligned,"
                f" because images do not fit them better than others {counted}:",
            ),
        ):
            names = [name for name in found if name not in told]
            told |= {*names}
            if names:
                remedy = "look at them, and give each image its own partner"
                yield problem("pairs", "warning", what, names, remedy)


def _misfit(study: Study, first: dict[str, Record], fit: Fit) -> Problem | None:
    """The warning of pairs that do not fit each other, of which `first` is the first; None where too
    few are known.
    """
    path = first["a"].path
    odd = [*dict.fromkeys((*fit.exchanged, *fit.turned, *fit.moved, *fit.unlike))]
    look_at = f"Look first at {join_first(odd)}"
    if not odd:
        look_at = f"The first pair is '{first['a'].key}' and '{first['b'].key}'"
    are_halves = path == first["b"].path and path is not None and not is_volume(path)
    if fit.likeness is None and not are_halves:
        return None

    remedies = []
    used = "the scores are computed from them"
    if study.guessed:
        used = "paired methods learn from them, and scores are computed from them"
    elif study.method.paired:
        used = "this method learns from them"
        remedies.append("use dualgan or another unpaired method")
    if "pairs" in study.table.source.options:
        remedies.append("set data.source.pairs to none, or list the true pairs in a table")
    if are_halves:
        remedies.append(
            "where pictures show more than two images, or one above the other, save each image as a"
            " file of its own, in a folder for each domain"
        )
    what = (
        f"the pairs may show different patients or be badly aligned, but {used}: {fit}. {look_at}. If"
        f" these are not pairs: {' or '.join(remedies) or 'correct them'}"
    )
    return problem("pairs", "warning", what)
