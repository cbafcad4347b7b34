"""Findings of `data check`: each is a function that compares headers or pixels of images, or looks at
a training's use of them, and yields problems. See also `contrasts` and `pairs`.

A problem is a dict: `kind`, `severity` (an error stops a training, a warning spoils scores, a note is
good to know), `what` is wrong, the names of the `files` concerned, and a `remedy` or None.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from gantk.catalog.contrasts import usual_contrast
from gantk.catalog.people import people_of_two_names
from gantk.data.check.inspect import Inspected
from gantk.data.check.kinds import PLANE, SKULL, Facts, is_ct, width_ratio
from gantk.data.dataset import Study
from gantk.data.intensity import SCALE_RATIO, Learnt, of_usual_scale
from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import near_copies
from gantk.errors import count_noun, join_first
from gantk.formats.files import NotFinite

MAX_OUTLIER_SHARE = 0.25  # of the images that may be reported as outliers
MAX_SPACING_RATIO = 1.2  # to the median of a domain
# measured: 1.3 of templates on one scale, 3.8 of heads of two scanners
MAX_WIDTH_RATIO = 2.0
MAX_AIR = -200  # Hounsfield units: an image without a lower value shows no air
MIN_CONTENT = 0.005  # share of pixels that differ from the background

Problem = dict[str, Any]


def problem(
    kind: str, severity: str, what: str, files: Sequence[str] = (), remedy: str | None = None
) -> Problem:
    """Build a problem; where `what` ends with a colon, the first few files are named after it."""
    if what.endswith(":"):
        what += f" {join_first([repr(file) for file in files])}"

    return {
        "kind": kind,
        "severity": severity,
        "what": what.rstrip("."),
        "files": list(files),
        "remedy": remedy,
    }


def line_of(problem: Problem) -> str:
    """A problem as a line for the terminal: severity, what, and the remedy as a second sentence."""
    remedy = problem["remedy"] or ""
    sentences = [problem["what"], remedy[:1].upper() + remedy[1:].rstrip(".")]
    return f"{problem['severity']:<9}{'. '.join(filter(None, sentences))}"


def with_verb(names: Sized, noun: str, words: str) -> str:
    """`3 images are empty` of `is|are empty`: a number, its noun, and a verb that agrees."""
    agreeing = re.sub(r"(\w+)\|(\w+)", r"\1" if len(names) == 1 else r"\2", words)
    return f"{count_noun(names, noun)} {agreeing.lstrip()}"


def scan_names(records: Iterable[Record]) -> list[str]:
    """The names of the scans of records, each once; of a record without a scan its own."""
    return list(dict.fromkeys(record.scan_key or record.key for record in records))


# --- single images


def unreadable_images(items: Iterable[Inspected]) -> Iterator[Problem]:
    """One error for every image that cannot be read, with the reader's message."""
    for item in items:
        if item.error is not None:
            kind = "not-finite" if isinstance(item.error, NotFinite) else "unreadable"
            yield problem(kind, "error", item.error.what, [item.name], item.error.remedy)


