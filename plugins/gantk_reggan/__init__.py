"""RegGAN (Kong et al. 2021) as a gantk plugin: translation from pairs that do not lie on each other."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """The method, and normalised mutual information."""
    add.method("reggan", "gantk_reggan.model:RegGAN")
    add.metric("nmi", "gantk_reggan.nmi:NMI")


@hookimpl
def gantk_tested(tested, result) -> None:
    """Where a run is scored by `nmi`, add that of output and input: it falls where an output moves off its input."""
    if any("nmi" in one.senses for one in tested.values()):
        from gantk_reggan.nmi import add_nmi_of_inputs

        add_nmi_of_inputs(tested, result)
