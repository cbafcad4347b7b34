"""Leakage: patients, identical pixels or near copies on two sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import exact_copies, fingerprint, near_copies, sampled
from gantk.data.split.split import SETS
from gantk.errors import UserError

SHOWN = 10  # leaks that an error lists


def check_leakage(
    splits: Mapping[str, Sequence[Record]],
    *,
    # whether a patient may give training images of both domains; False: that is a leak
    same_patient: bool = True,
    near: bool = True,  # look for near copies too: saved again, resized, shifted, rescaled
) -> None:
    """UserError that lists patients, identical pixels and near copies on two sides of a split.

    A split by blocks divides every patient on purpose, so only pixels are compared there; images
    without contrast (air) are ignored. `same_patient = False` is for unpaired methods: a patient in
    both domains of `train` is an error too. Every image is read once; of a very large set the
    pixels of a sample, and the bytes of all files of equal size.
    """
    sides = [name for name in SETS for _ in splits[name]]
    records = [record for name in SETS for record in splits[name]]
    leaks = []
    if getattr(splits, "by", None) != "block":
        leaks += _on_two_sides(
            "patient", [(r.subject, r.subject, s) for r, s in zip(records, sides, strict=True)]
        )
    if len(set(sides)) > 1:
        earlier = getattr(splits, "fingerprints", {})
        sample = sampled([record.key for record in records])
        if len(sample) < len(records):  # compares the bytes of all files
            equal = [(i, j) for i, j in exact_copies(records) if sides[i] != sides[j]]
            contrast = {i: fingerprint(records[i], False).digest for i in {i for i, _ in equal}}
            equal = [(contrast[i], records[n].key, sides[n]) for i, j in equal for n in (i, j)]
            leaks += _on_two_sides("file", equal)
        seen = [earlier.get(records[n].id) or fingerprint(records[n], near) for n in sample]
        sides = [sides[n] for n in sample]
        leaks += _on_two_sides(
            "image", [(one.digest, one.name, side) for one, side in zip(seen, sides, strict=True)]
        )
        for i, j, _ in near_copies(seen):
            if sides[i] != sides[j]:
                leaks.append(
                    f"image '{seen[i].name}' in {sides[i]} is a near copy of '{seen[j].name}' in"
                    f" {sides[j]}"
                )
    if leaks:
        remedy = (
            "remove the copies, split by patient, or overrule with --allow-leakage, which the run"
            " records"
        )
        what = f"training and held-out images are not apart: {listed(leaks, '; ')}"
        raise UserError(what, where="data.split", remedy=remedy)
    domains: dict[str, set[str]] = defaultdict(set)
    for record in splits["train"]:
        domains[record.subject].add(record.domain)
    both = sorted(repr(patient) for patient, seen in domains.items() if patient and len(seen) > 1)
    # one patient alone cannot give one domain only
    if both and not same_patient and len(domains) > 1:
        what = "a patient gives" if len(both) == 1 else f"{len(both)} patients give"
        what += (
            f" training images of both domains, as no unpaired study has them: {listed(both, ', ')}"
        )
        remedy = "set data.unpair = true, by which each of two or more patients gives one domain, "
        remedy += "or data.same_patient = true to train on them all the same"
        raise UserError(what, where="data.same_patient", remedy=remedy)


def _on_two_sides(word: str, entries: Iterable[tuple[str | None, str, str]]) -> list[str]:
    """Lines on identities that are on more than one side; each entry is (identity, name, side)."""
    names_of: dict[str | None, dict[str, str]] = defaultdict(dict)
    for identity, name, side in entries:
        names_of[identity].setdefault(side, name)
    return [
        f"{word} {' = '.join(map(repr, dict.fromkeys(names.values())))} in {' and '.join(names)}"
        for identity, names in names_of.items()
        if identity and len(names) > 1
    ]


def listed(found: Sequence[str], between: str = ", ") -> str:
    """The first SHOWN of these names, and how many more there are."""
    return between.join(found[:SHOWN]) + (
        f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    )
