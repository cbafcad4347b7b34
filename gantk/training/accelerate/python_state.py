"""What Python itself remembers of a training: what neither a recorded nor a compiled step would change."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

PLAIN = (int, float, complex, str, bytes, type(None))
_MISSING = object()


class PythonState:
    """Numbers and texts, and lists, dicts, sets and tuples of them, among the attributes of a module, its parts and
    optimizers; and the state of Python's and NumPy's random numbers. As they were when this was made.
    """

    def __init__(self, module: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()):
        self._owners = [*module.named_modules(), *((f"optimizer {type(o).__name__}", o) for o in optimizers)]
        self._values = {place: copy.deepcopy(value) for place, value in self._plain()}
        self._random, self._numpy = random.getstate(), np.random.get_state()

    def changed(self) -> list[str]:
        """The names of what is no longer as it was."""
        now, before = dict(self._plain()), self._values
        found = [place for place in before | now if before.get(place, _MISSING) != now.get(place, _MISSING)]
        names = [".".join(part for part in (self._owners[k][0], attribute) if part) for k, attribute in found]
        names += ["the random numbers of `random`"] if random.getstate() != self._random else []
        same = all(np.array_equal(a, b) for a, b in zip(self._numpy, np.random.get_state(), strict=True))
        return names if same else [*names, "the random numbers of `numpy`"]

    def expect_same(self) -> None:
        """ValueError that names what a step changed."""
        if changed := self.changed():
            raise ValueError(f"every step changes {', '.join(changed)} in Python; hold it in a buffer, as a tensor")

    def restore(self) -> None:
        """Put everything back."""
        for k, attribute in [place for place, _ in self._plain() if place not in self._values]:
            delattr(self._owners[k][1], attribute)
        for (k, attribute), value in self._values.items():
            attributes = vars(self._owners[k][1])
            held, value = attributes.get(attribute), copy.deepcopy(value)
            if held == value:
                continue
            if isinstance(held, list | dict | set) and type(held) is type(value):  # others may hold it too
                held.clear()
                held.extend(value) if isinstance(held, list) else held.update(value)
            else:
                attributes[attribute] = value
        random.setstate(self._random)
        np.random.set_state(self._numpy)

    def _plain(self) -> Iterator[tuple[tuple[int, str], Any]]:
        for k, (_, owner) in enumerate(self._owners):
            for attribute, value in vars(owner).items():
                if attribute != "training" and _is_plain(value):
                    yield (k, attribute), value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, PLAIN)
