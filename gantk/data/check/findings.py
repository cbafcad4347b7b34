"""Findings of `data check`: each is a function that compares headers or pixels of images, or looks at
a training's use of them, and yields problems.

A problem is a dict: `kind`, `severity` (an error would spoil a training, a warning may, a note is
good to know), `what` is wrong, the names of the `files` concerned, and a `remedy` or None.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gantk.catalog.contrasts import (
    CONTRASTS,
    exclude,
    one_word,
    times_contradict,
    usual_contrast,
)
from gantk.catalog.domains import contrasts_said
from gantk.catalog.people import people_of_two_names
from gantk.data.check.inspect import Inspected
from gantk.data.check.kinds import PLANE, SKULL, TRAITS, Facts, Trait, is_ct, width_ratio
from gantk.data.check.populations import SIZE, differing_traits
from gantk.data.dataset import Study
from gantk.data.intensity import SCALE_RATIO, Learnt, of_usual_scale
from gantk.data.preparation import Record
from gantk.data.split import Splits
from gantk.data.split.near_duplicates import Fingerprint, near_copies
from gantk.data.spread import spread
from gantk.errors import count_noun, join_first
from gantk.formats.files import NotFinite, stem_of

# of a test set against the training; the foreground varies from slice to slice
TRAITS_OF_TEST = (*TRAITS[:-1], SIZE)
MIN_IMAGES = 12  # per domain for finding outliers
MIN_DISTANCE = 1e-3  # of looks, so that copies have a ratio
MAX_NEIGHBOURS = 2_000  # reference images per domain that all images are compared with
MAX_OUTLIER_SHARE = 0.25  # of the images that may be reported as outliers
MAX_COMPARED_NAMES = 10_000  # per domain, of a table's images
# measured: 1.3 of templates on one scale, 3.8 of heads of two scanners
MAX_WIDTH_RATIO = 2.0
MAX_AIR = -200  # Hounsfield units: an image without a lower value shows no air
GLUED_NUMBER = re.compile(r"(?i)(t[12])\d+$")  # a whole name: `T11`, `t2007`

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


def with_verb(names: Sized, noun: str, words: str) -> str:
    """`3 images are empty` of `is|are empty`: a number, its noun, and a verb that agrees."""
    return f"{count_noun(names, noun)} {agreeing(names, words)}"


def agreeing(names: Sized, words: str) -> str:
    """Words such as `is|are empty` with the verbs for this number of things."""
    return re.sub(r"(\w+)\|(\w+)", r"\1" if len(names) == 1 else r"\2", words)


def scan_names(records: Iterable[Record]) -> list[str]:
    """The names of the scans of records, each once; of a record without a scan its own."""
    return list(dict.fromkeys(record.scan_key or record.key for record in records))


# --- single images

OF_EACH = (  # kind, severity, condition on an image's facts, words, remedy
    (
        "constant",
        "warning",
        lambda facts: facts["constant"],
        "has|have the same value in every pixel:",
        "leave such images out",
    ),
    (
        "empty",
        "warning",
        lambda facts: not facts["constant"] and facts["content"] < 0.005,
        "is|are nearly empty (less than 0.5 % of the pixels differ from the background):",
        "look at such images, or leave them out",
    ),
    (
        "empty",
        "note",
        lambda facts: (
            not facts["constant"] and 2 * facts.get("empty_planes", 0) > facts["shape"][0]
        ),
        "is|are empty in more than half of the slices:",
        "use fewer slices: set data.source.planes",
    ),
    (
        "lossy",
        "note",
        lambda facts: facts["lossy"],
        "has|have lossy compression (JPEG), whose artefacts a network learns to imitate:",
        "use the original files if they are available",
    ),
)


def unreadable_images(items: Sequence[Inspected]) -> Iterator[Problem]:
    """One error for every image that cannot be read, with the reader's message."""
    for item in items:
        if item.error is not None:
            kind = "not-finite" if isinstance(item.error, NotFinite) else "unreadable"
            yield problem(kind, "error", item.error.what, [item.name], item.error.remedy)


