"""A template, its styles and its scripts as one HTML file that asks nothing of the network; also the bench page's."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def render(
    template: str,
    story: dict[str, Any],
    *,
    folders: Sequence[Path] = (),  # searched before this one for the template, its styles and its scripts
    styles: Sequence[str] = ("page.css",),
    scripts: Sequence[str] = ("charts.js", "zoom.js", "page.js"),
) -> str:
    """The page's HTML: all of `story` is escaped, and a script other than the page's own is refused by its policy."""
    places = [*folders, HERE]

    def joined(names: Sequence[str]) -> Markup:
        files = (next(place / name for place in places if (place / name).is_file()) for name in names)
        return Markup("\n".join(file.read_text(encoding="utf-8") for file in files))

    templates = Environment(
        loader=FileSystemLoader(places),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = joined(scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    page = templates.get_template(template)
    return page.render(**story, style=joined(styles), script=script, digest=digest)
