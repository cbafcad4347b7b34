"""The option --address of `gantk bench` and `gantk translate`: the Ray cluster that shares out the work."""

from __future__ import annotations

import click


def attach(cli: click.Group) -> None:
    """Give the commands of `cli` the option."""
