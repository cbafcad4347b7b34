"""The first sentence of a docstring, also of a part that is named by a text, without its import."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

from gantk.plugin.layout import Layout


def summary_of(target: Any) -> str:
    """The first sentence of a part's docstring, "" without one; a target given as text is parsed, so
    that torch is not imported.
    """
    if isinstance(target, Layout):
        return f"{target.pattern}: {target.text}"
    if not isinstance(target, str):
        return first_sentence(target.__doc__)

    module, _, attribute = target.partition(":")
    try:
        node: Any = _source(module)
        for name in attribute.split("."):
            node = next(each for each in node.body if getattr(each, "name", None) == name)
        return first_sentence(ast.get_docstring(node))
    except (ImportError, OSError, ValueError, SyntaxError, StopIteration, AttributeError):
        return ""  # `gantk show` prints the error


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


def first_sentence(docstring: str | None) -> str:
    """The first sentence of a docstring's first paragraph, on one line."""
    paragraph = " ".join((docstring or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=[^.][^.][^.]\.)\s+(?=[A-Z(`])", paragraph, maxsplit=1)[0]
