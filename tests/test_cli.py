"""The command line: a thin skin on the Python API, exit codes, and what each command prints and writes."""

from __future__ import annotations

import json
import shutil
import sys

import click
import pytest

from gantk import api
from gantk.cli import cli, main
from gantk.errors import GantkError
from gantk.plugin.loader import registry
from gantk.plugin.registry import KINDS
from gantk.recipe.load import all_recipes


def commands(group: click.Group, words: tuple[str, ...] = ()):
    """(words, command) of every command and sub-command."""
    for name, command in sorted(group.commands.items()):
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


# ---- the contract --------------------------------------------------------------------------------


def test_the_commands_of_the_contract_are_there():
    known = {" ".join(words) for words, _ in commands(cli)}
    promised = {"run", "resume", "translate", "eval", "list", "show", "plugins", "recipes", "recipes copy"}
    assert promised | {"new plugin", "doctor"} <= known


@pytest.mark.parametrize(("words", "command"), [pytest.param(w, c, id=" ".join(w)) for w, c in commands(cli)])
def test_every_command_explains_itself(gantk, words, command):
    for flag in ("--help", "-h"):
        outcome = gantk(*words, flag)
        assert outcome.code == 0 and outcome.out.startswith("Usage: ")
    assert command.help and command.help.split("\n")[0].endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(words)}: {parameter.name} has no help"


@pytest.mark.parametrize(
    ("command", "function"),
    [("run", api.run), ("resume", api.resume), ("translate", api.translate), ("eval", api.evaluate)],
)
def test_commands_take_what_their_functions_take(command, function):
    import inspect

    renamed = {"trial": None, "json_file": None, "pred": None, "truth": None}  # files, and another function's
    names = {renamed.get(parameter.name, parameter.name) for parameter in cli.commands[command].params} - {None}
    assert names == set(inspect.signature(function).parameters) - {"say", "progress"}


def test_the_version_is_the_distributions(gantk):
    from importlib.metadata import version

    assert gantk("--version").out.strip() == f"gantk {version('gantk')}"


# ---- exit codes ----------------------------------------------------------------------------------


def test_a_failure_that_is_not_the_users_exits_1(gantk, monkeypatch, tiny_file):
    def fail(*args, **kwargs):
        raise GantkError("the loss x is not finite [at] step 3.")

    monkeypatch.setattr(api, "run", fail)
    outcome = gantk("run", tiny_file)
    assert outcome.code == 1 and outcome.err == "error  the loss x is not finite [at] step 3.\n"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, click.Abort])
def test_an_interruption_outside_the_training_exits_130_too(gantk, monkeypatch, tiny_file, stop):
    def interrupted(*args, **kwargs):
        raise stop

    monkeypatch.setattr(api, "run", interrupted)
    outcome = gantk("run", tiny_file)
    assert outcome.code == 130 and "Traceback" not in outcome.err


def test_anything_else_keeps_its_traceback(gantk, monkeypatch, tiny_file):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(api, "run", broken)
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
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


# ---- run, resume, eval ---------------------------------------------------------------------------


def test_run_from_recipe_to_report(gantk_process, tiny_file, tmp_path):
    """The one end-to-end run in a process of its own: what a user types, from a folder of theirs."""
    here = tmp_path / "here"
    here.mkdir()
    outcome = gantk_process("run", tiny_file, "--out", "mine", "--device", "cpu", "--set", "train.steps=3", cwd=here)
    assert outcome.code == 0, outcome.err
    first, *lines = outcome.out.splitlines()
    assert first == f"recipe   {tiny_file}"  # the first line says which recipe it is
    assert any("step 3/3" in line for line in lines), "no plain progress lines where there is no terminal"
    assert "\x1b" not in outcome.out and "[red]" not in outcome.out and "[/]" not in outcome.out
    run = here / "mine"
    assert sorted(path.name for path in run.iterdir()) == [
        *("best.json", "checkpoints", "environment.json", "log.jsonl", "metrics.json"),
        *("recipe.toml", "report.html", "samples", "split.json", "usage.json"),
    ]
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["metrics"]) == {"a_to_b", "b_to_a"} and {"psnr", "mae"} <= set(metrics["metrics"]["a_to_b"])
    assert {"identity", "histogram"} <= set(metrics["baselines"])
    assert str(run / "report.html").endswith(lines[-1].split()[-1])
    environment = json.loads((run / "environment.json").read_text())
    assert environment["command"].startswith("gantk run ") and "--set train.steps=3" in environment["command"]
    assert [path.name for path in here.iterdir()] == ["mine"], "something was written beside the run"


