"""Paired tests over patients, corrected for multiple comparisons; ranks of several systems; scores
of subgroups.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_check(model) -> None:
    """Refuse columns in `evaluate.by` that the data do not have."""
    if model.evaluate.by:
        from gantk_statistics.subgroups import check_columns

        check_columns(model)


@hookimpl(trylast=True)  # other plugins add verdicts, which are tested too
def gantk_tested(tested, result, scorer) -> None:
    """Add a corrected test to every verdict over pairs, and the scores of subgroups."""
    from gantk_statistics.comparing import add_tests
    from gantk_statistics.subgroups import add_subgroups

    lines = [*add_tests(result), *add_subgroups(tested, result, scorer)]
    result["lines"] = [*result.get("lines", ()), *lines]


@hookimpl
def gantk_report(record):
    """The report's section `Statistics`, if a verdict was tested or subgroups were scored."""
    from gantk_statistics.section import section

    return section(record)
