"""The report's section of test patients, worst first, and `gantk report`, which rewrites reports
and compares runs.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk report`."""
    from gantk_patients.command import command

    cli.add_command(command)


@hookimpl
def gantk_tested(run, tested) -> None:
    """Write patients.json and the test images shown in the report."""
    from gantk_patients.keeping import keep

    keep(run, tested)


@hookimpl
def gantk_report(record):
    """The report's section `Test patients`, if the run has patients.json."""
    from gantk_patients.section import section

    return section(record)
