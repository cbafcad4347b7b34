"""Plugins: one door for everyone, names that collide loudly, and a broken one that stops nobody else."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gantk.errors import UserError
from gantk.plugin import hookspecs
from gantk.plugin.loader import attach_commands, load, registry
from gantk.plugin.registry import KINDS, Add, Entry
from gantk.recipe.load import all_recipes, load_recipe

ROOT = Path(__file__).parent.parent
GENERATOR = """
from gantk import hookimpl

def build(in_channels, out_channels, dims, *, width: int = 8):
    "A generator."

@hookimpl
def gantk_register(add):
    add.generator("{name}", build)
"""


def state(plugin: str) -> str | None:
    return next(found.problem for found in load().plugins if found.name == plugin)


# ---- what is found -------------------------------------------------------------------------------


def test_the_bundled_methods_come_through_entry_points():
    assert {"cyclegan", "dualgan"} <= {plugin.name for plugin in load().plugins if plugin.distribution == "gantk"}
    assert registry().get("method", "dualgan").target == "gantk_dualgan.model:DualGAN"


def test_an_installed_plugin_is_found_and_owns_what_it_offers(add_plugin):
    add_plugin("My_Package", "my_plugin", GENERATOR.format(name="mynet"))
    entry = registry().get("generator", "mynet")
    assert entry.owner == "My_Package" and callable(entry.load())
    assert state("my_plugin") is None
    model = load_recipe(
        {"method": {"name": "dualgan", "generator": {"name": "mynet", "width": 3}}, "train": {"steps": 1}}
    )
    assert model.check().method.options["generator"].options == {"width": 3}


def test_a_distribution_that_is_on_the_path_twice_is_loaded_once(add_plugin, tmp_path, monkeypatch):
    folder = add_plugin("my-package", "my_plugin", GENERATOR.format(name="mynet"))
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").symlink_to(folder)
    load.cache_clear()
    assert [plugin.name for plugin in load().plugins].count("my_plugin") == 1
    assert registry().get("generator", "mynet")


def test_a_string_is_imported_at_first_use_and_its_failure_names_the_owner():
    entry = Entry("generator", "late", "gantk_no_such_module:Net", "some-package")
    with pytest.raises(UserError, match=r"'late'.*gantk_no_such_module.*ModuleNotFoundError.*offered by some-package"):
        entry.load()


# ---- collisions ----------------------------------------------------------------------------------


def test_two_offers_of_one_name_are_an_error_that_names_both(add_plugin):
    add_plugin("first-package", "plugin_one", GENERATOR.format(name="mynet"))
    add_plugin("second-package", "plugin_two", GENERATOR.format(name="mynet"))
    with pytest.raises(UserError, match="'mynet' is offered by 'first-package' and 'second-package'"):
        registry().get("generator", "mynet")
    assert "mynet" not in registry().names("generator")
    assert registry().get("generator", "unet")


def test_a_plugin_that_takes_a_name_of_ours_does_not_get_it(add_plugin):
    add_plugin("greedy-package", "greedy", GENERATOR.format(name="unet"))
    recipe = load_recipe({"method": {"name": "dualgan", "generator": "unet"}, "train": {"steps": 1}})
    with pytest.raises(UserError, match="'unet' is offered by 'gantk' and 'greedy-package'"):
        recipe.check()


def test_a_second_plugin_of_one_name_is_reported_and_not_skipped_in_silence(add_plugin):
    add_plugin("first-package", "plugin_one", GENERATOR.format(name="net_one"), point="shared")
    add_plugin("second-package", "plugin_two", GENERATOR.format(name="net_two"), point="shared")
    problems = [plugin.problem for plugin in load().plugins if plugin.name == "shared"]
    assert problems.count(None) == 1
    assert "the plugin name 'shared' is taken by the distribution 'first-package'" in problems
    assert registry().names("generator").count("net_two") == 0


# ---- broken plugins ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
        ("import gantk_no_such_module", "ModuleNotFoundError"),
        ("def half(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("from gantk import hookimpl\n@hookimpl\ndef gantk_register(add):\n    add.genrator('x', int)", "add.genrator"),
        ("from gantk import hookimpl\n@hookimpl\ndef gantk_register(add):\n    1 / 0", "ZeroDivisionError"),
        ("from gantk import hookimpl\n@hookimpl\ndef gantk_register(add, more): pass", "more"),
    ],
)
def test_a_broken_plugin_is_reported_and_its_siblings_load(add_plugin, source, words):
    add_plugin("broken-package", "a_broken_one", source)  # sorts ahead of its sibling
    add_plugin("good-package", "good_plugin", GENERATOR.format(name="mynet"))
    assert words in state("a_broken_one") and words in registry().broken["a_broken_one"]
    assert state("good_plugin") is None and registry().get("generator", "mynet")
    assert registry().get("method", "dualgan")


def test_a_name_that_is_missing_quotes_the_plugins_that_did_not_load(add_plugin):
    add_plugin("broken-package", "a_broken_one", "raise RuntimeError('out of order')")
    with pytest.raises(UserError, match=r"no generator 'lost'.*plugin 'a_broken_one' did not load.*out of order"):
        registry().get("generator", "lost")


# ---- the hooks -----------------------------------------------------------------------------------


def hooks() -> dict:
    return {name: value for name, value in vars(hookspecs).items() if hasattr(value, "gantk_spec")}


def test_every_hook_is_documented_and_tested():
    assert set(hooks()) == {"gantk_register", "gantk_commands", "gantk_step"}
    tested = "\n".join(name for name in globals() if name.startswith("test_hook_"))
    for name, hook in hooks().items():
        assert len(inspect.getdoc(hook)) > 60, f"{name} has no docstring"
        assert name.removeprefix("gantk_") in tested, f"{name} has no test"
        for parameter in inspect.signature(hook).parameters:
            assert f"`{parameter}" in inspect.getdoc(hook), f"{name} does not say what '{parameter}' is"


def test_hook_register_takes_every_kind_and_recipes(add_plugin):
    assert all(f"`{kind}`" in hookspecs.gantk_register.__doc__ for kind in KINDS if kind != "method")
    lines = [f"    add.{kind}('mine', 'package.module:thing')" for kind in KINDS]
    add_plugin(
        "my-package", "my_plugin", "\n".join(["import gantk", "@gantk.hookimpl", "def gantk_register(add):", *lines])
    )
    assert all(registry().get(kind, "mine").owner == "my-package" for kind in KINDS)


def test_hook_register_offers_recipes_of_a_package_with_and_without_init(add_plugin):
    source = "import gantk\n@gantk.hookimpl\ndef gantk_register(add):\n"
    source += "    add.recipes('my_recipes')\n    add.recipes('bare')\n"
    folder = add_plugin("my-package", "my_plugin", source)
    for package, name in (("my_recipes", "one"), ("bare", "two")):
        (folder / package).mkdir()
        (folder / package / f"{name}.toml").write_text("summary = 'mine'\n[method]\nname = 'dualgan'\n", "utf-8")
    (folder / "my_recipes" / "__init__.py").touch()
    known = all_recipes()
    assert known["one"][1] == "my-package" and known["two"][1] == "my-package"
    assert load_recipe("two").origin == "two.toml (bundled with my-package)"


@pytest.fixture
def group() -> click.Group:
    group = click.Group("gantk")
    group.add_command(click.Command("run"))
    return group


COMMAND = """
import click, gantk

