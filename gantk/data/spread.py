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
