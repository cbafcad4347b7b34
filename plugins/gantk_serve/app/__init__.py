"""`gantk app`: a browser window and a REST endpoint that translate scans on this machine."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the functions of the Python interface."""
    add.function("app", "gantk_app.service:app")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk app`."""
    from gantk_app.command import command

    cli.add_command(command)
