"""What stands on both sides of a split: a patient, or the very same pixels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gantk.data.records import Record
from gantk.data.split import PATIENTS, SETS
from gantk.errors import UserError


def check_leakage(splits: Mapping[str, Sequence[Record]]) -> None:
    """UserError that lists who or what is on two sides of a split: the same patient, or the very same pixels.

    Blocks of a few patients are held out of every patient on purpose, so there only pixels count; images without
    contrast (air) never do.
    """
    patients = {name: [(r.subject, r.subject) for r in splits[name] if r.subject] for name in SETS}
    few = len({subject for entries in patients.values() for subject, _ in entries}) < PATIENTS
    found = [] if few and getattr(splits, "by", None) == "block" else _shared(patients, "patient")
    hashes = {name: [(digest, r.key) for r in splits[name] if (digest := _pixels_hash(r))] for name in SETS}
    found += _shared(hashes, "image")
    if found:
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        raise UserError(
            "training and held-out images are not apart: " + "; ".join(found[:10]) + more,
            where="data.split",
            remedy="remove the copies, split by patient, or overrule with --allow-leakage, which the run records",
        )


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


def _pixels_hash(record: Record) -> str | None:
    pixels = record.read()
    if pixels.min() == pixels.max():
        return None
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