def about_each(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Finds constant, nearly empty and lossy images, and reports the readers' remarks."""
    for kind, severity, is_so, words, remedy in OF_EACH:
        names = [item.name for item in items if is_so(item.facts)]
        if names:
            yield problem(kind, severity, with_verb(names, "image", words), names, remedy)

    names_of_remark = defaultdict(list)
    for item in items:
        for remark in dict.fromkeys(item.remarks):
            names_of_remark[remark].append(item.name)

    for remark, names in names_of_remark.items():
        what = f"{join_first([repr(name) for name in names])}: {remark}"
        if re.search(r"\blacks\b|slices are missing", remark):
            yield problem("slices", "warning", what, names)
        else:
            yield problem("remark", "note", what, names)


# --- images that differ from the others of their domain

UNLIKE = (  # kind, severity, function from an image's facts to a value or None, words, remedy
    (
        "planes",
        "warning",
        PLANE.value,
        "have different planes",
        "keep the images of one plane, or choose the plane with data.plane",
    ),
    (
        "dimensions",
        "warning",
        lambda facts: "2-D" if len(facts["shape"]) == 2 else "3-D",
        "are partly pictures and partly volumes",
        "keep only one kind",
    ),
    (
        "skull",
        "warning",
        SKULL.value,
        "show partly the skull",
        "keep only one kind, or strip the skulls of all",
    ),
    (
        "size",
        "note",
        lambda facts: "of " + " x ".join(map(str, facts["shape"])),
        "have several sizes",
        "set data.fit to choose how images are brought to one size",
    ),
    (
        "channels",
        "error",
        lambda facts: f"with {facts['channels']}",
        "have different numbers of channels, which no network accepts",
        "set data.channels = 1 (gray) or 3 (colour)",
    ),
    (
        "type",
        "note",
        lambda facts: facts["dtype"] or "unknown",
        "have different data types",
        "check that their intensities have the same unit",
    ),
)
PER_VOLUME = (
    "convert all scans to the same unit, or normalise each scan by itself:"
    ' data.intensity = { name = "percentile", per = "volume" }'
)
# kind, words for it, function from an image's facts to numbers or None, largest ratio to the
# median, unit, remedy
OUTLIER_RULES = (
    (
        "spacing",
        "spacing",
        lambda facts: facts["spacing"],
        1.2,
        " mm",
        "set data.spacing to resample all images, or leave such images out",
    ),
    (
        "scale",
        "intensity range",
        lambda facts: (
            [facts["range"][1] - facts["range"][0]]
            if facts["range"][1] > facts["range"][0]
            else None
        ),
        SCALE_RATIO,
        "",
        PER_VOLUME,
    ),
)


def with_agreeing_skulls(items: Sequence[Inspected]) -> Sequence[Inspected]:
    """The images, of which few patients lose the fact `skull`: those whose images on one grid differ in
    it. They show one head, so one of them was misjudged.
    """
    kinds = defaultdict(set)
    for item in items:
        kinds[_head_of(item)].add(item.facts.get("skull"))
    in_doubt = [item for item in items if item.patient and {True, False} <= kinds[_head_of(item)]]
    if len(in_doubt) > MAX_OUTLIER_SHARE * len(items):
        return items  # the contrasts differ as a whole
    return [
        replace(item, facts=item.facts | {"skull": None}) if item in in_doubt else item
        for item in items
    ]


def _head_of(item: Inspected) -> tuple[str, str, str]:
    """A patient on a grid."""
    return item.patient, str(item.facts["shape"]), str(item.facts["spacing"])


def unlike(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Finds planes, dimensions, sizes, channels and types that differ within a domain."""
    for kind, severity, value, words, remedy in UNLIKE:
        names_of = defaultdict(list)
        for item in items:
            names_of[value(item.facts)].append(item.name)

        names_of.pop(None, None)
        groups = sorted(names_of.items(), key=lambda each: len(each[1]), reverse=True)
        if len(groups) > 1:
            counted = join_first([f"{len(names)} {each}" for each, names in groups])
            usual = groups[0][0]
            odd = [item.name for item in items if value(item.facts) not in (None, usual)]
            yield problem(kind, severity, f"images{of} {words} ({counted}):", odd, remedy)


def far(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Finds spacings and intensity ranges that are far from the domain's median."""
    for kind, name, value, ratio, unit, remedy in OUTLIER_RULES:
        for dims in (1, 2, 3):
            some = [item for item in items if len(value(item.facts) or ()) == dims]
            if not some:
                continue

            values = np.array([value(item.facts) for item in some])
            usual = np.median(values, axis=0)
            is_odd = (np.abs(np.log(values / usual)) > np.log(ratio)).any(axis=1)
            odd = np.flatnonzero(is_odd)
            if not odd.size:
                continue

            is_few = len(some) >= 4 and len(odd) <= MAX_OUTLIER_SHARE * len(some)
            severity = "warning" if is_few else "note"
            what = (
                f"{count_noun(odd, 'image')}{of} {agreeing(odd, 'has|have')} an unusual {name}"
                f" ({_numbers(values[odd[0]])}{unit}, the median is {_numbers(usual)}{unit}):"
            )
            yield problem(kind, severity, what, [some[i].name for i in odd], remedy)


def _numbers(values: np.ndarray) -> str:
    return " x ".join(f"{value:.0f}" if value >= 1000 else f"{value:.3g}" for value in values)


# --- images in the wrong domain


def wrong_contrast(
    items: Sequence[Inspected], domains: Sequence[str], splits: Mapping[str, Sequence[Record]]
) -> Iterator[Problem]:
    """Finds images that belong to the other domain by their DICOM header or by their appearance, and
    test images whose domains are exchanged as a whole.
    """
    held_out = {record.id for side in ("validation", "test") for record in splits.get(side, ())}
    odd = _look_like_the_other(items, domains, held_out)
    exchanged = _exchanged_as_a_whole(items, domains, held_out, odd)
    if exchanged:
        odd = [item for item in odd if item not in exchanged]
        what = (
            f"the domains of test and validation seem to be exchanged: {len(exchanged)} of their"
            f" images look more like the other of {' and '.join(domains)} in training:"
        )
        remedy = "look at them, and exchange the folders, or correct the table"
        names = [item.name for item in exchanged]
        yield problem("contrast", "warning", what, names, remedy)

    smaller = min((sum(item.domains == [each] for item in items) for each in domains), default=0)
    if len(odd) > MAX_OUTLIER_SHARE * smaller:
        odd = []  # the looks say nothing
    for domain, other in zip(domains, domains[::-1], strict=False):
        looking = []
        for item in items:
            if item.domains != [domain]:
                continue
            if _header_contradicts(item, domain):
                what = f"'{item.name}' is in {domain}, but its header says {_said_by_header(item)}"
                remedy = f"look at the image, and move it if it is {other}"
                yield problem("contrast", "warning", what, [item.name], remedy)
            elif item in odd:
                looking.append(item.name)

        if looking:
            images = f"{count_noun(looking, 'image')} of {domain}"
            what = f"{images} {agreeing(looking, 'looks|look')} more like {other}:"
            remedy = f"look at them, and move those that are {other}"
            yield problem("contrast", "warning", what, looking, remedy)


def ct_without_air(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Finds CT that is not in Hounsfield units: stored numbers without their intercept, or scaled to
    0..1. Pictures of 8 bits have no unit.
    """
    odd = []
    for item in items:
        said = {item.facts.get("modality", ""), *item.domains}
        is_ct = any(usual_contrast(name or "") == "ct" for name in said)
        if is_ct and item.facts["dtype"] != "uint8" and item.facts["min"] > MAX_AIR:
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


def named_otherwise(study: Study) -> Iterator[Problem]:
    """Warn of images whose file names, or else nearest folders, say another contrast than their
    domain; of many images some are compared. A contrast that contradicts all domains says
    nothing (PD may be Parkinson's disease); T1ce contradicts T1, and the reverse, where others of
    the domain say the domain's own.
    """
    said: dict[str, dict[str, set[str]]] = {}  # domain -> name -> contrasts
    others: dict[str, dict[str, list[str]]] = {}  # domain -> another contrast -> names
    for letter, domain in study.names.items():
        own = usual_contrast(domain)
        names = scan_names(record for record in study.records if record.domain == letter)
        compared = spread(names, MAX_COMPARED_NAMES)
        said[domain] = {name: contrasts_said(Path(name)) for name in compared}
        others[domain] = defaultdict(list)
        for name, contrasts in said[domain].items():
            if own and len(contrasts) == 1 and own not in contrasts:
                others[domain][min(contrasts)].append(name)

    everywhere = set.intersection(*map(set, others.values())) if len(others) > 1 else set()
    for domain, by_contrast in others.items():
        own = usual_contrast(domain)
        for other, names in by_contrast.items():
            if {own, other} == {"t1", "t1ce"}:
                contradicts = {own} in said[domain].values()
            else:
                contradicts = exclude(own, other) and other not in everywhere
            if contradicts:
                of = f"{len(names)} of {count_noun(said[domain], 'image')} of {domain}"
                what = f"{of} {agreeing(names, 'is|are')} called {other.upper()} by name:"
                remedy = "look at these images, and correct their domain in a table, or the names"
                yield problem("contrast", "warning", what, names, remedy)


def numbers_after_contrasts(study: Study) -> Iterator[Problem]:
    """Warn of a domain whose names begin with T1 and T2, each before a number (`T11`, `T28`): they
    may be two contrasts.
    """
    for letter, domain in study.names.items():
        if usual_contrast(domain):
            continue
        begins = Counter[str]()
        for record in study.records:
            if record.domain == letter:
                match = GLUED_NUMBER.match(stem_of(record.path)) if record.path else None
                begins[match[1].upper() if match else ""] += 1

        if set(begins) == {"T1", "T2"}:
            what = (
                f"the names of {domain} begin with T1 ({begins['T1']}) and T2 ({begins['T2']}),"
                " which were read as parts of a number"
            )
            remedy = (
                "if these are contrasts, put a _ after them (T1_1.png), or list the images in a"
                " table"
            )
            yield problem("contrast", "warning", what, (), remedy)


def _said_by_header(item: Inspected) -> str:
    said = item.facts.get("description") or item.facts.get("modality") or "another contrast"
    echo = item.facts.get("echo_time")
    return said if echo is None else f"{said}, TE {echo:g} ms"


def _header_contradicts(item: Inspected, domain: str) -> bool:
    """Whether a header states another contrast, or times that are not the domain's."""
    meant = CONTRASTS.get(one_word(domain), "")
    said = CONTRASTS.get(item.header_says, item.header_says)
    if not meant:
        return False
    if said and said != meant and {meant, said} != {"t1", "t1ce"}:
        return meant not in ("mr", "ct", "pet") or said in ("ct", "pet")

    return times_contradict(item.facts, meant)


def _exchanged_as_a_whole(
    items: Sequence[Inspected],
    domains: Sequence[str],
    held_out: Collection[tuple[str, str]],
    odd: Sequence[Inspected],
) -> list[Inspected]:
    """The odd images of test and validation, if they are most of them in each domain; else []."""
    tested = [item for item in items if any(record.id in held_out for record in item.records)]
    images = Counter(item.domains[0] for item in tested if len(item.domains) == 1)
    odd_tested = [item for item in tested if item in odd]
    odd_of = Counter(item.domains[0] for item in odd_tested)
    are_most = all(2 * odd_of[each] > images[each] for each in domains)
    return odd_tested if are_most else []


def _look_like_the_other(
    items: Sequence[Inspected], domains: Sequence[str], held_out: Collection[tuple[str, str]]
) -> list[Inspected]:
    """Images whose third nearest neighbour by look is nearer by a fifth in the other domain than in
    their own. Of 3 images in the wrong folder this finds 95 to 100 % (four real sets).

    Neighbours are of other patients, and none is `held_out` where a domain has 12 others. [] where
    a domain has fewer than 12 images or the domains look alike.
    """
    if len(domains) != 2:
        return []

    compared = [item for item in items if item.look and item.domains in [[x] for x in domains]]
    in_first = np.array([item.domains == [domains[0]] for item in compared], dtype=bool)
    nearby = np.array(
        [not any(record.id in held_out for record in item.records) for item in compared], dtype=bool
    )
    if min((in_first & nearby).sum(), (~in_first & nearby).sum()) < MIN_IMAGES:
        nearby[:] = True
    if min((in_first & nearby).sum(), (~in_first & nearby).sum()) < MIN_IMAGES:
        return []

    patients = [item.patient or item.name for item in compared]
    looks = np.array([item.look for item in compared])
    log_ratio = _log_distance_ratio(looks, in_first, patients, nearby)
    if log_ratio is None:
        return []

    return [compared[i] for i in np.flatnonzero(log_ratio > 0.25)]


def _log_distance_ratio(
    looks: np.ndarray, in_first: np.ndarray, patients: Sequence[str], nearby: np.ndarray
) -> np.ndarray | None:
    """(N,) for each image the logarithm of its distance to its own domain over that to the other
    one, by the third nearest neighbours of those `nearby`; None where the two domains look alike.
    """
    from sklearn.metrics.pairwise import euclidean_distances

    sides = (in_first, ~in_first)
    neighbours = np.concatenate(
        [spread(np.flatnonzero(side & nearby), MAX_NEIGHBOURS) for side in sides]
    )
    distance = euclidean_distances(looks, looks[neighbours])
    distance = np.maximum(distance, MIN_DISTANCE)
    numbers = np.unique(patients, return_inverse=True)[1]
    distance[numbers[:, None] == numbers[neighbours]] = np.inf
    # the third smallest of each row
    first, second = (np.partition(distance[:, side[neighbours]], 2)[:, 2] for side in sides)

    log_ratio = np.full(len(looks), -np.inf)
    for side, own, other in ((in_first, first, second), (~in_first, second, first)):
        known = side & np.isfinite(own + other)
        log_ratio[known] = np.log(own[known] / other[known])
        if np.median(log_ratio[side & nearby]) > -0.4:
            return None

    return log_ratio


def single_slices(study: Study) -> Iterator[Problem]:
    """Warn where a mapping of each volume is fitted to single slices of one head."""
    for letter, name in study.names.items():
        single = Counter(
            record.subject
            for record in study.records
            if record.domain == letter and record.subject and not record.scan_key
        )
        mapping = study.intensity_part(letter)()
        is_by_volume = study.table.dims == 2 and mapping.per == "volume"
        if is_by_volume and max(single.values(), default=0) > 1:
            what = (
                f"each slice of {name} is scaled by its own intensities, because every slice is a"
                ' file and data.intensity has per = "volume": slices of one head then differ in'
                " brightness"
            )
            remedy = 'set per = "set", or convert the slices of each head to one volume'
            yield problem("slices", "warning", what, (), remedy)


def scans_of_other_scales(items: Sequence[Inspected], study: Study) -> Iterator[Problem]:
    """Warn where one mapping is fitted to volumes whose scanners share no scale. CT has one, and
    single scans in other units are found by `far`.
    """
    for letter, name in study.names.items():
        mapping = study.intensity_part(letter)()
        if not isinstance(mapping, Learnt) or mapping.per != "set":
            continue
        own = [
            item.facts
            for item in items
            if item.domains == [name] and len(item.facts["shape"]) == 3 and not is_ct(item.facts)
        ]
        widths = np.array([facts["range"][1] - facts["range"][0] for facts in own])
        usual = of_usual_scale(widths) if own else widths
        ratio = width_ratio([facts for facts, is_usual in zip(own, usual, strict=True) if is_usual])
        if ratio > MAX_WIDTH_RATIO:
            what = (
                f"the scans of {name} share no gray scale: their intensity ranges differ by up to"
                f" {ratio:.1f} to 1, but data.intensity maps all by one range"
            )
            parts = getattr(study.table.intensity(), "parts", {})
            key = f"data.intensity.{letter}.per" if letter in parts else "data.intensity.per"
            yield problem("scale", "warning", what, (), f"use --set {key}=volume")


# --- the training


def domains_of_two_kinds(items: Sequence[Inspected], study: Study) -> Iterator[Problem]:
    """Warn of an unpaired training whose domains show different kinds of images."""
    if study.method.paired or len(study.names) != 2:
        return

    first, second = (
        _facts(items, [record for record in study.training if record.domain == letter])
        for letter in study.names
    )
    traits = differing_traits(first, second, study.table.spacing is not None)
    if traits:
        changes = ", ".join(trait.changes for trait, _, _ in traits)
        what = (
            f"the training images of {' and '.join(study.names.values())} are of different kinds:"
            f" {_in_words(traits)}. An unpaired network learns these differences with the contrast,"
            f" and changes {changes}"
        )
        remedy = (
            "train on people whose images of both domains are of one kind, or bring all to one:"
            " strip the skulls, set data.spacing, crop to one field of view"
        )
        yield problem("populations", "warning", what, (), remedy)


def test_of_another_kind(
    items: Sequence[Inspected], splits: Splits, names: Mapping[str, str], spacing_is_set: bool
) -> Iterator[Problem]:
    """Warn of test images of another kind than the training images, such as those of one patient
    from another scanner. `names` are those of the domains, by letter.
    """
    for letter, name in names.items():
        test, train = (
            _facts(items, [record for record in splits[side] if record.domain == letter])
            for side in ("test", "train")
        )
        traits = differing_traits(test, train, spacing_is_set, TRAITS_OF_TEST)
        if traits:
            what = (
                f"the test images of {name} are of another kind than the training images:"
                f" {_in_words(traits)}. Scores say how well the model translates such images"
            )
            remedy = "to test others, set data.split.seed, or data.split.fold where there are folds"
            yield problem("test", "warning", what, (), remedy)


def _facts(items: Iterable[Inspected], records: Iterable[Record]) -> list[Facts]:
    """The facts of the items that these records come from."""
    ids = {record.id for record in records}
    return [item.facts for item in items if any(each.id in ids for each in item.records)]


def _in_words(traits: Iterable[tuple[Trait, str, str]]) -> str:
    return "; ".join(f"{trait.name}: {one} against {other}" for trait, one, other in traits)


# --- copies


def same_people(items: Sequence[Inspected]) -> Iterator[Problem]:
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


def made_gray(items: Sequence[Inspected], study: Study) -> Iterator[Problem]:
    """A note that images in colour are read as gray ones."""
    names = [item.name for item in items if item.facts["channels"] == 3]
    if names and study.table.channels == 1:
        what = with_verb(names, "image", "is|are in colour and converted to gray:")
        remedy = "to train in colour, set data.channels = 3"
        yield problem("colour", "note", what, names, remedy)


def copies(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Finds exact copies of pixels, and near copies of images that are not of one known patient."""
    alike: dict[str, list[Inspected]] = defaultdict(list)  # by digest
    seen: dict[str, Fingerprint] = {}  # of the first of them
    for item in items:
        if item.seen and item.seen.digest:
            alike[item.seen.digest].append(item)
            seen.setdefault(item.seen.digest, item.seen)

    groups = [group for group in alike.values() if len(group) > 1]
    if groups:
        yield _exact_copies(groups)

    names = [group[0].name for group in alike.values()]
    near = [(names[i], names[j]) for i, j, _ in near_copies([*seen.values()])]
    if near:
        yield _near_copies(near)


def _exact_copies(groups: Sequence[Sequence[Inspected]]) -> Problem:
    """The problem of groups of images with equal pixels."""
    names = [[item.name for item in group] for group in groups]
    equal = join_first([" = ".join(map(repr, own[:3])) for own in names], "; ")
    across = sum(len({tuple(item.domains) for item in group}) > 1 for group in groups)
    where = f" ({count_noun(across, 'group')} across domains)" if across else ""
    files = sum(names, [])
    spare = len(files) - len(groups)
    what = f"{count_noun(spare, 'exact duplicate')}{where}: {equal}"
    return problem("copies", "warning", what, files, "remove the duplicates")


def _near_copies(pairs: Sequence[tuple[str, str]]) -> Problem:
    """The problem of pairs of nearly identical images, by their names."""
    shown = join_first([f"{one!r} and {other!r}" for one, other in pairs], "; ")
    what = f"{count_noun(pairs, 'pair')} of nearly identical images: {shown}"
    files = list(dict.fromkeys(name for pair in pairs for name in pair))
    remedy = "remove one image of each pair, or keep both in the same set of the split"
    return problem("near-copies", "warning", what, files, remedy)
