"""Lists where a recipe or its profiles differ from the report they reproduce: compares with the
recipe's `[paper]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gantk.plugin.spec import toml
from gantk.recipe.load import Recipe, leaves, mapping, resolved

ABOUT = ("format", "summary", "paper")  # tables that describe the recipe: they are not compared
UNSAID = object()  # stands for a key that is not set


def departures(stated: Mapping, tables: Mapping, *, filled_in: bool) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (the report's value, the recipe's value) where the two differ.

    A key that is left out counts as different only if all defaults are `filled_in`; else its
    default may agree.
    """
    pairs = {".".join(path): (_at(stated, path), _at(tables, path)) for path in leaves(stated)}
    return {
        key: pair
        for key, pair in pairs.items()
        if not _agree(*pair) and (filled_in or pair[1] is not UNSAID)
    }


def in_short(tables: Mapping) -> str:
    """One line with the keys in which a recipe and its profiles differ; compares the raw tables and
    imports nothing.
    """
    stated = mapping(mapping(tables.get("paper")).get("stated"))
    if not stated:
        return ""
    changed = [key.partition(".")[2] for key in departures(stated, tables, filled_in=False)]
    parts = [f"other {', '.join(changed)}" if changed else "as stated"]
    for name, over in mapping(tables.get("profile")).items():
        changed = [
            ".".join(path[1:])
            for path in leaves(mapping(over))
            if _at(over, path) != _at(tables, path)
        ]
        parts += [f"{name}: other {', '.join(changed)}"] if changed else []
    return "; ".join(parts)


def in_full(recipe: Recipe, profile: str | None) -> Iterator[str]:
    """Yield lines that compare a recipe with its report: differences, settings it leaves open,
    changes by profiles.

    Every default of the recipe is filled in before the comparison. UserError where the recipe has a
    mistake.
    """
    paper = mapping(recipe.tables.get("paper"))
    stated = mapping(paper.get("stated"))
    ours = paper.get("ours")
    here = resolved(recipe.override([], profile).check())
    if stated:
        count = len(list(leaves(stated)))
        differences = departures(stated, here, filled_in=True)
        yield (
            f"{paper.get('title', 'the report')}: {count - len(differences)} of {count} stated"
            " settings are kept"
        )
        for key, (theirs, value) in differences.items():
            yield f"departs: {key} = {_shown(value)} where the report has {_shown(theirs)}"
    if isinstance(ours, list) and ours:
        chosen = [f"{key} = {_shown(_at(here, tuple(str(key).split('.'))))}" for key in ours]
        yield f"open in the report, chosen here: {', '.join(chosen)}"
    for name in mapping(recipe.tables.get("profile")) if paper and profile is None else ():
        over = resolved(recipe.override([], name).check())
        for path in dict.fromkeys([*leaves(here), *leaves(over)]):
            theirs, before, after = (_at(tables, path) for tables in (stated, here, over))
            if path[0] not in ABOUT and before != after:
                if theirs is UNSAID:
                    whose = ", ours"
                elif _agree(theirs, before):
                    whose = ", as stated"
                else:
                    whose = ", not as stated"
                was = f"without it {_shown(before)}{whose if stated else ''}"
                yield f"--profile {name}: {'.'.join(path)} = {_shown(after)} ({was})"


def _agree(stated: Any, here: Any) -> bool:
    """Whether a value agrees with the report's; a part that is stated only by name may have any
    options.
    """
    if isinstance(stated, list) and isinstance(here, list):
        return len(stated) == len(here) and all(map(_agree, stated, here))
    if isinstance(stated, Mapping) and isinstance(here, Mapping):
        return all(key in here and _agree(value, here[key]) for key, value in stated.items())
    return stated == (here.get("name") if isinstance(here, Mapping) else here)


def _at(tables: Any, path: tuple[str, ...]) -> Any:
    for key in path:  # a part may be written as a bare name instead of a table
        bare = tables if key == "name" and isinstance(tables, str) else UNSAID
        tables = tables.get(key, UNSAID) if isinstance(tables, Mapping) else bare
    return tables


def _shown(value: Any) -> str:
    return "not said" if value is UNSAID or value is None else toml(value)
