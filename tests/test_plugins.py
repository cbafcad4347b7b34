"""Plugins: one door for everyone, names that collide loudly, broken ones that stop nobody, and the public names."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image
from tiny import ROOT

import gantk
from gantk.data.dataset import Data
from gantk.data.sources.folders import Folders
from gantk.errors import UserError
from gantk.plugin import hookspecs
from gantk.plugin.loader import attach_commands, load, registry
from gantk.plugin.registry import KINDS, Entry
from gantk.recipe.load import all_recipes, load_recipe
from gantk.runs.models import find_model

HOOK = "import click, gantk\nseen = []\n@gantk.hookimpl\ndef "
GENERATOR = HOOK + "gantk_register(add): add.generator('{name}', 'package.module:thing')"


def state(plugin: str) -> str | None:
    return next(found.problem for found in load().plugins if found.name == plugin)


# ---- what is found -------------------------------------------------------------------------------


def test_a_distribution_that_is_on_the_path_twice_is_found_once(add_plugin, tmp_path, monkeypatch):
    folder = add_plugin("My_Package", "my_plugin", GENERATOR.format(name="mynet"))
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").symlink_to(folder)
    load.cache_clear()
    assert [plugin.name for plugin in load().plugins].count("my_plugin") == 1 and state("my_plugin") is None
    assert registry().get("generator", "mynet").owner == "My_Package"


def test_a_string_is_imported_at_first_use_and_its_failure_names_the_owner():
    entry = Entry("generator", "late", "gantk_no_such_module:Net", "some-package")
    with pytest.raises(UserError, match=r"'late'.*gantk_no_such_module.*ModuleNotFoundError.*offered by some-package"):
        entry.load()


def test_a_checkout_that_nobody_installed_finds_its_own_plugins(tmp_path):
    hidden = (
        "import importlib.metadata as metadata, sys\n"
        "every = metadata.distributions\n"
        "metadata.distributions = lambda: (one for one in every() if one.name != 'gantk')\n"
        f"sys.path = [{str(ROOT)!r}] + [p for p in sys.path if not p.endswith(('/plugins', '/benchmarks'))]\n"
        "sys.argv = ['gantk', 'plugins']\n"
        "from gantk.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["cyclegan", "gantk", "source", "loaded"] in lines and ["bench", "gantk", "source", "loaded"] in lines


# ---- collisions and broken plugins ---------------------------------------------------------------


def test_a_second_plugin_of_one_name_is_reported_and_not_skipped_in_silence(add_plugin):
    add_plugin("first-package", "plugin_one", GENERATOR.format(name="net_one"), point="shared")
    add_plugin("second-package", "plugin_two", GENERATOR.format(name="net_two"), point="shared")
    problems = [plugin.problem for plugin in load().plugins if plugin.name == "shared"]
    assert problems == [None, "the plugin name 'shared' is taken by the distribution 'first-package'"]
    assert "net_one" in registry().names("generator") and "net_two" not in registry().names("generator")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import gantk_no_such_module", "ModuleNotFoundError"),
        ("def half(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (HOOK + "gantk_register(add):\n    add.genrator('x', int)", "add.genrator"),
        (HOOK + "gantk_register(add):\n    add.loss('half', int)\n    1 / 0", "ZeroDivisionError"),
        (HOOK + "gantk_register(add, more): pass", "more"),
    ],
)
def test_a_broken_plugin_is_reported_and_its_siblings_load(add_plugin, source, words):
    add_plugin("broken-package", "a_broken_one", source)  # sorts ahead of its sibling
    add_plugin("good-package", "good_plugin", GENERATOR.format(name="mynet"))
    assert words in state("a_broken_one") and words in registry().broken["a_broken_one"]
    assert state("good_plugin") is None and registry().get("generator", "mynet")
    assert "half" not in registry().names("loss")  # all or nothing
    with pytest.raises(UserError, match=r"(?s)no generator 'lost'.*plugin 'a_broken_one' did not load"):
        registry().get("generator", "lost")


# ---- the hooks -----------------------------------------------------------------------------------


def test_every_hook_is_documented_and_tested():
    hooks = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "gantk_spec")}
    files = [Path(__file__), ROOT / "tests" / "promises" / "test_outside_plugins.py"]
    written = "".join(file.read_text("utf-8") for file in files)
    assert len(hooks) == 18
    for name, hook in hooks.items():
        assert f"{name}(" in written, f"{name} has no test"
        for parameter in inspect.signature(hook).parameters:
            assert f"`{parameter}" in inspect.getdoc(hook), f"{name} does not say what '{parameter}' is"


def test_hook_register_takes_recipes_of_a_package_with_and_without_init(add_plugin):
    assert all(f"`{kind}`" in hookspecs.gantk_register.__doc__ for kind in KINDS if kind != "method")
    recipes = "gantk_register(add):\n    add.recipes('my_recipes')\n    add.recipes('bare')"
    folder = add_plugin("my-package", "my_plugin", HOOK + recipes)
    for package, name in (("my_recipes", "one"), ("bare", "two")):
        (folder / package).mkdir()
        (folder / package / f"{name}.toml").write_text("summary = 'mine'\n[method]\nname = 'dualgan'\n", "utf-8")
    (folder / "my_recipes" / "__init__.py").touch()
    assert all_recipes()["one"][1] == "my-package"
    assert load_recipe("two").origin == "two.toml (bundled with my-package)"


def test_hook_model_finds_what_an_address_names(add_plugin, tmp_path):
    source = f"gantk_model(address, say):\n    say(address)\n    return __import__('pathlib').Path({str(tmp_path)!r})"
    add_plugin("my-package", "my_plugin", HOOK + source)
    assert find_model("my://model", (heard := []).append) == tmp_path and heard == ["my://model"]


def test_hook_commands_attaches_a_command_and_cannot_take_or_stop_another(add_plugin):
    group, ours = click.Group("gantk"), click.Command("run")
    group.add_command(ours)
    command = HOOK + "gantk_commands(cli): cli.add_command(click.Command('{name}'))"
    add_plugin("failing-package", "failing", HOOK + "gantk_commands(cli): 1 / 0")
    add_plugin("greedy-package", "greedy", command.format(name="run"))
    add_plugin("good-package", "good_plugin", command.format(name="measure"))
    attach_commands(group)
    assert "measure" in group.commands and group.commands["run"] is ours
    assert state("good_plugin") is None and state("greedy") == "the command 'run' exists already"
    assert "ZeroDivisionError" in state("failing") and "failing" in registry().broken


def test_hook_tested_sees_the_test_images_with_their_scores_and_end_the_report(add_plugin, tiny_recipe, tmp_path):
    end = "@gantk.hookimpl\ndef gantk_end(run): (run / 'report.html').rename(run / 'mine.html')"
    add_plugin("my-package", "my_cases", HOOK + f"gantk_tested(run, tested): seen.append((run, tested))\n{end}")
    gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    assert (tmp_path / "run" / "mine.html").exists()
    ((run, tested),) = importlib.import_module("my_cases").seen
    assert run == tmp_path / "run" and list(tested) == ["a_to_b", "b_to_a"]
    one = tested["a_to_b"]
    assert one.made.shape == one.inputs.shape == one.references.images.shape == (len(one.pairs), 1, 32, 32)
    assert len(one.scores.values["raw", "psnr"]) == len(one.pairs) and one.to == "b" and one.senses["mae"] is False


def test_hook_report_adds_a_section_to_the_page(add_plugin, copied_run):
    from gantk.report import write_report

    made = "dict(folder=pathlib.Path(__file__).parent, template='own.html.j2', styles=['own.css'], "
    made += "policy='; worker-src x')"
    folder = add_plugin("my-package", "mine", HOOK + f"gantk_report(record):\n    import pathlib\n    return {made}")
    (folder / "own.html.j2").write_text("<section id='own'>{{ section.template }} of {{ run.path.name }}</section>")
    (folder / "own.css").write_text("#own { color: red; }")
    page = write_report(copied_run).read_text("utf-8")
    assert "own.html.j2 of run" in page and "#own { color: red; }" in page and "worker-src x" in page


def test_hook_input_warns_of_images_that_are_translated(add_plugin, tiny_run, tmp_path, pictures):
    warn = "gantk_input(image, frame): return f'{frame.source} of {image.dims} axes'"
    add_plugin("my-package", "my_warnings", HOOK + warn)
    pictures(tmp_path / "in", 3)
    said = []
    gantk.translate(tiny_run, tmp_path / "in", tmp_path / "out", device="cpu", say=said.append)
    assert sum(line.startswith("warning  T1 of 2 axes (3 of 3 images: slice-00.png, ") for line in said) == 1


def test_hook_results_names_what_becomes_of_inputs(add_plugin, tiny_run, tmp_path, pictures):
    names = "gantk_results(files):\n    return Names()\nclass Names:\n    name = lambda self, files, tail, contrast: "
    names += "f'{contrast}/mine' if '1' in files[0].stem else None\n    written = lambda self, *_: seen.append(_[0])"
    add_plugin("my-package", "my_names", HOOK + names)
    pictures(tmp_path / "in", 3)
    said, seen = [], importlib.import_module("my_names").seen
    (made,) = gantk.translate(tiny_run, tmp_path / "in", tmp_path / "out", device="cpu", say=said.append)
    assert seen == [made] and made == tmp_path / "out" / "T2" / "mine.png" and made.is_file()
    assert "left out, not called T1 (2 of 3 images: slice-00.png, slice-02.png)" in said[0]


def test_hook_done_remembers_what_is_translated(add_plugin, tiny_run, tmp_path, pictures):
    known = "gantk_done(folder, asked):\n    seen.append(asked)\n    return Known()\nclass Known:\n"
    known += "    results = lambda self, job: [job.target] if '1' in job.name else None\n"
    known += "    add = lambda self, job, paths: seen.append(paths)\n    __enter__ = __exit__ = lambda *_: None"
    add_plugin("another-package", "my_done", HOOK + known)
    pictures(tmp_path / "in", 3)
    gantk.translate(tiny_run, tmp_path / "in", tmp_path / "out", device="cpu", say=lambda line: None)
    asked, *written = importlib.import_module("my_done").seen
    assert [path.name for (path,) in written] == ["slice-00.png", "slice-02.png"] and asked["clip"] is True


def test_hook_phases_changes_what_a_step_computes(add_plugin, tiny_recipe):
    from gantk.machine.runtime import start
    from gantk.training.assemble import assemble

    change = "gantk_phases(phases, train, notes):\n    notes.append(f'batch {train.batch}')\n    return phases[:1]"
    add_plugin("my-package", "my_phases", HOOK + change)
    engine = assemble(load_recipe(tiny_recipe).check(), start("cpu", "fp32")).engine
    assert [phase.name for phase in engine.phases] == ["generators"] and engine.notes == ["batch 2"]


def test_hook_check_refuses_a_training_before_anything_of_it_is_written(add_plugin, tiny_recipe, tmp_path):
    refuse = "gantk_check(model): raise gantk.UserError(f'not {model.train.steps}')"
    add_plugin("my-package", "my_plugin", HOOK + refuse)
    with pytest.raises(UserError, match="not 4"):
        gantk.run(tiny_recipe, out=tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_hook_translate_takes_what_others_hold_and_leaves_the_rest(add_plugin, tiny_run):
    take = "gantk_translate(images, to):\n    return f'{to} of a set' if isinstance(images, set) else None"
    add_plugin("my-package", "my_images", HOOK + take)
    model = gantk.load(tiny_run, device="cpu")
    assert model.translate({"image"}, to="T2") == "T2 of a set"
    with pytest.raises(gantk.UserError, match="'nothing' does not exist"):
        model.translate("nothing")


def test_hook_load_opens_a_model_of_another_kind(add_plugin, tiny_run):
    add_plugin("my-package", "opens", HOOK + "gantk_load(model, device):\n    return device if model == 7 else None")
    assert gantk.load(7, device="mine") == "mine" and gantk.load(tiny_run, device="cpu").contrasts("b") == ["T2"]


def test_hook_split_says_who_is_in_which_set(add_plugin, tiny_recipe):
    first = "[replace(r, split='test' if r.subject == file else 'train') for r in records], {'file': file}"
    split = f"gantk_split(records, file, folds, fold):\n    from dataclasses import replace\n    return {first}"
    add_plugin("my-package", "my_split", HOOK + split)
    tiny_recipe["data"]["split"] = {"file": "subject-002"}
    data = load_recipe(tiny_recipe).check().data
    found = Data(data, gantk.Method)
    assert {record.subject for record in found.splits["test"]} == {"subject-002"} and found.splits.by == "file"


def test_hook_keep_brings_training_images_of_another_kind(add_plugin, tiny_recipe, tmp_path):
    source = "({'name': 'phantom', 'subjects': 5, 'slices': 1}, f'{data} as {domains[1]}')"
    add_plugin("my-package", "my_data", HOOK + f"gantk_keep(data, folder, domains):\n    return {source}")
    tiny_recipe["train"]["steps"], said = 0, []
    run = gantk.run(tiny_recipe, data=7, out=tmp_path / "run", device="cpu", say=said.append)
    assert run.recipe().tables["data"]["source"]["subjects"] == 5 and "kept     7 as T2" in said


def test_hook_subjects_reads_patients_off_names(add_plugin, tmp_path):
    for name in ("A/x1", "A/y1", "B/x2", "B/y2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (16, 16)).save(tmp_path / f"{name}.png")
    first = HOOK + "gantk_subjects(items, how):\n    return [item.stem[0] + how for item in items]"
    add_plugin("my-package", "my_subjects", first)
    records = Folders(("A", "B"), 2, (16, 16), path=str(tmp_path), patient="names").records()
    assert [record.subject for record in records] == ["xtake", "ytake"] * 2


def test_hook_html_is_what_a_notebook_shows_of_a_run(add_plugin, tiny_run):
    add_plugin("my-package", "my_page", HOOK + "gantk_html(run):\n    return f'<b>{run.path.name}</b>'")
    assert gantk.Run(tiny_run)._repr_html_() == f"<b>{tiny_run.name}</b>"


# ---- public names: they resolve, stay what they are, and are all that bundled plugins use --------


def test_public_names_stay_what_they_are_once_every_module_is_imported():
    """A module gantk.run would take the place of the function gantk.run at its first import."""
    public = {name: getattr(gantk, name) for name in gantk.__all__}
    assert [name for name, thing in public.items() if inspect.ismodule(thing)] == []
    for module in pkgutil.walk_packages(gantk.__path__, "gantk.", onerror=lambda name: None):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert {name: getattr(gantk, name) for name in gantk.__all__} == public


@pytest.mark.parametrize("package", sorted(path.name for path in (ROOT / "plugins").glob("gantk_*")))
def test_bundled_plugins_use_public_names_only_and_do_not_know_each_other(package):
    others = {path.name for path in (ROOT / "plugins").glob("gantk_*")} - {package}
    for path in (ROOT / "plugins" / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {"gantk", *others}, path
            elif isinstance(node, ast.ImportFrom):
                room, taken = node.module or "", [alias.name for alias in node.names]
                assert room.split(".")[0] not in others, path
                if room == "gantk":
                    assert set(taken) <= {*gantk.__all__, "__version__"}, path
                elif room.split(".")[0] == "gantk":
                    assert any(f"{room}.".startswith(f"{known}.") for known in gantk.PLUGIN_ROOMS), (path, room)
                    assert not [name for name in taken if name.startswith("_")], path
