"""Hyperparameter search: the command `gantk sweep` trains a recipe with many settings, as trials of Ray Tune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gantk.plugin.hookspecs import hookimpl

REPORTING: dict[Path, Callable[[], None]] = {}  # run folder of a trial -> its reporter, while it trains


@hookimpl
def gantk_commands(cli) -> None:
    """Add the command `gantk sweep`."""
    from gantk_sweep.command import sweep

    cli.add_command(sweep)


@hookimpl
def gantk_step(run) -> None:
    """Report a trial's new checkpoint to its sweep."""
    if report := REPORTING.get(run):
        report()
