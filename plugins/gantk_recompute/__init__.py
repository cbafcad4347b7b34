"""Activations computed twice instead of kept (`train.recompute = true`), as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl(tryfirst=True)  # what is computed again cannot be compiled
def gantk_phases(method, phases, train, notes):
    """The phases as they are, of networks that recompute, where the recipe asks for it."""
    if not train.recompute:
        return None
    from gantk_recompute.blocks import recompute

    recompute(method)
    if train.fast.compile:
        notes.append("train.fast.compile: no phase is compiled: torch cannot trace what train.recompute computes again")
    return phases
