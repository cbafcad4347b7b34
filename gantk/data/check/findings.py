"""Findings of `gantk data check` in the images themselves: each function looks at what was measured
of all images and yields problems. Those of pairs are in `pairs`, those of a training in `check`.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress

import numpy as np

from gantk.catalog.contrasts import (
    CONTRASTS,
    contradict,
    one_word,
    says_agent,
    times_contradict,
    usual_contrast,
)
from gantk.catalog.people import people_of_two_names
from gantk.data.check.inspect import MAX_MASK_VALUES, Inspected, scans_of
from gantk.data.check.kinds import (
    PLANE,
    SKULL,
    SPACING,
    Facts,
    Trait,
    in_words,
    is_ct,
    range_width,
)
from gantk.data.dataset import Study
from gantk.data.intensity import SCALE_RATIO, Learnt, of_usual_scale
from gantk.data.look import MAX_AIR
from gantk.data.masks import MAX_LESION_SHARE
from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import Fingerprints, near_copies
from gantk.data.spread import spread
from gantk.errors import count_noun, join_first
from gantk.formats.files import NotFinite

MAX_OUTLIER_SHARE = 0.25  # of the images that may be reported as outliers
MIN_FOR_OUTLIERS = 4  # images of a domain
MAX_SPACING_RATIO = 1.2  # to the median of a domain
# measured: 1.3 of templates on one scale, 3.8 of heads of two scanners
MAX_WIDTH_RATIO = 2.0
MIN_CONTENT = 0.005  # share of pixels that differ from the background
# by a mask, as a multiple of what it marks; rims around necrosis, of eight gliomas, enclose 0.4
MAX_ENCLOSED = 0.15
MIN_IMAGES = 12  # of each domain, for comparing their looks
MIN_DISTANCE = 1e-3  # of looks, so that copies have a ratio
MAX_NEIGHBOURS = 2_000  # images of each domain that all looks are compared with
MIN_LOG_RATIO = 0.25  # of the distances to the own and the other domain, for a wrong one
MAX_USUAL_LOG_RATIO = -0.4  # the median of images that are in the right domain

# What a finding does to a training, and what helps where that is always the same. An error stops a
# training, a warning spoils its scores, a note is good to know; other kinds are errors.
KINDS: Mapping[str, tuple[str, str | None]] = {
    "layout": ("warning", "Complete the table: cells in which these lines differ are empty"),
    "sample": ("note", "use --every to check all images, which is slow"),
    "versions": ("note", None),
    "pairs": ("warning", "look at them, and give each image its own partner"),
    "scores": ("warning", None),
    "empty": ("warning", "look at such images, or leave them out"),
    "masks": (
        "warning",
        "leave masks out; label maps need the intensity label_map (gantk show intensity label_map)",
    ),
    "lesions": ("warning", "give masks of the lesions alone, 0 elsewhere"),
    "outlines": (
        "warning",
        "look at them (gantk data check SCANS --pictures pairs.png); if it is lesion, as a tumour's core, use --set data.fill_masks=true",
    ),
    "remark": ("note", None),
    "units": ("warning", "convert them: of stored numbers from 0 to 4095, subtract 1024"),
    "planes": ("warning", "keep the images of one plane, or choose the plane with data.plane"),
    "skull": ("warning", "keep only one kind, or strip the skulls of all"),
    "channels": ("error", "choose gray or colour: --set data.channels=1, or 3"),
    "spacing": ("warning", "set data.spacing to resample all, or leave such images out"),
    "scale": (
        "warning",
        "convert all scans to the same unit, or normalise each scan by itself:"
        ' data.intensity = { name = "percentile", per = "volume" }',
    ),
    "range": ("warning", 'set data.intensity.per = "volume", as the recipe of gantk plan does'),
    "windows": ("warning", "export all with one window, or leave these patients out"),
    "contrast": ("warning", "look at them, and move those that are in the wrong domain"),
    "copies": (
        "warning",
        "they count more than once: delete all but one, or write none into their column split of a table"
        " (gantk data check SCANS --table scans.csv)",
    ),
    "near-copies": ("warning", "look at them, and keep one of each"),
}


@dataclass
class Problem:
    """A finding: its `kind`; `severity` (error, warning or note); `what` is wrong; the
    names of the `files` concerned; a `remedy`, if there is one; and the patients whom
    it may help to `leave_out`.
    """

    kind: str
    severity: str
    what: str
    files: list[str]
    remedy: str | None
    leave_out: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """A line for the terminal: severity, what, and the remedy as a second sentence."""
        remedy = self.remedy or ""
        if self.leave_out:
            remedy += f": --set {shlex.quote(leaving_out(self.leave_out))}"
        sentences = [self.what, remedy[:1].upper() + remedy[1:].rstrip(".")]
        return f"{self.severity:<9}{'. '.join(filter(None, sentences))}"


def leaving_out(patients: Iterable[str]) -> str:
    """The setting of a recipe that leaves these patients out."""
    return f"data.leave_out={json.dumps([*patients])}"


def problem(
    kind: str,
    what: str,
    files: Sequence[str] = (),
    remedy: str | None = None,
    severity: str | None = None,
) -> Problem:
    """Build a problem, with the severity and remedy of its kind unless others are given; where `what`
    ends with a colon, the first few files are named after it.
    """
    if what.endswith(":"):
        what += f" {join_first([repr(file) for file in files])}"
    usual_severity, usual_remedy = KINDS.get(kind, ("error", None))
    severity = severity or usual_severity
    return Problem(kind, severity, what.rstrip("."), list(files), remedy or usual_remedy)


def unreadable_images(items: Iterable[Inspected]) -> Iterator[Problem]:
    """One error for every image that cannot be read, with the reader's message."""
    for item in items:
        if item.error is not None:
            kind = "not-finite" if isinstance(item.error, NotFinite) else "unreadable"
            yield problem(kind, item.error.what, [item.name], item.error.remedy)