def about_each(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Finds nearly empty images, and reports the readers' remarks."""
    empty = [item.name for item in items if item.facts["content"] < MIN_CONTENT]
    if empty:
        words = "is|are nearly empty, with 0.5 % of the pixels or less above background:"
        remedy = "look at such images, or leave them out"
        yield problem("empty", "warning", with_verb(empty, "image", words), empty, remedy)

    names_of_remark = defaultdict(list)
    for item in items:
        for remark in dict.fromkeys(item.remarks):
            names_of_remark[remark].append(item.name)

    for remark, names in names_of_remark.items():
        lacks_slices = re.search(r"\blacks\b|slices are missing", remark)
        kind, severity = ("slices", "warning") if lacks_slices else ("remark", "note")
        what = f"{join_first([repr(name) for name in names])}: {remark}"
        yield problem(kind, severity, what, names)


def ct_without_air(items: Iterable[Inspected]) -> Iterator[Problem]:
    """Finds CT that is not in Hounsfield units: stored numbers without their intercept, or scaled to
    0..1. Pictures of 8 bits have no unit.
    """
    odd = []
    for item in items:
        said = {item.facts.get("modality", ""), *item.domains}
        is_said_ct = any(usual_contrast(name or "") == "ct" for name in said)
        if is_said_ct and item.facts["dtype"] != "uint8" and item.facts["min"] > MAX_AIR:
            odd.append(item)

    if odd:
        names = [item.name for item in odd]
        low, high = odd[0].facts["min"], odd[0].facts["max"]
        what = (
            f"{with_verb(names, 'CT image', 'seems|seem')} not to be in Hounsfield units (air is"
            f" -1000 there, but the first one's values are {low:g} to {high:g}):"
        )
        remedy = "convert them: of stored numbers from 0 to 4095, subtract 1024"
        yield problem("units", "warning", what, names, remedy)


# --- images that differ from the others of their domain


class OfDomain(NamedTuple):
    """A word that should be the same for all images of a domain."""

    kind: str
    severity: str
    value: Callable[[Facts], str | None]  # None: unknown
    words: str
    remedy: str


OF_DOMAIN = (
    OfDomain(
        "planes",
        "warning",
        PLANE.value,
        "have different planes",
        "keep the images of one plane, or choose the plane with data.plane",
    ),
    OfDomain(
        "dimensions",
        "warning",
        lambda facts: "2-D" if len(facts["shape"]) == 2 else "3-D",
        "are partly pictures and partly volumes",
        "keep only one kind",
    ),
    OfDomain(
        "skull",
        "warning",
        SKULL.value,
        "show partly the skull",
        "keep only one kind, or strip the skulls of all",
    ),
    OfDomain(
        "channels",
        "error",
        lambda facts: f"with {facts['channels']}",
        "have different numbers of channels, which no network accepts",
        "set data.channels = 1 (gray) or 3 (colour)",
    ),
)


class Outlier(NamedTuple):
    """Numbers of an image that should be near the median of its domain."""

    kind: str
    name: str
    value: Callable[[Facts], Sequence[float] | None]  # None: unknown
    max_ratio: float  # to the median
    unit: str
    remedy: str


OUTLIERS = (
    Outlier(
        "spacing",
        "spacing",
        lambda facts: facts["spacing"],
        MAX_SPACING_RATIO,
        " mm",
        "set data.spacing to resample all images, or leave such images out",
    ),
    Outlier(
        "scale",
        "intensity range",
        lambda facts: [max(facts["range"][1] - facts["range"][0], 0)],
        SCALE_RATIO,
        "",
        "convert all scans to the same unit, or normalise each scan by itself:"
        ' data.intensity = { name = "percentile", per = "volume" }',
    ),
)


def differing_in_domain(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Finds what differs within the images of a domain (of a domain of several contrasts, "T1+FLAIR",
    within each contrast).
    """
    groups: dict[tuple[str, str], list[Inspected]] = defaultdict(list)
    for item in items:
        name = " and ".join(item.domains)
        groups[name, item.contrast if "+" in name else ""].append(item)

    for (name, _), group in groups.items():
        of = f" of {name}" if name not in ("", "images") else ""
        yield from _of_several_kinds(group, of)
        for rule in OUTLIERS:
            yield from _outliers(rule, group, of)


def _of_several_kinds(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    for rule in OF_DOMAIN:
        values = [rule.value(item.facts) for item in items]
        counts = Counter(value for value in values if value is not None).most_common()
        if len(counts) > 1:
            counted = join_first([f"{count} {value}" for value, count in counts])
            usual = counts[0][0]
            odd = [
                item.name
                for item, value in zip(items, values, strict=True)
                if value not in (None, usual)
            ]
            what = f"images{of} {rule.words} ({counted}):"
            yield problem(rule.kind, rule.severity, what, odd, rule.remedy)


def _outliers(rule: Outlier, items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Warn of numbers far from the domain's median, where they are few: else the domain has no usual
    one.
    """
    values = {item.name: rule.value(item.facts) for item in items}
    known = {name: value for name, value in values.items() if value and min(value) > 0}
    for length in {len(value) for value in known.values()}:
        group = {name: value for name, value in known.items() if len(value) == length}
        usual = np.median([*group.values()], axis=0)
        odd = [
            name
            for name, value in group.items()
            if np.abs(np.log(value / usual)).max() > np.log(rule.max_ratio)
        ]
        if odd and len(group) >= 4 and len(odd) <= MAX_OUTLIER_SHARE * len(group):
            first, median = (
                " x ".join(f"{number:.4g}" for number in numbers) + rule.unit
                for numbers in (group[odd[0]], usual)
            )
            words = f"{of} has|have an unusual {rule.name} ({first}, the median is {median}):"
            what = with_verb(odd, "image", words)
            yield problem(rule.kind, "warning", what, odd, rule.remedy)


# --- the training


def scans_of_other_scales(items: Sequence[Inspected], study: Study) -> Iterator[Problem]:
    """Warn where one mapping is fitted to volumes whose scanners share no scale. CT has one, and
    single scans in other units are `OUTLIERS`.
    """
    for letter, name in study.names.items():
        mapping = study.intensity_part(letter)()
        if not isinstance(mapping, Learnt) or mapping.per != "set":
            continue
        volumes = [
            item.facts
            for item in items
            if item.domains == [name] and len(item.facts["shape"]) == 3 and not is_ct(item.facts)
        ]
        widths = np.array([facts["range"][1] - facts["range"][0] for facts in volumes])
        usual = np.flatnonzero(of_usual_scale(widths)) if volumes else ()
        ratio = width_ratio([volumes[number] for number in usual])
        if ratio > MAX_WIDTH_RATIO:
            what = (
                f"the intensity ranges of the scans of {name} differ by up to {ratio:.1f} to 1, but"
                " data.intensity maps all of them by one range"
            )
            parts = getattr(study.table.intensity(), "parts", {})
            key = f"data.intensity.{letter}.per" if letter in parts else "data.intensity.per"
            yield problem("scale", "warning", what, (), f"use --set {key}=volume")


# --- copies


def same_people(items: Iterable[Inspected]) -> Iterator[Problem]:
    """Warn of patients that may be the same people under two names: names that differ only in case,
    separators, leading zeros and dates (p1, P_01, 1.0); or, of patients in one domain only, names
    with the same numbers (scan_0031_pre and 0031-final).
    """
    domains_of: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.patient:
            domains_of[item.patient] |= set(item.domains)

    groups = people_of_two_names(domains_of)
    if groups:
        shown = join_first([" = ".join(map(repr, names[:3])) for names in groups], "; ")
        what = (
            f"{with_verb(groups, 'patient', 'seems|seem')} to have two names: {shown}. One person"
            " may then be in training and test, and scores too good"
        )
        remedy = (
            "give each person one name, by files or a table, or use --set data.source.patient=REGEX"
        )
        yield problem("patients", "warning", what, (), remedy)


def copies(items: Iterable[Inspected]) -> Iterator[Problem]:
    """Finds exact copies of pixels, and near copies of images that are not of one known patient."""
    by_digest: dict[str, list[Inspected]] = defaultdict(list)
    for item in items:
        if item.seen and item.seen.digest:
            by_digest[item.seen.digest].append(item)

    exact = [group for group in by_digest.values() if len(group) > 1]
    across = sum(len({tuple(item.domains) for item in group}) > 1 for group in exact)
    where = f" ({count_noun(across, 'group')} across domains)" if across else ""
    spare = sum(map(len, exact)) - len(exact)
    firsts = [group[0] for group in by_digest.values()]
    near = [
        (firsts[i], firsts[j])
        for i, j, _ in near_copies([item.seen for item in firsts if item.seen])
    ]
    if exact:
        counted = f"{count_noun(spare, 'exact duplicate')}{where}"
        yield _problem_of_groups("copies", exact, counted, "remove the duplicates")
    if near:
        counted = f"{count_noun(near, 'pair')} of nearly identical images"
        remedy = "remove one image of each pair, or keep both in the same set of the split"
        yield _problem_of_groups("near-copies", near, counted, remedy)


def _problem_of_groups(
    kind: str, groups: Sequence[Sequence[Inspected]], counted: str, remedy: str
) -> Problem:
    """A warning that names images that are copies of one another."""
    names = [[item.name for item in group] for group in groups]
    shown = join_first([" = ".join(map(repr, group[:3])) for group in names], "; ")
    files = list(dict.fromkeys(chain(*names)))
    return problem(kind, "warning", f"{counted}: {shown}", files, remedy)
