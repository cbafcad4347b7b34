"""`gantk explain`: maps the input pixels that determine a region of a translation, with a check of
the map.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk explain`."""
    from gantk_explain.command import command

    cli.add_command(command)
