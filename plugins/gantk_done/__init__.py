"""What is done of a folder of translations: the same command goes on where it stopped, one process at a time."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_done(folder, asked):
    """The list of what is done, beside the folder."""
    from gantk_done.ledger import Ledger

    return Ledger(folder, asked)
