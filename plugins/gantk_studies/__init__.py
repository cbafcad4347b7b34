"""Looking at results: test patients, volumes, comparisons of runs, model cards, reader studies."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk report`, `gantk card` and `gantk study`."""
    from gantk_studies.card.command import command as card
    from gantk_studies.patients.command import command as report
    from gantk_studies.reader_study.command import group as study

    for command in (report, card, study):
        cli.add_command(command)


@hookimpl
def gantk_images_scored(run, tested, result) -> None:
    """Write patients.json and the test images of the report; add the scores of reader studies."""
    from gantk_studies.patients.keeping import keep
    from gantk_studies.reader_study.answers import readers_of

    keep(run, tested)
    readers = readers_of(run, [])
    if readers:
        result["readers"] = readers


@hookimpl
def gantk_report_section(record) -> list:
    """The sections `Test patients`, `Volumes` and `Readers`, where the run has what they show."""
    from gantk_studies.patients import section as patients
    from gantk_studies.reader_study import answers
    from gantk_studies.viewer import section as viewer

    return [viewer.section(record), patients.section(record), answers.section(record)]
