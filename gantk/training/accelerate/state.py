"""Snapshots of what a trial step may change: tensors, and plain Python attributes of modules and
optimizers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (int, float, complex, str, bytes, type(None))


class TensorState:
    """Copies of tensors, by kind, made at construction; `restore` copies them back into the same
    tensors.
    """

    def __init__(self, kinds: dict[str, list[Tensor]]):
        self.kinds = {
            kind: [(tensor.detach(), tensor.detach().clone()) for tensor in tensors]
            for kind, tensors in kinds.items()
        }

    def restore(self) -> None:
        """Copy the saved values back into the tensors."""
        for pairs in self.kinds.values():
            for tensor, value in pairs:
                tensor.copy_(value)

    def distances(self, other: TensorState) -> dict[str, float]:
        """The distance of two states for each kind: the L2 norm of all differences."""
        found = {}
        for kind, pairs in self.kinds.items():
            both = zip(pairs, other.kinds[kind], strict=True)
            squares = [
                (mine.float() - theirs.float()).square().sum() for (_, mine), (_, theirs) in both
            ]
            found[kind] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0

        return found


class PythonState:
    """Copies of numbers and texts, and of containers of them, among the attributes of a module, its
    parts and optimizers; and of the random states of Python and NumPy. A CUDA graph would not update
    them.
    """

    def __init__(self, module: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()):
        self._owners = [
            *module.named_modules(),
            *((f"optimizer {type(o).__name__}", o) for o in optimizers),
        ]
        self._before = copy.deepcopy(dict(self._plain()))
        self._random = (random.getstate(), np.random.get_state())

    def expect_same(self) -> None:
        """Raise a ValueError that names what a step changed, if it changed anything."""
        now = dict(self._plain())
        before = self._before
        missing = object()
        found = [
            place for place in before | now if before.get(place, missing) != now.get(place, missing)
        ]
        names = [
            ".".join(filter(None, (self._owners[owner][0], attribute)))
            for owner, attribute in found
        ]
        names += ["the state of `random`"] if random.getstate() != self._random[0] else []
        same = all(
            np.array_equal(a, b)
            for a, b in zip(self._random[1], np.random.get_state(), strict=True)
        )
        names += [] if same else ["the random state of `numpy`"]
        if names:
            raise ValueError(
                f"every step changes {', '.join(names)} in Python; keep such values in"
                " buffers, as tensors"
            )

    def restore(self) -> None:
        """Set attributes and random states to their saved values."""
        for owner, attribute in [place for place, _ in self._plain() if place not in self._before]:
            delattr(self._owners[owner][1], attribute)

        for (owner, attribute), value in self._before.items():
            attributes = vars(self._owners[owner][1])
            value = copy.deepcopy(value)
            if isinstance(held := attributes.get(attribute), list):  # others may hold the same list
                held[:] = value
            elif held != value:
                attributes[attribute] = value

        random.setstate(self._random[0])
        np.random.set_state(self._random[1])

    def _plain(self) -> Iterator[tuple[tuple[int, str], Any]]:
        for number, (_, owner) in enumerate(self._owners):
            for attribute, value in vars(owner).items():
                if attribute != "training" and _is_plain(value):
                    yield (number, attribute), value


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)
