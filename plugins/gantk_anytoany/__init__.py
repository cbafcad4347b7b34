"""One network for translations between any registered contrasts (T1, T2, FLAIR, PD, ...), as a
gantk plugin.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method; it takes any registered networks and losses."""
    add.method("anytoany", "gantk_anytoany.model:AnyToAny")


@hookimpl
def gantk_tested(run, tested, result, scorer) -> None:
    """Add scores of each contrast, translated from each single other one and from all others, to
    runs of the method.
    """
    if tested and scorer.model.method.name == "anytoany":
        from gantk_anytoany.scoring import add_scores

        add_scores(tested["a_to_b"], scorer, result)
