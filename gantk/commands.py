"""The class of `gantk` commands, with their section of `gantk --help`, their examples and their
modes.

Read `Command` first. A plugin writes `@click.command("mine", cls=Command, section="Use", ...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

# the sections of `gantk --help`, in the order in which a project needs them
SECTIONS = ("Start", "Use", "Look", "Judge", "Scale", "Share", "Extend")
OTHER_SECTION = "Other"  # of commands that name none
LAST_PLACE = 100


class Described(click.Command):
    """A command that knows where `gantk --help` lists it and whose own help begins with examples.

    Args:
        section: one of `SECTIONS`, or a title of the plugin's own, which follows these.
        place: commands of a section are listed in this order, then by name.
        examples: command lines, each with a comment behind `#` where it helps; the help shows them
            as they are.
    """

    def __init__(
        self,
        *args: Any,
        section: str = OTHER_SECTION,
        place: int = LAST_PLACE,
        examples: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.section = section
        self.place = place
        self.examples = tuple(examples)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then usage, description and options as click does."""
        if self.examples:
            formatter.write("Example:\n" if len(self.examples) == 1 else "Examples:\n")
            for line in self.examples:
                formatter.write(f"  {line}\n")  # never wrapped: it is copied
            formatter.write("\n")

        super().format_help(ctx, formatter)


class Command(Described):
    """A command that plugins can give further modes: an option, and the function it runs instead."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.modes: dict[str, Callable[..., Any]] = {}  # name of the option -> the function

    def add_mode(self, option: click.Option, function: Callable[..., Any]) -> None:
        """Where `option` is given, call `function(**options)` in place of the command's own."""
        if option.name in self.modes:
            return
        self.params.append(option)
        self.modes[option.name] = function

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, or the mode whose option is given."""
        chosen = [name for name in self.modes if ctx.params.get(name)]
        for name in self.modes:
            if name not in chosen[:1]:
                ctx.params.pop(name, None)
        if chosen:
            return ctx.invoke(self.modes[chosen[0]], **ctx.params)
        return super().invoke(ctx)


class CommandGroup(Described, click.Group):
    """A command with subcommands."""

    command_class = Command


device_option = click.option(
    "--device", metavar="D", help="Device: cpu, cuda, cuda:1 or mps. Default: the fastest one."
)


def by_section(commands: Mapping[str, click.Command]) -> dict[str, list[str]]:
    """The names of commands by section: `SECTIONS` first, then others, each in order of place."""
    sections: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for name in sorted(
        commands, key=lambda each: (getattr(commands[each], "place", LAST_PLACE), each)
    ):
        section = getattr(commands[name], "section", OTHER_SECTION)
        sections.setdefault(section, []).append(name)
    return {section: names for section, names in sections.items() if names}
