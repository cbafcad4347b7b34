"""The command line: a thin skin on the Python API, exit codes, what commands print; and what the README shows."""

from __future__ import annotations

import inspect
import re
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from tiny import ROOT

from gantk import api
from gantk.cli import cli
from gantk.errors import GantkError, UserError
from gantk.plugin.loader import attach_commands, registry
from gantk.recipe.load import Recipe, load_recipe


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


# ---- the README ----------------------------------------------------------------------------------

TEXT = (ROOT / "README.md").read_text("utf-8")
RECIPES = {path.stem for path in (ROOT / "recipes").glob("*.toml")}


def readme_lines() -> list[str]:
    """The command lines that the README shows: in blocks, and in the running text between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", TEXT, re.S | re.M)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", TEXT)
    return [re.sub(r"\s#.*", "", line).strip() for line in "\n".join(blocks).splitlines()] + inline


def test_the_readme_names_only_commands_and_options_that_exist():
    attach_commands(cli)
    shown = [line.removeprefix("$ ").split() for line in readme_lines()]
    shown = [words[1:] for words in shown if words[:1] == ["gantk"] and len(words) > 1]
    assert len(shown) >= 10
    for words in shown:
        command, options = cli, {"--help", "--version"}
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
            options |= {name for param in command.params for name in param.opts}
        assert command is not cli or words[0] in options, f"the README shows `gantk {words[0]}`"
        used = {word.split("=")[0] for word in words if word.startswith("-")}
        assert used <= options, f"the README shows {used - options} of `gantk {command.name}`"


def test_the_readme_names_only_recipes_and_make_targets_that_exist():
    systems = TEXT[TEXT.index("## Systems") : TEXT.index("## Numbers")]
    assert {name for row in re.findall(r"^\|.*\|$", systems, re.M) for name in re.findall(r"`(\w+)`", row)} == RECIPES
    assert set(re.findall(r"\b\w+gan_t1t2\w*\b", TEXT)) <= RECIPES | {"mygan_t1t2"}  # which the scaffold writes
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert {line.split()[1] for line in readme_lines() if line.startswith("make ")} <= targets


def test_the_readme_s_recipe_is_a_recipe_and_its_error_the_error(tmp_path, monkeypatch):
    (example,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.S | re.M)
    Recipe(tomllib.loads(example)).check()
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(example.replace("width", "wdth"), "utf-8")
    with pytest.raises(UserError) as caught:
        load_recipe("mine.toml").check()
    (shown,) = re.findall(r"^error  (.*)$", TEXT, re.M)
    start, end = shown.split("...")
    assert str(caught.value).startswith(start) and str(caught.value).endswith(end)


def test_the_readme_s_figures_of_every_system_are_the_recorded_ones():
    def systems(text: str) -> dict[str, list[str]]:
        rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
        return {row[0].strip(" `"): [cell.strip() for cell in row[1:3]] for row in rows}

    shown = systems(TEXT[TEXT.index("<!-- quick -->") : TEXT.index("<!-- end of quick -->")])
    assert shown == systems((ROOT / "benchmarks/results/quick.md").read_text("utf-8")) and shown.keys() == RECIPES
