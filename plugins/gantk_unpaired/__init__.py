"""Help for unpaired training: an order that shows slices of similar height together, and a loss of
the outline.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register an order of batches for `data.order`, and a loss of output and input for
    `method.source_losses`.
    """
    add.order("matched", "gantk_unpaired.order:Matched")
    add.loss("outline", "gantk_unpaired.outline:Outline")
