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
        """What a plugin has done to the commands that it must not do; None if it only added
        commands, options and modes.

        Raises what the help of new or changed commands raises.
        """
        for command, before in self.attributes.items():
            after = vars(command)
            for name, subcommand in before.get("commands", {}).items():
                if after["commands"].get(name) is not subcommand:
                    return f"its command '{name}' already exists"
            if before.keys() != after.keys():
                return f"it adds attributes to the command '{command.name}'"
            for name, value in before.items():
                if not _extends(after[name], value):
                    return f"it changes '{name}' of the command '{command.name}'"

        root = click.Context(self.cli, **self.cli.context_settings)  # whose help options all have
        for command in _commands_below(self.cli):
            if vars(command) != self.attributes.get(command):
                _check_help(command, root)

        return None

    def restore(self) -> None:
        """Give every command its attributes of then."""
        for command, before in self.attributes.items():
            vars(command).clear()
            vars(command).update(before)


def _extends(now: Any, before: Any) -> bool:
    """Whether a value is the one before, or a list or dictionary that only grew."""
    if isinstance(before, list):
        return now[: len(before)] == before
    if isinstance(before, dict):
        return before.items() <= now.items()
    return now is before


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
        for name, each in getattr(command, "commands", {}).items():
            if not isinstance(name, str) or not isinstance(each, click.Command):
                raise TypeError(f"its command {name!r} is not a command of click")
            waiting.append(each)


def _check_help(command: click.Command, root: click.Context) -> None:
    """Raise what the help of a command raises, which `gantk --help` would show as a traceback."""
    command.get_short_help_str(limit=400)
    parent = None if command is root.command else root
    command.get_help(click.Context(command, parent, command.name, **command.context_settings))
    place = getattr(command, "place", 0)
    section = getattr(command, "section", "")
    if not isinstance(place, int) or not isinstance(section, str):
        raise TypeError(f"the command '{command.name}' needs a number as place, a text as section")
