"""Activation checkpointing (`train.recompute = true`), as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl(tryfirst=True)  # before the compile plugin: checkpointed networks cannot be compiled
def gantk_phases(method, phases, train, notes):
    """With `train.recompute`, set up checkpointing in all trained networks; returns the same
    phases, else None.
    """
    if not train.recompute:
        return None
    from gantk_recompute.blocks import recompute

    recompute(method)
    if train.fast.compile:
        notes.append(
            "train.fast.compile: no phase is compiled: torch cannot trace what train.recompute"
            " computes again"
        )
    return phases
