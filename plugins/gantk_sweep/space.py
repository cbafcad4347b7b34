"""The search space of a sweep: parses and checks ranges and choices of a recipe's settings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gantk.errors import UserError
from gantk.recipe.load import parse_setting

EXAMPLES = "KEY=0.5..5, KEY=1e-4..4e-4:log, KEY=2..8 (whole numbers), KEY=ls,bce"
RANGE = re.compile(r"([^:]+?)\.\.([^:]+)(:log)?")
# Settings that may change within a training; networks, data and the number of steps may not.
CHANGEABLE = ("train.optimizer.", "train.optimizers.", "method.")
FIXED = ("method.name", "method.generator", "method.discriminator")


@dataclass(frozen=True)
class Axis:
    """One setting of the search space: one of `choices`, or a number from `low` to `high`, both included."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False  # drawn uniformly on a logarithmic scale

    @property
    def ends(self) -> tuple[Any, ...]:
        """The extreme values, all of which the recipe must accept."""
        return self.choices or (self.low, self.high)

    def domain(self, tune: Any) -> Any:
        """The Ray Tune sampler of this axis."""
        if self.choices:
            return tune.choice(self.choices)
        whole = isinstance(self.low, int)
        return getattr(tune, "log" * self.log + ("randint" if whole else "uniform"))(self.low, self.high + whole)

    def within(self, value: Any) -> Any:
        """A value that a population has changed, clamped to the range."""
        return value if self.choices else min(max(value, self.low), self.high)

    def place(self, value: Any) -> float:
        """The position of a value between the ends, 0 to 1."""
        if self.choices:
            return self.choices.index(value) / (len(self.choices) - 1)
        low, high, at = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)


def axes_of(space: Iterable[str]) -> list[Axis]:
    """Parses `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log` and `KEY=V1,V2` into axes; raises UserError for any other text."""
    axes = {}
    for text in space:
        axis = _axis(text)
        if axes.setdefault(axis.key, axis) is not axis:
            raise UserError(f"'{axis.key}' stands twice", where="--space", remedy="write each key once")
    if not axes:
        raise UserError("nothing is varied", where="--space", allowed=EXAMPLES)
    return [*axes.values()]


def _axis(text: str) -> Axis:
    key, _, values = (part.strip() for part in text.partition("="))
    error = UserError(f"'{text}' is no space", where="--space", allowed=EXAMPLES)
    if not values:
        raise error
    key = parse_setting(f"{key}=0")[0]  # raises UserError where it is no key
    if not (found := RANGE.fullmatch(values)):
        listed = parse_setting(f"{key}=[{values}]")[1]  # a string where it is no TOML list
        choices = listed if isinstance(listed, list) else [each.strip() for each in values.split(",")]
        if len(choices) < 2 or "" in choices or any(choices.count(each) > 1 for each in choices):
            raise error
        return Axis(key, tuple(choices))
    low, high, log = found.groups()
    try:
        low, high = map(float if {*"eE."} & {*(low + high)} else int, (low, high))
    except ValueError:
        raise error from None
    if not -math.inf < low < high < math.inf:
        raise error
    if log and low <= 0:
        what = f"the range of '{key}' begins at {low:g}, which has no logarithm"
        raise UserError(what, where="--space", remedy="begin above 0, or leave :log out")
    return Axis(key, (), low, high, bool(log))


def require_changeable(axes: Iterable[Axis]) -> None:
    """Raises UserError for an axis that cannot change within a training, as a population would change it."""
    for axis in axes:
        if not axis.key.startswith(CHANGEABLE) or axis.key.startswith(FIXED):
            what = f"'{axis.key}' cannot change within a training, as --scheduler pbt would have it"
            allowed = "train.optimizer.*, train.optimizers.*, and the method's own numbers"
            raise UserError(what, where="--space", allowed=allowed, remedy="use --scheduler asha")
