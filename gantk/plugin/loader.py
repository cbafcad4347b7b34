"""Finds and loads plugins: the `gantk` entry points of all installed packages, gantk's own
included.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from gantk.errors import UserError, did_you_mean, line_of, one_line
from gantk.plugin import builtins, hookspecs
from gantk.plugin.registry import FUNCTION, OWN, Add, Plugin, Registry
from gantk.plugin.settings import FILE_NAME, disabled_plugins, own_layouts
from gantk.plugin.summary import first_sentence

if TYPE_CHECKING:
    import click


@dataclass(frozen=True)
class Loaded:
    """The plugins of one process: the registry, the hooks, and the list of entry points."""

    registry: Registry
    hook: pluggy.HookRelay
    plugins: tuple[Plugin, ...]


_recipe_folder: Path | None = None


def use_settings_beside(recipe_folder: Path | None) -> None:
    """Heed the `gantk.toml` in this folder; None: the recipe has no folder.

    Plugins are loaded again if this changes which ones are left out, or the layouts.
    """
    global _recipe_folder
    facts = (disabled_plugins, own_layouts)
    if any(fact(recipe_folder) != fact(_recipe_folder) for fact in facts):
        load.cache_clear()
    _recipe_folder = recipe_folder


def function(name: str) -> Callable[..., Any] | None:
    """The function that a plugin adds to the Python interface, as `gantk.NAME`; None if no plugin
    has one of that name, or while plugins are being imported.
    """
    if _loading:
        return None
    entry = registry().entries.get((FUNCTION, name))
    return entry.load() if entry else None


_loading = False


@functools.cache
def load() -> Loaded:
    """Load every plugin, once per process; a plugin that fails is recorded, and the others load."""
    global _loading
    _loading = True
    try:
        return _load()
    finally:
        _loading = False


def _load() -> Loaded:
    disabled = disabled_plugins(_recipe_folder)
    manager = pluggy.PluginManager("gantk")
    manager.add_hookspecs(hookspecs)
    registry = Registry()
    owners: dict[str, str] = {}
    _register(manager, registry, builtins, "gantk", "gantk")
    plugins = []
    for point, (owner, version) in _entry_points():
        plugin = Plugin(point.name, owner, version, module=point.value.partition(":")[0])
        plugins.append(plugin)
        plugin.disabled = plugin.module in disabled
        if plugin.disabled:
            plugin.problem = f"{disabled[plugin.module]} switches it off"
        elif plugin.name in owners:  # pluggy would skip the second plugin without a message
            other = owners[plugin.name]
            plugin.problem = (
                f"the distribution '{other}' already has a plugin named '{plugin.name}'"
            )
        else:
            owners[plugin.name] = owner
            _load_plugin(manager, registry, point, plugin)

        if plugin.problem:
            registry.broken[plugin.name] = plugin.problem

    own = Add(FILE_NAME)
    for name, line in own_layouts(_recipe_folder).items():
        own.layout(name, line, text=f"A layout of your {FILE_NAME}.")
    own.commit(registry)
    return Loaded(registry, manager.hook, tuple(plugins))


def _load_plugin(
    manager: pluggy.PluginManager,
    registry: Registry,
    point: importlib.metadata.EntryPoint,
    plugin: Plugin,
) -> None:
    """Import a plugin and register its hooks and parts; `plugin.problem` says why it has none."""
    try:
        module = point.load()
        plugin.summary = first_sentence(module.__doc__).removesuffix(".")
        _register(manager, registry, module, plugin.name, plugin.distribution)
        if plugin.distribution != OWN:
            from gantk.plugin.faults import guard_hooks

            guard_hooks(manager, module, plugin)
    # whatever a plugin's import raises, the other plugins load
    except (Exception, SystemExit) as error:
        from gantk.plugin.faults import fault_of

        plugin.problem = fault_of(error, plugin.module)
        if manager.has_plugin(plugin.name):
            manager.unregister(name=plugin.name)


def registry() -> Registry:
    """Every part that a recipe can name, from gantk and all installed plugins. Needs no torch.

    Example:

        parts = gantk.registry()
        print(parts)                           # a line for each kind, with its names
        parts["loss"]                          # ["bce", "body_l1", ...]
        unet = parts.get("generator", "unet")
        unet.owner, unet.target                # ("gantk", "gantk.nets.unet:UNet")
        unet.load()                            # the class, which is imported now
        [part.target for part in parts.of_kind("loss")]

    An unknown kind or name is a UserError with the nearest name.
    """
    return load().registry


def attach_commands(cli: click.Group) -> None:
    """Add every plugin's commands to `cli`; a plugin that fails, or changes a command, is recorded
    and skipped.
    """
    loaded = load()
    for implementation in loaded.hook.gantk_commands.get_hookimpls():
        name = implementation.plugin_name or ""
        problem = _attach(implementation, cli)
        if problem:
            loaded.registry.broken[name] = problem
            for plugin in loaded.plugins:
                if plugin.name == name and plugin.problem is None:
                    plugin.problem = problem


def _attach(implementation: pluggy.HookImpl, cli: click.Group) -> str | None:
    """Add the commands of a plugin; what is wrong with them, if they are left out."""
    before = {group: dict(group.commands) for group in _groups(cli)}
    problem = None
    try:
        _call(implementation, cli)
        for group, commands in before.items():
            for name, command in commands.items():
                if group.commands.get(name) is not command:
                    problem = f"its command '{name}' already exists"
    except (Exception, SystemExit) as error:
        from gantk.plugin.faults import fault_of

        problem = fault_of(error, getattr(implementation.plugin, "__name__", ""))

    if problem:
        for group, commands in before.items():
            group.commands = commands
    return problem


def _groups(group: Any) -> Iterator[Any]:
    """The group itself, and those among its commands."""
    yield group
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from _groups(command)


def plugin_note(error: BaseException) -> str | None:
    """A note that names the third party's plugin that raised an error; None for gantk's own."""
    packages = {plugin.module.partition(".")[0]: plugin for plugin in load().plugins}
    package, place = line_of(error, {*packages, OWN})
    plugin = packages.get(package)
    if plugin is None or plugin.distribution == OWN:
        return None
    return (
        f"the plugin '{plugin.name}' from {plugin.distribution} {plugin.version} raised this"
        f" error, in {place}"
    )


def _register(
    manager: pluggy.PluginManager, registry: Registry, plugin: Any, name: str, owner: str
) -> None:
    """Register one plugin and all its parts; none of its parts where it raises."""
    for hook, function in inspect.getmembers(plugin, inspect.isfunction):
        marks = getattr(function, "gantk_impl", None)
        if hook.startswith("gantk_") and hasattr(hookspecs, hook) and not marks:
            raise TypeError(f"{hook} lacks the decorator @gantk.hookimpl")
        if marks and not hasattr(hookspecs, hook) and not marks["optionalhook"]:
            raise TypeError(
                f"this gantk has no hook {hook}. {did_you_mean(hook, dir(hookspecs)) or ''}"
            )

    manager.register(plugin, name=name)
    add = Add(owner)
    for implementation in manager.hook.gantk_register.get_hookimpls():
        if implementation.plugin is plugin:  # only this plugin, so that its entries carry its owner
            _call(implementation, add)

    add.commit(registry)


def _call(implementation: pluggy.HookImpl, argument: Any) -> None:
    """Call a plugin's function; like pluggy, passes the argument only where the function declares
    one.
    """
    implementation.function(*[argument for _ in implementation.argnames])


def _entry_points() -> list[tuple[importlib.metadata.EntryPoint, tuple[str, str]]]:
    """Entry points with the name and version of their distribution, gantk's own first; UserError for
    an installed package whose files are damaged.

    Without duplicates: an editable install is on the path twice.
    """
    points_by_name: dict[tuple[str, str], Any] = {}
    for distribution in importlib.metadata.distributions():
        try:
            points = distribution.entry_points.select(group="gantk")
            about: Any = distribution.metadata if points else {}  # slow: parsed at each access
        except Exception as error:  # pydantic and torch cannot start beside it either
            raise UserError(
                f"an installed package is damaged: {one_line(error)}",
                where=str(getattr(distribution, "_path", distribution)),
                remedy="install this package again, or uninstall it",
            ) from error
        for point in points:
            owner = about["Name"] or "a package without a name"
            name = re.sub(r"[-_.]+", "-", owner).lower()
            points_by_name.setdefault((name, point.name), (point, (owner, about["Version"] or "?")))

    # `python -m gantk` in a checkout that is not installed
    if not any(name == OWN for name, _ in points_by_name):
        root = Path(__file__).parents[2]
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        for folder in ("plugins", "benchmarks"):
            if str(root / folder) not in sys.path:
                sys.path.append(str(root / folder))

        for name, value in project["entry-points"]["gantk"].items():
            point = importlib.metadata.EntryPoint(name, value, "gantk")
            points_by_name[OWN, name] = (point, (OWN, "source"))

    # a folder lists distributions in any order
    keys = sorted(points_by_name, key=lambda key: (key[0] != OWN, key[1], key[0]))
    return [points_by_name[key] for key in keys]


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
