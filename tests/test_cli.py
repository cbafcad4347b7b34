"""The command line: a thin skin on the Python API, exit codes, what commands print; and what the README shows."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from tiny import ROOT

from gantk import api
from gantk.cli import cli, main
from gantk.errors import GantkError, UserError
from gantk.plugin.loader import attach_commands, registry
from gantk.recipe.load import Recipe, load_recipe


def commands(group: click.Group, words: tuple[str, ...] = ()):
    """(words, command) of every command and sub-command."""
    for name, command in sorted(group.commands.items()):
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


# ---- the contract --------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "command"), [pytest.param(w, c, id=" ".join(w)) for w, c in commands(cli)])
def test_every_command_explains_itself(gantk, words, command):
    for flag in ("--help", "-h"):
        outcome = gantk(*words, flag)
        assert outcome.code == 0 and outcome.out.startswith("Usage: ")
    assert command.help and command.help.split("\n")[0].endswith(".")
    unexplained = [each.name for each in command.params if isinstance(each, click.Option) and not each.help]
    assert unexplained == []


@pytest.mark.parametrize(
    ("command", "function"),
    [("run", api.run), ("resume", api.resume), ("translate", api.translate), ("eval", api.evaluate)],
)
def test_commands_take_what_their_functions_take(command, function):
    renamed = {"trial": None, "json_file": None, "pred": None, "truth": None}  # files, and another function's
    names = {renamed.get(parameter.name, parameter.name) for parameter in cli.commands[command].params} - {None}
    assert names == set(inspect.signature(function).parameters) - {"say", "progress"}


def test_the_version_is_the_distributions(gantk):
    assert gantk("--version").out.strip() == f"gantk {version('gantk')}"


# ---- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [(GantkError("the loss x is not finite [at] step 3."), 1), (KeyboardInterrupt(), 130), (click.Abort(), 130)],
    ids=["failure", "Ctrl-C", "abort"],
)
def test_a_failure_exits_1_and_an_interruption_130_without_a_traceback(gantk, monkeypatch, tiny_file, error, code):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(api, "run", fail)
    outcome = gantk("run", tiny_file)
    assert outcome.code == code and "Traceback" not in outcome.err
    assert code == 130 or outcome.err == f"error  {error}\n"


def test_anything_else_keeps_its_traceback(gantk, monkeypatch, tiny_file):
    monkeypatch.setattr(api, "run", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gantk("run", tiny_file)


def test_main_attaches_what_plugins_bring(add_plugin, monkeypatch, capsys):
    source = "import click, gantk\n@click.command('measure')\ndef command():\n    'Mine.'\n    print('measured')\n"
    source += "@gantk.hookimpl\ndef gantk_commands(cli):\n    cli.add_command(command)\n"
    add_plugin("my-package", "my_plugin", source)
    monkeypatch.setattr(sys, "argv", ["gantk", "measure"])
    monkeypatch.setattr(cli, "commands", dict(cli.commands))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "measured" in capsys.readouterr().out


# ---- what commands do ----------------------------------------------------------------------------


def test_runs_without_out_go_to_runs_name_time_in_plain_lines(gantk, tiny_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = gantk("run", tiny_file, "--device", "cpu", "--set", "train.steps=1", "--seed", "5", "--precision", "fp32")
    assert outcome.code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("tiny-") and "seed = 5\n" in (run / "recipe.toml").read_text()
    first, *lines = outcome.out.splitlines()
    assert first == f"recipe   {tiny_file}" and str(run.absolute() / "report.html").endswith(lines[-1].split()[-1])
    assert any("step 1/1" in line for line in lines), "no plain progress lines where there is no terminal"
    assert "\x1b" not in outcome.out and "[/]" not in outcome.out


def test_list_names_everything_and_who_offers_it(gantk):
    rows = {tuple(line.split()) for line in gantk("list").out.splitlines()}
    assert {(entry.kind, entry.name, entry.owner) for entry in registry().entries.values()} <= rows
    for kind, single in (("losses", "loss"), ("loss", "loss"), ("metrics", "metric")):
        rows = [line.split()[:2] for line in gantk("list", kind).out.splitlines()[1:]]
        assert rows == [[single, name] for name in registry().names(single)]


def test_show_has_options_with_choices_defaults_and_effects(gantk):
    def options(kind: str, name: str) -> dict[str, str]:
        table = gantk("show", kind, name).out.split("\noption ")[-1]
        return {line.split()[0]: line for line in table.splitlines()[1:]}

    rows = options("generator", "unet")
    assert rows["depth"].split()[1:3] == ["int", "5"] and "halvings" in rows["depth"]
    assert '"instance" | "batch"' in rows["norm"] and "NormKind" not in rows["norm"]
    rows = options("method", "dualgan")
    assert rows["generator"].split()[1] == "generator" and "list of augment" in rows["augment"]
    assert "float | none" in rows["cycle_b"]


def test_a_broken_plugin_is_reported_beside_what_works(gantk, add_plugin, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 2**30))
    outcome = gantk("doctor")
    assert outcome.code == 0 and "plugin dualgan" in outcome.out, outcome.out
    add_plugin("broken-package", "a_broken_one", "raise RuntimeError('out of [order]')")
    outcome = gantk("list", "generator")
    assert outcome.code == 0 and "unet" in outcome.out and "out of [order]" in outcome.err
    lines = gantk("plugins").out.splitlines()
    assert any(line.startswith("dualgan") and "loaded" in line for line in lines)
    assert any(line.startswith("a_broken_one") and "out of [order]" in line for line in lines)
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
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in options, f"the README shows {word} of `gantk {command.name}`"


def test_the_readme_names_only_recipes_and_make_targets_that_exist():
    systems = TEXT[TEXT.index("## Systems") : TEXT.index("## Numbers")]
    named = {name for row in re.findall(r"^\|.*\|$", systems, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert named == RECIPES
    assert set(re.findall(r"\b\w+gan_t1t2\w*\b", TEXT)) <= RECIPES | {"mygan_t1t2"}  # which the scaffold writes
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    shown = [line.split()[1] for line in readme_lines() if line.startswith("make ")]
    assert shown and set(shown) <= targets


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
    recorded = (ROOT / "benchmarks" / "results" / "quick.md").read_text("utf-8")
    shown = TEXT[TEXT.index("<!-- quick -->") : TEXT.index("<!-- end of quick -->")]

    def systems(text: str) -> dict[str, list[str]]:
        rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
        return {row[0].strip(" `"): [cell.strip() for cell in row[1:3]] for row in rows}

    assert systems(shown) == systems(recorded) and systems(shown).keys() == RECIPES
