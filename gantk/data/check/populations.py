"""Compares people by the kind of their images (see `kinds`): an unpaired network learns what differs
with the contrast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from gantk.data.check.inspect import inspect_kept, scans_of
from gantk.data.check.kinds import TRAITS, Facts, Trait, in_words, known_values
from gantk.data.preparation import Record
from gantk.errors import count_noun, join_first

MAX_PEOPLE_COMPARED = 16  # of more, random halves are of the same kinds


# of pictures, which state no millimetres, besides the other traits
SIZE = Trait(
    "size",
    lambda facts: facts["shape"] if facts["spacing"] is None else None,
    1.4,
    "{:.0f} pixels",
    "sharpness",
)


def differing_traits(
    one: Sequence[Facts],
    other: Sequence[Facts],
    spacing_is_set: bool,
    traits: Sequence[Trait] = TRAITS,
) -> list[tuple[Trait, str, str]]:
    """The traits in which two groups of images differ, with their usual values in words."""
    found = []
    for trait in traits:
        if spacing_is_set and trait.name == "spacing":
            continue
        usual, others = _usual(trait, one), _usual(trait, other)
        if usual is not None and others is not None and _differ(trait, usual, others):
            found.append((trait, in_words(trait, usual), in_words(trait, others)))
    return found


def _usual(trait: Trait, group: Sequence[Facts]) -> Any:
    """The most frequent word, or the medians, of the images whose value is known."""
    values = known_values(trait, group)
    if not values:
        return None
    if isinstance(values[0], str):
        return Counter(values).most_common(1)[0][0]
    return np.median(values, axis=0)


def _differ(trait: Trait, one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return one != other
    if len(one) != len(other):
        return False  # pictures and volumes, which are reported as such
    ratio = np.maximum(one, 1e-6) / np.maximum(other, 1e-6)
    return bool(np.maximum(ratio, 1 / ratio).max() > trait.max_ratio)


def people_of_other_kinds(records: Iterable[Record], spacing_is_set: bool) -> set[str]:
    """Of the people who have volumes of both domains, those whose first domain differs in kind from
    the largest group that is alike; none where that group is a single person, or of more than
    MAX_PEOPLE_COMPARED people.
    """
    first: dict[tuple[str, str], Record] = {}
    for record in records:
        if record.subject and record.scan_key and record.path:
            first.setdefault((record.domain, record.subject), record)

    people = {person for _, person in first}
    both = sorted(x for x in people if ("a", x) in first and ("b", x) in first)
    if not 2 < len(both) <= MAX_PEOPLE_COMPARED:
        return set()

    facts = {}
    for person in both:
        record = first["a", person]
        if record.file is None or len(record.file.scans) > 1:  # parts of files, several contrasts
            continue
        _, scan = next(scans_of(record))
        item = inspect_kept(scan, record.file)
        if item.error is None:
            facts[person] = item.facts

    groups = []
    for own in facts.values():
        groups.append({x for x in facts if not differing_traits([own], [facts[x]], spacing_is_set)})

    largest = max(groups, key=len, default=set())
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
