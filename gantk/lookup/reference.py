"""Returns a part's first docstring sentence, and a recipe's lines with every default, for `gantk
list` and `show`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from gantk.lookup.options import options_help
from gantk.plugin.layout import Layout
from gantk.plugin.registry import Entry
from gantk.plugin.spec import Part, Table, plain, toml
from gantk.recipe.load import Recipe, key_lines, leaves


def description(target: Any) -> str:
    """The text on a part: of a layout its line, of all others the docstring."""
    if isinstance(target, Layout):
        return f"{target.pattern}\n\n{target.text}"
    return inspect.getdoc(target) or ""


def summary(entry: Entry) -> str:
    """The first sentence of a part's docstring; a target given as text is parsed, so that torch is
    not imported.
    """
    if isinstance(entry.target, Layout):
        return f"{entry.target.pattern}: {entry.target.text}"
    if not isinstance(entry.target, str):
        return first_sentence(inspect.getdoc(entry.target) or "")

    module, _, attribute = entry.target.partition(":")
    try:
        node: Any = _source(module)
        for name in attribute.split("."):
            node = next(each for each in node.body if getattr(each, "name", None) == name)
        docstring = ast.get_docstring(node)
    except (ImportError, OSError, ValueError, SyntaxError, StopIteration, AttributeError):
        docstring = None  # `gantk show` prints the error

    return first_sentence(docstring or "")


@functools.cache
def _source(module: str) -> ast.Module:
    package, *names = module.split(".")
    spec = importlib.util.find_spec(package)  # of a module in it, this would import what is above
    if spec is None or spec.origin is None:
        raise ImportError(f"{module} has no source")
    place = Path(spec.origin)
    if names:
        place = place.parent.joinpath(*names)
        place = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(place.read_text("utf-8"))


def first_sentence(text: str) -> str:
    """The first sentence of a docstring's first paragraph, on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[^.][^.][^.]\.)\s+(?=[A-Z(`])", paragraph, maxsplit=1)[0]


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
    values: dict[str, Any]
    options: list[tuple[str, str, str, str]] = []
    if isinstance(table, Part):
        values = {"name": table.name} | table.options
        options = options_help(table.target)
    else:
        values = dict(table)
        if isinstance(table, Table):
            options = options_help(type(table))

    comments = {name: comment for name, _, _, comment in options}
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
