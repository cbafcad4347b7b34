"""What stands on both sides of a split: a patient, the very same pixels, or nearly the same ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gantk.data.items import Record
from gantk.data.split.near_duplicates import Seen, near_copies, see
from gantk.data.split.split import PATIENTS, SETS
from gantk.errors import UserError

SHOWN = 10  # leaks that an error lists


def check_leakage(
    splits: Mapping[str, Sequence[Record]],
    *,
    same_patient: bool = True,  # whether a patient may give training images of both domains; False: that is a leak
    near: bool = True,  # look for near copies too: saved again, resized, shifted, rescaled
) -> None:
    """UserError that lists who or what is on two sides of a split: a patient, the very same pixels, or near copies.

    Blocks of a few patients are held out of every patient on purpose, so there only pixels count; images without
    contrast (air) never do. `same_patient = False` is for unpaired methods: a patient in both domains of `train` is an
    error too. Every image is read once.
    """
    found = patients_on_both_sides(splits)
    if sum(bool(splits[name]) for name in SETS) > 1:
        known = getattr(splits, "seen", {})
        found += copies_on_both_sides(
            [
                replace(known[r.domain, r.key], group=name) if (r.domain, r.key) in known else see(r, name, near)
                for name in SETS
                for r in splits[name]
            ]
        )
    both = [] if same_patient else patients_in_both_domains(splits["train"])
    if found:
        found += [f"patient '{patient}' in both domains of train" for patient in both]
        raise UserError(
            "training and held-out images are not apart: " + _listed(found, "; "),
            where="data.split",
            remedy="remove the copies, split by patient, or overrule with --allow-leakage, which the run records",
        )
    if both:
        raise UserError(
            f"{'a patient gives' if len(both) == 1 else f'{len(both)} patients give'} training images of both domains, "
            f"as no unpaired study has them: {_listed([repr(patient) for patient in both], ', ')}",
            where="data.same_patient",
            remedy="set data.unpair = true, by which each of two or more patients gives one domain, "
            "or data.same_patient = true to train on them all the same",
        )


def patients_on_both_sides(splits: Mapping[str, Sequence[Record]]) -> list[str]:
    """Lines about the patients that more than one set holds; none where blocks of a few patients are held out."""
    patients = {name: [(r.subject, r.subject) for r in splits[name] if r.subject] for name in SETS}
    few = len({subject for entries in patients.values() for subject, _ in entries}) < PATIENTS
    return [] if few and getattr(splits, "by", None) == "block" else _shared(patients, "patient")


def patients_in_both_domains(records: Sequence[Record]) -> list[str]:
    """The known patients that have images in more than one domain, sorted."""
    domains: dict[str, set[str]] = defaultdict(set)
    for record in records:
        domains[record.subject].add(record.domain)
    return sorted(patient for patient, seen in domains.items() if patient and len(seen) > 1)


def copies_on_both_sides(seen: Sequence[Seen]) -> list[str]:
    """Lines about copies and near copies of images of different groups, the sets; all that `see` saw of them."""
    hashes = {name: [(each.digest, each.name) for each in seen if each.digest and each.group == name] for name in SETS}
    near = [(seen[i], seen[j]) for i, j, _ in near_copies(seen)]
    return _shared(hashes, "image") + [
        f"image '{one.name}' in {one.group} is a near copy of '{other.name}' in {other.group}" for one, other in near
    ]


def _shared(sets: Mapping[str, Iterable[tuple[str, str]]], word: str) -> list[str]:
    """Lines about identities that more than one set holds; each entry is (identity, how to call it)."""
    where: dict[str, dict[str, str]] = defaultdict(dict)
    for name, entries in sets.items():
        for identity, label in entries:
            where[identity].setdefault(name, label)
    lines = []
    for places in where.values():
        if len(places) > 1:
            labels = " = ".join(f"'{label}'" for label in dict.fromkeys(places.values()))
            lines.append(f"{word} {labels} in {' and '.join(places)}")
    return lines


def _listed(found: Sequence[str], between: str) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return between.join(found[:SHOWN]) + more
