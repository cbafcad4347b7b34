"""`gantk eval --pred DIR --truth DIR` as a gantk plugin: scores any tool's image files against the
true ones.
"""

from __future__ import annotations

import functools

import click

from gantk.plugin.hookspecs import hookimpl

OPTIONS = [
    click.Option(["--pred"], metavar="DIR", help="Score these images ..."),
    click.Option(["--truth"], metavar="DIR", help="... against these, matched by file name."),
    click.Option(
        ["--match"],
        is_flag=True,
        help="Bring the predictions onto the truth's scale first, by one line.",
    ),
    click.Option(
        ["--patient"], metavar="REGEX", help="The patient in a file's name: --patient '^(p\\d+)'."
    ),
]


@hookimpl
def gantk_commands(cli) -> None:
    """Add options to `gantk eval` that score files against the truth instead of a run."""
    command = cli.commands["eval"]
    if OPTIONS[0] in command.params:
        return
    score = command.callback

    def evaluate(run, pred, truth, match, patient, **options):
        if bool(run) == bool(pred or truth) or bool(pred) != bool(truth):
            raise click.UsageError("give a RUN, or both --pred and --truth")
        if run:
            if match or patient:
                raise click.UsageError("--match and --patient are for --pred and --truth")
            return score(run, **options)
        if options["uncertainty"] or options["by"]:
            raise click.UsageError("--uncertainty and --by are for a RUN")
        from gantk.terminal import line_printer, listed, write_json
        from gantk_compare.folders import compare

        given = {"metrics": names} if (names := listed(options["metrics"])) else {}
        given |= {"match": match, "patient": patient or "", "device": options["device"]}
        write_json(
            options["json_file"],
            compare(pred, truth, **given, say=line_printer(options["json_file"])),
        )

    command.callback = functools.update_wrapper(evaluate, score)
    command.help = "Score RUN on its test split, or files against the truth."
    command.params[0].required = False
    command.params[1:1] = OPTIONS
