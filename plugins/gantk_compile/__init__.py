"""torch.compile for the losses of a training's phases (`train.fast.compile = true`), as a gantk
plugin.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_phases(method, phases, train, notes):
    """Return compiled phases where the recipe sets train.fast.compile, else None."""
    if not train.fast.compile:
        return None
    from gantk_compile.phases import compile_phases  # torch's compiler takes a second to import

    return compile_phases(method, phases, notes)
