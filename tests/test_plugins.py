"""Plugins: one door for everyone, names that collide loudly, broken ones that stop nobody, and the public names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys

import click
import pytest
from tiny import ROOT

import gantk
from gantk.errors import UserError
from gantk.plugin import hookspecs
from gantk.plugin.loader import attach_commands, load, registry
from gantk.plugin.registry import KINDS, Entry
from gantk.recipe.load import all_recipes, load_recipe

GENERATOR = """
from gantk import hookimpl

def build(in_channels, out_channels, dims, *, width: int = 8):
    "A generator."

@hookimpl
def gantk_register(add):
    add.generator("{name}", build)
"""
HOOK = "from gantk import hookimpl\n@hookimpl\ndef "
BROKEN = "raise RuntimeError('out of order')"


def state(plugin: str) -> str | None:
    return next(found.problem for found in load().plugins if found.name == plugin)


# ---- what is found -------------------------------------------------------------------------------


def test_an_installed_plugin_is_found_once_and_owns_what_it_offers(add_plugin, tmp_path, monkeypatch):
    folder = add_plugin("My_Package", "my_plugin", GENERATOR.format(name="mynet"))
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))  # the distribution is on the path twice
    (tmp_path / "elsewhere").symlink_to(folder)
    load.cache_clear()
    assert [plugin.name for plugin in load().plugins].count("my_plugin") == 1 and state("my_plugin") is None
    entry = registry().get("generator", "mynet")
    assert entry.owner == "My_Package" and callable(entry.load())
    method = {"name": "dualgan", "generator": {"name": "mynet", "width": 3}}
    model = load_recipe({"method": method, "train": {"steps": 1}}).check()
    assert model.method.options["generator"].options == {"width": 3}
    assert registry().get("method", "dualgan").target == "gantk_dualgan.model:DualGAN"


def test_a_string_is_imported_at_first_use_and_its_failure_names_the_owner():
    entry = Entry("generator", "late", "gantk_no_such_module:Net", "some-package")
    with pytest.raises(UserError, match=r"'late'.*gantk_no_such_module.*ModuleNotFoundError.*offered by some-package"):
        entry.load()


def test_a_checkout_that_nobody_installed_finds_its_own_plugins(tmp_path):
    (tmp_path / "hidden.py").write_text(
        "import importlib.metadata as metadata, sys\n"
        "every = metadata.distributions\n"
        "metadata.distributions = lambda: (one for one in every() if one.name != 'gantk')\n"
        f"sys.path = [{str(ROOT)!r}] + [p for p in sys.path if not p.endswith(('/plugins', '/benchmarks'))]\n"
        "sys.argv = ['gantk', 'plugins']\n"
        "from gantk.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "hidden.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["cyclegan", "gantk", "source", "loaded"] in lines and ["bench", "gantk", "source", "loaded"] in lines


# ---- collisions and broken plugins ---------------------------------------------------------------


def test_two_offers_of_one_name_are_an_error_that_names_both(add_plugin):
    add_plugin("greedy-package", "greedy", GENERATOR.format(name="unet"))
    with pytest.raises(UserError, match="'unet' is offered by 'gantk' and 'greedy-package'"):
        load_recipe({"method": {"name": "dualgan", "generator": "unet"}, "train": {"steps": 1}}).check()
    assert "unet" not in registry().names("generator") and registry().get("generator", "resnet")


def test_a_second_plugin_of_one_name_is_reported_and_not_skipped_in_silence(add_plugin):
    add_plugin("first-package", "plugin_one", GENERATOR.format(name="net_one"), point="shared")
    add_plugin("second-package", "plugin_two", GENERATOR.format(name="net_two"), point="shared")
    problems = [plugin.problem for plugin in load().plugins if plugin.name == "shared"]
    assert problems.count(None) == 1
    assert "the plugin name 'shared' is taken by the distribution 'first-package'" in problems
    assert registry().names("generator").count("net_two") == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (BROKEN, "RuntimeError: out of order"),
        ("import gantk_no_such_module", "ModuleNotFoundError"),
        ("def half(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (HOOK + "gantk_register(add):\n    add.genrator('x', int)", "add.genrator"),
        (HOOK + "gantk_register(add):\n    1 / 0", "ZeroDivisionError"),
        (HOOK + "gantk_register(add, more): pass", "more"),
    ],
)
def test_a_broken_plugin_is_reported_and_its_siblings_load(add_plugin, source, words):
    add_plugin("broken-package", "a_broken_one", source)  # sorts ahead of its sibling
    add_plugin("good-package", "good_plugin", GENERATOR.format(name="mynet"))
    assert words in state("a_broken_one") and words in registry().broken["a_broken_one"]
    assert state("good_plugin") is None and registry().get("generator", "mynet")
    assert registry().get("method", "dualgan")
    with pytest.raises(UserError, match=r"(?s)no generator 'lost'.*plugin 'a_broken_one' did not load"):
        registry().get("generator", "lost")


# ---- the hooks -----------------------------------------------------------------------------------


def test_every_hook_is_documented_and_tested():
    hooks = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "gantk_spec")}
    assert set(hooks) == {"gantk_register", "gantk_commands", "gantk_step", "gantk_phases"}
    tested = "\n".join(name for name in globals() if name.startswith("test_hook_"))
    for name, hook in hooks.items():
        assert len(inspect.getdoc(hook)) > 60, f"{name} has no docstring"
        assert name.removeprefix("gantk_") in tested, f"{name} has no test"
        for parameter in inspect.signature(hook).parameters:
            assert f"`{parameter}" in inspect.getdoc(hook), f"{name} does not say what '{parameter}' is"


def test_hook_register_takes_every_kind_and_recipes_of_a_package_with_and_without_init(add_plugin):
    assert all(f"`{kind}`" in hookspecs.gantk_register.__doc__ for kind in KINDS if kind != "method")
    lines = [f"    add.{kind}('mine', 'package.module:thing')" for kind in KINDS]
    lines += ["    add.recipes('my_recipes')", "    add.recipes('bare')"]
    folder = add_plugin("my-package", "my_plugin", "\n".join([HOOK + "gantk_register(add):", *lines]))
    for package, name in (("my_recipes", "one"), ("bare", "two")):
        (folder / package).mkdir()
        (folder / package / f"{name}.toml").write_text("summary = 'mine'\n[method]\nname = 'dualgan'\n", "utf-8")
    (folder / "my_recipes" / "__init__.py").touch()
    assert all(registry().get(kind, "mine").owner == "my-package" for kind in KINDS)
    known = all_recipes()
    assert known["one"][1] == "my-package" and known["two"][1] == "my-package"
    assert load_recipe("two").origin == "two.toml (bundled with my-package)"


COMMAND = """
import click, gantk

