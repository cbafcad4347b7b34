"""Finding and loading plugins: every installed distribution's `gantk` entry points, ours included, one by one."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from gantk.plugin import hookspecs
from gantk.plugin.registry import Add, Registry
from gantk.recipe import builtins

if TYPE_CHECKING:
    import click


@dataclass
class Plugin:
    """One entry point: its name, the distribution it came in, and why it did not load (None where it did)."""

    name: str
    distribution: str
    version: str
    problem: str | None


@dataclass(frozen=True)
class Loaded:
    """What one process works with: the registry, the hooks, and the plugins as found."""

    registry: Registry
    hook: pluggy.HookRelay
    plugins: tuple[Plugin, ...]


@functools.cache
def load() -> Loaded:
    """Load every plugin once per process; a broken one is recorded and its siblings load."""
    manager = pluggy.PluginManager("gantk")
    manager.add_hookspecs(hookspecs)
    registry = Registry()
    _register(manager, registry, builtins, "gantk", "gantk")
    plugins, seen = [], {}
    for point, distribution in sorted(_entry_points(), key=lambda pair: (pair[1].name != "gantk", pair[0].name)):
        label = point.name
        if label in seen:  # pluggy would skip the second one in silence
            label = f"{point.name}@{distribution.name}"
            problem = f"the plugin name '{point.name}' is taken by the distribution '{seen[point.name]}'"
        else:
            seen[label] = distribution.name
            problem = _load_one(manager, registry, point, distribution.name)
        if problem:
            registry.broken[label] = problem
        plugins.append(Plugin(point.name, distribution.name, distribution.version, problem))
    return Loaded(registry, manager.hook, tuple(plugins))


def attach_commands(cli: click.Group) -> None:
    """Let every plugin attach its commands; one that fails, or takes a command's name, is recorded and left out."""
    loaded = load()
    for implementation in loaded.hook.gantk_commands.get_hookimpls():
        before = dict(cli.commands)
        try:
            implementation.function(*[cli for _ in implementation.argnames])
            taken = [name for name, command in before.items() if cli.commands.get(name) is not command]
            problem = f"the command '{taken[0]}' exists already" if taken else None
        except (Exception, SystemExit) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            cli.commands.clear()
            cli.commands.update(before)
            loaded.registry.broken[implementation.plugin_name] = problem
            for plugin in loaded.plugins:
                if plugin.name == implementation.plugin_name and plugin.problem is None:
                    plugin.problem = problem


def registry() -> Registry:
    """The registry of this process, filled."""
    return load().registry


def _entry_points():
    """(entry point, distribution) once each: a distribution may be on the path twice, as in an editable install."""
    found = {}
    for distribution in importlib.metadata.distributions():
        for point in distribution.entry_points:
            if point.group == "gantk":
                name = re.sub(r"[-_.]+", "-", distribution.name).lower()
                found.setdefault((name, point.name), (point, distribution))
    if not any(name == "gantk" for name, _ in found):
        found |= {("gantk", point.name): (point, source) for source in _Source.here() for point in source.entry_points}
    return found.values()


@dataclass(frozen=True)
class _Source:
    """gantk itself, run from a checkout that nobody installed: `python -m gantk` there."""

    entry_points: list[importlib.metadata.EntryPoint]
    name: str = "gantk"
    version: str = "source"

    @classmethod
    def here(cls) -> list[_Source]:
        """This checkout, its plugins' folders put on the path; none where this is no checkout."""
        root = Path(__file__).parents[2]
        try:
            project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
            points = project["entry-points"]["gantk"] if project["name"] == "gantk" else {}
        except (OSError, ValueError, KeyError):
            return []
        sys.path += [str(root / folder) for folder in ("plugins", "benchmarks") if str(root / folder) not in sys.path]
        return [cls([importlib.metadata.EntryPoint(name, value, "gantk") for name, value in points.items()])]


def _load_one(manager, registry, point, owner) -> str | None:
    """Import and register one plugin; the reason it failed, or None."""
    try:
        _register(manager, registry, point.load(), point.name, owner)
    except (Exception, SystemExit) as error:  # whatever a third party's import raises must not stop the others
        if manager.has_plugin(point.name):
            manager.unregister(name=point.name)
        return f"{type(error).__name__}: {error}"
    return None


def _register(manager, registry, plugin, name, owner) -> None:
    """Register one plugin and call its `gantk_register` alone, so that its entries know their owner."""
    manager.register(plugin, name=name)
    others = [other for other in manager.get_plugins() if other is not plugin]
    add = Add(owner)
    manager.subset_hook_caller("gantk_register", remove_plugins=others)(add=add)
    add.commit(registry)
