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
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pluggy

from gantk.errors import did_you_mean, line_of
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
    entry = registry().functions.get((FUNCTION, name))
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
    points, plugins = _entry_points()
    for plugin in plugins:
        registry.broken[plugin.name] = plugin.problem or ""

    for point, distribution in sorted(points, key=lambda pair: (pair[1].name != OWN, pair[0].name)):
        label = point.name
        plugin = Plugin(
            label,
            distribution.name,
            distribution.version,
            problem=distribution.problem,
            module=_module_of(point),
        )
        plugins.append(plugin)
        plugin.disabled = plugin.module in disabled
        if plugin.disabled:
            plugin.problem = f"{disabled[plugin.module]} switches it off"
        elif not plugin.problem and not plugin.module:
            plugin.problem = (
                f"its entry point '{point.name} = {point.value}' does not name a module"
            )
        elif label in owners:  # pluggy would skip the second plugin without a message
            plugin.problem = (
                f"the distribution '{owners[label]}' already has a plugin named '{label}'"
            )
            label = f"{label}@{distribution.name}"
        elif not plugin.problem:
            owners[label] = distribution.name
            _load_plugin(manager, registry, point, plugin)

        if plugin.problem:
            registry.broken[label] = plugin.problem

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
    except BaseException as error:
        plugin.problem = _problem_of(error, plugin.module)
        if manager.has_plugin(plugin.name):
            manager.unregister(name=plugin.name)


def _problem_of(error: BaseException, module: str = "") -> str:
    """What a plugin raised, as of `fault_of`; Ctrl-C is raised again."""
    from gantk.plugin.faults import fault_of, is_ctrl_c

    if is_ctrl_c(error):
        raise error
    return fault_of(error, module)


def _module_of(point: importlib.metadata.EntryPoint) -> str:
    """The module that an entry point names; "" where it is not written as one."""
    try:
        return point.module
    except (AttributeError, TypeError, ValueError):
        return ""


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
        for group in _groups(cli):
            for name, command in group.commands.items():  # as `gantk --help` prints them
                if not isinstance(name, str):
                    raise TypeError(f"the name of its command {name!r} is no text")
                command.get_short_help_str()
    except BaseException as error:
        problem = _problem_of(error, getattr(implementation.plugin, "__name__", ""))

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
    """A note that names the third party's plugin that raised an error, else those installed; None
    without any.
    """
    packages = {plugin.module.partition(".")[0]: plugin for plugin in load().plugins}
    others = {x: p for x, p in packages.items() if p.distribution != OWN and not p.problem}
    package, place = line_of(error, {*packages, OWN})
    if raised_by := others.get(package):
        return (
            f"the plugin '{raised_by.name}' from {raised_by.distribution}"
            f" {raised_by.version} raised this error, in {place}"
        )

    listed = ", ".join(f"'{p.name}' from {p.distribution} {p.version}" for p in others.values())
    if listed:
        return f"third-party plugins are installed: {listed}; `gantk.testing` can test their parts"

    return None


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


def _entry_points() -> tuple[list[tuple[importlib.metadata.EntryPoint, Any]], list[Plugin]]:
    """(entry point, distribution) by name, and the distributions whose entry points are unreadable.

    Without duplicates: an editable install is on the path twice.
    """
    points_by_name: dict[tuple[str, str], tuple[importlib.metadata.EntryPoint, Any]] = {}
    unreadable = []
    for distribution in importlib.metadata.distributions():
        try:
            points = distribution.entry_points.select(group="gantk")
        except Exception as error:  # a damaged file of any installed package
            owner = _owner_of(distribution)
            problem = f"its entry points cannot be read: {_problem_of(error)}"
            damaged = Plugin(owner.name, owner.name, owner.version, problem, unreadable=True)
            unreadable.append(damaged)
            continue

        if points:
            owner = _owner_of(distribution)
            name = re.sub(r"[-_.]+", "-", owner.name).lower()
            for point in points:
                points_by_name.setdefault((name, point.name), (point, owner))

    # `python -m gantk` in a checkout that is not installed
    if not any(name == "gantk" for name, _ in points_by_name):
        root = Path(__file__).parents[2]
        source = SimpleNamespace(name="gantk", version="source", problem=None)
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        for folder in ("plugins", "benchmarks"):
            if str(root / folder) not in sys.path:
                sys.path.append(str(root / folder))

        for name, value in project["entry-points"]["gantk"].items():
            point = importlib.metadata.EntryPoint(name, value, "gantk")
            points_by_name["gantk", name] = (point, source)

    # a folder lists distributions in any order
    return [points_by_name[key] for key in sorted(points_by_name)], unreadable


def _owner_of(distribution: importlib.metadata.Distribution) -> SimpleNamespace:
    """The name and version of a distribution, read once, as each access parses all metadata again.

    Where its metadata has no name, `problem` says so, and the name is that of its folder.
    """
    name = version = None
    problem = None
    try:
        metadata = distribution.metadata
        name = metadata["Name"]
        version = metadata["Version"]
    except Exception as error:  # a damaged file, or none
        problem = f"its metadata cannot be read: {_problem_of(error)}"

    if not name:
        problem = problem or "its metadata has no name"
        folder = getattr(distribution, "_path", None)
        name = getattr(folder, "name", "") or "a package without a name"

    return SimpleNamespace(name=name, version=version or "?", problem=problem)


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
