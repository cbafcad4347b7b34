"""Several trained models as one: `gantk translate RUN1,RUN2 IN OUT`, `gantk.load(["RUN1",
"RUN2"])`.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_load(model, device):
    """Load an ensemble if `model` is a list, `RUN1,RUN2`, a glob pattern or a folder of folds; else
    None.
    """
    from gantk_ensemble.ensemble import load

    return load(model, device)
