"""The head of the report says what was run, and whose published figures stand beside its scores."""

import json
import re

import pytest
from pages import Page
from test_report import make_run, scored

import gantk
from gantk.recipe.departures import changes_of_file
from gantk.recipe.load import load_recipe, resolved
from gantk.recipe.published import published_system
from gantk.report.build import write_report

SYSTEM = "cyclegan_t1t2_unet15"
BESIDE = "8.09 dB other data, other protocol"
APART = "Published for T1 → T2: PSNR 8.09 dB and SSIM 0.00, on other data, by another protocol."
METRICS = scored()
METRICS["metrics"]["a_to_b"]["ssim"] = METRICS["metrics"]["a_to_b"]["psnr"] | {"unit": ""}


def recorded(name: str, settings=(), profile=None) -> tuple[dict, str, dict]:
    """The record, recipe.toml and tables of a run of a bundled recipe, without training it."""
    recipe = load_recipe(name).override(settings, profile)
    tables = resolved(recipe.check())
    changed = {key: list(values) for key, values in changes_of_file(recipe, tables).items()}
    record = {"origin": recipe.origin, "profile": recipe.profile, "changed": changed}
    return record | {"data": "phantom: Synthetic heads."}, gantk_toml(tables), tables


def gantk_toml(tables: dict) -> str:
    import tomli_w

    return tomli_w.dumps(tables)


def page_of(folder, name: str, settings=(), profile=None, **environment) -> Page:
    record, text, _ = recorded(name, settings, profile)
    files = {"environment": {"recipe": record} | environment, "metrics": METRICS}
    return Page(write_report(make_run(folder / "run", recipe=text, **files)))


def test_a_run_as_published_stands_beside_published_figures(tmp_path):
    words = page_of(tmp_path, SYSTEM).words

    assert f"Recipe {SYSTEM}.toml (bundled with gantk) ." in words
    assert re.search(r"This run keeps (\d+) of the \1 settings that the report states\.", words)
    assert "As published, apart from (1) setting published this run data T1 and T2" in words
    assert BESIDE in words
    assert "Published for" not in words
    # the report has no figure of the other direction
    assert words.count("other protocol") == 2


def test_another_network_is_another_system(tmp_path):
    words = page_of(tmp_path, SYSTEM, profile="cpu").words

    assert "profile cpu ." in words
    assert "method.generator.width 128 16" in words
    assert "method.discriminator.width not stated; in the recipe 64 16" in words
    assert BESIDE not in words
    assert f"{APART} This run is another system (method.generator.width)" in words


def test_other_settings_are_named_beside_the_figure(tmp_path):
    words = page_of(tmp_path, SYSTEM, ["train.batch=4"]).words

    assert "train.batch 1 4" in words
    assert f"{BESIDE}, other settings: train.batch" in words


def test_other_domains_are_another_direction(tmp_path):
    words = page_of(tmp_path, SYSTEM, ['data.domains=["T2", "T1"]']).words

    assert BESIDE not in words
    assert "This run is another system (data.domains)" in words


def test_undefined_figures_stand_beside_no_score(tmp_path):
    words = page_of(tmp_path, "dcgan_tumour").words

    assert re.search(r"Published, undefined: Accuracy 0\.875", words)
    assert "The report does not say of what, by what, or on which images." in words
    assert "other protocol" not in words


def test_a_recipe_without_a_report_lists_what_was_changed(tmp_path):
    words = page_of(tmp_path, "cut_t1t2", ["train.steps=20", "evaluate.samples=1"]).words

    assert "Recipe cut_t1t2.toml (bundled with gantk) ." in words
    assert "As in the recipe, apart from (1) setting recipe this run train.steps" in words
    assert "Published system" not in words


def test_a_replaced_part_is_one_change():
    recipe = load_recipe(SYSTEM).override({"method.generator": {"name": "resnet"}})
    changed = changes_of_file(recipe, resolved(recipe.check()))

    assert changed == {"method.generator": ("unet", "resnet")}


def test_matched_training_images_are_named(tmp_path):
    words = page_of(tmp_path, "cut_t1t2", matched="each slice with similar ones").words
    assert "Training images were matched automatically, each slice with similar ones." in words


def test_a_run_without_a_record_is_compared_with_its_report(tmp_path):
    _, text, _ = recorded(SYSTEM, profile="cpu")
    run = make_run(tmp_path / "run", recipe=text, metrics=METRICS)

    assert "method.generator.width 128 16" in Page(write_report(run)).words


@pytest.mark.parametrize("paper", [3, {"title": [1]}, {"title": "x", "stated": 4, "published": 5}])
def test_a_damaged_paper_table_stops_no_report(paper, tmp_path):
    recipe = f"paper = {json.dumps(paper)}\n".replace('": ', '" = ')
    words = Page(write_report(make_run(tmp_path / "run", recipe=recipe))).words
    assert "T1" in words


def test_a_training_records_and_says_what_was_run(tmp_path, tiny_recipe):
    stated = {"method": {"name": "dualgan", "pool": 50}, "train": {"batch": 2}}
    figures = {"a_to_b": {"psnr": 8.09}}
    tiny_recipe["paper"] = {"title": "A report", "stated": stated, "published": figures}
    file = tmp_path / "mine.toml"
    file.write_text(gantk_toml(tiny_recipe | {"profile": {"pool": {"method": {"pool": 50}}}}))
    lines = []
    options = {"device": "cpu", "say": lines.append, "profile": "pool", "set": ["train.steps=0"]}
    run = gantk.run(file, out=tmp_path / "run", **options)

    assert "system   published system: all 3 settings that the report states are kept" in lines
    said = "note     published for T1 -> T2: PSNR 8.09, on other data, by another protocol"
    assert said in [str(line) for line in lines]
    record = json.loads((run.path / "environment.json").read_text("utf-8"))["recipe"]
    assert record["profile"] == "pool"
    assert record["changed"] == {"method.pool": ["4", "50"], "train.steps": ["4", "0"]}
    assert record["data"].startswith("phantom: Synthetic heads")


def test_the_terminal_names_departures():
    tables = resolved(load_recipe(SYSTEM).override([], "cpu").check())
    said = published_system(tables).in_short()

    assert re.fullmatch(
        r"differs from the published system in 1 of \d+ stated settings"
        r" \(method\.generator\.width\); report\.html lists them",
        said,
    )


def test_a_departure_within_parts_shows_only_the_stated_keys():
    tables = resolved(load_recipe("dcgan_tumour_style").override([], "cpu").check())
    theirs, here = published_system(tables).departures["post"]

    assert theirs == '[{ name = "style", role = "style", weights = "pretrained", rescale = true }]'
    assert here == '[{ name = "style", role = "style", weights = "random", rescale = true }]'


def test_a_setting_set_back_to_its_published_value_is_kept(tmp_path):
    recipe = load_recipe(SYSTEM)
    text = recipe.text.replace("width = 128\nmax", "width = 64\nmax")
    assert text != recipe.text
    file = tmp_path / "mine.toml"
    file.write_text(text)
    words = page_of(tmp_path, str(file), ["method.generator.width=128", "train.steps=9"]).words

    assert "method.generator.width" not in words.partition("On 40 test images")[0]
    assert "train.steps not stated; not in the recipe 9" in words
    assert BESIDE in words
