"""`gantk card`: a run as a study file by CLAIM and TRIPOD+AI, filled where the run knows and open by name where not."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk card`."""
    from gantk_card.command import command

    cli.add_command(command)
