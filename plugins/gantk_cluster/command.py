"""The option --address of `gantk bench` and `gantk translate`."""

import functools
import os

import click

from gantk.machine.launch import ALONE

SHARED = (
    "Share the {} out over a Ray cluster: auto, HOST:PORT, or local for one of this machine's own."
)


def add_address(cli: click.Group) -> None:
    """Add --address to `gantk bench` and `gantk translate`, once."""
    for name, parts in (("bench", "rows"), ("translate", "files")):
        command = cli.commands.get(name)
        if command and not any(param.name == "address" for param in command.params):
            command.callback = functools.partial(_on_cluster, command.callback, name)
            click.option("--address", metavar="A", help=SHARED.format(parts))(command)


def _on_cluster(alone, command, address=None, **options):
    """Call the command's function `alone`, with workers of the cluster at `address`, if one is
    given.
    """
    if address:
        os.environ |= ALONE
    if address and command == "bench":
        from gantk_cluster.bench import on_cluster

        options["workers"] = functools.partial(on_cluster, address)
    elif address:
        from gantk_cluster.translate import on_cluster

        options["workers"] = functools.partial(
            on_cluster, address, options["run"], options["device"]
        )
        # for this process, which only reads the model; workers use the device
        options["device"] = "cpu"
    return alone(**options)
