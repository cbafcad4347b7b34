"""The published system of a recipe, by its table `[paper]`: where a run or a profile departs from it,
which of its figures may stand beside the run's, and where a run differs from its recipe's file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gantk.errors import UserError
from gantk.plugin.spec import toml
from gantk.recipe.load import Recipe, leaves, mapping, resolved

MAX_NAMED_KEYS = 3  # in one sentence
ABOUT = ("format", "summary", "paper")  # tables that describe the recipe: they are not compared
# tables of what is done with a trained model: a change of them makes no other system
AFTERWARDS = ("evaluate", "translate", "track")
# What makes a system that system: its networks, losses, inputs, regularisation and optimizers. Not
# the length of a training, its batches, and which images of which size it has.
SYSTEM_KEYS = (
    "method",
    "post",
    "data.domains",
    "data.channels",
    "data.neighbours",
    "data.labels",
    "data.mask",
    "data.intensity",
    "data.augment",
    "train.start",
    "train.optimizer",
    "train.optimizers",
    "train.schedule",
    "train.ema",
)
NOT_SET = object()  # stands for a key that is not set
NOT_GIVEN = "not given"  # its text
# In `[paper.stated]`: ON for a loss, an input or a regularisation that the report names without its
# weight, OPEN for an entry of a list that it leaves open. Both are values of no key of recipes.
ON = "on"
OPEN = "open"
ON_IN_WORDS = "on, its weight not stated"


@dataclass(frozen=True)
class PublishedSystem:
    """The published system that a recipe's table `[paper]` describes, compared with a run.

    Attributes:
        title: title of the report, with authors and year if the recipe names them.
        system: the system in words; "" if the recipe does not describe it.
        data: the data of the report in words; "" if the recipe does not describe them.
        stated: dotted keys of the settings that the report states.
        named: those of `stated` that are on, with a weight that the report does not state.
        ours: dotted keys that the report leaves open and the recipe chooses.
        departures: dotted key -> (the report's value, the run's value), as texts.
        other_system: keys that make the run another system than the published one, see
            `keys_of_another_system`.
        figures: published scores by direction and metric, such as `figures["a_to_b"]["psnr"]`.
        undefined: published figures whose direction and definition the report does not give.
    """

    title: str
    system: str
    data: str
    stated: tuple[str, ...]
    named: tuple[str, ...]
    ours: tuple[str, ...]
    departures: dict[str, tuple[str, str]]
    other_system: tuple[str, ...]
    figures: dict[str, dict[str, float]]
    undefined: dict[str, float]

    @property
    def other_settings(self) -> tuple[str, ...]:
        """Keys in which the same system was trained, or its data were prepared, in another way."""
        return tuple(key for key in self.departures if key not in self.other_system)

    def in_short(self) -> str:
        """One sentence on how far the run is the published system."""
        keys = list(dict.fromkeys([*self.departures, *self.other_system]))
        named = ", ".join(keys[:MAX_NAMED_KEYS]) + (", ..." if keys[MAX_NAMED_KEYS:] else "")
        count = len(self.stated)
        if self.other_system:
            return f"not the published system ({named} differ); report.html lists how"
        if keys:
            differs = f"in {len(keys)} of {count} stated settings ({named})"
            return f"differs from the published system {differs}; report.html lists them"
        return f"published system: all {count} settings that the report states are kept"


def published_system(
    tables: Mapping[str, Any], changed: Collection[str] = ()
) -> PublishedSystem | None:
    """The published system of a run; None if its recipe names none.

    Args:
        tables: the run's recipe with every default.
        changed: keys whose values differ from those of the recipe's file.
    """
    paper = mapping(tables.get("paper"))
    title = paper.get("title")
    if not isinstance(title, str) or not title:
        return None

    authors = paper.get("authors")
    if isinstance(authors, list):
        authors = ", ".join(map(str, authors))
    stated = mapping(paper.get("stated"))
    keys = {".".join(path): value_at(stated, path) for path in leaves(stated)}
    ours = tuple(map(str, paper.get("ours") or ()))
    differences = departures(stated, tables)
    known = [*keys, *ours]
    beyond = [
        key
        for key in changed
        if not is_within(key, known) and not any(is_within(each, [key]) for each in known)
    ]
    published = mapping(paper.get("published"))
    return PublishedSystem(
        title=", ".join(str(each) for each in (title, authors, paper.get("year")) if each),
        system=str(paper.get("system") or ""),
        data=str(paper.get("data") or ""),
        stated=tuple(keys),
        named=tuple(key for key, value in keys.items() if value == ON),
        ours=ours,
        departures={
            key: (value_text(one), value_text(two)) for key, (one, two) in differences.items()
        },
        other_system=keys_of_another_system(differences, beyond),
        figures={key: _numbers(table) for key, table in published.items() if mapping(table)},
        undefined=_numbers(published),
    )


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in table.items() if isinstance(value, (int, float))}


def keys_of_another_system(departed: Iterable[str], changed: Iterable[str] = ()) -> tuple[str, ...]:
    """Those of the keys that make a run another system than the published one: published figures may
    stand beside a run that has none.

    Args:
        departed: keys in which the run differs from what the report states.
        changed: keys that the run changed in its recipe, where the report says nothing of them and
            leaves nothing open.
    """
    return tuple(key for key in dict.fromkeys([*departed, *changed]) if is_within(key, SYSTEM_KEYS))


def is_within(key: str, others: Iterable[str]) -> bool:
    """Whether a key is one of the others, or lies in one of their tables."""
    return any(f"{key}.".startswith(f"{other}.") for other in others)


# ---- comparisons


def departures(stated: Mapping, tables: Mapping) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (the report's value, the recipe's value) where the two differ; `tables` have
    every default.

    Of a part the recipe's value has only the keys that the report states.
    """
    pairs = {
        ".".join(path): (value_at(stated, path), value_at(tables, path)) for path in leaves(stated)
    }
    shown = {key: (theirs, _as_stated(theirs, here)) for key, (theirs, here) in pairs.items()}
    return {key: (theirs, here) for key, (theirs, here) in shown.items() if theirs != here}


