"""The `gantk bench` command: every recipe trained and scored the same way, one row each."""

from __future__ import annotations

from gantk.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the bundled suites."""
    add.suites("gantk_bench.suites")
