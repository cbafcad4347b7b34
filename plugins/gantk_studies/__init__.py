"""Looking at results: model cards, reader studies."""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the functions of the Python interface."""
    add.function("write_card", "gantk_studies.card.card:write_card")
    add.function("new_study", "gantk_studies.reader_study.making:new_study")
    add.function("score_study", "gantk_studies.reader_study.scoring:score_study")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk card` and `gantk study`."""
    from gantk_studies.card.command import command as card
    from gantk_studies.reader_study.command import group as study

    for command in (card, study):
        cli.add_command(command)


@hookimpl
def gantk_images_scored(run, tested, result) -> None:
    """Add the scores of reader studies to the evaluation."""
    from gantk_studies.reader_study.answers import readers_of

    readers = readers_of(run, [])
    if readers:
        result.readers = {name: scores.dump() for name, scores in readers.items()}


@hookimpl
def gantk_report_section(record):
    """The section `Readers`, where the run has answers of readers."""
    from gantk_studies.reader_study.answers import section

    return section(record)
