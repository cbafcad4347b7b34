"""A package as a third party would write it: a generator, a loss, a method, a recipe and a command
of its own.
"""

import click
from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the parts; strings are imported at first use."""
    add.generator("two_layers", "gantk_oneway.model:TwoLayers")
    add.loss("mean_gap", "gantk_oneway.model:MeanGap")
    add.method("oneway", "gantk_oneway.model:OneWay")
    add.recipes("gantk_oneway.recipes")


@hookimpl
def gantk_commands(cli) -> None:
    """Attach a command."""
    cli.add_command(greet)


@click.command()
@click.argument("name")
def greet(name) -> None:
    """Say hello to NAME."""
    click.echo(f"one way, {name}")
