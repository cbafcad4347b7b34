"""Looking at results: model cards, reader studies."""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the functions of the Python interface."""
    add.function("write_card", "gantk_studies.card:write_card")
    add.function("new_study", "gantk_studies.reader_study.new:new_study")
    add.function("score_study", "gantk_studies.reader_study.score:score_study")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk card` and `gantk study`."""
    from gantk_studies.card_command import command as card
    from gantk_studies.reader_study.command import group as study

    for command in (card, study):
        cli.add_command(command)
