"""Records finished files of a folder of translations, so that a repeated command skips them; one
process at a time.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_done(folder, asked):
    """Return the record of finished translations, a file beside the folder."""
    from gantk_done.ledger import Ledger

    return Ledger(folder, asked)
