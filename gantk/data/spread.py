"""Which images stand for many, where not all can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def spread(items: Sequence | np.ndarray, count: int) -> list[Any]:
    """At most `count` items, evenly spaced over the list."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def spread_over_owners(items: Sequence, owners: Sequence[str], count: int) -> list[Any]:
    """The middle items of `count` owners, spread by name; of fewer owners several items of each.

    `owners`: whose each item is.
    """
    names, whose = np.unique(owners, return_inverse=True)
    chosen = [np.flatnonzero(whose == owner) for owner in spread(range(len(names)), count)]
    return [
        items[part[len(part) // 2]]
        for own in chosen
        for part in np.array_split(own, -(-count // len(chosen)))
        if len(part)
    ]
