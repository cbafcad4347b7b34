"""The commands `gantk list`, `show`, `recipes` and `plugins`, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach the commands."""
    from gantk_lookup.commands import COMMANDS

    for command in COMMANDS:
        cli.add_command(command)
