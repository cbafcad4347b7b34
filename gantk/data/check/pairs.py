"""Measures how well registered pairs fit each other, if at all, by one measure: the mutual information
of an image and a partner, which is its own one, that one moved or mirrored, or another image's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gantk.data.check.findings import Problem, problem
from gantk.data.look import scale_to_unit
from gantk.data.masks import outline
from gantk.data.preparation import Pair, Record, RecordId
from gantk.data.sources.pairing import LIKELY, complete_pairs
from gantk.data.spread import spread, spread_over_owners
from gantk.errors import count_noun, join_first
from gantk.files import write_output
from gantk.progress import track

COMPARED_SIDE = 128  # side in pixels at which pairs are compared
MAX_PAIRS = 48  # that are measured
MAX_MATCHED = 100  # images of a domain whose partners are looked for
MIN_PAIRS = 4  # for telling chance
# pairs of one anatomy that a network can learn from, see `Fit`
MIN_LIKENESS = 0.75
MIN_GAIN = 1.04
# of a patient's pairs to the neighbouring ones, see `_misfit_of_stack`
MIN_LIKENESS_OF_PATIENT = 0.66
MAX_OFFSET = 1 / 3  # slices from an image's partner to where it fits best
MIN_NEIGHBOURS = 8  # pairs of a patient's stack, of which MAX_NEIGHBOURS are compared
MAX_NEIGHBOURS = 12
# of a single pair, over the mean of all shifts: true ones reach 1.1, others 1.05
MIN_GAIN_OF_ONE = 1.06
# of mutual information with another partner over that with the own one, from which the own one is
# doubted. Of true pairs of eight real sets, it reaches 1.06 with the partner moved or mirrored; of
# those moved by 5 % of the width, or mirrored, it is 1.1 to 1.5
MIN_OTHER_GAIN = 1.1
SHIFT = 3  # pixels of COMPARED_SIDE (2 %) by which a pair is shifted for comparison
NAME_LENGTH = 40  # letters above a picture of `draw_pairs`
SHOWN_SIDE = 256  # pixels of a picture of `draw_pairs`
LINE = 16  # of text above it
NO_INFORMATION = 1e-9  # in nats, what a constant image shares with another by rounding
LEVELS = 24  # gray levels of which the mutual information is computed

# why the partner of an image is doubted: the end of a sentence on "the partners of these pairs"
DOUBTS = {
    "exchanged": "exchanged: two images fit each other's partner better than their own",
    "turned": "mirrored or upside down: images fit them better turned",
    "unlike": "of other patients or badly aligned: images fit others as well",
}


class Fit(NamedTuple):
    """How well pairs fit each other, `measured` on so many of them at 128 px.

    gain: the median of mutual information as a multiple of that after the best shift by 3 pixels.
    likeness: how often an image shares more information with its partner than with another pair's
    image; None for less than 4 pairs. The others are of other patients at the same place among
    their slices, or of unknown ones the neighbouring pairs. doubted: by the name of a pair, of a
    patient the first, for which of the DOUBTS it is doubted; `doubted_of` says of how many.
    of_patients: by patient "", or how often an image matches its partner better than a neighbouring
    one of that patient, of how many comparisons, where the pairs do not fit: "59% of 22".
    patients: how many have pairs; 1 where they are not known.

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
    doubted: Mapping[str, str]
    doubted_of: str
    of_patients: Mapping[str, str]
    patients: int

    @property
    def good(self) -> bool:
        """Whether the pairs fit well enough for a paired method and for scores."""
        return self.good_on_the_whole and 2 * len(self.misfits) <= len(self.of_patients)

    @property
    def good_on_the_whole(self) -> bool:
        """Whether the pairs of all patients together fit well enough."""
        is_alike = self.likeness is None or self.likeness >= MIN_LIKENESS
        return is_alike and self.gain >= MIN_GAIN

    @property
    def misfits(self) -> dict[str, str]:
        """The patients whose pairs do not fit, with what `of_patients` says."""
        return {name: share for name, share in self.of_patients.items() if share}

    @property
    def to_others(self) -> str:
        """What `likeness` says, in words; "" where it is not known."""
        others = "images of other patients" if self.patients > 1 else "neighbouring images"
        if self.likeness is None:
            return ""
        return f"they fit better than {others} in {self.likeness:.0%} of comparisons (chance: 50%)"

    @property
    def to_shifted(self) -> str:
        """What `gain` says, in words."""
        return (
            f"a shift by 2% of the width weakens the fit by a factor of {self.gain:.2f} (true pairs:"
            f" {MIN_GAIN} or more)"
        )

    def __str__(self) -> str:
        return ", and ".join(filter(None, (self.to_others, self.to_shifted)))


