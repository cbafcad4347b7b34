"""`gantk doctor` and `gantk run RECIPE --try`: the machine's state, a training's needs."""

import sys

import click

from gantk.terminal import Command, write_json


def try_recipe(
    recipe, json_file, overwrite, precision, data, profile, device, layout, **options
) -> None:
    """Print the memory and time of a training; exit code 1 if it does not fit."""
    from dataclasses import asdict

    from gantk.catalog.question import as_setting
    from gantk.terminal import line_printer
    from gantk.training.trial import predict

    settings = [*options["set"]]
    if precision:
        settings.append(f'train.precision="{precision}"')
    if layout:
        settings.append(as_setting(layout))

    say = line_printer(json_file)
    found = predict(recipe, set=settings, say=say, data=data, profile=profile, device=device)
    for line in found.lines():
        say(line)
    write_json(json_file, asdict(found), overwrite)
    sys.exit(0 if found.fits else 1)


@click.command(
    "doctor",
    cls=Command,
    short_help="Check this machine and the installation.",
    section="Start",
    place=4,
    examples=["gantk doctor"],
)
def examine() -> None:
    """Check the machine, the installed packages and the plugins."""
    from gantk.errors import count_noun
    from gantk.lookup.doctor import findings
    from gantk.terminal import console, styled, table

    rows = []
    problems = 0
    for name, state, problem in findings():
        text = styled(state)
        if problem:
            text += styled(f"  {problem}", "red")
            problems += 1
        rows.append((name, text))

    out = console()
    out.print(table((), rows))
    verdict = styled("no problem", "green")
    if problems:
        verdict = styled(count_noun(problems, "problem"), "red")
    out.print(verdict + styled(" found"))
    sys.exit(1 if problems else 0)
