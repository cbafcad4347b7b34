"""Trainings on many machines, over Ray: sweeps of a recipe's settings, and benches and translations shared out."""

from __future__ import annotations

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk sweep`, and give `gantk bench` and `gantk translate` the option --address."""
    from gantk_cluster.options import attach

    attach(cli)
