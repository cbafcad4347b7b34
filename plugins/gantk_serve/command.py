"""`gantk serve`: the command line of the service."""

from __future__ import annotations

from pathlib import Path

import click

from gantk.commands import CommandGroup, Described

START = "start"  # the command that `gantk serve RULES` stands for


class Serve(CommandGroup):
    """`gantk serve RULES` starts the service; other words are commands."""

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = [START, *args]
        return super().resolve_command(ctx, args)


@click.group(
    "serve",
    cls=Serve,
    short_help="Translate what a PACS sends, and send it back.",
    section="Use",
)
def command() -> None:
    """Run a service on this machine: `gantk serve rules.toml`.

    It takes DICOM studies from the peers that the rules name, and uploads by HTTP. It translates what
    the rules name and sends derived series back. A kill loses nothing. For research only.
    """


@command.command(START, cls=Described)
@click.argument("rules", type=click.Path(path_type=Path))
def start(rules: Path) -> None:
    """Start the service of the file RULES. Ctrl-C stops it."""
    from gantk.terminal import say
    from gantk_serve.service import serve

    serve(rules, say=say)


@command.command("status", cls=Described)
@click.argument("rules", type=click.Path(path_type=Path), default=Path("rules.toml"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(rules: Path, as_json: bool) -> None:
    """Show the queue of the service of the file RULES, whether it runs or not."""
    from gantk.terminal import say
    from gantk_serve.status import status_lines

    for line in status_lines(rules, as_json):
        say(line)


@command.command("retry", cls=Described)
@click.argument("rules", type=click.Path(path_type=Path))
@click.argument("job")
def retry(rules: Path, job: str) -> None:
    """Let the failed JOB of the service of the file RULES start again."""
    from gantk.terminal import say
    from gantk_serve.status import retry_job

    say(retry_job(rules, job))


@command.command("pull", cls=Described)
@click.argument("rules", type=click.Path(path_type=Path))
@click.argument("study")
@click.argument("peer")
def pull(rules: Path, study: str, peer: str) -> None:
    """Fetch a study from a PACS: STUDY is its UID, PEER the AE title of a peer in the file RULES.

    The service must run, and the PEER must know its AE title, address and port.
    """
    from gantk.terminal import say
    from gantk_serve.journal import silence_libraries
    from gantk_serve.status import pull_study

    silence_libraries()
    say(pull_study(rules, study, peer))
