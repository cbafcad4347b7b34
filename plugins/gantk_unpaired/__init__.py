"""Unpaired data taken as far as they go: slices of like height shown together, and outputs that keep the outline."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """An order of batches, for `data.order`, and a loss of output and input, for `method.source_losses`."""
    add.order("matched", "gantk_unpaired.order:Matched")
    add.loss("outline", "gantk_unpaired.outline:Outline")
