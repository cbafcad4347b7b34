"""Models on the Hugging Face hub: `gantk push RUN USER/NAME`, and hf://USER/NAME wherever a model
is used.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_model(address, say):
    """Download the model at hf://USER/NAME@REVISION and return its folder; None for other
    addresses.
    """
    if not address.startswith("hf://"):
        return None
    from gantk_hub.hub import fetched

    return fetched(address, say)


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk push`."""
    from gantk_hub.command import command

    cli.add_command(command)