def about_images(items: Sequence[Inspected], study: Study | None) -> Iterator[Problem]:
    """All that comparing readable images finds, by what they show in a study."""
    yield from _faults(items, study)
    yield from hollow_masks(record for item in items for record in item.records)
    yield from _remarks(items)
    # the images of each domain; of a domain of several contrasts, "T1+FLAIR", of each contrast
    groups = defaultdict(list)
    for item in items:
        groups[item.contrast or " and ".join(item.domains)].append(item)
    for name, group in groups.items():
        of = f" of {name}" if name not in ("", "images") else ""
        yield from _mixtures(group, of, study)
        yield from _outliers(group, of)
    yield from _people_of_two_names(items)
    yield from _exact_copies(items)
    if study:
        yield from _looks_like_other(items, study)
        yield from _one_range_for_several_scales(items, study)
        yield from _near_copies(items, study.fingerprints)


# --- single images


def _is_ct_without_air(item: Inspected, study: Study | None) -> bool:
    """Whether CT is not in Hounsfield units: stored numbers without their intercept, or scaled to
    0..1. Pictures of 8 bits have no unit.
    """
    stated = [item.facts.get("modality") or "", *item.domains]
    has_unit = "ct" in map(usual_contrast, stated) and item.facts["dtype"] != "uint8"
    return has_unit and item.facts["min"] > MAX_AIR


def _is_unused_mask(item: Inspected, study: Study | None) -> bool:
    """Whether an image has few values, but for label maps that are used as such."""
    label_maps = {study.names[letter] for letter in study.nearest} if study else set()
    return (item.facts["values"] or 0) > 1 and label_maps.isdisjoint(item.domains)


def header_contradicts(item: Inspected, study: Study | None = None) -> bool:
    """Whether a header states another contrast than the domain's, or times that are not its."""
    meant = CONTRASTS.get(one_word(item.domains[0]), "") if len(item.domains) == 1 else ""
    stated = CONTRASTS.get(item.header_says, item.header_says)
    return contradict(stated, meant) or times_contradict(item.facts, meant)


