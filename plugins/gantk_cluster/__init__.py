"""Trainings on many machines, over Ray: sweeps of a recipe's settings, and benches and translations shared out."""

from __future__ import annotations

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk sweep`, and give `gantk bench` and `gantk translate` the option --address."""
    from gantk_cluster.command import sweep
    from gantk_cluster.options import attach

    cli.add_command(sweep)
    attach(cli)


@hookimpl
def gantk_step(run, stage, step, logs, batch) -> None:
    """Report what is new of a trial to the sweep that trains it."""
    from gantk_cluster.trial import REPORTING

    if report := REPORTING.get(run):
        report()
