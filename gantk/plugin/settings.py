"""Which plugins are left out, by the variable GANTK_DISABLE and `plugins.disable` in a `gantk.toml`;
and the layouts of its table `layouts`.

A `gantk.toml` counts beside the recipe, in the working folder and in the user's configuration
folder: what any of them says, the first of those that say the same.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

from gantk.errors import argument, reading_file
from gantk.files import read_file

VARIABLE = "GANTK_DISABLE"
FILE_NAME = "gantk.toml"
EXAMPLE = 'plugins.disable = ["gantk_serve"] and layouts.NAME = "{patient}/{contrast}"'

MAX_SETTINGS_BYTES = 2**18


def disabled_plugins(recipe_folder: Path | None = None) -> dict[str, str]:
    """The packages of plugins to leave out, each with the variable or the file that says so.

    `recipe_folder` is the folder of the recipe that is about to run. UserError where a `gantk.toml`
    is not readable or holds anything else.
    """
    disabled = dict.fromkeys(_words(os.environ.get(VARIABLE, "")), VARIABLE)
    for path, (packages, _) in _settings(recipe_folder).items():
        disabled = {**dict.fromkeys(packages, str(path)), **disabled}
    return disabled


def own_layouts(recipe_folder: Path | None = None) -> dict[str, str]:
    """The lines of the user's layouts, by name; UserError as of `disabled_plugins`."""
    found = reversed(_settings(recipe_folder).values())
    return {name: line for _, own in found for name, line in own.items()}


def _settings(recipe_folder: Path | None) -> dict[Path, tuple[list[str], dict[str, str]]]:
    """What each `gantk.toml` says: packages to leave out, and layouts by name."""
    folders = (recipe_folder, Path(), user_folder())
    paths = [folder / FILE_NAME for folder in folders if folder is not None]
    # False too for a folder that may not be entered
    return {path: _settings_in(path) for path in paths if os.path.isfile(path)}


def user_folder() -> Path | None:
    """The user's configuration folder of gantk: %APPDATA%, $XDG_CONFIG_HOME or ~/.config; None for
    a user without a home, as in a container.
    """
    if sys.platform == "win32" and os.environ.get("APPDATA"):
        return Path(os.environ["APPDATA"]) / "gantk"
    configuration = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return None if configuration.startswith("~") else Path(configuration) / "gantk"


def install_hint(name: str) -> str | None:
    """What to do where a folder here has a plugin that is not installed, and that a recipe's or a
    part's name begins with; None without any.
    """
    for file in sorted(Path().glob("*/pyproject.toml")):
        with suppress(OSError, ValueError, LookupError, TypeError):  # of another kind of project
            project = tomllib.loads(read_file(file, max_bytes=MAX_SETTINGS_BYTES).decode("utf-8"))
            project = project["project"]
            is_meant = name.startswith(tuple(project["entry-points"]["gantk"]))
            if is_meant and not any(importlib.metadata.distributions(name=project["name"])):
                return f"Did you forget `pip install -e {argument(file.parent)}`?"
    return None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _settings_in(path: Path) -> tuple[list[str], dict[str, str]]:
    """The list `plugins.disable` and the table `layouts` of one `gantk.toml`."""
    with reading_file(path, "settings", allowed=EXAMPLE):
        tables = tomllib.loads(read_file(path, max_bytes=MAX_SETTINGS_BYTES).decode("utf-8"))
        packages = None
        layouts = tables.pop("layouts", {})
        plugins = tables.pop("plugins", {})
        other_keys = list(tables)
        if isinstance(plugins, dict):
            packages = plugins.pop("disable", [])
            other_keys += [f"plugins.{key}" for key in plugins]
        if other_keys:
            raise ValueError(f"there is no setting '{other_keys[0]}'")
        if not isinstance(packages, list) or not all(isinstance(name, str) for name in packages):
            raise ValueError("plugins.disable must be a list of package names")
        if not isinstance(layouts, dict) or not all(isinstance(x, str) for x in layouts.values()):
            raise ValueError("layouts must be a table of lines by name")

    return packages, layouts
