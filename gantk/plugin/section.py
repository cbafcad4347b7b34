"""A section that a plugin adds to report.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """A section of report.html. A subclass has fields for what it shows.

    The template is rendered with the variables of the page, and with this as `section`.
    """

    folder: Path  # of the files below
    template: str  # name of the template
    styles: Sequence[str] = ()  # names of CSS files
    scripts: Sequence[str] = ()  # names of JavaScript files
    policy: str = ""  # Content-Security-Policy directives, if the scripts do more than draw
    plugin: Any = None  # whose section this is; set by gantk where it is a third party's
