"""`gantk run RECIPE --lr-find` as a gantk plugin: a range test of learning rates (Smith 2017) by optimizer."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """The option --lr-find of `gantk run`."""
    from gantk_lr_find.option import attach

    attach(cli.commands["run"])
