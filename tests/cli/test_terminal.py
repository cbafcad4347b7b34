"""What is printed is what was said: markup of rich in names, files and messages is no markup."""

import io
import re
import signal
from collections import Counter

import click
import pytest

from gantk import terminal

NAMES = ["[/red]", "[bold]x", "[link=https://example.org]y[/link]", "\\[/]", "[@click=z]", "[/"]


@pytest.mark.parametrize("name", NAMES)
def test_markup_in_printed_text_is_text(capsys, name):
    terminal.console().print(name)
    terminal.console().print(terminal.table((name, ""), [(name, name), (name, "y")]))
    terminal.say(f"note     {name}")
    terminal.say(terminal.TextTable(("a", "b"), [(name, name)]))
    terminal.warn(name)
    terminal.complain(name, name)

    printed = capsys.readouterr()
    assert printed.out.count(name) == 8
    assert printed.err.count(name) == 3


def test_a_terminal_lists_the_kinds_of_parts_on_one_screen(gantk, monkeypatch):
    everything = gantk("list").ok().out
    for name, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    lines = gantk("list").ok().out.splitlines()

    assert len(lines) < 24  # one is left for the prompt
    rows = {line.split()[0]: line.split()[1] for line in lines if not line.startswith(" ")}
    assert rows.pop("next") == "gantk"
    counts = Counter(line.split()[0] for line in everything.splitlines()[1:] if line[0] != " ")
    assert rows == {kind: str(count) for kind, count in counts.items()}
    assert "gantk show generator NAME" in gantk("list", "generator").ok().out


@pytest.mark.parametrize("words", [("list",), ("list", "loss"), ("show", "loss", "[/red]")])
def test_names_of_parts_are_not_read_as_markup(add_plugin, gantk, words):
    register = (
        "import gantk\n\n@gantk.hookimpl\ndef gantk_register(add):\n"
        "    def loss(*, weight: float = 1.0):\n        '''A [/b] loss.'''\n"
        "    add.loss('[/red]', loss)"
    )
    add_plugin("my-package", "mine", register)
    outcome = gantk(*words).ok()

    assert "[/red]" in outcome.out
    assert "A [/b] loss." in outcome.out


@pytest.mark.parametrize(
    ("given", "last"), [(["a run"], "next     gantk translate 'a run' SCAN"), ([], "done")]
)
def test_a_terminal_gets_the_command_that_follows(monkeypatch, given, last):
    @click.command(cls=terminal.Command, then="gantk translate {run} SCAN")
    @click.argument("run", required=False)
    def command(run):
        terminal.say("done")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for isatty, lines in ((True, last), (False, "done")):
        out = Terminal() if isatty else io.StringIO()
        monkeypatch.setattr("sys.stdout", out)
        command.main(given, standalone_mode=False)
        assert re.sub("\x1b\\[[0-9;]*m", "", out.getvalue()).splitlines()[-1] == lines


@pytest.mark.parametrize("is_command", [True, False])
def test_a_second_signal_cuts_no_stopped_command_short(monkeypatch, is_command):
    arrived = []
    monkeypatch.setattr(terminal, "owns_process", is_command)
    before = signal.signal(signal.SIGTERM, lambda *given: arrived.append(given))
    try:
        with terminal.stop_on_ctrl_c() as stopped:
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert len(stopped) == 1 + is_command
    assert len(arrived) == 1 - is_command  # a host's own handler, which it has again
