"""Returns a part's docstring, and a recipe's lines with every default, for `gantk show`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from gantk.lookup.options import options_help
from gantk.plugin.layout import Layout
from gantk.plugin.spec import Part, Table, plain, toml
from gantk.recipe.load import Recipe, key_lines, leaves


def description(target: Any) -> str:
    """The text on a part: of a layout its line, of all others the docstring."""
    if isinstance(target, Layout):
        return f"{target.pattern}\n\n{target.text}"
    return inspect.getdoc(target) or ""


def recipe_lines(recipe: Recipe) -> Iterator[tuple[str, str, bool]]:
    """Yield a recipe's lines: TOML of one key, the key's comment, and whether the recipe sets the
    key itself.

    The recipe's own comments come first. A key without a value is commented out. UserError where it
    has a mistake.
    """
    return _lines(recipe.check(), (), comments_of(recipe.text), set(leaves(recipe.tables)))


def comments_of(text: str) -> dict[tuple[str, ...], str]:
    """Path of a key of a TOML text -> the comment on its line, or else the one above it."""
    lines = text.splitlines()
    comments = {}
    for path, number, line in key_lines(text):
        match = re.match(r"""(?:[^"'#]|"[^"]*"|'[^']*')*#\s*(.+)""", line)
        above = takewhile(lambda each: each.startswith("# "), reversed(lines[: number - 1]))
        words = [match[1]] if match else [each[2:] for each in above][::-1]
        if words:
            comments[path] = " ".join(words)
    return comments


def _lines(
    table: Part | Table | Mapping, path: tuple[str, ...], notes: Mapping, given: set
) -> Iterator[tuple[str, str, bool]]:
    """Yield the lines of a table: values first, then the tables inside; `given` are the paths of
    the keys that the recipe sets.
    """
    if isinstance(table, Part):
        values = {"name": table.name} | table.options
        described = options_help(table.target)
    else:
        values = dict(table)
        described = options_help(type(table)) if isinstance(table, Table) else []

    comments = {name: comment for name, _, _, comment in described}
    tables = {
        key: value
        for key, value in values.items()
        if isinstance(value, (Part, Table)) or (key == "paper" and value != {})
    }

    def note_and_given(key: str) -> tuple[str, bool]:
        here = (*path, key)
        is_given = any(each[: len(here)] == here for each in given)
        return notes.get(here) or comments.get(key, ""), is_given

    for key, value in values.items():
        if key not in tables:
            line = f"# {key} =" if value is None else f"{key} = {toml(plain(value))}"
            yield line, *note_and_given(key)

    for key, value in tables.items():
        here = (*path, key)
        yield "", "", False
        yield f"[{'.'.join(here)}]", *note_and_given(key)
        yield from _lines(value, here, notes, given)