def measure_pairs(records: Sequence[Record]) -> Fit | None:
    """Measure how well the registered pairs of records that have files fit each other, on at most
    MAX_PAIRS, and those of each patient; None without pairs.

    An image shares information with each partner, and with its own one moved and turned. A partner is
    doubted if two images share clearly more with each other's, if its image does with it turned or
    moved, or if it shares as much with those of others and is not aligned.
    """
    pairs = [pair for pair in complete_pairs(records).values() if pair["a"].path]
    if not pairs:
        return None
    patients = defaultdict(list)
    for pair in pairs:
        patients[pair["a"].subject].append(pair)
    are_patients = [*patients] != [""]
    count = len(patients)
    stacks = spread([*patients.values()] if are_patients else [[x] for x in pairs], MAX_PAIRS)
    chosen = _middles_of_parts(stacks)

    images, partners = _read_pairs(chosen)
    information, others = _compare_all(images, partners, adjacent=not are_patients)
    with_others = information / information.diagonal()[:, None]
    changed = np.array([*map(_information, images, map(_changes_of, partners))])
    _, moved, turned = np.split(changed / changed[:, :1], [1, 5], axis=1)

    is_known = len(pairs) >= MIN_PAIRS and others.any()
    losses = (with_others >= 1) & others
    fits_others = losses.sum(axis=1) > (1 - MIN_LIKENESS) * others.sum(axis=1)
    not_aligned = moved.mean(axis=1) * MIN_GAIN_OF_ONE > 1
    doubts = {
        "exchanged": np.minimum(with_others, with_others.T).max(axis=1) > MIN_OTHER_GAIN,
        "turned": turned.max(axis=1) > MIN_OTHER_GAIN,
        "unlike": (moved.max(axis=1) > MIN_OTHER_GAIN) | (is_known & fits_others & not_aligned),
    }
    why = np.select([*doubts.values()], [*doubts], "")
    doubtful = {n: chosen[n][0]["a"] for n in np.flatnonzero(why != "")}
    for name in ["", *(record.subject for record in doubtful.values())]:
        patients.pop(name, None)  # the patient is not known, or named for what it shows
    return Fit(
        gain=round(float(np.median(1 / moved.max(axis=1))), 2),
        likeness=1 - float(losses[others].mean()) if is_known else None,
        measured=sum(map(len, chosen)),
        doubted={each.scan_key or each.key: str(why[n]) for n, each in doubtful.items()},
        doubted_of=count_noun(stacks, "measured patient" if are_patients else "measured pair"),
        of_patients=_fit_of_patients(chain(*patients.values())) if are_patients else {},
        patients=count,
    )


def show_the_same(records: Sequence[Record]) -> tuple[bool, dict[RecordId, str]]:
    """Whether images of two domains without pairs seem to show the same anatomy: most have a partner
    that is the best for both, and fit it as registered pairs do. And these pairs, where all images
    were compared: by the id of a record the name of its pair.

    | images                                    | gain         | best for both |
    |-------------------------------------------|--------------|---------------|
    | of the same heads, of five sets           | 1.06 to 2.05 | 0.52 to 1     |
    | of other heads, of four sets              | 0.88 to 1.01 | 0.06 to 0.5   |
    """
    sides = []
    for letter in "ab":
        own = [record for record in records if record.path and record.domain == letter]
        owners = [record.subject or record.key for record in own]
        sides.append(spread_over_owners(own, owners, MAX_MATCHED))
    if min(map(len, sides)) < MIN_PAIRS:
        return False, {}
    images, partners = (np.array([[_levels(record)] for record in side]) for side in sides)
    information = np.array([_information(image, partners) for image in images])
    best = information.argmax(axis=1)
    is_best_for_both = information.argmax(axis=0)[best] == np.arange(len(best))
    changed = np.array([*map(_information, images, map(_changes_of, partners[best]))])
    gain = np.median(changed[:, 0] / changed[:, 1:5].max(axis=1))
    if is_best_for_both.mean() <= 0.5 or gain < MIN_GAIN:
        return False, {}
    names = {}
    if sum(map(len, sides)) == sum(bool(record.path) for record in records):
        for number in np.flatnonzero(is_best_for_both):
            record, partner = sides[0][number], sides[1][best[number]]
            names[record.id] = names[partner.id] = LIKELY + record.key
    return True, names


