"""Leakage: patients, the very same pixels, or near copies of them on two sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import fingerprint, near_copies
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
    patients = [(name, record.subject, record.subject) for name in SETS for record in splits[name] if record.subject]
    few = len({patient for _, patient, _ in patients}) < PATIENTS
    found = [] if few and getattr(splits, "by", None) == "block" else _in_two_sets(patients, "patient")
    if sum(bool(splits[name]) for name in SETS) > 1:
        known = getattr(splits, "fingerprints", {})
        images = [
            replace(known[r.domain, r.key], group=name) if (r.domain, r.key) in known else fingerprint(r, name, near)
            for name in SETS
            for r in splits[name]
        ]
        found += _in_two_sets([(each.group, each.digest, each.name) for each in images if each.digest], "image")
        found += [
            f"image '{images[i].name}' in {images[i].group} is a near copy of '{images[j].name}' in {images[j].group}"
            for i, j, _ in near_copies(images)
        ]
    both = [] if same_patient else patients_in_both_domains(splits["train"])
    if found:
        found += [f"patient '{patient}' in both domains of train" for patient in both]
        what = f"training and held-out images are not apart: {_listed(found, '; ')}"
        remedy = "remove the copies, split by patient, or overrule with --allow-leakage, which the run records"
        raise UserError(what, where="data.split", remedy=remedy)
    if both:
        what = (
            f"{'a patient gives' if len(both) == 1 else f'{len(both)} patients give'} training images of both domains, "
        )
        what += f"as no unpaired study has them: {_listed([repr(patient) for patient in both], ', ')}"
        remedy = "set data.unpair = true, by which each of two or more patients gives one domain, "
        remedy += "or data.same_patient = true to train on them all the same"
        raise UserError(what, where="data.same_patient", remedy=remedy)


def patients_in_both_domains(records: Sequence[Record]) -> list[str]:
    """The known patients that have images in more than one domain, sorted."""
    domains: dict[str, set[str]] = defaultdict(set)
    for record in records:
        domains[record.subject].add(record.domain)
    return sorted(patient for patient, seen in domains.items() if patient and len(seen) > 1)


def _in_two_sets(entries: Sequence[tuple[str, str, str]], word: str) -> list[str]:
    """Lines about identities that more than one set holds; each entry is (set, identity, how to call it)."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for name, identity, label in entries:
        places[identity].setdefault(name, label)
    return [
        f"{word} {' = '.join(f'{label!r}' for label in dict.fromkeys(names.values()))} in {' and '.join(names)}"
        for names in places.values()
        if len(names) > 1
    ]


def _listed(found: Sequence[str], between: str) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return between.join(found[:SHOWN]) + more
