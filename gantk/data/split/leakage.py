"""Leakage: patients, the very same pixels, or near copies of them on two sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

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
    members = [(name, record) for name in SETS for record in splits[name]]
    patients = {record.subject for _, record in members} - {""}
    found = []
    if len(patients) >= PATIENTS or getattr(splits, "by", None) != "block":
        found += _in_two_sets([(name, r.subject, r.subject) for name, r in members if r.subject], "patient")
    if len({name for name, _ in members}) > 1:
        known = getattr(splits, "fingerprints", {})
        seen = [known.get(r.id) or fingerprint(r, near) for _, r in members]
        sides = [name for name, _ in members]
        images = [(side, one.digest, one.name) for side, one in zip(sides, seen, strict=True) if one.digest]
        found += _in_two_sets(images, "image")
        found += [
            f"image '{seen[i].name}' in {sides[i]} is a near copy of '{seen[j].name}' in {sides[j]}"
            for i, j, _ in near_copies(seen)
            if sides[i] != sides[j]
        ]
    both = [] if same_patient else patients_in_both_domains(splits["train"])
    if found:
        found += [f"patient '{patient}' in both domains of train" for patient in both]
        remedy = "remove the copies, split by patient, or overrule with --allow-leakage, which the run records"
        what = f"training and held-out images are not apart: {_listed(found, '; ')}"
        raise UserError(what, where="data.split", remedy=remedy)
    if both:
        what = "a patient gives" if len(both) == 1 else f"{len(both)} patients give"
        what += " training images of both domains, as no unpaired study has them: "
        what += _listed([repr(patient) for patient in both], ", ")
        remedy = "set data.unpair = true, by which each of two or more patients gives one domain, "
        remedy += "or data.same_patient = true to train on them all the same"
        raise UserError(what, where="data.same_patient", remedy=remedy)


def patients_in_both_domains(records: Sequence[Record]) -> list[str]:
    """The known patients that have images in more than one domain, sorted."""
    seen = {(record.subject, record.domain) for record in records if record.subject}
    patients = [patient for patient, _ in seen]
    return sorted({patient for patient in patients if patients.count(patient) > 1})


def _in_two_sets(entries: Sequence[tuple[str, str, str]], word: str) -> list[str]:
    """Lines about identities that more than one set holds; each entry is (set, identity, how to call it)."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for name, identity, label in entries:
        places[identity].setdefault(name, label)
    return [
        f"{word} {' = '.join(map(repr, dict.fromkeys(names.values())))} in {' and '.join(names)}"
        for names in places.values()
        if len(names) > 1
    ]


def _listed(found: Sequence[str], between: str) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return between.join(found[:SHOWN]) + more
