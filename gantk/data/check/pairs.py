"""Measures how well registered pairs fit each other, if at all, by one measure: the mutual information
of an image and a partner, its own one or another one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np

from gantk.data.check.findings import Problem, problem
from gantk.data.look import scale_to_unit
from gantk.data.preparation import Record
from gantk.data.sources.pairing import complete_pairs
from gantk.data.spread import spread
from gantk.errors import count_noun, join_first
from gantk.formats.files import is_volume
from gantk.progress import track

COMPARED_SIDE = 128  # side in pixels at which pairs are compared
MAX_PAIRS = 48  # that are measured
MIN_PAIRS = 4  # for telling chance
# pairs of one anatomy that a network can learn from, see `Fit`
MIN_LIKENESS = 0.75
MIN_GAIN = 1.04
# of a single pair, over the mean of all shifts: true ones reach 1.1, others 1.05
MIN_GAIN_OF_ONE = 1.06
SHIFT = 3  # pixels of COMPARED_SIDE (2 %) by which a pair is shifted for comparison
MIN_EXCHANGE_GAIN = 1.15  # of mutual information, from which partners are exchanged
# of mutual information, from which a turned partner is the right one. True pairs of six real sets
# reach 1.05 turned; mirrored ones 1.1 in 97 %
MIN_TURN_GAIN = 1.1
INFORMATION_BY_ROUNDING = 1e-9  # in nats, that a constant image shares with another
LEVELS = 24  # gray levels of which the mutual information is computed

# why the partner of an image is doubted: the end of a sentence on "the partners of these pairs"
DOUBTS = {
    "exchanged": "exchanged: two images fit each other's partner better than their own",
    "turned": "mirrored or upside down: images fit them better turned",
    "unlike": "of other patients or badly aligned: images fit others as well",
}


class Fit(NamedTuple):
    """How well pairs fit each other, `measured` on some of `total` pairs at 128 px.

    gain: the median of mutual information as a multiple of that after the best shift by 3 pixels.
    likeness: how often an image shares more information with its partner than with another pair's
    image; None for less than 4 pairs. The others are of other patients at the same place among
    their slices, or a patient's neighbouring pairs where there is no other. doubted: the names of
    the pairs, of patients the first of each, that are doubted for each of the DOUBTS.

    | pairs of seven real sets                    | gain         | likeness     |
    |---------------------------------------------|--------------|--------------|
    | true, registered by hand or on one template | 1.08 to 2.06 | 0.97 to 1    |
    | partners drawn at random                    | 0.93 to 1.01 | 0.44 to 0.73 |
    | moved by 2 % of the width                   | 0.63 to 0.95 | 0.75 to 1    |
    | moved by 5 %                                | 0.69 to 0.89 | 0.53 to 0.91 |
    """

    gain: float
    likeness: float | None
    measured: int
    total: int
    first: dict[str, Record]  # a pair
    doubted: Mapping[str, Sequence[str]]

    @property
    def good(self) -> bool:
        """Whether the pairs fit well enough for a paired method and for scores."""
        is_alike = self.likeness is None or self.likeness >= MIN_LIKENESS
        return is_alike and self.gain >= MIN_GAIN

    def __str__(self) -> str:
        partners = ""
        if self.likeness is not None:
            partners = (
                f"images match their own partner better than others in {self.likeness:.0%} of"
                " comparisons (chance is 50 %), and "
            )
        return (
            f"{partners}they match {self.gain:.2f} times as well as after a shift by 2 % of the width"
            f" (true pairs {MIN_GAIN} times or more; measured on {self.measured} of"
            f" {count_noun(self.total, 'pair')})"
        )


class Compared(NamedTuple):
    """A pair as it is measured: images (128, 128) of gray levels."""

    name: str
    subject: str
    rank: int  # its place among the patient's measured pairs
    image: np.ndarray
    partner: np.ndarray

    def shifted_partners(self) -> list[np.ndarray]:
        """The partner shifted by a few pixels along each axis."""
        shifts = [(by, axis) for by in (-SHIFT, SHIFT) for axis in (0, 1)]
        return [np.roll(self.partner, *shift) for shift in shifts]

    def turned_partners(self) -> list[np.ndarray]:
        """The partner mirrored, upside down, and both."""
        return [self.partner[:, ::-1], self.partner[::-1], self.partner[::-1, ::-1]]

    def information(self, partners: Iterable[np.ndarray]) -> np.ndarray:
        """The mutual information of the image with each of these partners, in nats."""
        return np.array([_information(self.image, partner) for partner in partners])


def measure_pairs(records: Sequence[Record]) -> Fit | None:
    """Measure how well the registered pairs of records that have files fit each other, on at most
    MAX_PAIRS of all patients; None without pairs.
    """
    pairs = [pair for pair in complete_pairs(records).values() if pair["a"].path]
    compared = list(_read_pairs(pairs, MAX_PAIRS))
    if not compared:
        return None

    partners = [each.partner for each in compared]
    information = np.array([each.information(partners) for each in compared])
    own = information.diagonal()
    shifted = np.array([each.information(each.shifted_partners()) for each in compared])
    gains = own / np.maximum(shifted.max(axis=1), INFORMATION_BY_ROUNDING)
    gains_of_one = own / np.maximum(shifted.mean(axis=1), INFORMATION_BY_ROUNDING)
    shares_won = _shares_won(compared, information)
    is_known = len(compared) >= MIN_PAIRS and not np.isnan(shares_won).all()

    people = _people(compared)
    turned = np.array([each.information(each.turned_partners()) for each in compared])
    groups_of = {
        "exchanged": _exchanged_people(people, information),
        "turned": _turned_people(people, own, turned),
        "unlike": _unlike_people(people, shares_won, gains_of_one) if is_known else [],
    }
    return Fit(
        gain=round(float(np.median(gains)), 2),
        likeness=float(np.nanmean(shares_won)) if is_known else None,
        measured=len(compared),
        total=len(pairs),
        first=pairs[0],
        doubted={
            why: [compared[group[0]].name for group in groups] for why, groups in groups_of.items()
        },
    )


def _people(compared: Sequence[Compared]) -> list[list[int]]:
    """The places of the pairs of each patient; of one patient, or unknown ones, of each pair."""
    are_several = len({each.subject for each in compared}) > 1
    groups: dict[str, list[int]] = defaultdict(list)
    for number, each in enumerate(compared):
        groups[each.subject if are_several else each.name].append(number)
    return [*groups.values()]


def _shares_won(compared: Sequence[Compared], information: np.ndarray) -> np.ndarray:
    """For each pair, how often its image shares more information with its partner than with another
    one, as of `Fit`; NaN without others, and where one of the two is constant and so shares nothing.
    `information` (N, N) is that of each image with each partner.
    """
    subjects = np.array([each.subject for each in compared])
    ranks = np.array([each.rank for each in compared])
    is_same = subjects[:, None] == subjects
    distances = np.abs(ranks[:, None] - ranks)
    others = ~is_same & (distances == 0)
    is_alone = ~others.any(axis=1)
    others[is_alone] = (is_same & (distances == 1))[is_alone]

    own = information.diagonal()
    won = (own[:, None] > information) & others
    count = np.where(own > INFORMATION_BY_ROUNDING, others.sum(axis=1), 0)
    return np.where(count, won.sum(axis=1) / np.maximum(count, 1), np.nan)


def _exchanged_people(people: Sequence[list[int]], information: np.ndarray) -> list[list[int]]:
    """The people of whom two share clearly more information with each other's partners than with
    their own.

    Of four real sets, the largest ratio of two true pairs was 1.11; of exchanged ones, 98 % exceed
    MIN_EXCHANGE_GAIN.
    """
    found = []
    for one, other in combinations(people, 2):
        pairs = list(zip(one, other, strict=False))
        straight = np.mean([(information[i, i], information[j, j]) for i, j in pairs], axis=0)
        crossed = np.mean([(information[i, j], information[j, i]) for i, j in pairs], axis=0)
        is_clear = crossed.sum() >= MIN_EXCHANGE_GAIN * straight.sum()
        if is_clear and (crossed > straight).all():
            found += [one, other]
    return found


def _turned_people(
    people: Sequence[list[int]], own: np.ndarray, turned: np.ndarray
) -> list[list[int]]:
    """The people whose images share clearly more information with their partners turned in one way
    than with these as they are.
    """
    found = []
    for group in people:
        best = turned[group].mean(axis=0).max()
        if best > max(MIN_TURN_GAIN * own[group].mean(), INFORMATION_BY_ROUNDING):
            found.append(group)
    return found


def _unlike_people(
    people: Sequence[list[int]], shares_won: np.ndarray, gains: np.ndarray
) -> list[list[int]]:
    """The people whose images fit the partners of others as well, and no better than shifted."""
    return [
        group
        for group in people
        if np.mean(shares_won[group]) < MIN_LIKENESS and np.median(gains[group]) < MIN_GAIN_OF_ONE
    ]


def _read_pairs(pairs: Sequence[dict[str, Record]], limit: int) -> Iterator[Compared]:
    """Yield at most `limit` pairs, as many of each patient: the middles of equal parts of the stack."""
    stacks: dict[str, list[dict[str, Record]]] = defaultdict(list)
    for pair in pairs:
        stacks[pair["a"].subject].append(pair)

    most = max(1, limit // max(1, len(stacks)))
    for subject, stack in track(spread(list(stacks.items()), limit), "comparing", "stack of pairs"):
        count = min(most, len(stack))
        for rank in range(count):
            middle = int((rank + 0.5) * len(stack) / count)
            image, partner = stack[middle]["a"], stack[middle]["b"]
            yield Compared(
                image.scan_key or image.key,
                subject,
                rank,
                _levels(image),
                _levels(partner),
            )


def _levels(record: Record) -> np.ndarray:
    """The gray levels, from 0 to LEVELS - 1, of an image (of a volume its middle plane; the mean of
    the channels), resized to 128 px as in training.
    """
    from gantk.prepare.module import size_image

    gray = np.nan_to_num(record.read()).mean(axis=0)
    gray = gray if gray.ndim == 2 else gray[len(gray) // 2]
    small = size_image(scale_to_unit(gray)[None], (COMPARED_SIDE, COMPARED_SIDE))[0]
    small = (small - small.min()) / max(np.ptp(small), 1e-9)
    return np.minimum(small * LEVELS, LEVELS - 1).astype(np.intp)


def _information(one: np.ndarray, other: np.ndarray) -> float:
    """The mutual information of two images of gray levels, in nats."""
    counts = np.bincount((LEVELS * one + other).ravel(), minlength=LEVELS**2)
    joint = counts.reshape(LEVELS, LEVELS) / one.size
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def pairs_that_do_not_fit(fit: Fit | None) -> Iterator[Problem]:
    """Warn of registered pairs that do not fit each other, as if only their names were equal, or as
    if pictures showed something else than two images side by side; else of single partners.
    """
    if fit is None:
        return
    a, b = fit.first["a"], fit.first["b"]
    are_halves = a.path is not None and a.path == b.path and not is_volume(a.path)
    if not fit.good and (fit.likeness is not None or are_halves):
        yield _misfit(fit, are_halves)
        return

    named: set[str] = set()
    for why, suspects in fit.doubted.items():
        names = sorted({*suspects} - named)
        named |= {*names}
        if names:
            what = (
                f"the partners of these pairs may be {DOUBTS[why]} ({fit.measured} of"
                f" {count_noun(range(fit.total), 'pair')} were measured):"
            )
            remedy = "look at them, and give each image its own partner"
            yield problem("pairs", "warning", what, names, remedy)


def _misfit(fit: Fit, are_halves: bool) -> Problem:
    """The warning of pairs that do not fit each other."""
    remedy = "correct them, or use an unpaired method, and set data.source.pairs=none"
    if are_halves:
        remedy = (
            "where pictures show more than two images, or one above the other, save each image as a"
            " file of its own, in a folder for each domain"
        )
    doubted = list(dict.fromkeys(chain(*fit.doubted.values())))
    what = (
        f"the pairs may show different patients or be badly aligned: {fit}. Paired methods"
        " learn from them, and scores are computed from them. Look first at"
        f" {join_first(doubted or [fit.first['a'].key])}"
    )
    return problem("pairs", "warning", what, (), remedy)
