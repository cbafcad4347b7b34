"""The search space of a sweep: parses and checks ranges and choices of a recipe's settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gantk.errors import UserError
from gantk.recipe.load import parse_setting

EXAMPLES = "KEY=0.5..5, KEY=1e-4..4e-4:log, KEY=2..8 (whole numbers), KEY=ls,bce"
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
            return tune.choice(list(self.choices))
        whole = isinstance(self.low, int)
        draw = {(0, 0): tune.uniform, (0, 1): tune.loguniform, (1, 0): tune.randint, (1, 1): tune.lograndint}
        return draw[whole, self.log](self.low, self.high + whole)

    def within(self, value: Any) -> Any:
        """A value that a population has changed, clamped to the range."""
        return value if self.choices else type(self.low)(min(max(value, self.low), self.high))

    def place(self, value: Any) -> float:
        """The position of a value between the ends, 0 to 1."""
        if self.choices:
            return self.choices.index(value) / max(len(self.choices) - 1, 1)
        low, high, at = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)


def axes_of(space: Iterable[str]) -> list[Axis]:
    """Parses `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log` and `KEY=V1,V2` into axes; raises UserError for any other text."""
    axes = [_axis(text) for text in space]
    if not axes:
        raise UserError("nothing is varied", where="--space", allowed=EXAMPLES)
    keys = [axis.key for axis in axes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(f"'{twice}' stands twice", where="--space", remedy="write each key once")
    return axes


def _axis(text: str) -> Axis:
    key, equals, values = (part.strip() for part in text.partition("="))
    error = UserError(f"'{text}' is no space", where="--space", allowed=EXAMPLES)
    if not equals or not values:
        raise error
    key = parse_setting(f"{key}=0")[0]  # raises UserError where it is no key
    numbers, _, kind = values.partition(":")
    low, dots, high = numbers.partition("..")
    if not dots:
        found = parse_setting(f"{key}=[{values}]")[1]  # a string where it is no TOML list
        choices = found if isinstance(found, list) else [each.strip() for each in values.split(",")]
        if len(choices) < 2 or "" in choices or any(choices.count(each) > 1 for each in choices):
            raise error
        return Axis(key, tuple(choices))
    try:
        ends = [float(end) if {*"eE."} & {*end} else int(end) for end in (low, high)]
    except ValueError:
        raise error from None
    if float in map(type, ends):
        ends = [*map(float, ends)]
    if kind not in ("", "log") or not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
        raise error
    if kind and ends[0] <= 0:
        what = f"the range of '{key}' begins at {ends[0]:g}, which has no logarithm"
        raise UserError(what, where="--space", remedy="begin above 0, or leave :log out")
    return Axis(key, (), *ends, bool(kind))


def require_changeable(axes: Iterable[Axis]) -> None:
    """Raises UserError for an axis that cannot change within a training, as a population would change it."""
    for axis in axes:
        if not axis.key.startswith(CHANGEABLE) or axis.key.startswith(FIXED):
            what = f"'{axis.key}' cannot change within a training, as --scheduler pbt would have it"
            allowed = "train.optimizer.*, train.optimizers.*, and the method's own numbers"
            raise UserError(what, where="--space", allowed=allowed, remedy="use --scheduler asha")
