"""Models that ship with the package, and `gantk pack`, which makes such a model from a run."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the models in the folder `shipped`; each is used by its folder's name."""
    add.models("gantk_models.shipped")


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk models` and `gantk pack`."""
    from gantk_models.commands import COMMANDS

    for command in COMMANDS:
        cli.add_command(command)
