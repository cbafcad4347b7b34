"""The command line: a thin skin on the Python API, exit codes, what commands print."""

import functools
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import click
import pytest

from gantk import api
from gantk.cli import cli
from gantk.errors import GantkError
from gantk.lookup.options import options_help
from gantk.recipe.load import Recipe, all_recipes, load_recipe, resolved
from gantk.recipe.tables import TABLES
from gantk.terminal import SECTIONS


def commands(group: click.Group, words: tuple[str, ...] = ()):
    """(words, command) of every command and sub-command."""
    for name, command in sorted(group.commands.items()):
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(w, c, id=" ".join(w)) for w, c in commands(cli)]
)
def test_every_command_explains_itself(gantk, words, command):
    assert "\nUsage: " in "\n" + gantk(*words, "-h").out
    assert command.help.split("\n\n")[0].rstrip().endswith(".")
    assert [
        each.name for each in command.params if isinstance(each, click.Option) and not each.help
    ] == []


def test_help_lists_commands_by_section_one_line_each(gantk):
    text = gantk("--help").out
    headings = re.findall(r"^(\w+):$", text, re.M)
    listed = re.findall(r"^  (\w+)  +[A-Z].*\.$", text, re.M)

    assert headings == ["Examples", "Options", *SECTIONS]
    assert set(listed) == set(cli.commands)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("words", [(), ("new",), ("data",)])
def test_a_group_without_arguments_prints_its_help(gantk, words):
    shown = gantk(*words).ok()
    assert shown == gantk(*words, "--help").ok()
    assert "Usage: " in shown.out


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("run", api.run),
        ("resume", api.resume),
        ("translate", api.translate),
        ("eval", api.evaluate),
    ],
)
def test_commands_take_what_their_functions_take(command, function):
    # files, and what is another function's
    files = {"try", "json_file", "address", "files"}
    if command == "eval":  # of two folders, or of several models
        files |= {"others", "figures", "pred", "truth", "match", "patient", "truth_layout", "to"}
    taken = set(inspect.signature(function).parameters) - {"say", "progress", "workers"}
    if "overwrite" not in taken:
        files.add("overwrite")  # of the file that --json names
    names = {parameter.name for parameter in cli.commands[command].params} - files

    assert names == taken


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GantkError("x is not finite [at] step 3."), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("by zero"), 1),
    ],
    ids=["failure", "Ctrl-C", "defect"],
)
def test_exit_codes_of_failure_interruption_and_defect(gantk, monkeypatch, error, code):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(api, "run", fail)
    outcome = gantk("run", "dualgan_t1t2")

    assert outcome.code == code
    assert "Traceback" not in outcome.err
    words = f"ZeroDivisionError, while running `gantk run`: {error}. The traceback is in "
    if code == 1:
        assert outcome.err.startswith(f"error  {error if isinstance(error, GantkError) else words}")


@pytest.mark.slow
def test_runs_without_out_go_to_runs_name_time_in_plain_lines(
    gantk, tiny_file, pictures, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("T1", "T2")):
        pictures(tmp_path / "data" / name, 16, seed=seed)

    outcome = gantk(
        "run", tiny_file, "--data", "data", "--device", "cpu", "--set", "train.steps=1"
    ).ok()

    (run,) = (tmp_path / "runs").iterdir()
    first, *lines = outcome.out.splitlines()

    assert run.name.startswith("tiny-")
    assert first == f"recipe   {tiny_file}"
    (report,) = [line for line in lines if line.startswith("report ")]
    assert str(run.absolute() / "report.html").endswith(report.split()[-1])
    recipe = run.relative_to(tmp_path) / "recipe.toml"  # it is behind: a longer training comes next
    assert lines[-1] == f"or       gantk run {recipe} --set train.steps=2   # twice as long"
    (end,) = [number for number, line in enumerate(lines) if line.startswith("warning  On ")]
    assert max(len(line) for line in lines[end:] if not line.startswith("next ")) <= 100
    assert any("step 1/1" in line for line in lines), (
        "no plain progress lines where there is no terminal"
    )
    assert "\x1b" not in outcome.out
    assert "[/]" not in outcome.out
    monkeypatch.chdir("/")  # where no folder is called `data`
    gantk("eval", run, "--device", "cpu").ok()


