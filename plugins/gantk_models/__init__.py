"""Trained models: those that ship, packing, checkpoints of other programs, the Hugging Face hub,
ensembles, MONAI bundles.
"""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the models in the folder `shipped`, by their folders' names, and an exporter."""
    add.models("gantk_models.shipped")
    add.exporter("monai", "gantk_models.monai.bundle:Monai")
    add.function("pack", "gantk_models.packing:pack")
    add.function("import_checkpoint", "gantk_models.imports.folder:import_checkpoint")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk models`, `gantk import`, `gantk pack` and `gantk push`."""
    from gantk_models.commands import COMMANDS
    from gantk_models.hub.command import command as push

    for command in (*COMMANDS, push):
        cli.add_command(command)


@hookimpl
def gantk_find_model(address, say):
    """Download a model at hf://USER/NAME@REVISION to a folder; None for other addresses."""
    if not address.startswith("hf://"):
        return None
    from gantk_models.hub.hub import fetch_model

    return fetch_model(address, say)


@hookimpl
def gantk_load_model(model, device):
    """Load several models as one: a list, `RUN1,RUN2`, a glob pattern."""
    from gantk_models.ensemble import load

    return load(model, device)