# kind of a fault of a single image -> whether an image has it, and a sentence
FAULTS: Mapping[str, tuple[Callable[[Inspected, Study | None], bool], str]] = {
    "empty": (
        lambda item, study: item.facts["content"] < MIN_CONTENT,
        "these images are nearly empty, with 0.5 % of the pixels or less above background:",
    ),
    "units": (
        _is_ct_without_air,
        "these CT images seem not to be in Hounsfield units, in which air is -1000:",
    ),
    "contrast": (
        header_contradicts,
        "the headers of these images say another contrast than that of their domain:",
    ),
    "masks": (
        _is_unused_mask,
        f"these images have {MAX_MASK_VALUES} different values or less, as masks have:",
    ),
    "lesions": (
        lambda item, study: item.mask_shares[0] > MAX_LESION_SHARE * item.facts["content"],
        "the masks of these images cover most of the head, as maps of tissue do, not lesions:",
    ),
}


def _faults(items: Iterable[Inspected], study: Study | None) -> Iterator[Problem]:
    for kind, (has_fault, what) in FAULTS.items():
        names = [item.name for item in items if has_fault(item, study)]
        if names:
            yield problem(kind, what, names)


def hollow_masks(records: Iterable[Record]) -> Iterator[Problem]:
    """Warn of patients whose masks of lesions enclose tissue that they do not mark."""
    masked = scans_of(record for record in records if record.mask)
    items = [Inspected(scan, {}, records=own) for (_, scan), own in masked.items()]
    owners = [item.patient or item.name for item in items if item.mask_shares[1] > MAX_ENCLOSED]
    if owners:
        what = (
            f"the masks of these patients enclose unmarked tissue, {MAX_ENCLOSED:.0%} of their own area or"
            " more, which does not count as lesion:"
        )
        yield problem("outlines", what, [*dict.fromkeys(owners)])


def _remarks(items: Iterable[Inspected]) -> Iterator[Problem]:
    """Yield the readers' remarks; a doubt whether the image is the scan that it seems is a warning."""
    names_of = defaultdict(list)
    for item in items:
        for told in dict.fromkeys(item.remarks):
            names_of[told].append(item.name)
    for (remark, is_doubt), names in names_of.items():
        yield problem(
            "remark",
            f"{join_first([repr(name) for name in names])}: {remark}",
            names,
            severity="warning" if is_doubt else None,
        )


# --- images that differ from the others of their domain


# kind of a word that should be the same for all images of a domain -> the word (None: unknown), and
# what is wrong with several
MIXTURES: Mapping[str, tuple[Callable[[Facts], str | None], str]] = {
    "planes": (PLANE.value, "have different planes"),
    "skull": (SKULL.value, "show partly the skull"),
    "channels": (
        lambda facts: f"with {facts['channels']}",
        "have different numbers of channels",
    ),
}


# kind of numbers that should be near the median of a domain -> these
OUTLIERS = {
    "spacing": replace(SPACING, max_ratio=MAX_SPACING_RATIO, text="{:.4g} mm"),
    "scale": Trait("intensity range", lambda facts: [range_width(facts)], SCALE_RATIO, "{:.4g}"),
}


def _mixtures(items: Sequence[Inspected], of: str, study: Study | None) -> Iterator[Problem]:
    """Yield kinds of images that a domain mixes. Gray and colour are a choice of the recipe, which
    has not been made where `study` has no recipe.
    """
    for kind, (value_of, words) in MIXTURES.items():
        values = [value_of(item.facts) for item in items]
        counts = Counter(filter(None, values)).most_common()
        if len(counts) > 1:
            usual = None, counts[0][0]
            odd = [item.name for item in items if value_of(item.facts) not in usual]
            counted = join_first([f"{count} {value}" for value, count in counts])
            is_open = study and study.guessed and {*values} == {"with 1", "with 3"}
            severity = "note" if is_open else None
            yield problem(kind, f"images{of} {words} ({counted}):", odd, severity=severity)


