"""Keeps a third party's broken plugin from stopping a command: it is named, and switched off.

Read `guard_hooks` first. Bundled plugins are not guarded, because their faults are gantk's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gantk.errors import GantkError, line_of, one_line
from gantk.terminal import warn

if TYPE_CHECKING:
    import pluggy

    from gantk.plugin.registry import Plugin

# hooks that the loader calls, which records their faults itself
LOADING_HOOKS = ("gantk_register", "gantk_commands")
# hooks that may refuse or stop: their GantkError is an answer to the user, not a fault
DECIDING_HOOKS = frozenset(
    (
        "gantk_before_training",
        "gantk_step_logged",
        "gantk_name_results",
        "gantk_load_model",
        "gantk_find_model",
    )
)


def fault_of(error: BaseException, module: str = "") -> str:
    """The class and the message of what a plugin raised, on one line, and the line of its package
    that did, where `module` is one of this package.
    """
    _, place = line_of(error, [module.partition(".")[0]])
    return f"{type(error).__name__}: {one_line(error)}{place and f', in {place}'}"


def switch_off(plugin: Plugin, problem: str) -> None:
    """Record what is wrong with a plugin, and say so."""
    plugin.problem = problem
    warn(switched_off(plugin))


def switched_off(plugin: Plugin) -> str:
    """The sentence that names a plugin that is not used, and why."""
    owner = f"{plugin.distribution} {plugin.version}"
    return f"the plugin '{plugin.name}' from {owner} is switched off: {plugin.problem}"


def guard_hooks(manager: pluggy.PluginManager, module: Any, plugin: Plugin) -> None:
    """Let a plugin's hooks fail without stopping the command.

    Whatever a hook raises switches its plugin off, with a warning, and the hook counts as one that
    returned None. Only Ctrl-C passes, and a GantkError of `DECIDING_HOOKS`.
    """
    for caller in manager.get_hookcallers(module) or ():
        for implementation in caller.get_hookimpls():
            if implementation.plugin is module and caller.name not in LOADING_HOOKS:
                guarded = _guard(implementation.function, caller.name, plugin)
                setattr(implementation, "function", guarded)  # noqa: B010 - declared final


def _guard(function: Callable[..., Any], hook: str, plugin: Plugin) -> Callable[..., Any]:
    """`function`, which returns None and switches its plugin off where it fails."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if plugin.problem:
            return None
        try:
            returned = function(*arguments)
            if hook == "gantk_report_section" and returned:
                sections = returned if isinstance(returned, list) else [returned]
                return [replace(each, plugin=plugin) for each in sections if each]
            return returned
        except (Exception, SystemExit) as error:
            if isinstance(error, GantkError) and hook in DECIDING_HOOKS:
                raise
            switch_off(plugin, f"{hook} failed with {fault_of(error, plugin.module)}")
            return None

    return call
