"""Which plugins are left out, by the variable GANTK_DISABLE and `plugins.disable` in a `gantk.toml`;
and the layouts of its table `layouts`.

A `gantk.toml` counts beside the recipe, in the working folder and in the user's configuration
folder: what any of them says, the first of those that say the same.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from gantk.errors import reading_file
from gantk.files import read_file

VARIABLE = "GANTK_DISABLE"
FILE_NAME = "gantk.toml"
EXAMPLE = 'plugins.disable = ["gantk_serve"] and layouts.NAME = "{patient}/{contrast}"'
UNKNOWN_KEY = ("Unexpected keyword argument", "unknown key")  # as pydantic and gantk say it
MAX_SETTINGS_BYTES = 2**18


FORBID = {"extra": "forbid"}  # pydantic's settings of the tables below


@dataclass(frozen=True)
class Plugins:
    """The table `plugins` of a `gantk.toml`."""

    __pydantic_config__ = FORBID

    disable: list[str] = field(default_factory=list)  # packages


@dataclass(frozen=True)
class Settings:
    """The content of a `gantk.toml`."""

    __pydantic_config__ = FORBID

    plugins: Plugins = Plugins()
    layouts: dict[str, str] = field(default_factory=dict)  # lines by name


def disabled_plugins(recipe_folder: Path | None = None) -> dict[str, str]:
    """The packages of plugins to leave out, each with the variable or the file that says so.

    `recipe_folder` is the folder of the recipe that is about to run. UserError where a `gantk.toml`
    is not readable or holds anything else.
    """
    disabled: dict[str, str] = {}
    for path, settings in _settings(recipe_folder).items():
        disabled |= dict.fromkeys(settings.plugins.disable, str(path))
    packages = re.findall(r"[^,\s]+", os.environ.get(VARIABLE, ""))
    return disabled | dict.fromkeys(packages, VARIABLE)


def own_layouts(recipe_folder: Path | None = None) -> dict[str, str]:
    """The lines of the user's layouts, by name; UserError as of `disabled_plugins`."""
    lines: dict[str, str] = {}
    for settings in _settings(recipe_folder).values():
        lines |= settings.layouts
    return lines


def _settings(recipe_folder: Path | None) -> dict[Path, Settings]:
    """What each `gantk.toml` says; the last one counts."""
    folders = (user_folder(), Path(), recipe_folder)
    paths = [folder / FILE_NAME for folder in folders if folder is not None]
    # False too for a folder that may not be entered
    return {path: _settings_in(path) for path in paths if os.path.isfile(path)}


def user_folder() -> Path | None:
    """The user's configuration folder of gantk, in $XDG_CONFIG_HOME or ~/.config; None for a user
    without a home, as in a container.
    """
    configuration = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return None if configuration.startswith("~") else Path(configuration) / "gantk"


def _settings_in(path: Path) -> Settings:
    """The content of one `gantk.toml`."""
    from pydantic import TypeAdapter, ValidationError  # takes a tenth of a second

    with reading_file(path, "settings", allowed=EXAMPLE, remedy="correct this file, or remove it"):
        tables = tomllib.loads(read_file(path, max_bytes=MAX_SETTINGS_BYTES).decode("utf-8"))
        try:
            return TypeAdapter(Settings).validate_python(tables)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}".replace(*UNKNOWN_KEY)
            ) from None