def _outliers(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Warn of numbers far from the domain's median, where they are few: else the domain has no usual
    one.
    """
    for kind, rule in OUTLIERS.items():
        values = {item.name: rule.value(item.facts) or [0.0] for item in items}
        known = {name: value for name, value in values.items() if min(value) > 0}
        length = max(map(len, known.values()), default=0)
        names = [name for name, value in known.items() if len(value) == length]
        if len(names) < MIN_FOR_OUTLIERS:
            continue
        numbers = np.array([known[name] for name in names])
        usual = np.median(numbers, axis=0)
        is_far = np.abs(np.log(numbers / usual)).max(axis=1) > np.log(rule.max_ratio)
        if 0 < is_far.mean() <= MAX_OUTLIER_SHARE:
            odd = [names[number] for number in np.flatnonzero(is_far)]
            first, median = (in_words(rule, each) for each in (known[odd[0]], usual))
            yield problem(
                kind,
                f"these images{of} have an unusual {rule.name} (first {first}, median {median}):",
                odd,
            )


def _one_range_for_several_scales(items: Sequence[Inspected], study: Study) -> Iterator[Problem]:
    """Warn where one mapping is fitted to volumes whose scanners share no scale. CT has one, and
    single scans in other units are `OUTLIERS`. A note where `gantk plan` is to choose the mapping.
    """
    ratios = []
    for letter, name in study.names.items():
        mapping = study.intensity_part(letter)()
        if not isinstance(mapping, Learnt) or mapping.per != "set":
            continue
        volumes = [
            item.facts
            for item in items
            if item.domains == [name] and len(item.facts["shape"]) == 3 and not is_ct(item.facts)
        ]
        is_usual = of_usual_scale(np.array([*map(range_width, volumes)])) if volumes else ()
        widths = [width for width in map(range_width, compress(volumes, is_usual)) if width]
        if widths and max(widths) > MAX_WIDTH_RATIO * min(widths):
            ratios.append(f"{name} {max(widths) / min(widths):.1f}")
    if ratios:
        what = (
            f"the scans differ in intensity range (largest to smallest: {', '.join(ratios)}), but"
            " data.intensity uses one range, so a tissue gets different gray values"
        )
        is_open = study.guessed and "intensity" not in study.table.model_fields_set
        yield problem("range", what, severity="note" if is_open else None)


# --- images in the wrong domain


def _looks_like_other(items: Sequence[Inspected], study: Study) -> Iterator[Problem]:
    """Find images whose third nearest neighbour by look is nearer by a fifth in the other domain than
    in their own. Of 3 images in the wrong folder this finds 95 to 100 % (four real sets); a vote of
    the nearest five finds 82 %.

    Neighbours are trained images of other patients, or held-out ones too where a domain has fewer
    than 12. None where a domain has fewer than 12 images, or the domains look alike, as they do where
    more than a quarter of the trained images look like the other; nor of T1 with a contrast agent, as
    what takes it up may be as bright as in T2.
    """
    compared = [item for item in items if item.look and len(item.domains) == 1]
    first_domain, *_ = study.table.domains
    in_first = np.array([item.domains == [first_domain] for item in compared], bool)
    sides = np.array([in_first, ~in_first])
    trained = sides & _are_trained(compared, study)
    if trained.sum(1).min() >= MIN_IMAGES:
        sides = trained
    smaller = sides.sum(1).min()
    if smaller < MIN_IMAGES or says_agent(*study.table.domains):
        return

    first, second = (_third_nearest(compared, side) for side in sides)
    with np.errstate(invalid="ignore"):  # of images without three neighbours, which are not known
        log_ratio = np.where(in_first, 1, -1) * np.log(first / second)
    is_known = np.isfinite(first + second)
    if not (sides & is_known).any(1).all():  # all are of one patient
        return
    is_other = is_known & (log_ratio > MIN_LOG_RATIO)
    usual = max(np.nanmedian(log_ratio[side]) for side in sides)
    are_alike = is_other[sides.any(0)].sum() > MAX_OUTLIER_SHARE * smaller
    if is_other.any() and not are_alike and usual <= MAX_USUAL_LOG_RATIO:
        names = [item.name for item in compress(compared, is_other)]
        yield problem("contrast", "these images look more like those of the other domain:", names)


def _are_trained(items: Sequence[Inspected], study: Study) -> np.ndarray:
    """(N,) whether no record of an image is held out."""
    held_out = {each.id for name in ("validation", "test") for each in study.splits[name]}
    return np.array([held_out.isdisjoint(each.id for each in x.records) for x in items], bool)


def _third_nearest(items: Sequence[Inspected], side: np.ndarray) -> np.ndarray:
    """(N,) the distance of the look of each image to the third nearest one of another patient on a
    side.
    """
    from scipy.spatial.distance import cdist

    looks = np.array([item.look for item in items])
    patients = np.array([item.patient or item.name for item in items], dtype=object)
    neighbours = spread(np.flatnonzero(side), MAX_NEIGHBOURS)
    distance = np.maximum(cdist(looks, looks[neighbours]), MIN_DISTANCE)
    distance[patients[:, None] == patients[neighbours]] = np.inf
    return np.partition(distance, 2)[:, 2]


# --- the same person or image twice


def _people_of_two_names(items: Iterable[Inspected]) -> Iterator[Problem]:
    """Warn of patients that may be the same people under two names, which differ only in case,
    separators, leading zeros and dates (p1, P_01, 1.0).
    """
    groups = people_of_two_names(dict.fromkeys(item.patient for item in items if item.patient))
    if groups:
        shown = join_first([" = ".join(map(repr, names[:3])) for names in groups], "; ")
        yield problem(
            "patients",
            f"these patients seem to have two names: {shown}. One person may then be in training and"
            " test, and scores too good",
            remedy="give each person one name, by files or a table, or use --set"
            " data.source.patient=REGEX",
            severity="warning",
        )


def _exact_copies(items: Iterable[Inspected]) -> Iterator[Problem]:
    """Find images with equal pixels."""
    by_digest = defaultdict(list)
    for item in items:
        if item.seen and item.seen.digest:
            by_digest[item.seen.digest].append(item)
    groups = [group for group in by_digest.values() if len(group) > 1]
    across = sum(len({*chain(*(item.domains for item in group))}) > 1 for group in groups)
    where = f" ({count_noun(across, 'group')} across domains)" if across else ""
    names = [[item.name for item in group] for group in groups]
    yield from _about_copies("copies", f"exact copies of another image{where}", names)


def _near_copies(items: Iterable[Inspected], known: Fingerprints) -> Iterator[Problem]:
    """Find near copies in one domain, as the split finds them."""
    from scipy.cluster.hierarchy import DisjointSet  # slow import

    whole = [item for item in items if item.records and item.records[0].id in known]
    near = DisjointSet(range(len(whole)))
    for i, j, _ in near_copies([known[item.records[0].id] for item in whole]):
        if whole[i].domains == whole[j].domains:
            near.merge(i, j)
    groups = [sorted(group) for group in near.subsets() if len(group) > 1]
    names = [[whole[place].name for place in group] for group in groups]
    yield from _about_copies(
        "near-copies",
        "near copies of another image (of another size, coding or position)",
        names,
    )


def _about_copies(kind: str, what: str, groups: Sequence[Sequence[str]]) -> Iterator[Problem]:
    """Warn of groups of copies; a note lists more than the warning does."""
    if not groups:
        return
    shown = [" = ".join(map(repr, names)) for names in groups]
    counted = f"{what}, {sum(map(len, groups)) - len(groups)} in all"
    first = join_first(shown, "; ")
    yield problem(kind, f"{counted}: {first}", [*chain(*groups)])
    if first != "; ".join(shown):
        yield problem(f"all-{kind}", f"{counted}: {'; '.join(shown)}", severity="note")
