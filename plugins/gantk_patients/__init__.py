"""Test patients in the report: a table of them, worst first, and pictures with windows and a linked cursor."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_tested(run, tested) -> None:
    """Write patients.json and the test images that the report shows."""
    from gantk_patients.keeping import keep

    keep(run, tested)


@hookimpl
def gantk_report(record):
    """The section `Test patients`, where patients.json is there."""
    from gantk_patients.section import section

    return section(record)