def test_a_broken_plugin_is_reported_beside_what_works(gantk, add_plugin, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 2**30))
    gantk("doctor").ok()

    add_plugin("broken-package", "a_broken_one", "raise RuntimeError('out of [order]')")
    outcome = gantk("list", "generator").ok()

    assert "unet" in outcome.out
    assert "out of [order]" in outcome.err
    assert re.search(r"^a_broken_one .*out of \[order\]", gantk("plugins").out, re.M)
    outcome = gantk("doctor")
    assert outcome.code == 1
    assert "out of [order]" in outcome.out


@pytest.mark.parametrize("name", TABLES)
def test_show_explains_every_key_of_the_recipe_tables(gantk, name, monkeypatch):
    monkeypatch.setattr("gantk.terminal.LINE_WIDTH", 200)  # no cell is folded
    where, table = TABLES[name]
    lines = gantk("show", where or name).out.splitlines()
    for key, _, _, meaning in options_help(table):
        assert meaning, f"{name}.{key} has no comment"
        (line,) = [line for line in lines if line.split()[:1] == [key]]
        assert meaning in line
        assert len(line.split()) > 2

    assert len(table.model_fields) == len(options_help(table))


@pytest.mark.slow
def test_a_whole_recipe_is_shown_as_toml_that_trains_the_same(gantk, monkeypatch):
    # the comments beside options are read from the code: by one command once, here by seventy
    monkeypatch.setattr(inspect, "getsource", functools.cache(inspect.getsource))
    for name in sorted(all_recipes()):
        recipe = load_recipe(name)
        shown = gantk("show", "recipe", name).out
        assert resolved(Recipe(tomllib.loads(shown)).check()) == resolved(recipe.check()), name
        for profile in recipe.tables.get("profile", {}):
            assert f"--profile {profile}" in shown.splitlines()[0]
            changed = gantk("show", "recipe", name, "--profile", profile).out
            assert resolved(Recipe(tomllib.loads(changed)).check()) == resolved(
                recipe.override([], profile).check()
            )

    shown = gantk("show", "recipe", "dualgan_t1t2").out

    # the recipe's own words
    assert re.search(r"^noise_floor = 0.06 +# deviations of the input below 6 % of", shown, re.M)
    # a default, in the table's
    assert re.search(r"^keep = 3 +# number of checkpoints to keep$", shown, re.M)
    assert re.search(r"^# microbatch = +# images per forward pass; None = the batch", shown, re.M)


@pytest.mark.slow
def test_json_to_standard_output_leaves_nothing_else_there(
    gantk, tiny_run, tiny_file, pictures, tmp_path
):
    for name in ("a", "b"):
        pictures(tmp_path / name, 3)

    for command in (
        ["eval", tiny_run, "--device", "cpu"],
        ["eval", "--pred", tmp_path / "a", "--truth", tmp_path / "b", "--device", "cpu"],
        ["data", "check", tmp_path / "a", "--set", "data.source.patient=(s.*)"],
        ["run", tiny_file, "--try", "--device", "cpu"],
    ):
        assert json.loads(gantk(*command, "--json", "-").out)

    told = gantk("data", "check", tmp_path / "a", "--set", "data.sorce.patient=x").refused()

    assert "there is no key 'sorce'" in told


OWN_WAITS = [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]


@pytest.mark.parametrize(("own", "used"), OWN_WAITS)
def test_threads_soon_sleep_unless_the_user_decides(own, used):
    """The variable is read by PyTorch's OpenMP when it is loaded."""
    program = (
        "import os, sys; from gantk.__main__ import main; sys.argv = ['gantk', '--version']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    )
    waits = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    others = {key: value for key, value in os.environ.items() if key not in waits}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=others | own, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["False", used]
