"""Test patients in the report, worst first, with windows and a linked cursor; `gantk report`, which compares runs."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk report`."""
    from gantk_patients.command import command

    cli.add_command(command)


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
