"""One network from any registered contrasts to any other, as a gantk plugin: T1, T2, FLAIR, PD, whichever are there."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """The method; its networks and losses are the core's or anyone's."""
    add.method("anytoany", "gantk_anytoany.model:AnyToAny")


@hookimpl
def gantk_tested(run, tested, result, scorer) -> None:
    """Add scores of each contrast, made from each other one alone and from all others, to a run of this method."""
    if tested and scorer.model.method.name == "anytoany":
        from gantk_anytoany.scoring import add_scores

        add_scores(tested["a_to_b"], scorer, result)