def _as_stated(stated: Any, here: Any) -> Any:
    """A value with only what the report states of it, and the report's word where the two agree: a
    part that is stated only by name may have any options, and what is ON any weight.
    """
    if here is NOT_SET:
        return here
    if stated == OPEN or (stated == ON and here):
        return stated
    if isinstance(stated, list) and isinstance(here, list) and len(stated) == len(here):
        return list(map(_as_stated, stated, here))
    if not isinstance(here, Mapping):
        return here
    if isinstance(stated, Mapping):
        return {key: _as_stated(value, here[key]) for key, value in stated.items() if key in here}
    return stated if stated == here.get("name") else here


def in_full(recipe: Recipe, profile: str | None) -> Iterator[str]:
    """Yield lines that compare a recipe with its report: differences, and settings it leaves open.

    Every default of the recipe is filled in before the comparison. UserError where the recipe has a
    mistake.
    """
    here = resolved(recipe.override([], profile).check())
    system = published_system(here)
    if system is None:
        return

    paper = recipe.tables["paper"]
    count = len(system.stated)
    if count:
        kept = count - len(system.departures)
        yield f"{paper['title']}: this recipe keeps {kept} of {count} stated settings"
    for key, (theirs, value) in system.departures.items():
        yield f"differs: {key} = {value} (report: {theirs})"
    for what, keys in (
        ("named in the report, weight chosen here", system.named),
        ("not stated in the report, chosen here", system.ours),
    ):
        chosen = [f"{key} = {value_text(value_at(here, tuple(key.split('.'))))}" for key in keys]
        if chosen:
            yield f"{what}: {', '.join(chosen)}"
    for reading in paper.get("readings", ()):
        yield f"reading: {reading}"


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

    return changed_keys(before, here)


def changed_keys(before: Mapping, after: Mapping) -> dict[str, tuple[str, str]]:
    """Dotted key -> (value before, value after), as texts, where two recipes differ in how they
    train.
    """
    return {
        key: (_short_text(old), _short_text(new))
        for key, (old, new) in _differences(before, after)
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
        tables = isinstance(old, Mapping) and isinstance(new, Mapping)
        if tables and old.get("name") == new.get("name"):
            yield from _differences(old, new, f"{path}{key}.")
        elif old != new:
            yield f"{path}{key}", (old, new)


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


def _short_text(value: Any) -> str:
    """A value as TOML; of a part only its name."""
    if isinstance(value, Mapping) and "name" in value:
        return str(value["name"])
    return value_text(value)
