"""Commands and what they print: the class of `gantk` commands, with their section of `gantk --help`,
their examples and shared options; console, lines of text, tables and JSON.

Read `Command` first. A plugin writes `@click.command("mine", cls=Command, section="Use", ...)`.
"""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gantk.errors import argument, printable
from gantk.files import expect_file, write_output
from gantk.guest import Say, hear

# the sections of `gantk --help`, in the order in which a project needs them
SECTIONS = ("Start", "Use", "Look", "Judge", "Scale", "Share", "Extend")
OTHER_SECTION = "Other"  # of commands that name none
LAST_PLACE = 100
LABEL_WIDTH = 9  # characters before what a line says
END_OF_SENTENCE = re.compile(r"(?<=\.) (?=[A-Z0-9])")
LINE_WIDTH = 80  # characters of a line that is not on a terminal, in a table of texts
MAX_TABLE_WIDTH = 1000  # characters of a line of a table of figures, whose cells are not wrapped


owns_process = False  # whether this process is a gantk command; else gantk is a guest in it
live: list[Console] = []  # whose last line is redrawn; all else is printed above it


class Command(click.Command):
    """A command that knows where `gantk --help` lists it and whose own help begins with examples.

    Args:
        section: one of `SECTIONS`, or a title of the plugin's own, which follows these.
        place: commands of a section are listed in this order, then by name.
        examples: command lines, each with a comment behind `#` where it helps; the help shows them
            as they are.
        then: the command that usually follows, with arguments of this one in braces: a terminal gets
            it as the last line, where all of them were given.
    """

    def __init__(
        self,
        *args: Any,
        section: str = OTHER_SECTION,
        place: int = LAST_PLACE,
        examples: Sequence[str] = (),
        then: str = "",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.section = section
        self.place = place
        self.examples = tuple(examples)
        self.then = then

    def invoke(self, ctx: click.Context) -> Any:
        result = super().invoke(ctx)
        if self.then and not ctx.invoked_subcommand and sys.stdout.isatty():
            given = {
                name: argument(value)
                for name, value in ctx.params.items()
                if value and isinstance(value, str)
            }
            with suppress(KeyError):
                say_next(self.then.format_map(given))
        return result

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then usage, description and options as click does."""
        if self.examples:
            formatter.write("Example:\n" if len(self.examples) == 1 else "Examples:\n")
            for line in self.examples:
                formatter.write(f"  {line}\n")  # never wrapped: it is copied
            formatter.write("\n")

        super().format_help(ctx, formatter)


class CommandGroup(Command, click.Group):
    """A command with subcommands; without arguments it prints its help."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help:
            args = ["--help"]
        return super().parse_args(ctx, args)


device_option = click.option(
    "--device", metavar="D", help="Device: cpu, cuda, cuda:1 or mps. Default: the fastest one."
)


data_option = click.option(
    "--data",
    metavar="PATH",
    help="Train on this folder or file. gantk chooses the data source that can read it.",
)


set_option = click.option(
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the recipe: --set train.steps=200. Repeatable.",
)


profile_option = click.option(
    "--profile",
    metavar="NAMES",
    help="Apply the tables [profile.NAME] of the recipe: cpu, or several in order: cpu,by_class.",
)


layout_option = click.option(
    "--layout",
    default="",
    metavar="PATTERN",
    help="Pattern of the file names: '{patient}/{visit}_{contrast}.nii.gz'.",
)


def by_section(commands: Mapping[str, click.Command]) -> dict[str, list[str]]:
    """The names of commands by section: `SECTIONS` first, then others, each in order of place."""
    sections: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for name in sorted(
        commands, key=lambda each: (getattr(commands[each], "place", LAST_PLACE), each)
    ):
        section = getattr(commands[name], "section", OTHER_SECTION)
        sections.setdefault(section, []).append(name)
    return {section: names for section, names in sections.items() if names}


class TextTable(str):
    """A table of figures as aligned text, in which a row is a line however long it is; a terminal
    gets it at its own width.

    `styles` has a style of rich for the last cell of each row; "" is plain.
    """

    rows: Sequence[tuple[str, ...]]
    grid: Table

    def __new__(
        cls,
        headers: tuple[str, ...],
        rows: Sequence[tuple[str, ...]],
        styles: Sequence[str] | None = None,
    ) -> TextTable:
        grid = _grid(headers, rows, styles or [""] * len(rows))
        out = io.StringIO()
        plain = Console(file=out, width=MAX_TABLE_WIDTH, color_system=None, highlight=False)
        plain.print(grid)
        made = super().__new__(cls, "\n".join(map(str.rstrip, out.getvalue().splitlines())))
        made.rows = rows
        made.grid = grid
        return made

    def print_on(self, out: Console) -> None:
        """Print the table: in colours on a terminal, else as text."""
        if out.is_terminal:
            out.print(self.grid, soft_wrap=False)
        else:
            out.print(Text(self), soft_wrap=True)


def _grid(
    headers: tuple[str, ...], rows: Sequence[tuple[str, ...]], styles: Sequence[str]
) -> Table:
    """The table for rich, which wraps cells between words only."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for column in zip(headers, *rows, strict=True):
        longest_word = max(len(word) for cell in column for word in printable(cell).split() or [""])
        grid.add_column(styled(column[0]), overflow="fold", min_width=longest_word)

    for cells, style in zip(rows, styles, strict=True):
        texts = [styled(cell) for cell in cells]
        texts[-1].stylize(style)
        grid.add_row(*texts)

    return grid


def styled(text: str, style: str = "") -> Text:
    """Text as it is, in a style of rich: control characters are escaped, and markup of rich in names
    ("[/red]") is not interpreted.
    """
    return Text(printable(text), style)


class Escaping(Console):
    """A console that prints strings by `styled`; a pipe gets texts in whole lines, and tables of
    LINE_WIDTH.
    """

    def print(self, *objects: Any, **options) -> None:
        if not self.is_terminal and not any(isinstance(each, Table) for each in objects):
            options.setdefault("soft_wrap", True)
        super().print(
            *(styled(each) if isinstance(each, str) else each for each in objects), **options
        )


def console() -> Console:
    """A console on standard output."""
    out = Escaping(highlight=False)
    return out if out.is_terminal else Escaping(highlight=False, width=LINE_WIDTH)


def _out(stderr: bool = False) -> Console:
    """The console for lines: above a live line where there is one."""
    if live and (sys.stderr.isatty() or not stderr):
        return live[-1]
    return Console(highlight=False, stderr=stderr)


def say(line: str, stderr: bool = False) -> None:
    """Print a line of the API: its first word is a label, red for an error or a warning, and each
    sentence begins a line. A terminal wraps these between words, but a command, which is copied,
    where the window ends.
    """
    out = _out(stderr)
    if isinstance(line, TextTable):
        line.print_on(out)
        return

    label, _, rest = printable(line).partition("  ")
    style = "bold red" if label in ("error", "warning") else "dim"
    rest = rest.strip()
    if len(label) < LABEL_WIDTH and label not in ("next", "or"):
        lines = END_OF_SENTENCE.split(rest)
        if out.is_terminal:
            whole = re.sub(r"\n +", " ", rest)  # wrapped for a pipe
            lines = sentence_lines(whole, max(out.width - LABEL_WIDTH, 20))
        rest = ("\n" + LABEL_WIDTH * " ").join(lines)

    gap = max(LABEL_WIDTH - len(label), 2) * " " if rest else ""
    out.print(Text.assemble((label, style), gap, rest), soft_wrap=True)


def sentence_lines(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` characters, of which each sentence begins one."""
    lines = []
    for sentence in END_OF_SENTENCE.split(text):
        lines += textwrap.wrap(
            sentence, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    return lines


def say_next(command: str, say: Say = say, label: str = "next") -> None:
    """Say the command that usually follows; with the label "or" another one that may."""
    say(f"{label:<9}{command}")


def complain(label: str, text: str, style: str = "bold red") -> None:
    """Print a line on standard error, its label in a style. A terminal wraps it between words."""
    out = _out(stderr=True)
    line = styled(label, style) + styled(f"  {text}")
    with suppress(OSError, SystemExit):  # a closed terminal or pipe, for which rich would exit
        out.print(line, soft_wrap=not out.is_terminal)


def choose_reading(question: Any) -> str:
    """Ask on the terminal which of a question's answers is right; returns its number, from 1, or
    another line. Without an answer the question itself is raised again.
    """
    click.echo(question.on_command_line(numbered=True))
    count = len(question.answers)
    if not count:
        raise question
    choice = "0"
    with suppress(click.Abort):  # Ctrl-C, or the end of the input
        choice = click.prompt(f"Which is right? 1 to {count}, a line of your own, or 0 for none")
    if choice == "0":
        raise question
    return choice


def warn(text: str) -> None:
    """Give a warning to the `say` of the public function that runs, else print it on standard error."""
    if not hear(f"warning  {text}"):
        complain("warning", text)


def table(headers: tuple[str, ...], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table of rows of strings, or of `styled` text, under headers (none: no header line); long
    cells are folded, not cut. Those of the first column, which are names to copy, are not folded.
    """
    grid = Table(box=None, pad_edge=False, show_header=bool(headers))
    for header in headers:
        grid.add_column(styled(header), overflow="fold", no_wrap=not grid.columns)

    for row in rows:
        grid.add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in row))

    return grid


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: `52 s`, `4 min 12 s`, `3 h 05 min`, `2 d 04 h`."""
    whole = round(seconds)
    for size, unit, below, small in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below:02d} {small}"

    return f"{whole} s"


@contextmanager
def stop_on_ctrl_c() -> Iterator[list[int]]:
    """Context manager: yields a list that is no longer empty after Ctrl-C, SIGTERM or SIGHUP
    (closed terminal).

    A second Ctrl-C interrupts at once. `nohup` keeps SIGHUP away. The other signals raise nothing:
    an exception could interrupt the writing of a file or the start of a child process.
    """
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if stopped and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # not the main thread, which alone may set handlers
        before = {}

    try:
        yield stopped
    finally:
        for number, handler in before.items():
            # a command that was told to stop is ending, and no second signal cuts that short
            if number == signal.SIGINT or not (stopped and owns_process):
                signal.signal(number, handler)


# read before other options, whose checks ask it
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    is_eager=True,
    help="Replace files that gantk did not write, or that were changed since.",
)


def json_option(words: str):
    """The options --json FILE and --overwrite of a command; the file's folder must exist; `-` is
    standard output.
    """

    def expect(ctx: click.Context, param: click.Parameter, file: str | None) -> str | None:
        return file and expect_file(file, "--json", overwrite=ctx.params["overwrite"])

    words = f"{words}. - is standard output, which then has nothing else."
    option = click.option("--json", "json_file", metavar="FILE", help=words, callback=expect)
    return lambda command: option(overwrite_option(command))


def say_on_stderr(line: str) -> None:
    """`say`, on standard error."""
    say(line, stderr=True)


def line_printer(json_file: str | None) -> Say:
    """`say`, on standard error if the JSON is written to standard output."""
    return say_on_stderr if json_file == "-" else say


def write_json(file: str | None, found: Any, overwrite: bool) -> None:
    """Write `found` as JSON to a file, to standard output for "-", nowhere for None; `overwrite` as
    in `gantk.files.expect_replaceable`.
    """
    text = json.dumps(found, indent=1) + "\n" if file else ""  # takes a second for 10,000 images
    if file == "-":
        sys.stdout.write(text)
    elif file:
        expect_file(file, "--json", overwrite=overwrite)
        write_output(Path(file), text.encode())


def split_names(names: str | None) -> list[str] | None:
    """The names of a comma-separated list; None if it is empty."""
    return [name.strip() for name in (names or "").split(",") if name.strip()] or None
