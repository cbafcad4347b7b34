"""The public names: they resolve, they stay what they are, and they are all that the bundled plugins use."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gantk

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = sorted((ROOT / "plugins").glob("gantk_*/**/*.py"))


def modules() -> list[str]:
    found = pkgutil.walk_packages(gantk.__path__, "gantk.", onerror=lambda name: None)
    return [module.name for module in found if not module.name.endswith("__main__")]


@pytest.mark.parametrize("name", gantk.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    thing = getattr(gantk, name)
    assert not inspect.ismodule(thing)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing), f"gantk.{name} has no docstring"


def test_public_names_stay_what_they_are_once_every_module_is_imported():
    """A module gantk.run would take the place of the function gantk.run at its first import."""
    public = {name: getattr(gantk, name) for name in gantk.__all__}
    for module in modules():
        importlib.import_module(module)
    assert {name: getattr(gantk, name) for name in gantk.__all__} == public
    shadowed = {module.split(".")[1] for module in modules()} & set(gantk.__all__)
    assert not shadowed


@pytest.mark.parametrize("name", modules())
def test_every_module_and_public_thing_in_it_says_what_it_is_for(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for attribute, thing in vars(module).items():
        own = getattr(thing, "__module__", None) == name and not attribute.startswith("_")
        if own and (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__name__ == attribute:
            assert inspect.getdoc(thing) is not None or inspect.isfunction(thing), (
                f"{name}.{attribute} has no docstring"
            )


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """(module, names taken from it) of each import of gantk in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gantk":
            found.append((node.module, [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names if alias.name.split(".")[0] == "gantk"]
    return found


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_bundled_plugins_use_public_names_only(path):
    for module, names in imports(path):
        room = next((room for room in gantk.PLUGIN_ROOMS if f"{module}.".startswith(f"{room}.")), None)
        assert room and names, f"{path.name} imports {names or 'all'} of {module}, which is no room for plugins"
        assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_bundled_plugins_do_not_know_each_other(path):
    tree = ast.parse(path.read_text("utf-8"))
    taken = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    others = {f"gantk_{p.parent.name.removeprefix('gantk_')}" for p in PLUGINS} - {path.parent.name}
    assert not {name for name in taken if name.split(".")[0] in others}


def test_importing_a_bundled_plugin_imports_no_torch():
    packages = ", ".join(sorted({path.parent.name for path in PLUGINS}))
    look = f"import {packages}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=900, check=True)
    assert done.stdout.strip() == "False"
