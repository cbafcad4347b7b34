"""Lists where a recipe or its profiles differ from the report they reproduce, by the recipe's
`[paper]`, and where a run differs from its recipe's file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from gantk.errors import UserError
from gantk.plugin.spec import toml
from gantk.recipe.load import Recipe, leaves, mapping, resolved

ABOUT = ("format", "summary", "paper")  # tables that describe the recipe: they are not compared
# tables of what is done with a trained model: a change of them makes no other system
AFTERWARDS = ("evaluate", "translate", "track")
NOT_SET = object()  # stands for a key that is not set
NOT_GIVEN = "not given"  # its text
# In `[paper.stated]`: ON for a loss, an input or a regularisation that the report names without its
# weight, OPEN for an entry of a list that it leaves open. Both are values of no key of recipes.
ON = "on"
OPEN = "open"
ON_IN_WORDS = "on, its weight not stated"


def departures(stated: Mapping, tables: Mapping) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (the report's value, the recipe's value) where the two differ; `tables` have
    every default.

    Of a part the recipe's value has only the keys that the report states.
    """
    pairs = {
        ".".join(path): (value_at(stated, path), value_at(tables, path)) for path in leaves(stated)
    }
    return {
        key: (theirs, _with_keys_of(theirs, here))
        for key, (theirs, here) in pairs.items()
        if not _agree(theirs, here)
    }


def in_full(recipe: Recipe, profile: str | None) -> Iterator[str]:
    """Yield lines that compare a recipe with its report: differences, settings it leaves open,
    changes by profiles.

    Every default of the recipe is filled in before the comparison. UserError where the recipe has a
    mistake.
    """
    paper = mapping(recipe.tables.get("paper"))
    stated = mapping(paper.get("stated"))
    here = resolved(recipe.override([], profile).check())
    if stated:
        count = len(list(leaves(stated)))
        differences = departures(stated, here)
        title = paper.get("title", "the report")
        yield f"{title}: this recipe keeps {count - len(differences)} of {count} stated settings"
        for key, (theirs, value) in differences.items():
            yield f"differs: {key} = {value_text(value)} (report: {value_text(theirs)})"

    ours = paper.get("ours")
    named = [".".join(path) for path in leaves(stated) if value_at(stated, path) == ON]
    for what, keys in (
        ("named in the report, weight chosen here", named),
        ("not stated in the report, chosen here", ours if isinstance(ours, list) else ()),
    ):
        chosen = [
            f"{key} = {value_text(value_at(here, tuple(str(key).split('.'))))}" for key in keys
        ]
        if chosen:
            yield f"{what}: {', '.join(chosen)}"

    readings = paper.get("readings")
    for reading in readings if isinstance(readings, list) else ():
        yield f"reading: {reading}"

    if paper and profile is None:
        for name in mapping(recipe.tables.get("profile")):
            changed = resolved(recipe.override([], name).check())
            for key, (without, value) in _differences(here, changed):
                if key.partition(".")[0] not in ABOUT:
                    before = value_text(without)
                    yield f"--profile {name}: {key} = {value_text(value)} (without it {before})"


def changes_of_file(recipe: Recipe, here: Mapping) -> dict[str, tuple[str, str]]:
    """Dotted key -> (value of the recipe's file, value `here`), as texts, where the two differ; {}
    for a recipe without a file.

    `here` is the checked recipe with every default. A part that was replaced is one key, with the
    names of both parts. What is done with the trained model is left out.
    """
    if not recipe.text:
        return {}

    file = Recipe(tomllib.loads(recipe.text), recipe.name, recipe.origin, recipe.text)
    try:
        before = resolved(file.override([]).check())
    except UserError:  # it needs the options that were given
        before = file.tables

    return {
        key: (_short_text(theirs), _short_text(ours))
        for key, (theirs, ours) in _differences(before, here)
        if key.partition(".")[0] not in (*ABOUT, *AFTERWARDS)
    }


def _differences(
    before: Mapping, after: Mapping, path: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield (dotted key, (value before, value after)) of tables; parts of different names are
    compared as a whole.
    """
    for key in dict.fromkeys([*before, *after]):
        old = before.get(key, NOT_SET)
        new = after.get(key, NOT_SET)
        if old == new:
            continue

        tables = isinstance(old, Mapping) and isinstance(new, Mapping)
        if tables and old.get("name") == new.get("name"):
            yield from _differences(old, new, f"{path}{key}.")
        else:
            yield f"{path}{key}", (old, new)


def _short_text(value: Any) -> str:
    """A value as TOML; of a part only its name."""
    if isinstance(value, Mapping) and "name" in value:
        return str(value["name"])
    return value_text(value)


def _agree(stated: Any, here: Any) -> bool:
    """Whether a value agrees with the report's; a part that is stated only by name may have any
    options, and what is ON may have any weight.
    """
    if stated == ON:
        return here is not NOT_SET and bool(here)
    if stated == OPEN:
        return here is not NOT_SET
    if isinstance(stated, list) and isinstance(here, list):
        return len(stated) == len(here) and all(map(_agree, stated, here))
    if not isinstance(here, Mapping):
        return stated == here
    if isinstance(stated, Mapping):
        return all(key in here and _agree(value, here[key]) for key, value in stated.items())
    return stated == here.get("name")


def _with_keys_of(stated: Any, here: Any) -> Any:
    """A value, in which each part has only the keys that the stated part has."""
    if isinstance(stated, list) and isinstance(here, list) and len(stated) == len(here):
        return [_with_keys_of(*pair) for pair in zip(stated, here, strict=True)]
    if isinstance(stated, Mapping) and isinstance(here, Mapping):
        return {key: here[key] for key in stated if key in here}
    return here


def value_at(tables: Any, path: tuple[str, ...]) -> Any:
    """The value of a key; a part may be written as a bare name instead of a table."""
    for key in path:
        if isinstance(tables, Mapping):
            tables = tables.get(key, NOT_SET)
        elif key != "name" or not isinstance(tables, str):
            return NOT_SET
    return tables


def value_text(value: Any) -> str:
    """A value as TOML, or `NOT_GIVEN`."""
    if value == ON:
        return ON_IN_WORDS
    return NOT_GIVEN if value is NOT_SET or value is None else toml(value)
