"""Leakage: patients, identical pixels or near copies on two sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from gantk.data.preparation import Preparation, Record
from gantk.data.split.copies import exact_copies
from gantk.data.split.near_duplicates import (
    MAX_ALL_COMPARED,
    SETS,
    Fingerprints,
    near_copies,
    read_fingerprints,
)
from gantk.data.split.split import Splits
from gantk.errors import UserError, join_first

MAX_LISTED_LEAKS = 3  # leaks that an error lists


class LeakageError(UserError):
    """Leaks, which `--allow-leakage` accepts."""


def check_leakage(
    splits: Splits,
    *,
    # whether a patient may give training images of both domains; False: that is a leak
    same_patient: bool = True,
    pixels: bool = True,  # compare pixels: exact copies, and those saved again, resized, shifted
    # by domain and key, of images that were read already; those read here are added
    fingerprints: Fingerprints | None = None,
    preparation: Preparation | None = None,  # whose cache is used and filled
) -> None:
    """LeakageError that lists patients, identical pixels and near copies on two sides of a split.

    A split by blocks divides every patient on purpose, so only pixels are compared there; images
    without contrast (air) are ignored. `same_patient = False` is for unpaired methods: a patient in
    both domains of `train` is an error too. Every image is read once; of a very large set the
    pixels of a sample, and the bytes of all files of equal size.
    """
    sides = [name for name in SETS for _ in splits[name]]
    records = [record for name in SETS for record in splits[name]]
    leaks = []
    if splits.by != "block":
        subjects = [record.subject for record in records]
        pairs = [record.pair or "" for record in records]
        leaks += _on_two_sides("patient", zip(subjects, subjects, sides, strict=True))
        leaks = leaks or _on_two_sides("pair", zip(pairs, pairs, sides, strict=True))
    if pixels and len(set(sides)) > 1:
        known = {} if fingerprints is None else fingerprints
        leaks += _copies_on_two_sides(records, sides, known, preparation)

    if leaks:
        raise LeakageError(
            "the sets of the split share patients or images, so scores would be too good:"
            f" {join_first(leaks, '; ', MAX_LISTED_LEAKS)}",
            where="data.split",
            remedy="remove the copies, or give each person one name; --allow-leakage trains anyway (the run"
            " records this)",
        )

    if not same_patient:
        _expect_one_domain_each(splits["train"])


def _copies_on_two_sides(
    records: Sequence[Record],
    sides: Sequence[str],
    known: Fingerprints,
    preparation: Preparation | None,
) -> list[str]:
    """Lines on equal files, identical pixels and near copies on two sides. Fingerprints that are
    not `known` are added.
    """
    leaks = []
    if len(records) > MAX_ALL_COMPARED:  # compares the bytes of all files
        copies = ((str(pair[0]), n) for pair in exact_copies(records) for n in pair)
        leaks += _on_two_sides("file", ((own, records[n].key, sides[n]) for own, n in copies))

    seen = read_fingerprints(records, known, preparation)
    names = [record.scan_key or record.key for record in records]  # a volume is named once
    digests = [one.digest for one in seen]
    leaks += _on_two_sides("image", zip(digests, names, sides, strict=True))
    leaks += [
        f"image '{names[i]}' in {sides[i]} is a near copy of '{names[j]}' in {sides[j]}"
        for i, j, _ in near_copies(seen, known.values())
        if sides[i] != sides[j]
    ]
    return [*dict.fromkeys(leaks)]


def _expect_one_domain_each(records: Sequence[Record]) -> None:
    """LeakageError where patients give training images of both domains."""
    domains = defaultdict(set)
    for record in records:
        domains[record.subject].add(record.domain)

    both = sorted(repr(patient) for patient, own in domains.items() if patient and len(own) > 1)
    # one patient alone cannot give one domain only
    if both and len(domains) > 1:
        raise LeakageError(
            "patients have training images in both domains, which does not occur in an unpaired"
            f" study: {join_first(both, most=MAX_LISTED_LEAKS)}",
            where="data.same_patient",
            remedy="set data.unpair = true to train on one domain of each patient, or"
            " data.same_patient = true to train on both",
        )


def _on_two_sides(word: str, entries: Iterable[tuple[str, str, str]]) -> list[str]:
    """Lines on identities that are on more than one side; each entry is (identity, name, side)."""
    names_of: dict[str, dict[str, str]] = defaultdict(dict)
    for identity, name, side in entries:
        names_of[identity].setdefault(side, name)

    return [
        f"{word} {' = '.join(map(repr, dict.fromkeys(names.values())))} in {' and '.join(names)}"
        for identity, names in names_of.items()
        if identity and len(names) > 1
    ]
