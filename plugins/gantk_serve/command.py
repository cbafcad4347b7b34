"""`gantk serve`: the command line of the worker beside an Orthanc."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gantk.terminal import Command, CommandGroup

SHOWN = 20  # series of the status
SHOWN_KEYS = ("time", "series", "description", "reason")
START = "start"  # the command that `gantk serve RULES` stands for


class Serve(CommandGroup):
    """`gantk serve RULES` starts the worker; other words are commands."""

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = [START, *args]
        return super().resolve_command(ctx, args)


@click.group(
    "serve",
    cls=Serve,
    short_help="Translate what an Orthanc receives.",
    section="Use",
)
def command() -> None:
    """Run a worker beside an Orthanc: `gantk serve rules.toml`.

    It translates the series that the rules name, and gives Orthanc the derived series. Orthanc
    receives, keeps, shows and sends. A kill loses nothing. For research only.
    """


@command.command(START, cls=Command)
@click.argument("rules", type=click.Path(path_type=Path))
def start(rules: Path) -> None:
    """Start the worker of the file RULES. Ctrl-C stops it."""
    from gantk.terminal import say
    from gantk_serve.worker import serve

    serve(rules, say=say)


@command.command("status", cls=Command)
@click.argument("rules", type=click.Path(path_type=Path), default=Path("rules.toml"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(rules: Path, as_json: bool) -> None:
    """Show what became of the series in the Orthanc of the file RULES, the last one first."""
    from gantk.terminal import console, table
    from gantk_serve.status import status_of

    found = status_of(rules)
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = [
        (each["outcome"], "; ".join(filter(None, map(each.get, SHOWN_KEYS))))
        for each in found
        if each["outcome"] != "left out"
    ]
    title = f"the last {SHOWN} series (all of them: --json)"
    console().print(table(("outcome", title), rows[:SHOWN]))
