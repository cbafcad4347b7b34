"""Several trained models as one: `gantk translate RUN1,RUN2 IN OUT`, `gantk.load(["RUN1", "RUN2"])`."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_load(model, device):
    """An ensemble, where several models are named, a pattern of them, or a folder of folds."""
    from gantk_ensemble.ensemble import load

    return load(model, device)
