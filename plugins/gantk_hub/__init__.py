"""Models on the Hugging Face hub: `gantk push RUN USER/NAME`, and hf://USER/NAME wherever a model is used."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_model(address, say):
    """Fetch what hf://USER/NAME@REVISION names."""
    if not address.startswith("hf://"):
        return None
    from gantk_hub.hub import fetched

    return fetched(address, say)


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk push`."""
    from gantk_hub.command import command

    cli.add_command(command)
