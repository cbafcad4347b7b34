"""`gantk serve`: receives studies from a PACS or by HTTP, translates what its rules name, and sends
derived series back.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the functions of the Python interface."""
    add.function("serve", "gantk_serve.service:serve")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk serve`."""
    from gantk_serve.command import command

    cli.add_command(command)