def _middles_of_parts(stacks: Sequence[Sequence[Pair]]) -> list[list[Pair]]:
    """As many pairs of each stack, MAX_PAIRS in all: the middles of its equal parts."""
    slices = max(1, min(MAX_PAIRS // len(stacks), *map(len, stacks)))
    return [
        [stack[int((part + 0.5) * len(stack) / slices)] for part in range(slices)]
        for stack in stacks
    ]


def _fit_of_patients(pairs: Iterable[Pair]) -> dict[str, str]:
    """`Fit.of_patients`, from pairs in the middle of a visit's stack, of those with enough of them.
    Of a thick stack every second one or less: slices of 1 mm are too like their neighbours to tell.
    """
    visits = defaultdict(list)
    for pair in pairs:
        record = pair["a"]
        visits[record.subject, record.file and record.file.row.session].append(pair)
    enough = [(*key, stack) for key, stack in visits.items() if len(stack) >= MIN_NEIGHBOURS]
    found: dict[str, str] = {}
    for patient, _, stack in spread(enough, MAX_PAIRS):
        step = max(1, len(stack) // (2 * MAX_NEIGHBOURS))
        first = max(0, len(stack) - step * MAX_NEIGHBOURS) // 2
        near = _read_pairs([[pair] for pair in stack[first::step][:MAX_NEIGHBOURS]])
        misfit = _misfit_of_stack(*_compare_all(*near, adjacent=True))
        found[patient] = misfit or found.get(patient, "")
    return found


def _misfit_of_stack(information: np.ndarray, others: np.ndarray) -> str:
    """As of `Fit.of_patients`, by the (N, N) information of a stack's images with its partners, of
    which `others` are the neighbouring ones.

    The share is the lesser of the images' and of their partners'. One of a dozen pairs is too
    uncertain to doubt a patient: it was 0.64 of true pairs of CT and MRI, and 0.36 to 0.64 of some
    that are a slice off. So the partners that fit best, by a parabola through the mean information at
    -1, 0 and 1 slices, must be more than MAX_OFFSET away too. It was 0.05 to 0.18 slices in five
    patients of CT and MRI, and 0.44 in one whose planes differ by eye.
    This finds 11 of 12 stacks that are a slice off and 110 of 120 in random order; the upper end of a
    95 % interval of the share alone would find 5 and 29.
    """
    known = information.diagonal() > NO_INFORMATION  # a blank slice would pull the parabola
    information, others = (each[np.ix_(known, known)] for each in (information, others))
    own = information.diagonal()
    of_image = (information < own[:, None])[others]
    of_partner = (information < own)[others.T]
    share = min(of_image.sum(), of_partner.sum()) / max(of_image.size, 1)
    if not of_image.size or share >= MIN_LIKENESS_OF_PATIENT:
        return ""
    after, before = (np.log(information.diagonal(by)).mean() for by in (1, -1))
    curvature = np.log(own[1:] * own[:-1]).mean() - after - before
    is_centred = abs(after - before) <= 2 * MAX_OFFSET * curvature
    return "" if is_centred else f"{share:.0%} of {of_image.size}"


def _read_pairs(stacks: Sequence[Sequence[Pair]]) -> np.ndarray:
    """(2, N, slices, 128, 128) the gray levels of the images and of their partners."""
    levels = [
        [[_levels(pair[letter]) for pair in stack] for stack in track(stacks, "comparing")]
        for letter in "ab"
    ]
    return np.array(levels)


def _compare_all(
    images: np.ndarray, partners: np.ndarray, *, adjacent: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(N, N) the information of each image with each partner, and which of these are others that it is
    compared with: all, or the `adjacent` ones.
    """
    information = np.array([_information(image, partners) for image in images])
    own = information.diagonal()[:, None]
    places = np.arange(len(images))
    distances = np.abs(places[:, None] - places)
    others = distances == 1 if adjacent else distances > 0
    return information, others & (own > NO_INFORMATION)


def _changes_of(partner: np.ndarray) -> list[np.ndarray]:
    """A partner (slices, H, W) itself; moved by a few pixels along each axis; mirrored, upside down,
    and both.
    """
    moved = [np.roll(partner, by, axis) for by in (-SHIFT, SHIFT) for axis in (1, 2)]
    return [partner, *moved, *(np.flip(partner, axes) for axes in (1, 2, (1, 2)))]


def _information(image: np.ndarray, partners: Iterable[np.ndarray]) -> list[float]:
    """The mutual information of an image of gray levels with each of these partners, in nats; what a
    constant image shares by rounding is the least.
    """
    from scipy.special import rel_entr

    found = []
    for partner in partners:
        counts = np.bincount((LEVELS * image + partner).ravel(), minlength=LEVELS**2)
        joint = counts.reshape(LEVELS, LEVELS) / image.size
        independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        found.append(max(float(rel_entr(joint, independent).sum()), NO_INFORMATION))
    return found


def draw_pairs(records: Sequence[Record], fit: Fit, file: Path) -> str:
    """Write a picture of 10 pairs side by side: 5 that may not fit, below them others of each patient;
    returns how many of how many.
    """
    from PIL import Image, ImageDraw

    doubted = {*fit.misfits, *fit.doubted}
    pairs: dict[bool, list[Pair]] = {True: [], False: []}
    for pair in complete_pairs(records).values():
        record = pair["a"]
        is_told = not doubted.isdisjoint({record.subject, record.scan_key or record.key})
        pairs[is_told].append(pair)
    shown = [(pair, "may not fit: ") for pair in spread(pairs[True], 5)]
    owners = [pair["a"].subject or pair["a"].key for pair in pairs[False]]
    others = spread_over_owners(pairs[False], owners, 10 - len(shown))
    shown += [(pair, "") for pair in others]
    row = SHOWN_SIDE + LINE
    sheet = Image.new("RGB", (2 * SHOWN_SIDE, row * len(shown)), "white")
    text = ImageDraw.Draw(sheet).text
    for number, (pair, doubt) in enumerate(shown):
        lesion = _lesion(pair)
        for column, letter in enumerate("ab"):
            name = doubt + pair[letter].key[len(doubt) - NAME_LENGTH :]
            text((SHOWN_SIDE * column, row * number), name, "black")
            levels = np.rint(255 * _gray(pair[letter])).astype(np.uint8)
            picture = Image.fromarray(levels).resize((SHOWN_SIDE, SHOWN_SIDE))
            if lesion is not None:
                picture = outline(picture, lesion)
            sheet.paste(picture, (SHOWN_SIDE * column, row * number + LINE))
    with BytesIO() as content:
        sheet.save(content, "PNG")
        write_output(file, content.getvalue())
    return f"{len(shown)} of {sum(map(len, pairs.values()))} pairs"


def _lesion(pair: Pair) -> np.ndarray | None:
    """The lesions of a pair, (1, SHOWN_SIDE, SHOWN_SIDE), above 0 inside, of a volume in the plane of
    `gray_of`; None without a mask.
    """
    from gantk.prepare.module import size_image

    reads = [record.mask for record in pair.values() if record.mask]
    if not reads:
        return None
    mask = reads[0]()
    plane = mask if mask.ndim == 3 else mask[:, mask.shape[1] // 2]
    return size_image(plane, (SHOWN_SIDE, SHOWN_SIDE), nearest=True)


def _levels(record: Record) -> np.ndarray:
    """The gray levels, from 0 to LEVELS - 1, of an image, see `_gray`."""
    return np.minimum(_gray(record) * LEVELS, LEVELS - 1).astype(np.intp)


def _gray(record: Record) -> np.ndarray:
    """An image of `gray_of` from 0 to 1, resized to 128 px as in training."""
    from gantk.prepare.module import size_image

    small = size_image(gray_of(record)[None], (COMPARED_SIDE, COMPARED_SIDE))[0]
    return (small - small.min()) / max(np.ptp(small), 1e-9)


def gray_of(record: Record) -> np.ndarray:
    """An image (H, W), of a volume its middle plane, the mean of the channels, of which the 1st
    percentile is 0 and the 99.5th 1.
    """
    gray = np.nan_to_num(record.read()).mean(axis=0)
    return scale_to_unit(gray if gray.ndim == 2 else gray[len(gray) // 2])


def pairs_that_do_not_fit(fit: Fit | None, tested: Collection[str]) -> Iterator[Problem]:
    """Warn of registered pairs that do not fit each other, as if only their names were equal, or as
    if pictures showed something else than two images side by side; else of patients, and of single
    partners. `tested`: the patients in the test.
    """
    if fit is None:
        return
    if not fit.good_on_the_whole and fit.likeness is not None:
        first = join_first([*fit.doubted])
        yield problem(
            "pairs",
            f"the pairs may show different patients or be badly aligned: {fit}. Paired methods"
            " learn from pairs, and scores are computed from them"
            f"{f'. Look first at {first}' if first else ''}",
            remedy="correct them (a picture of two images has these side by side), or use an unpaired"
            " method, and set data.source.pairs=none",
        )
        return

    if fit.misfits:
        ends = {True: " in the test", False: ""}
        shown = [
            f"{name}{ends[name in tested]} ({share} comparisons)"
            for name, share in fit.misfits.items()
        ]
        what = (
            f"the pairs of {len(fit.misfits)} of {len(fit.of_patients)} measured patients may be"
            f" misaligned or show different slices: {join_first(shown)}. True pairs fit better"
            f" than neighbouring slices of the same patient in at least {MIN_LIKENESS_OF_PATIENT:.0%}"
        )
        left = f"{fit.patients - len(fit.misfits)} of {fit.patients} patients are left"
        remedy = f"look at them (gantk data check SCANS --pictures pairs.png). Then correct these patients, or leave them out ({left})"
        yield replace(problem("pairs", what, (), remedy), leave_out=[*fit.misfits])
    for why, words in DOUBTS.items():
        names = sorted(name for name, doubt in fit.doubted.items() if doubt == why)
        if names:
            yield problem(
                "pairs",
                f"the partners of these pairs may be {words} ({len(names)} of {fit.doubted_of}):",
                names,
            )
