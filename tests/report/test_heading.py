"""The head of the report says what was run, and whose published figures stand beside its scores."""

import json
import re

import pytest
import tomli_w
from pages import Page
from test_report import make_run, scored
from tiny import read_json, write_toml

import gantk
from gantk.recipe.load import load_recipe, resolved
from gantk.recipe.published import changes_of_file
from gantk.report.build import write_report

SYSTEM = "cyclegan_t1t2_unet15"
BESIDE = "8.09 dB other data, other protocol"
METRICS = scored()
METRICS["metrics"]["a_to_b"]["ssim"] = METRICS["metrics"]["a_to_b"]["psnr"] | {"unit": ""}


def page_of(folder, name: str, settings=(), **environment) -> Page:
    """The report of a run of a bundled recipe, without training it."""
    recipe = load_recipe(name).override(settings)
    tables = resolved(recipe.check())
    changed = {key: list(values) for key, values in changes_of_file(recipe, tables).items()}
    record = {"origin": recipe.origin, "profile": recipe.profile, "changed": changed}
    record["data"] = "phantom: Synthetic heads."
    files = {"environment": {"recipe": record} | environment, "metrics": METRICS}
    return Page(write_report(make_run(folder / "run", recipe=tomli_w.dumps(tables), **files)))


def test_a_run_as_published_stands_beside_published_figures(tmp_path):
    words = page_of(tmp_path, SYSTEM).words

    assert f"Recipe {SYSTEM}.toml (bundled with gantk) ." in words
    assert re.search(r"This run keeps (\d+) of the \1 settings that the report states\.", words)
    assert "As published, apart from (1) setting published this run data T1 and T2" in words
    assert BESIDE in words
    # the report has no figure of the other direction
    assert words.count("other protocol") == 2


def test_no_published_figure_stands_beside_another_system(tmp_path):
    words = page_of(tmp_path, SYSTEM, settings=["method.generator.width=8"]).words
    assert "method.generator.width" in words
    assert "other protocol" not in words


def test_undefined_figures_stand_beside_no_score(tmp_path):
    words = page_of(tmp_path, "dcgan_tumour").words

    assert re.search(r"Published, undefined: Accuracy 0\.875", words)
    assert "The report does not say of what, by what, or on which images." in words
    assert "other protocol" not in words


@pytest.mark.parametrize("paper", [3, {"title": [1]}, {"title": "x", "stated": 4, "published": 5}])
def test_a_damaged_paper_table_stops_no_report(paper, tmp_path):
    recipe = f"paper = {json.dumps(paper)}\n".replace('": ', '" = ')
    words = Page(write_report(make_run(tmp_path / "run", recipe=recipe))).words
    assert "T1" in words


def test_a_training_records_and_says_what_was_run(tmp_path, tiny_recipe):
    stated = {"method": {"name": "dualgan", "pool": 50}, "train": {"batch": 2}}
    figures = {"a_to_b": {"psnr": 8.09}}
    tiny_recipe["paper"] = {"title": "A report", "stated": stated, "published": figures}
    profile = {"profile": {"pool": {"method": {"pool": 50}}}}
    file = write_toml(tmp_path / "mine.toml", tiny_recipe | profile)
    lines = []
    options = {"device": "cpu", "say": lines.append, "profile": "pool", "set": ["train.steps=0"]}
    run = gantk.run(file, out=tmp_path / "run", **options)

    assert "system   published system: all 3 settings that the report states are kept" in lines
    record = read_json(run.path / "environment.json")["recipe"]
    assert record["profile"] == "pool"
    assert record["changed"] == {"method.pool": ["4", "50"], "train.steps": ["4", "0"]}
    assert record["data"].startswith("phantom: Synthetic heads")
