"""Compares people and domains by the kind of their images: whole heads or skull-stripped ones, plane,
spacing, field of view, background. An unpaired network learns such differences with the contrast.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gantk.data.check.findings import HEADS, Problem, problem
from gantk.data.check.inspect import Inspected, inspect_kept
from gantk.data.preparation import Record
from gantk.errors import count_noun, join_first

Facts = Mapping[str, Any]

MAX_PEOPLE_COMPARED = 16  # of more, random halves are of the same kinds
NEAR_RATIO = 1.1  # by which an image may be outside the range of the training images
MAX_RATIO_OF_COUNTS = 4.0  # of the images of two domains, and of their people


@dataclass(frozen=True)
class Trait:
    """What may differ between two groups of images."""

    name: str
    value: Callable[[Facts], Any]  # a word or numbers of an image's facts; None: unknown
    max_ratio: float  # of medians, for numbers
    text: str  # format of the values
    changes: str  # what a network learns to change


def _field_of_view(facts: Facts) -> list[float] | None:
    if facts["spacing"] is None or len(facts["spacing"]) != len(facts["shape"]):
        return None
    return [side * step for side, step in zip(facts["shape"], facts["spacing"], strict=True)]


TRAITS = (
    Trait("heads", lambda facts: HEADS.get(facts.get("skull")), 1, "{}", "skulls"),
    Trait(
        "plane",
        lambda facts: None if facts["plane"] == "any" else facts["plane"],
        1,
        "{}",
        "views",
    ),
    Trait("spacing", lambda facts: facts["spacing"], 1.5, "{:.3g} mm", "sharpness"),
    Trait("field of view", _field_of_view, 1.4, "{:.0f} mm", "sizes"),
    # measured: 1.0 to 1.1 between T1 and T2, or CT and MR, of one kind; 2.2 of heads and brains
    Trait("foreground", lambda facts: [100 * facts["content"]], 1.5, "{:.0f} %", "background"),
)
# of one image the foreground also varies with the anatomy that it shows
TRAITS_OF_ONE = TRAITS[:-1]


def differing_traits(
    one: Sequence[Facts], other: Sequence[Facts], spacing_is_set: bool
) -> list[tuple[Trait, str, str]]:
    """The traits in which two groups of images differ, with their usual values in words."""
    found = []
    for trait in TRAITS:
        if spacing_is_set and trait.name == "spacing":
            continue
        usual, others = _usual(trait, one), _usual(trait, other)
        if usual is not None and others is not None and _differ(trait, usual, others):
            found.append((trait, _in_words(trait, usual), _in_words(trait, others)))
    return found


def ranges_of(group: Sequence[Facts]) -> dict[str, list[Any]]:
    """What a model keeps of the images that it was trained on, as JSON: by the name of a trait the
    words, or the smallest and the largest numbers, of those whose value is known.
    """
    ranges: dict[str, list[Any]] = {}
    for trait in TRAITS_OF_ONE:
        values = [value for value in map(trait.value, group) if value is not None]
        words = {value for value in values if isinstance(value, str)}
        if words:
            ranges[trait.name] = sorted(words)
        elif values:
            length = Counter(map(len, values)).most_common(1)[0][0]
            alike = [value for value in values if len(value) == length]
            ends = np.min(alike, axis=0), np.max(alike, axis=0)
            ranges[trait.name] = [[float(f"{each:.4g}") for each in end] for end in ends]
    return ranges


def outside(
    facts: Facts, ranges: Mapping[str, Sequence[Any]], stack: int | None
) -> list[tuple[str, bool]]:
    """In which traits an image is outside the `ranges` of a model's training images, in words; and
    whether by more than its trait allows. `stack` is the axis of the slices of a 2-D model, along
    which it sees neither distances nor sizes: what differs there is never far.
    """
    found = []
    for trait in TRAITS_OF_ONE:
        value = trait.value(facts)
        known = ranges.get(trait.name)
        if value is None or not known or (isinstance(value, str) != isinstance(known[0], str)):
            continue
        if isinstance(value, str):
            if value not in known:
                found.append((f"{trait.name}: {value}, in the training {' or '.join(known)}", True))
            continue

        low, high = np.array(known)
        if len(value) != len(low):
            continue
        ratios = np.maximum(low, 1e-6) / np.maximum(value, 1e-6)
        ratios = np.maximum(ratios, np.maximum(value, 1e-6) / np.maximum(high, 1e-6))
        seen = [axis for axis in range(len(value)) if len(value) < 3 or axis != stack]
        if ratios.max() > NEAR_RATIO:
            span = _in_words(trait, low)
            if not np.array_equal(low, high):
                span += f" to {_in_words(trait, high)}"
            text = f"{trait.name}: {_in_words(trait, value)}, in the training {span}"
            found.append((text, bool(ratios[seen].max() > trait.max_ratio)))
    return found


def _usual(trait: Trait, group: Sequence[Facts]) -> Any:
    """The most frequent word, or the medians, of the images whose value is known."""
    values = [value for value in map(trait.value, group) if value is not None]
    if not values:
        return None
    if isinstance(values[0], str):
        return Counter(values).most_common(1)[0][0]
    length = Counter(map(len, values)).most_common(1)[0][0]
    return np.median([value for value in values if len(value) == length], axis=0)


def _differ(trait: Trait, one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return one != other
    if len(one) != len(other):
        return False  # pictures and volumes, which are reported as such
    ratio = np.maximum(one, 1e-6) / np.maximum(other, 1e-6)
    return bool(np.maximum(ratio, 1 / ratio).max() > trait.max_ratio)


def _in_words(trait: Trait, value: Any) -> str:
    if isinstance(value, str):
        return value
    number, _, unit = trait.text.partition(" ")
    return " x ".join(number.format(each) for each in value) + f" {unit}"


def domains_of_two_kinds(
    items: Sequence[Inspected],
    training: Sequence[Record],
    names: Mapping[str, str],
    spacing_is_set: bool,
) -> list[Problem]:
    """Warn of an unpaired training whose domains show different kinds of images; note very different
    numbers of images or people. `names` are the domains by letter.
    """
    facts_of_file = {os.path.abspath(item.scan.files[0]): item.facts for item in items}
    records = {x: [record for record in training if record.domain == x] for x in names}
    facts = {}
    for letter, own in records.items():
        files = {os.path.abspath(path) for path in {record.path for record in own} if path}
        facts[letter] = [facts_of_file[file] for file in files if file in facts_of_file]

    if len(names) != 2 or not all(facts.values()):
        return []

    both = f"the training images of {' and '.join(names.values())}"
    one, other = (_counts(records[letter]) for letter in names)
    counts = " against ".join(map(_counts_in_words, (one, other)))
    first, second = facts.values()
    traits = differing_traits(first, second, spacing_is_set)
    if traits:
        listed = "; ".join(f"{trait.name}: {a} against {b}" for trait, a, b in traits)
        changes = ", ".join(trait.changes for trait, _, _ in traits)
        what = (
            f"{both} are of different kinds: {listed}; {counts}. An unpaired network learns these"
            f" differences with the contrast, and changes {changes}"
        )
        remedy = (
            "train on people whose images of both domains are of one kind, or bring all to one:"
            " strip the skulls, set data.spacing, crop to one field of view"
        )
        return [problem("populations", "warning", what, (), remedy)]

    ratios = [max(a, b) / min(a, b) for a, b in zip(one, other, strict=True) if min(a, b)]
    if max(ratios) >= MAX_RATIO_OF_COUNTS:
        what = (
            f"{both} differ much in number: {counts}. The network learns the fewer ones by heart,"
            " their anatomy included"
        )
        return [problem("populations", "note", what, (), "add images of that domain")]
    return []


def _counts(records: Sequence[Record]) -> tuple[int, int]:
    """(people, images); 0 people where they are unknown."""
    return len({record.subject for record in records} - {""}), len(records)


def _counts_in_words(counts: tuple[int, int]) -> str:
    people, images = counts
    of = f" of {count_noun(people, 'patient')}" if people else ""
    return f"{count_noun(images, 'image')}{of}"


def people_of_other_kinds(records: Iterable[Record], spacing_is_set: bool) -> set[str]:
    """Of the people who have volumes of both domains, those whose first domain differs in kind from
    the largest group that is alike; none where that group is a single person, or of more than
    MAX_PEOPLE_COMPARED people.
    """
    by_domain: dict[str, dict[str, Record]] = {"a": {}, "b": {}}
    for record in records:
        if record.subject and record.scan_key and record.path and record.domain in by_domain:
            by_domain[record.domain].setdefault(record.subject, record)

    both = sorted(by_domain["a"].keys() & by_domain["b"].keys())
    if not 2 < len(both) <= MAX_PEOPLE_COMPARED:
        return set()

    facts = {}
    for person in both:
        record = by_domain["a"][person]
        if record.file is None or len(record.file.scans) > 1:  # parts of files, several contrasts
            continue
        item = inspect_kept(replace(record.file.scans[0], name=record.scan_key), record.file)
        if item.error is None:
            facts[person] = item.facts

    alike = defaultdict(set)
    for person, own in facts.items():
        for other, its in facts.items():
            if not differing_traits([own], [its], spacing_is_set):
                alike[person].add(other)

    largest = max(alike.values(), key=len, default=set())
    return {*facts} - largest if len(largest) > 1 else set()


def left_out_people(available: Collection[Record], training: Collection[Record]) -> str | None:
    """A sentence on the people whose images unpaired training leaves out; None where it uses all."""
    people = sorted({each.subject for each in available} - {each.subject for each in training})
    if not people:
        return None
    named = join_first([repr(name) for name in people])
    return (
        f"{count_noun(people, 'patient')} left out of the training, because the images are of"
        f" another kind than those of most: {named}"
    )
