"""The command line: a thin skin on the Python API, exit codes, what commands print."""

from __future__ import annotations

import inspect
import re
import shutil
from types import SimpleNamespace

import click
import pytest

from gantk import api
from gantk.cli import cli
from gantk.errors import GantkError
from gantk.plugin.loader import registry


def commands(group: click.Group, words: tuple[str, ...] = ()):
    """(words, command) of every command and sub-command."""
    for name, command in sorted(group.commands.items()):
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


@pytest.mark.parametrize(("words", "command"), [pytest.param(w, c, id=" ".join(w)) for w, c in commands(cli)])
def test_every_command_explains_itself(gantk, words, command):
    assert gantk(*words, "-h").out.startswith("Usage: ") and command.help.split("\n")[0].endswith(".")
    assert [each.name for each in command.params if isinstance(each, click.Option) and not each.help] == []


@pytest.mark.parametrize(
    ("command", "function"),
    [("run", api.run), ("resume", api.resume), ("translate", api.translate), ("eval", api.evaluate)],
)
def test_commands_take_what_their_functions_take(command, function):
    files = {"trial", "json_file", "pred", "truth"}  # files, and another function's
    names = {parameter.name for parameter in cli.commands[command].params} - files
    assert names == set(inspect.signature(function).parameters) - {"say", "progress"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(GantkError("x is not finite [at] step 3."), 1), (KeyboardInterrupt(), 130), (ZeroDivisionError(), None)],
    ids=["failure", "Ctrl-C", "defect"],
)
def test_a_failure_exits_1_an_interruption_130_and_a_defect_keeps_its_traceback(gantk, monkeypatch, error, code):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(api, "run", fail)
    if code is None:
        with pytest.raises(ZeroDivisionError):
            gantk("run", "dualgan_t1t2")
        return
    outcome = gantk("run", "dualgan_t1t2")
    assert outcome.code == code and "Traceback" not in outcome.err
    assert code == 130 or outcome.err == f"error  {error}\n"


def test_runs_without_out_go_to_runs_name_time_in_plain_lines(gantk, tiny_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = gantk("run", tiny_file, "--device", "cpu", "--set", "train.steps=1", "--precision", "fp32")
    assert outcome.code == 0
    (run,) = (tmp_path / "runs").iterdir()
    first, *lines = outcome.out.splitlines()
    assert run.name.startswith("tiny-") and first == f"recipe   {tiny_file}"
    assert str(run.absolute() / "report.html").endswith(lines[-1].split()[-1])
    assert any("step 1/1" in line for line in lines), "no plain progress lines where there is no terminal"
    assert "\x1b" not in outcome.out and "[/]" not in outcome.out


def test_list_names_everything_and_who_offers_it_and_show_the_options_with_choices(gantk):
    rows = {tuple(line.split()) for line in gantk("list").out.splitlines()}
    assert {(entry.kind, entry.name, entry.owner) for entry in registry().entries.values()} <= rows
    assert gantk("list", "losses").out == gantk("list", "loss").out  # a plural that no trailing s explains
    shown = {part: gantk("show", *part.split()).out for part in ("generator unet", "method dualgan")}
    assert re.search(r'^norm +"instance" \| "batch"', shown["generator unet"], re.M)
    for line in ("generator +generator ", "augment +list of augment ", r"cycle_b +float \| none "):
        assert re.search(f"^{line}", shown["method dualgan"], re.M), line


def test_a_broken_plugin_is_reported_beside_what_works(gantk, add_plugin, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 2**30))
    assert gantk("doctor").code == 0
    add_plugin("broken-package", "a_broken_one", "raise RuntimeError('out of [order]')")
    outcome = gantk("list", "generator")
    assert outcome.code == 0 and "unet" in outcome.out and "out of [order]" in outcome.err
    assert re.search(r"^a_broken_one .*out of \[order\]", gantk("plugins").out, re.M)
    outcome = gantk("doctor")
    assert outcome.code == 1 and "out of [order]" in outcome.out
