"""Connects to Ray clusters, and runs the rows of `gantk bench` and the files of `gantk translate`
on their workers.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Add the option --address to `gantk bench` and `gantk translate`."""
    from gantk_cluster.command import add_address

    add_address(cli)
