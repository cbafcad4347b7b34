"""Images for those who have none yet: synthetic heads (the default data), and public data sets."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source phantom."""
    add.source("phantom", "gantk_datasets.phantom.phantom:Phantom")
    add.function("fetch", "gantk_datasets.public.download:fetch")
    add.function("public_sets", "gantk_datasets.public.download:public_sets")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk data fetch [NAME]`."""
    from gantk_datasets.public.command import fetch

    cli.commands["data"].add_command(fetch)