@click.command("{name}")
def command():
    "Mine."

@gantk.hookimpl
def gantk_commands(cli):
    cli.add_command(command)
"""


def test_hook_commands_attaches_a_command_and_cannot_take_or_stop_another(add_plugin):
    group, ours = click.Group("gantk"), click.Command("run")
    group.add_command(ours)
    add_plugin("failing-package", "failing", HOOK + "gantk_commands(cli): 1 / 0")
    add_plugin("greedy-package", "greedy", COMMAND.format(name="run"))
    add_plugin("good-package", "good_plugin", COMMAND.format(name="measure"))
    attach_commands(group)
    assert set(group.commands) - {"stylize", "bench"} == {"run", "measure"} and group.commands["run"] is ours
    assert state("good_plugin") is None and state("greedy") == "the command 'run' exists already"
    assert "ZeroDivisionError" in state("failing") and "failing" in registry().broken


WATCHER = """
import gantk
seen = []

@gantk.hookimpl
def gantk_step(run, stage, step, logs, batch):
    seen.append((run, stage, step, logs, {name: tuple(image.shape) for name, image in batch.items()}))
"""


def test_hook_step_sees_every_log_point(add_plugin, tiny_recipe, tmp_path):
    add_plugin("my-package", "my_watcher", WATCHER)
    tiny_recipe["train"] |= {"steps": 4, "log_every": 2}
    gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    import my_watcher

    assert [seen[:3] for seen in my_watcher.seen] == [(tmp_path / "run", "main", step) for step in (2, 4)]
    logs, shapes = my_watcher.seen[0][3:]
    assert logs["step"] == 2 and "generators/cycle_a" in logs["losses"]
    assert shapes == dict.fromkeys(("a", "b", "fake_a", "fake_b"), (2, 1, 32, 32))


PHASES = """
import gantk

@gantk.hookimpl
def gantk_phases(method, phases, train, notes):
    notes.append(f"mine: {len(method.phases())} phases, batch {train.batch}")
    return phases[:1]
"""


def test_hook_phases_changes_what_a_step_computes(add_plugin, tiny_recipe):
    from gantk.machine.runtime import start
    from gantk.training.assemble import assemble

    add_plugin("my-package", "my_phases", PHASES)
    engine = assemble(load_recipe(tiny_recipe).check(), start("cpu", "fp32")).engine
    assert [phase.name for phase in engine.phases] == ["generators"] and engine.notes == ["mine: 2 phases, batch 2"]


# ---- public names: they resolve, stay what they are, and are all that bundled plugins use --------

PLUGINS = sorted((ROOT / "plugins").glob("gantk_*/**/*.py"))


def modules() -> list[str]:
    found = pkgutil.walk_packages(gantk.__path__, "gantk.", onerror=lambda name: None)
    return [module.name for module in found if not module.name.endswith("__main__")]


def documented(thing: object) -> bool:
    return bool(inspect.getdoc(thing)) or not (inspect.isclass(thing) or inspect.isfunction(thing))


def test_public_names_are_documented_and_stay_what_they_are_once_every_module_is_imported():
    """A module gantk.run would take the place of the function gantk.run at its first import."""
    public = {name: getattr(gantk, name) for name in gantk.__all__}
    assert [name for name, thing in public.items() if inspect.ismodule(thing) or not documented(thing)] == []
    for name in modules():
        module = importlib.import_module(name)
        assert module.__doc__, f"{name} has no docstring"
        own = {k: v for k, v in vars(module).items() if getattr(v, "__module__", None) == name and inspect.isclass(v)}
        assert [k for k, thing in own.items() if not k.startswith("_") and not documented(thing)] == [], name
    assert {name: getattr(gantk, name) for name in gantk.__all__} == public
    assert not {module.split(".")[1] for module in modules()} & set(gantk.__all__)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_bundled_plugins_use_public_names_only_and_do_not_know_each_other(path):
    others = {p.parent.name for p in PLUGINS} - {path.parent.name}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        taken = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        assert taken.split(".")[0] not in others
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.split(".")[0] == "gantk"]
        elif taken.split(".")[0] == "gantk" and [alias.name for alias in node.names] != ["__version__"]:
            rooms = [room for room in gantk.PLUGIN_ROOMS if f"{taken}.".startswith(f"{room}.")]
            assert rooms, f"{path.name} imports {taken}, which is no room for plugins"
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]
