"""A run whose recipe has what gantk no longer has is used as it is: a note names what is left out.
The same in a recipe of the user's own is an error.
"""

import tomllib
from pathlib import Path

import pytest
import torch
from tiny import write_toml

import gantk

IMAGE = torch.linspace(0, 255, 32 * 32).reshape(32, 32).numpy()
GONE = {"name": "gone", "strength": 2.0}

OPTIONS = [  # dotted key, value, in the note
    ("train.recompute", False, "train.recompute = false"),
    ("method.once", [0.5], "method.once = [0.5]"),
    ("method.generator.once", "a\nb", 'method.generator.once = "a\\nb"'),
    ("evaluate.metrics", [{"name": "psnr", "once": 1}], "evaluate.metrics.0.once = 1"),
]
PARTS = [  # of lists
    ("evaluate.metrics", ["psnr", GONE], 'evaluate.metrics = { name = "gone", strength = 2.0 }'),
]


def change_recipe(run: Path, key: str, value: object) -> None:
    """Set a dotted key in the recipe of a run."""
    path = run / "recipe.toml"
    tables = table = tomllib.loads(path.read_text("utf-8"))
    *parents, last = key.split(".")
    for parent in parents:
        table = table[parent]
    table[last] = value
    write_toml(path, tables)


@pytest.mark.parametrize(("key", "value", "noted"), OPTIONS + PARTS)
def test_a_run_translates_without_what_is_gone(copied_run, capsys, key, value, noted):
    before = gantk.load(copied_run, device="cpu").translate(IMAGE)
    assert not capsys.readouterr().err

    change_recipe(copied_run, key, value)
    after = gantk.load(copied_run, device="cpu").translate(IMAGE)

    said = capsys.readouterr().err
    assert f"has {noted}, which this version of gantk does not have" in " ".join(said.split())
    assert (after == before).all()
    with pytest.raises(gantk.UserError, match="no option|no key|there is no"):
        gantk.load_recipe(copied_run / "recipe.toml").check()


@pytest.mark.parametrize("source", [GONE, "gone"])
def test_a_run_translates_without_its_source_of_images(copied_run, source, tmp_path):
    before = gantk.load(copied_run, device="cpu").translate(IMAGE)
    change_recipe(copied_run, "data.source", source)

    assert (gantk.load(copied_run, device="cpu").translate(IMAGE) == before).all()
    with pytest.raises(gantk.UserError, match="there is no source 'gone'"):
        gantk.evaluate(copied_run, device="cpu", say=lambda line: None)
    with pytest.raises(gantk.UserError, match="there is no source 'gone'"):
        gantk.run(copied_run / "recipe.toml", out=tmp_path / "new", say=lambda line: None)


@pytest.mark.parametrize(("key", "value"), [OPTIONS[0][:2], PARTS[0][:2]])
def test_a_run_is_scored_without_what_is_gone(copied_run, key, value):
    change_recipe(copied_run, key, value)
    scores = gantk.evaluate(copied_run, device="cpu", say=lambda line: None)
    assert "psnr" in scores["metrics"]["a_to_b"]


def test_a_training_goes_on_without_options_not_without_parts(copied_run):
    change_recipe(copied_run, *OPTIONS[1][:2])
    gantk.training(copied_run, device="cpu")
    change_recipe(copied_run, *PARTS[0][:2])
    with pytest.raises(gantk.UserError, match="there is no metric 'gone'"):
        gantk.training(copied_run, device="cpu")


@pytest.mark.parametrize(
    ("part", "value"),
    [("method.generator", GONE), ("method", GONE), ("post", [GONE])],
)
def test_a_run_whose_results_need_what_is_gone_is_refused(copied_run, part, value):
    change_recipe(copied_run, part, value)
    with pytest.raises(gantk.UserError, match="there is no .* 'gone'"):
        gantk.load(copied_run, device="cpu")
