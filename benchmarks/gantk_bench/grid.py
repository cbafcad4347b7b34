"""Settings of a bench: all combinations of the `KEY=V1,V2` grids, and a suite's tables as `--set` arguments."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gantk.errors import UserError
from gantk.plugin.spec import toml
from gantk.recipe.load import parse_setting

SEED = "train.seed"  # rows that differ in this key alone repeat the same experiment
OPENING, CLOSING = "[{", "]}"


@dataclass(frozen=True)
class Value:
    """One value of one key: its text and its parsed TOML value."""

    key: str
    text: str
    value: Any

    @property
    def setting(self) -> str:
        """The argument of `gantk run --set`."""
        return f"{self.key}={self.text}"


def parse_axis(text: str) -> list[Value]:
    """The values of `KEY=V1,V2`; commas inside brackets and quotes belong to a value. UserError for invalid text."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[\w\-]+(\.[\w\-]+)*", key):
        raise UserError(f"'{text}' is not key=values", where="--grid", remedy="for example --grid train.seed=0,1,2")
    parts = [part.strip() for part in _split(raw)]
    if not all(parts):
        what = f"a value is missing in '{text}'"
        raise UserError(what, where="--grid", remedy="write the values with commas between")
    try:
        values = [Value(key, part, parse_setting(f"{key}={part}")[1]) for part in parts]
    except UserError as error:
        error.where = f"--grid {key}"
        raise
    duplicates = [value.text for place, value in enumerate(values) if value.value in [v.value for v in values[:place]]]
    if duplicates:
        raise UserError(f"the value {duplicates[0]} stands twice in '{text}'", where="--grid", remedy="name each once")
    return values


def combinations(axes: Iterable[str], seeds: int | None = None) -> Iterator[tuple[Value, ...]]:
    """All combinations of the axes' values; seeds (0 to `seeds` - 1) vary fastest. UserError for a repeated key."""
    parsed = [parse_axis(axis) for axis in axes]
    if seeds is not None:
        parsed.append([Value(SEED, str(seed), seed) for seed in range(seeds)])
    keys = [axis[0].key for axis in parsed]
    twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
    if twice == SEED and seeds is not None:
        raise UserError("the seeds are given twice", where="--seeds, --grid train.seed", remedy="keep one of the two")
    if twice:
        raise UserError(f"the key '{twice}' is given twice", where="--grid", remedy=f"write --grid {twice}=V1,V2 once")
    return itertools.product(*sorted(parsed, key=lambda axis: axis[0].key == SEED))


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key -> the shortest ending that no other key has."""
    keys, short = list(keys), {}
    for key in keys:
        parts = key.split(".")
        endings = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [f".{other}" for other in keys if other != key]
        short[key] = next(end for end in endings if end == key or not any(o.endswith(f".{end}") for o in others))
    return short


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts, depth, quote, escaped = [""], 0, "", False
    for character in text:
        if quote:
            closing = character == quote and not escaped
            escaped = character == "\\" and quote == '"' and not escaped
            quote = "" if closing else quote
        elif character in "\"'":
            quote = character
        depth += (character in OPENING) - (character in CLOSING) if not quote else 0
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def settings_of(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key=value` for every value of nested tables; a table with a `name` (a component) is one inline value."""
    for key, value in table.items():
        if isinstance(value, Mapping) and "name" not in value:
            yield from settings_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={toml(value)}"
