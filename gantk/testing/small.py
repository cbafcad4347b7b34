"""Small networks and images for contract tests, so that they run in seconds for any method."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from gantk.plugin.loader import registry
from gantk.plugin.spec import Part, bind, kind_of, options_model
from gantk.recipe.tables import TrainTable
from gantk.training.optim import Constant

POOL = 3  # value of an option called `pool`: small enough to overflow within four steps


def small_part(kind: str, name: str, options: dict[str, Any], pool: int = POOL) -> Part:
    """The registered part with `options`. Networks and the image pool among its defaults are made
    small.
    """
    shrunk: dict[str, Any] = {}
    target = registry().get(kind, name).load()
    for key, field in options_model(target).model_fields.items():
        inner = kind_of(field.metadata)
        small = registry().get(inner, field.default).small if inner and field.default else {}
        if small:
            shrunk[key] = {"name": field.default} | {**small}
        elif key == "pool" and isinstance(field.default, int):
            shrunk[key] = pool

    return bind(kind, {"name": name} | shrunk | options)


def small_size(dims: int) -> tuple[int, ...]:
    """An image size that takes milliseconds: 32 x 32, or 16 x 16 x 16."""
    return (32, 32) if dims == 2 else (16, 16, 16)


def train_table(rule: Callable[..., Any], **changes: Any) -> TrainTable:
    """A recipe's [train] table for an engine, with `rule` (a function from parameters to an
    optimizer) at a constant learning rate.
    """
    return TrainTable().model_copy(
        update={"optimizer": rule, "schedule": Constant, "ema": 0.9} | changes
    )


def random_images(count: int, channels: int, size: Iterable[int], seed: int = 0) -> Tensor:
    """Random images (count, channels, *size), uniform in [-1, 1], from `seed`. torch's global
    generator is not used.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, *size, generator=generator) * 2 - 1


class Contract:
    """Base of all contracts. Each test runs in 2-D and in 3-D."""

    # of the part, as in a recipe; None: its defaults
    options: ClassVar[dict[str, Any] | None] = None
    dims: ClassVar[tuple[int, ...]] = (2, 3)  # dimensions that the part supports
    # image size by dimension; else 32 x 32 and 16 x 16 x 16
    sizes: ClassVar[dict[int, tuple[int, ...]]] = {}

    @pytest.fixture(params=[2, 3], ids=["2d", "3d"], name="d")
    def _dims(self, request: pytest.FixtureRequest) -> int:
        if request.param not in self.dims:
            pytest.skip(f"works in {self.dims} dimensions")
        torch.manual_seed(0)
        return request.param

    def size(self, dims: int) -> tuple[int, ...]:
        return self.sizes.get(dims, small_size(dims))
