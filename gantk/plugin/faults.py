"""Keeps a third party's broken plugin from stopping a command: it is named, and switched off.

Read `guard_hooks` first. Bundled plugins are not guarded, because their faults are gantk's own.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gantk.errors import CtrlC, GantkError, line_of, one_line
from gantk.plugin.hookspecs import ReportSection
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
# the types that a hook may return besides None, or in a list; another one is a fault
RETURNED_TYPES: dict[str, tuple[type, ...]] = {
    "gantk_image_warning": (str,),
    "gantk_translation_warning": (str,),
    "gantk_report_section": (ReportSection,),
    "gantk_find_model": (str, os.PathLike),
}


def is_ctrl_c(error: BaseException) -> bool:
    """Whether the user pressed Ctrl-C, where a plugin may raise KeyboardInterrupt by mistake.

    Without a handler of gantk, both look the same and count as Ctrl-C.
    """
    if isinstance(error, CtrlC):
        return True
    handler = signal.getsignal(signal.SIGINT)
    return isinstance(error, KeyboardInterrupt) and handler is signal.default_int_handler


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
            if implementation.plugin is not module or caller.name in LOADING_HOOKS:
                continue
            if implementation.hookwrapper or implementation.wrapper:
                raise TypeError("gantk calls no hook wrappers: leave out hookwrapper and wrapper")
            guarded = _guard(implementation.function, caller.name, implementation.argnames, plugin)
            setattr(implementation, "function", guarded)  # noqa: B010 - pluggy declares it final


def _guard(
    function: Callable[..., Any], hook: str, names: Sequence[str], plugin: Plugin
) -> Callable[..., Any]:
    """`function` with arguments of these names, which returns None and switches its plugin off
    where it fails; the scores are then as they were before.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if plugin.problem:
            return None

        given = dict(zip(names, arguments, strict=False))
        result = given.get("result") if hook == "gantk_images_scored" else None
        before = result.model_copy(deep=True) if result is not None else None
        try:
            returned = function(*arguments, **options)
            _check_returned(hook, returned)
            if result is not None:
                _check_scores(result)
        except BaseException as error:
            if result is not None and before is not None:
                result.__setstate__(before.__getstate__())
            if (isinstance(error, GantkError) and hook in DECIDING_HOOKS) or is_ctrl_c(error):
                raise
            switch_off(plugin, f"{hook} failed with {fault_of(error, plugin.module)}")
            return None

        if hook == "gantk_report_section" and returned:
            sections = returned if isinstance(returned, list) else [returned]
            return [replace(each, plugin=plugin) for each in sections if each]
        return returned

    return call


def _check_scores(result: Any) -> None:
    """Raise TypeError or ValueError where a plugin's scores cannot be written or printed."""
    json.dumps(result.dump())
    for scores in result.metrics.values():
        for score in scores.values():
            score.text()


def _check_returned(hook: str, returned: Any) -> None:
    """Raise TypeError for a value of a type that the hook must not return."""
    allowed = RETURNED_TYPES.get(hook)
    for value in returned if isinstance(returned, list) else [returned]:
        if allowed and value is not None and not isinstance(value, allowed):
            raise TypeError(f"it returned a value of type {type(value).__name__}")
