"""A third party's package works: its parts, recipe, command, hooks, and
what it imports.
"""

import importlib
import importlib.metadata
import shutil
from pathlib import Path

import pytest
from files import HERE, install_plugin, log_of, saved, several
from packages import install
from PIL import Image
from tiny import read_json

PACKAGES = HERE / "third_party"

# What 0.1 told plugins to build on, and what its bundled ones and the package that it scaffolds
# import.
PUBLIC = read_json(HERE / "names.json")["modules"]

EVERY_HOOK = '''
"""A plugin of one module that offers a part of every kind and watches trainings."""
from gantk import hookimpl

KINDS = "method generator discriminator loss source metric augment optimizer schedule intensity post".split()

@hookimpl
def gantk_register(add):
    for kind in KINDS:
        getattr(add, kind)(f"my_{kind}", "gantk_watching:part")

@hookimpl
def gantk_step_logged(run, stage, step, logs, batch):
    with open(run / "watched.txt", "a") as file:
        print(stage, step, logs["step"], "losses" in logs, sorted(batch)[0], file=file)
'''


@pytest.mark.parametrize("module", PUBLIC)
def test_what_plugins_import_is_there(module):
    place = importlib.import_module(module)
    assert [name for name in PUBLIC[module] if not hasattr(place, name)] == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The working package with a broken one and a watching one beside it."""
    work = tmp_path_factory.mktemp("installed")
    for name in ("oneway", "broken"):
        install(PACKAGES / name, work / "site", work)
    return install_plugin(work / "site", "gantk_watching", EVERY_HOOK)


@pytest.fixture(scope="module")
def ends_of_commands(installed, tmp_path_factory):
    """What commands ended with where the outside plugins are installed, by their first word."""
    commands = {
        "list": ["list"],
        "recipes": ["recipes"],
        "greet": ["greet", "Ada"],
        "plugins": ["plugins"],
        "run": ["run", "oneway_t1t2", "--set", "method=brokengan"],
    }
    folder = tmp_path_factory.mktemp("outside")
    ends = several(*commands.values(), cwd=folder, installed=installed)
    return dict(zip(commands, ends, strict=True))


def words_of(end) -> list[list[str]]:
    """The words of each line that a command printed."""
    assert end.code == 0, end
    return [line.split() for line in end.out.splitlines()]


OUTSIDE_PARTS = [
    ("method", "oneway", "gantk-oneway"),
    ("generator", "two_layers", "gantk-oneway"),
    ("loss", "mean_gap", "gantk-oneway"),
    ("method", "dualgan", "gantk"),
    *(
        (kind, f"my_{kind}", "gantk-watching")
        for kind in [
            "method",
            "generator",
            "discriminator",
            "loss",
            "source",
            "metric",
            "augment",
            "optimizer",
            "schedule",
            "intensity",
            "post",
        ]
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "owner"), OUTSIDE_PARTS)
def test_outside_parts_are_listed_beside_ours(ends_of_commands, kind, name, owner):
    assert [kind, name, owner] in [words[:3] for words in words_of(ends_of_commands["list"])]


@pytest.mark.slow
def test_outside_recipes_and_commands_stand_beside_ours(ends_of_commands):
    recipes = [words[0] for words in words_of(ends_of_commands["recipes"]) if words]
    assert "oneway_t1t2" in recipes
    assert words_of(ends_of_commands["greet"]) == [["one", "way,", "Ada"]]


@pytest.mark.slow
def test_a_broken_outside_plugin_is_quoted(ends_of_commands):
    (row,) = [words for words in words_of(ends_of_commands["plugins"]) if "gantk-broken" in words]
    assert "did not load" in " ".join(row)
    printed = " ".join(ends_of_commands["plugins"].out.split())
    assert "'a_library_nobody_has'" in printed
    refused = ends_of_commands["run"]
    assert refused.code == 2
    assert "Traceback" not in refused.err
    assert "brokengan" in refused.err
    assert "No module named 'a_library_nobody_has'" in refused.err


@pytest.mark.slow
def test_its_method_trains_resumes_and_translates(installed, tmp_path):
    steps = ["--set", "train.steps=4", "--set", "train.save_every=2", "--set", "train.log_every=1"]
    words = ["run", "oneway_t1t2", "--out", "run", "--device", "cpu", *steps]
    (run,) = several(words, cwd=tmp_path, installed=installed)

    assert run.code == 0, run.err
    folder = tmp_path / "run"
    assert "a_to_b" in read_json(folder / "metrics.json")["metrics"]
    watched = (folder / "watched.txt").read_text("utf-8").splitlines()
    assert [int(line.split()[1]) for line in watched] == [1, 2, 3, 4]
    losses = [line["losses"] for line in log_of(folder) if "losses" in line]
    assert len(losses) == 4
    assert losses[-1].keys() == {"generator/adversarial", "generator/likeness", "discriminator/d_b"}

    whole = (folder / "checkpoints" / "step-000004" / "weights.safetensors").read_bytes()
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    scan = folder / "samples" / "input" / "a_to_b-0.png"
    words = (
        ["resume", "run", "--device", "cpu"],
        ["translate", "run", scan, "out.png", "--device", "cpu"],
    )
    again, made = several(*words, cwd=tmp_path, installed=installed)

    assert again.code == 0 and "after step 2 of 4" in again.out, again.err
    assert (
        folder / "checkpoints" / saved(folder)[-1] / "weights.safetensors"
    ).read_bytes() == whole
    assert made.code == 0, made.err
    with Image.open(tmp_path / "out.png") as image, Image.open(scan) as given:
        assert image.size == given.size


@pytest.mark.slow
def test_a_second_offer_of_a_bundled_name_is_named_and_left_out(tmp_path):
    install(PACKAGES / "taking", tmp_path / "site", tmp_path)
    words = ["show", "method", "cyclegan"], ["list", "method"]
    shown, listed = several(*words, cwd=tmp_path, installed=tmp_path / "site")

    assert shown.code == 0
    assert "method cyclegan  from gantk" in shown.out
    assert "gantk-taking 0.0.1 is switched off" in shown.err
    assert "dualgan" in listed.out
    assert "cyclegan" in listed.out
