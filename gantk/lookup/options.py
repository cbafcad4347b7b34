"""The options of a part in words: names, types, defaults, and the comments beside them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gantk.plugin.spec import groups_of, is_table, kind_of, options_of

# pydantic's names for the bounds of a range
SIGNS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))


def options_help(target: Callable[..., Any]) -> list[tuple[str, str, str, str]]:
    """(name, type, default, comment) of each option; the comment is read from the option's line in
    the source.
    """
    comments = _comments(target)
    rows = []
    for group in groups_of(target).values():
        comments |= _comments(group)
    for name, hint, default in options_of(target):
        if default is ...:
            default_text = "required"
        elif default is None:
            default_text = "none"
        else:
            default_text = json.dumps(default, default=str)
        default_text = "" if is_table(hint) else default_text
        rows.append((name, _type_text(hint), default_text, comments.get(name, "")))
    return rows


def _comments(target: Callable[..., Any]) -> dict[str, str]:
    """Option -> the comment on its line of the signature or dataclass, or on the lines above it."""
    comments: dict[str, str] = {}
    own = target.__init__ if inspect.isclass(target) and not is_table(target) else target
    for source in target.__mro__[:-1] if is_dataclass(target) else [own]:
        try:
            lines = inspect.getsource(source).splitlines()
        except (OSError, TypeError):
            continue
        above: list[str] = []
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
    inner = get_args(hint)
    origin = get_origin(hint)
    if is_table(hint):
        return "table"
    if kind := kind_of(getattr(hint, "__metadata__", ())):
        return kind
    if origin is Annotated:
        marks = [mark for each in hint.__metadata__ for mark in getattr(each, "metadata", [each])]
        ends = [
            f" {s} {e}"
            for mark in marks
            for key, s in SIGNS
            if (e := getattr(mark, key, 10**9)) < 10**9
        ]
        return _type_text(inner[0]) + ",".join(ends)
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
    if hint is type(None):
        return "none"
    return str(hint) if inner else getattr(hint, "__name__", str(hint))
