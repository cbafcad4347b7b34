"""The options of a part in words: names, types, defaults, and the comments beside them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gantk.plugin.layout import Layout
from gantk.plugin.spec import groups_of, is_table, kind_of, options_of

# pydantic's names for the bounds of a range
SIGNS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
NO_BOUND = 10**9  # a count may be any number below it


def options_help(target: Callable[..., Any] | Layout) -> list[tuple[str, str, str, str]]:
    """(name, type, default, comment) of each option; the comment is read from the option's line in
    the source.
    """
    if isinstance(target, Layout):
        return []
    comments = _comments(target)
    for group in groups_of(target).values():
        comments |= _comments(group)

    return [
        (name, _type_text(hint), _default_text(hint, default), comments.get(name, ""))
        for name, hint, default in options_of(target)
    ]


def _default_text(hint: Any, default: Any) -> str:
    if is_table(hint):
        return ""
    if default is ...:
        return "required"
    return "none" if default is None else json.dumps(default, default=str)


def _comments(target: Callable[..., Any]) -> dict[str, str]:
    """Option -> the comment on its line of the signature or dataclass, or on the lines above it."""
    sources: list[Any] = [target]
    if is_dataclass(target):
        sources = [*inspect.getmro(target)[:-1]]
    elif inspect.isclass(target) and not is_table(target):
        sources = [vars(each).get("__init__") for each in inspect.getmro(target)]

    comments: dict[str, str] = {}
    for source in sources:
        try:
            lines = inspect.getsource(source).splitlines()
        except (OSError, TypeError):
            continue

        above = []
        for line in map(str.strip, lines):
            if line.startswith("# "):
                above.append(line.removeprefix("# "))
                continue

            match = re.match(r"(\w+)\s*:[^#]*(?:#\s*(.+))?$", line)
            if match:
                texts = [*above, match[2]] if match[2] else above
                if texts:
                    comments.setdefault(match[1], " ".join(texts))

            above = []

    return comments


def _type_text(hint: Any) -> str:
    """A type as shown to users: choices by their values, parts by their kind."""
    if is_table(hint):
        return "table"
    if hint is type(None):
        return "none"

    kind = kind_of(getattr(hint, "__metadata__", ()))
    if kind:
        return kind

    inner = get_args(hint)
    if inner:
        return _generic_text(hint, inner)

    return getattr(hint, "__name__", str(hint))


def _generic_text(hint: Any, inner: tuple[Any, ...]) -> str:
    """The text of a type with arguments."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _type_text(inner[0]) + ",".join(_bounds(hint))
    if origin is Literal:
        return " | ".join(map(json.dumps, inner))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_text, inner))
    if origin is list or (origin is tuple and inner[1:] == (...,)):
        return f"list of {_type_text(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type_text, inner))}]"
    if origin is dict:
        return "table" if inner[1] is Any else f"table of {_type_text(inner[1])}"

    return str(hint)


def _bounds(hint: Any) -> Iterator[str]:
    """Yield the bounds of an annotated number, such as ` >= 1`; those that bound nothing are left
    out.
    """
    for constraint in hint.__metadata__:
        for mark in getattr(constraint, "metadata", [constraint]):
            for key, sign in SIGNS:
                bound = getattr(mark, key, NO_BOUND)
                if bound < NO_BOUND:
                    yield f" {sign} {bound}"
