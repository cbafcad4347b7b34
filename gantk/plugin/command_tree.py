"""The commands as they were before a plugin added its own: to check what it did, and undo it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import click


class CommandTree:
    """All commands of a group, with their attributes, at the time of this call."""

    def __init__(self, cli: click.Group):
        self.cli = cli
        # command -> a copy of its attributes, in which lists and dictionaries are copies too
        self.attributes: dict[click.Command, dict[str, Any]] = {}
        for command in _commands_below(cli):
            self.attributes[command] = {
                name: copy.copy(value) if isinstance(value, (list, dict)) else value
                for name, value in vars(command).items()
            }

    def problem(self) -> str | None:
        """What a plugin has done to the commands that it must not do; None if it only added.

        Raises what the help of its own commands raises.
        """
        for command, before in self.attributes.items():
            after = vars(command)
            for name, value in before.items():
                is_container = isinstance(value, (list, dict))
                kept = (
                    type(after.get(name)) is type(value)
                    if is_container
                    else after.get(name) is value
                )
                if not kept:
                    return f"it replaces '{name}' of the command '{command.name}'"
            if set(after) != set(before):
                return f"it adds attributes to the command '{command.name}'"

            now = getattr(command, "commands", {})
            for name, subcommand in before.get("commands", {}).items():
                if now.get(name) is not subcommand:
                    return f"its command '{name}' already exists"

            for name, subcommand in now.items():
                if not isinstance(name, str) or not isinstance(subcommand, click.Command):
                    return f"its command {name!r} is not a command of click"

            for parameter in command.params:
                if not isinstance(parameter, click.Parameter):
                    return f"it adds an option to '{command.name}' that is not one of click"

        for command in _commands_below(self.cli):
            if command not in self.attributes:
                _check_help(command)

        return None

    def restore(self) -> None:
        """Give every command its attributes of then."""
        for command, before in self.attributes.items():
            attributes = vars(command)
            for name in set(attributes) - set(before):
                del attributes[name]
            for name, value in before.items():
                now = attributes.get(name)
                if isinstance(now, dict) and isinstance(value, dict):
                    now.clear()
                    now.update(value)
                else:
                    attributes[name] = value


def _commands_below(group: click.Group) -> Iterator[click.Command]:
    """The group itself, and all commands in it, each once."""
    seen: set[int] = set()
    waiting: list[click.Command] = [group]
    while waiting:
        command = waiting.pop()
        if id(command) in seen:
            continue
        seen.add(id(command))
        yield command
        below = getattr(command, "commands", None)
        if isinstance(below, dict):
            waiting += [each for each in below.values() if isinstance(each, click.Command)]


def _check_help(command: click.Command) -> None:
    """Raise what the help of a new command raises, which `gantk --help` would show as a traceback."""
    command.get_short_help_str(limit=400)
    command.get_help(click.Context(command, info_name=command.name))
    place = getattr(command, "place", 0)
    section = getattr(command, "section", "")
    if not isinstance(place, int) or not isinstance(section, str):
        raise TypeError(f"the command '{command.name}' needs a number as place, a text as section")