def test_runs_without_out_go_to_runs_name_time(gantk, tiny_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = gantk("run", tiny_file, "--device", "cpu", "--set", "train.steps=1", "--seed", "5", "--precision", "fp32")
    assert outcome.code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("tiny-")
    assert "seed = 5\n" in (run / "recipe.toml").read_text()


def test_eval_of_a_run_gives_its_metrics_again(gantk, copied_run, tmp_path):
    known = json.loads((copied_run / "metrics.json").read_text())
    outcome = gantk("eval", copied_run, "--device", "cpu", "--json", tmp_path / "scores.json")
    assert outcome.code == 0 and "identity" in outcome.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["metrics"] == known["metrics"] and scores["baselines"] == known["baselines"]


# ---- translate -----------------------------------------------------------------------------------


def test_one_broken_file_of_a_folder_does_not_stop_the_others(gantk, tiny_run, pictures, tmp_path):
    pictures(tmp_path / "in", 3)[1].write_bytes(b"broken")
    outcome = gantk("translate", tiny_run, tmp_path / "in", tmp_path / "out", "--device", "cpu")
    assert outcome.code == 1 and "1 of 3 files" in outcome.err and "slice-01.png" in outcome.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["slice-00.png", "slice-02.png"]


# ---- looking around ------------------------------------------------------------------------------


def test_list_names_everything_and_who_offers_it(gantk):
    lines = gantk("list").out.splitlines()
    for kind in KINDS:
        for name in registry().names(kind):
            assert any(line.split() == [kind, name, registry().get(kind, name).owner] for line in lines), (kind, name)


@pytest.mark.parametrize("kind", ["generator", "generators", "losses", "loss", "metrics"])
def test_list_takes_a_kind_in_singular_and_plural(gantk, kind):
    single = {"losses": "loss"}.get(kind, kind.rstrip("s") if kind != "loss" else "loss")
    lines = gantk("list", kind).out.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [[single, name] for name in registry().names(single)]


def test_list_reports_a_broken_plugin_beside_what_works(gantk, add_plugin):
    add_plugin("broken-package", "a_broken_one", "raise RuntimeError('out of order')")
    outcome = gantk("list", "generator")
    assert outcome.code == 0 and "unet" in outcome.out and "out of order" in outcome.err


def test_show_tells_options_with_choices_defaults_and_effects(gantk):
    def options(kind: str, name: str) -> dict[str, str]:
        table = gantk("show", kind, name).out.split("\noption ")[-1]
        return {line.split()[0]: line for line in table.splitlines()[1:]}

    rows = options("generator", "unet")
    assert rows["depth"].split()[1:3] == ["int", "5"] and "halvings" in rows["depth"]
    assert '"instance" | "batch"' in rows["norm"] and "NormKind" not in rows["norm"]
    rows = options("method", "dualgan")
    assert rows["generator"].split()[1] == "generator" and "list of augment" in rows["augment"]
    assert "float | none" in rows["cycle_b"]


def test_plugins_shows_each_with_its_state(gantk, add_plugin):
    add_plugin("broken-package", "a_broken_one", "raise RuntimeError('out of [order]')")
    lines = gantk("plugins").out.splitlines()
    assert any(line.startswith("dualgan") and "loaded" in line for line in lines)
    assert any(line.startswith("a_broken_one") and "out of [order]" in line for line in lines)


def test_recipes_copy_is_a_start_for_ones_own(gantk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert gantk("recipes", "copy", "dualgan_t1t2").code == 0
    assert (tmp_path / "dualgan_t1t2.toml").read_bytes() == all_recipes()["dualgan_t1t2"][0].read_bytes()
    (tmp_path / "sub").mkdir()
    assert gantk("recipes", "copy", "dualgan_t1t2", "sub").code == 0
    assert gantk("recipes", "copy", "dualgan_t1t2", "own.toml").code == 0
    assert {p.name for p in tmp_path.rglob("*.toml")} == {"dualgan_t1t2.toml", "own.toml"}
    assert gantk("recipes", "copy", "dualgan_t1t2", "nowhere/own.toml").code == 2


def test_doctor_reports_the_machine_and_what_is_amiss(gantk, monkeypatch, add_plugin):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DISK)
    outcome = gantk("doctor")
    assert outcome.code == 0, outcome.out
    for word in ("gantk", "python", "torch", "device", "disk", "plugin dualgan"):
        assert word in outcome.out
    add_plugin("broken-package", "a_broken_one", "raise RuntimeError('out of order')")
    outcome = gantk("doctor")
    assert outcome.code == 1 and "out of order" in outcome.out


class DISK:
    """A disk with room."""

    free = 100 * 2**30
