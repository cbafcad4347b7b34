"""The command line of this package."""

import shlex
import sys
from collections.abc import Sequence

import click

from gantk.errors import argument, count_noun
from gantk.terminal import Command, json_option, layout_option, write_json

# a setting that is proposed -> what it is for
WHY = {
    "data.leave_out": "   # without the patients that may spoil it: {left} are left",
    "data.source.mask": "   # scores lesions, too",
}


@click.command(
    "check",
    cls=Command,
    section="Look",
    place=1,
    examples=[
        "gantk data check SCANS",
        "gantk data check SCANS --table scans.csv   # a table to correct and to train from",
    ],
)
@click.argument("path")
@click.option("--recipe", metavar="RECIPE", help="Check PATH as this recipe would use it.")
@click.option(
    "--set", multiple=True, metavar="KEY=VALUE", help="Override a key: data.size=[64, 64]."
)
@click.option(
    "--every", is_flag=True, help="Check every image, even if there are more than 20,000 (slow)."
)
@click.option(
    "--table",
    metavar="FILE",
    help="Write a new CSV with one row for each image, to complete and train from.",
)
@click.option(
    "--pictures",
    metavar="FILE",
    help="Draw pairs that may not fit, and some others, side by side in a new PNG.",
)
@layout_option
@click.option("--verbose", is_flag=True, help="Print notes too, one line each.")
@json_option("Write the findings as JSON, too")
def check_command(path, json_file, overwrite, verbose, **options) -> None:
    """Describe the images in PATH and report problems; nothing is trained.

    PATH is a folder, a DICOM tree or a CSV. The check reports:

    \b
    - files that cannot be read, and empty images
    - exact copies, and near copies or patients in more than one set of the split
    - mixed planes, spacings and intensity ranges
    - partners that do not fit, and images that look like images of the other domain

    An error would stop a training, and the exit code is 1. A warning would spoil its scores. --table writes a CSV of the images.
    Complete it, then train from it: gantk run RECIPE --data FILE.
    """
    from gantk.data.check.check import check
    from gantk.data.check.findings import Problem
    from gantk.terminal import console, say, say_next, styled

    result = check(path, **options, overwrite=overwrite)
    problems = [Problem(**each) for each in result["problems"]]
    is_usable = not any(each.severity == "error" for each in problems)
    if json_file != "-":
        for name, value in result["summary"].items():
            say(f"{name}  {value}")

        notes = [each for each in problems if each.severity == "note"]
        for problem in problems:
            if verbose or problem.severity != "note":
                say(problem.line)

        if len(notes) == len(problems):
            console().print(styled("no problems found in the images", "green"))
        if notes and not verbose:
            console().print(styled(f"{count_noun(notes, 'note')}: --verbose prints them", "dim"))
        if is_usable:
            command = _next_command(path, **options)
            label = "next"
            if result["likely_pairs"] and options["table"]:
                command += " --pictures pairs.png"
            elif result["likely_pairs"] and not options["recipe"]:
                first = command.replace("gantk plan", "gantk data check", 1)
                say_next(f"{first} --table pairs.csv")
                label = "or"
            say_next(command, label=label)
            odd = {patient for problem in problems for patient in problem.leave_out}
            left = result["patients"] - len(odd)
            for each in result["settings"]:
                why = WHY[each.partition("=")[0]].format(left=left)
                say_next(f"{command} --set {shlex.quote(each)}{why}", label="or")

    write_json(json_file, result, overwrite)
    sys.exit(0 if is_usable else 1)


def _next_command(
    path: str,
    recipe: str | None,
    table: str | None,
    layout: str,
    set: Sequence[str],
    **rest: object,
) -> str:
    """What may follow: a table that was written is checked, a recipe is run; a layout and settings are
    given again.
    """
    if table:
        return f"gantk data check {argument(table)}"
    options = ["--layout", layout] if layout else []
    for each in set:
        options += ["--set", each]
    start = ["gantk plan", argument(path)]
    if recipe:
        start = ["gantk run", argument(recipe), "--data", argument(path)]
    return " ".join([*start, *map(shlex.quote, options)])
