"""The option --address of `gantk bench` and `gantk translate`: the Ray cluster that their work is shared out over."""

import functools
import os

import click

from gantk.machine.launch import ALONE

WORDS = "Share the {} out over a Ray cluster: auto, HOST:PORT, or local for one of this machine's own."


def attach(cli: click.Group) -> None:
    """Add the option to both commands of `cli`."""
    for name, parts in (("bench", "rows"), ("translate", "files")):
        command = cli.commands.get(name)
        if command and not any(param.name == "address" for param in command.params):
            call = functools.partial(_call, command.callback, name)
            command.callback = functools.update_wrapper(call, command.callback)
            click.option("--address", metavar="A", help=WORDS.format(parts))(command)


def _call(alone, command, address=None, **options):
    if address:
        os.environ |= ALONE
    if address and command == "bench":
        from gantk_cluster.bench import on_cluster

        options["workers"] = functools.partial(on_cluster, address)
    elif address:
        from gantk_cluster.translate import on_cluster

        options["workers"] = functools.partial(on_cluster, address, options["run"], options["device"])
        options["device"] = "cpu"  # for this process, which only reads the model; workers use the device
    return alone(**options)
