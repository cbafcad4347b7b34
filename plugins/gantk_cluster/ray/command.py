"""The option --address of `gantk bench` and `gantk translate`."""

import functools
import os

import click

HELP = (
    "Distribute the {} over a Ray cluster: HOST:PORT, auto, or local (starts Ray on this machine)."
)


def add_address(cli: click.Group) -> None:
    """Add --address to `gantk bench` and `gantk translate`."""
    for name, parts, on_cluster in (("bench", "rows", _bench), ("translate", "files", _translate)):
        command = cli.commands.get(name)
        if command:
            option = click.Option(["--address"], metavar="A", help=HELP.format(parts))
            command.add_mode(option, functools.partial(on_cluster, command.callback))


def _bench(bench, address: str, **options):
    """Run the rows of a benchmark on workers of the cluster."""
    from gantk.machine.runtime import ALONE  # imports torch
    from gantk_cluster.ray.bench import on_cluster

    os.environ.update(ALONE)
    return bench(**options, workers=functools.partial(on_cluster, address))


def _translate(translate, address: str, run: str, device: str | None, **options):
    """Translate files on workers of the cluster; this process only reads the model, on the CPU."""
    from gantk.machine.runtime import ALONE
    from gantk_cluster.ray.translate import on_cluster

    os.environ.update(ALONE)
    workers = functools.partial(on_cluster, address, run, device)
    return translate(run=run, device="cpu", workers=workers, **options)
