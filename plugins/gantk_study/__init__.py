"""Reader studies: blinded pages that ask which images are real, scores of the answers, and weights for a training."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk study`."""
    from gantk_study.command import group

    cli.add_command(group)


@hookimpl
def gantk_tested(run, result) -> None:
    """Add `readers` to metrics.json: the scores of each of the run's studies."""
    from gantk_study.answers import readers_of

    result |= {"readers": found} if (found := readers_of(run, [])) else {}


@hookimpl
def gantk_report(record):
    """The report's section `Readers`, if studies of the run were scored."""
    from gantk_study.answers import HERE, readers_of

    found = readers_of(record.path, record.problems)
    return {"folder": HERE, "template": "section.html.j2", "studies": found} if found else None
