"""`gantk explain`: which pixels of an image made a region of its translation, and whether the map says so."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk explain`."""
    from gantk_explain.command import command

    cli.add_command(command)
