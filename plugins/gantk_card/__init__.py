"""`gantk card`: a model card by the items of CLAIM and TRIPOD+AI, filled from the run; open items
are listed.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk card`."""
    from gantk_card.command import command

    cli.add_command(command)
