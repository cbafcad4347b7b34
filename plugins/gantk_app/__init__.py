"""`gantk app`: a window in the browser into which a scan is dropped, and a REST endpoint beside it, on this machine."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk app`."""
    from gantk_app.command import command

    cli.add_command(command)
