"""The hooks of one training: those of plugins, and those of objects that it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from gantk.errors import UserError
from gantk.plugin import hookspecs
from gantk.plugin.loader import load

HOOKS = (
    "gantk_before_training",
    "gantk_step_logged",
    "gantk_images_scored",
    "gantk_training_ended",
)


class _Manager(pluggy.PluginManager):
    """Takes methods by their names, without `hookimpl`."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        return {} if name in HOOKS else None


class Hooks:
    """Calls a hook of every plugin, and then of each of these objects.

    Args:
        callbacks: objects with methods that are named like hooks and take some of their arguments.

    Raises:
        UserError: an object has no method that a training calls, or another one called gantk_...
    """

    def __init__(self, callbacks: Iterable[object] = ()):
        self._own = _Manager("gantk")
        self._own.add_hookspecs(hookspecs)
        for each in callbacks:
            named = {name for name in dir(each) if name.startswith("gantk_")}
            unknown = named - {*HOOKS}
            if unknown or not named:
                fault = (
                    f"a method '{min(unknown)}'"
                    if unknown
                    else "no method that is named like a hook"
                )
                raise UserError(
                    f"{type(each).__name__} has {fault}", where="callbacks", allowed=HOOKS
                )
            self._own.register(each)

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(**arguments: Any) -> None:
            getattr(load().hook, name)(**arguments)
            getattr(self._own.hook, name)(**arguments)

        return call
