"""RegGAN (Kong et al. 2021) as a gantk plugin: translation from pairs that do not lie on each
other.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One method."""
    add.method("reggan", "gantk_reggan.model:RegGAN")
