"""Work on many machines through Ray: hyperparameter sweeps, and `gantk bench` and `gantk translate` over a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gantk.plugin.hookspecs import hookimpl

REPORTING: dict[Path, Callable[[], None]] = {}  # run folder of a trial -> its reporter, while it trains


@hookimpl
def gantk_commands(cli) -> None:
    """Add the command `gantk sweep`, and the option --address to `gantk bench` and `gantk translate`."""
    from gantk_cluster.command import add_address, sweep

    cli.add_command(sweep)
    add_address(cli)


@hookimpl
def gantk_step(run) -> None:
    """Report a trial's new checkpoint to its sweep."""
    if report := REPORTING.get(run):
        report()
