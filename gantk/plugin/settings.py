"""Which plugins are left out: the variable GANTK_DISABLE, and `plugins.disable` in a `gantk.toml`.

A `gantk.toml` counts beside the recipe, in the working folder and in the user's configuration
folder; what any of them names is left out.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

from gantk.errors import reading_file
from gantk.files import read_file

VARIABLE = "GANTK_DISABLE"
FILE_NAME = "gantk.toml"
EXAMPLE = 'plugins.disable = ["gantk_serve"]'

MAX_SETTINGS_BYTES = 2**18


def disabled_plugins(recipe_folder: Path | None = None) -> dict[str, str]:
    """The packages of plugins to leave out, each with the variable or the file that says so.

    `recipe_folder` is the folder of the recipe that is about to run. UserError where a `gantk.toml`
    is not readable or holds anything else.
    """
    disabled = dict.fromkeys(_words(os.environ.get(VARIABLE, "")), VARIABLE)
    folders = [recipe_folder, Path.cwd(), user_folder()]
    for folder in folders:
        if folder is None:
            continue
        path = folder / FILE_NAME
        if os.path.isfile(path):  # False too for a folder that may not be entered
            for package in _disabled_by(path):
                disabled.setdefault(package, str(path))

    return disabled


def user_folder() -> Path | None:
    """The user's configuration folder of gantk: %APPDATA%, $XDG_CONFIG_HOME or ~/.config; None for
    a user without a home, as in a container.
    """
    if sys.platform == "win32" and os.environ.get("APPDATA"):
        return Path(os.environ["APPDATA"]) / "gantk"
    configuration = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return None if configuration.startswith("~") else Path(configuration) / "gantk"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _disabled_by(path: Path) -> list[str]:
    """The list `plugins.disable` of one `gantk.toml`."""
    with reading_file(path, "settings", allowed=EXAMPLE):
        tables = tomllib.loads(read_file(path, max_bytes=MAX_SETTINGS_BYTES).decode("utf-8"))
        packages = None
        plugins = tables.pop("plugins", {})
        other_keys = list(tables)
        if isinstance(plugins, dict):
            packages = plugins.pop("disable", [])
            other_keys += [f"plugins.{key}" for key in plugins]
        if other_keys:
            raise ValueError(f"there is no setting '{other_keys[0]}'")
        if not isinstance(packages, list) or not all(isinstance(name, str) for name in packages):
            raise ValueError("plugins.disable must be a list of package names")

    return packages