@click.command("{name}")
def command():
    "Mine."

@gantk.hookimpl
def gantk_commands(cli):
    cli.add_command(command)
"""


def test_hook_commands_attaches_a_command(add_plugin, group):
    add_plugin("my-package", "my_plugin", COMMAND.format(name="measure"))
    attach_commands(group)
    assert set(group.commands) - {"stylize", "bench"} == {"run", "measure"} and state("my_plugin") is None


def test_hook_commands_cannot_take_a_command_that_exists(add_plugin, group):
    ours = group.commands["run"]
    add_plugin("my-package", "my_plugin", COMMAND.format(name="run"))
    add_plugin("good-package", "good_plugin", COMMAND.format(name="measure"))
    attach_commands(group)
    assert group.commands["run"] is ours and "measure" in group.commands
    assert state("my_plugin") == "the command 'run' exists already"


def test_hook_commands_that_fails_stops_nobody(add_plugin, group):
    add_plugin("my-package", "my_plugin", "import gantk\n@gantk.hookimpl\ndef gantk_commands(cli): 1 / 0\n")
    add_plugin("good-package", "good_plugin", COMMAND.format(name="measure"))
    attach_commands(group)
    assert set(group.commands) - {"stylize", "bench"} == {"run", "measure"}
    assert "ZeroDivisionError" in state("my_plugin") and "my_plugin" in registry().broken


WATCHER = """
import gantk
seen = []

@gantk.hookimpl
def gantk_step(run, stage, step, logs, batch):
    seen.append((run, stage, step, logs, {name: tuple(image.shape) for name, image in batch.items()}))
"""


def test_hook_step_sees_every_log_point(add_plugin, tiny_recipe, tmp_path):
    import gantk

    add_plugin("my-package", "my_watcher", WATCHER)
    tiny_recipe["train"] |= {"steps": 4, "log_every": 2}
    gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    import my_watcher

    assert [(run, stage, step) for run, stage, step, _, _ in my_watcher.seen] == [
        (tmp_path / "run", "main", 2),
        (tmp_path / "run", "main", 4),
    ]
    logs, shapes = my_watcher.seen[0][3:]
    assert logs["step"] == 2 and "generators/cycle_a" in logs["losses"]
    assert shapes == dict.fromkeys(("a", "b", "fake_a", "fake_b"), (2, 1, 32, 32))


# ---- registries ----------------------------------------------------------------------------------


def test_add_offers_the_kinds_and_nothing_else():
    with pytest.raises(AttributeError, match=r"add\.genrator does not exist; there are .*add\.generator"):
        Add("me").genrator("x", int)


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
