"""Images for those who have none yet: synthetic heads (the default data), public data sets, and
images that a finished run generates.
"""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the sources phantom and generated."""
    add.source("phantom", "gantk_datasets.phantom.phantom:Phantom")
    add.source("generated", "gantk_datasets.generated:Generated")
    add.function("fetch", "gantk_datasets.public.download:fetch")
    add.function("public_sets", "gantk_datasets.public.download:public_sets")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk data fetch [NAME]`."""
    from gantk_datasets.public.command import fetch

    cli.commands["data"].add_command(fetch)
