"""Recipes: overrides, profiles, the place of a mistake, and that what was resolved resolves to itself."""

from __future__ import annotations

import copy
import tomllib

import pytest
import tomli_w

from gantk.errors import UserError
from gantk.recipe.load import Recipe, all_recipes, find_line, load_recipe, resolved

TEXT = """\
format = 1
summary = "A test."

[method]
name = "cyclegan"
generator = "unet"
identity = 1.0

[data]
domains = ["T1", "T2"]
split = { test = 0.3 }

[train]
steps = 100
optimizer = { name = "adam", lr = 1e-3 }

[profile.small]
train.steps = 5
train.optimizer = { lr = 5e-4 }
method.generator = { name = "unet", width = 8 }

[profile.small.data]
size = [32, 32]

[profile.wrong]
train.stepz = 5
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(TEXT, "utf-8")
    return load_recipe("mine.toml")


def mistake(recipe: Recipe) -> str:
    with pytest.raises(UserError) as raised:
        recipe.check()
    return str(raised.value)


def test_every_key_has_a_default_but_the_method_and_the_length():
    model = load_recipe({"method": "dualgan", "train": {"steps": 1}}).check()
    assert model.method.name == "dualgan" and model.data.source.name == "phantom" and model.train.batch == 1


def test_checking_leaves_the_recipe_as_it_was(recipe):
    before = copy.deepcopy(recipe.tables)
    recipe.override(["train.steps=3", "method.generator.width=9"], "small").check()
    assert recipe.tables == before


def test_options_alone_are_the_default_parts():
    recipe = load_recipe({"method": {"name": "cyclegan", "generator": {"width": 8}}, "train": {"steps": 1}})
    model = recipe.override(["method.discriminator.width=3", "train.optimizer.lr=1e-3"]).check()
    generator, discriminator = (model.method.options[name] for name in ("generator", "discriminator"))
    assert (generator.name, generator.options["width"]) == ("resnet", 8)
    assert (discriminator.name, discriminator.options["width"]) == ("patchgan", 3)
    assert (model.train.optimizer.name, model.train.optimizer.options["lr"]) == ("adam", 1e-3)


@pytest.mark.parametrize(
    ("setting", "get", "value"),
    [
        ("train.steps=7", lambda m: m.train.steps, 7),
        ("train.steps = 7", lambda m: m.train.steps, 7),
        ("train.precision=fp32", lambda m: m.train.precision, "fp32"),
        ('train.precision="fp32"', lambda m: m.train.precision, "fp32"),
        ("data.size=[64, 48]", lambda m: m.data.size, (64, 48)),
        ("train.channels_last=false", lambda m: m.train.fast.channels_last, False),
        ("train.optimizer.lr=1e-5", lambda m: m.train.optimizer.options["lr"], 1e-5),
        ("train.optimizer=sgd", lambda m: m.train.optimizer.name, "sgd"),
        ('method.generator={name="resnet", width=4}', lambda m: m.method.options["generator"].options["width"], 4),
        ("method.generator.width=6", lambda m: m.method.options["generator"].options["width"], 6),
        ("data.split.seed=4", lambda m: m.data.split.seed, 4),
        ("evaluate.metrics=['mae']", lambda m: [part.name for part in m.evaluate.metrics], ["mae"]),
        ("data.source={name='phantom', subjects=9}", lambda m: m.data.source.options["subjects"], 9),
    ],
)
def test_set_takes_toml_values_with_dotted_keys(recipe, setting, get, value):
    assert get(recipe.override([setting]).check()) == value


def test_later_settings_win_and_settings_win_over_profiles(recipe):
    model = recipe.override(["train.steps=8", "train.steps=9"], "small").check()
    assert model.train.steps == 9


def test_a_profile_is_laid_over_the_recipe(recipe):
    model = recipe.override([], "small").check()
    assert model.train.steps == 5 and model.data.size == (32, 32)
    assert model.train.optimizer.name == "adam" and model.train.optimizer.options["lr"] == 5e-4
    assert model.method.options["generator"].options["width"] == 8
    assert model.data.split.test == 0.3 and model.method.options["identity"] == 1.0
    assert recipe.check().train.steps == 100


@pytest.mark.parametrize("tables", [{"profile": 3}, {"profile": {"small": 3}}, {}])
def test_profiles_that_are_no_tables_are_an_error(tables):
    with pytest.raises(UserError, match="no profile 'small'"):
        load_recipe({"method": "dualgan", **tables}).override([], "small")


@pytest.mark.parametrize(
    ("settings", "profile", "where"),
    [
        (["train.stepz=3"], None, "--set train.stepz=3"),
        (["train.optimizer.lr='x'"], None, "--set train.optimizer.lr='x'"),
        (["translate.overlap=3"], None, "--set translate.overlap=3"),
        (["method.discriminator.wdth=3"], None, "--set method.discriminator.wdth=3"),  # a table that was not there
        ([], "wrong", "mine.toml:26"),
    ],
)
def test_a_mistake_names_the_option_or_the_line_that_made_it(recipe, settings, profile, where):
    assert mistake(recipe.override(settings, profile)).endswith(f"({where})")


@pytest.mark.parametrize(
    ("line", "wrong", "place"),
    [
        ("identity = 1.0", "identity = 'much'", 7),
        ("identity = 1.0", "identiti = 1.0", 7),
        ('generator = "unet"', 'generator = { name = "unet", wdth = 3 }', 6),
        ("split = { test = 0.3 }", "split = { tset = 0.3 }", 11),
        ("steps = 100", "steps = 1.5", 14),
        ("[data]", "[dta]", 9),
        ("format = 1", "format = 2", 1),
        ("format = 1", "format = 'one'", 1),
        ("format = 1", "fromat = 1", 1),
    ],
)
def test_a_mistake_names_its_line(tmp_path, line, wrong, place):
    path = tmp_path / "r.toml"
    assert line in TEXT
    path.write_text(TEXT.replace(line, wrong, 1), "utf-8")
    assert mistake(load_recipe(path)).endswith(f"({path}:{place})")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("format",), 1),
        (("a", "x"), 4),
        (("a", "b", "y"), 6),
        (("a", "b", "z", "w"), 7),
        (("a", "missing"), 3),
        (("quoted key",), 2),
        (("c", "d", "e"), 9),
        (("nothing",), None),
    ],
)
def test_lines_are_found_in_tables_dotted_keys_and_quotes(path, line):
    text = 'format = 1\n"quoted key" = 3\n[a]\nx = 1  # [b]\n[a.b]\ny = 2\nz = { w = 3 }\n[c]\nd.e = "[a]"\n'
    assert tomllib.loads(text)
    assert find_line(text, path) == line


@pytest.mark.parametrize("setting", ["train.steps", "=3", "train..steps=3", "", ".x=1", "a b=1"])
def test_a_setting_without_key_and_value_is_refused(recipe, setting):
    with pytest.raises(UserError, match=r"is not key=value.*--set train\.steps=200"):
        recipe.override([setting])


@pytest.mark.parametrize("setting", ["data.size=[1,", "train.steps=", "train.precision=$fp32", "data.size=(1,2)"])
def test_a_value_that_is_no_toml_and_no_word_is_refused(recipe, setting):
    with pytest.raises(UserError, match="is not a TOML value"):
        recipe.override([setting])


@pytest.mark.parametrize(("train", "given"), [({}, "neither"), ({"steps": 3, "epochs": 1}, "both")])
def test_steps_and_epochs_are_given_one_at_a_time(train, given):
    text = mistake(load_recipe({"method": "dualgan", "train": train}))
    assert f"train.steps and train.epochs: {given} given" in text and "train.steps = 2400" in text


@pytest.mark.parametrize(
    ("settings", "profile", "length"),
    [
        (["train.epochs=2"], None, (None, 2.0)),
        (["train.epochs=2", "train.steps=7"], None, (7, None)),
        ([], "long", (None, 9.0)),
        (["train.steps=7"], "long", (7, None)),
    ],
)
def test_the_length_that_was_said_last_holds(recipe, settings, profile, length):
    recipe.tables["profile"]["long"] = {"train": {"epochs": 9.0}}
    train = recipe.override(settings, profile).check().train
    assert (train.steps, train.epochs) == length


@pytest.mark.parametrize("domains", [[], ["a", "b", "c"], ["T1", "T1"], ["", "T2"]])
def test_domains_are_one_name_or_two_different_ones(domains):
    recipe = {"method": "dualgan", "train": {"steps": 1}, "data": {"domains": domains}}
    assert "data.domains: one name or two different ones" in mistake(load_recipe(recipe))


def test_sides_and_dims_belong_together():
    recipe = {"method": "dualgan", "train": {"steps": 1}, "data": {"dims": 3, "size": [32, 32]}}
    assert "data.size: 3 positive sides are needed, because data.dims is 3" in mistake(load_recipe(recipe))


def test_a_resolved_recipe_resolves_to_itself(recipe, tmp_path):
    recipe.tables["paper"] = {"title": "On tests", "psnr": {"t2": 20.5}}
    recipe.tables["train"]["optimizers"] = {"generators": {"name": "sgd", "lr": 0.1}}
    recipe.tables["data"]["augment"] = ["hflip", {"name": "rotate"}]
    first = recipe.override([], "small").check()
    tables = resolved(first)
    path = tmp_path / "resolved.toml"
    path.write_text(tomli_w.dumps(tables), "utf-8")
    second = load_recipe(path).check()
    assert second == first
    assert resolved(second) == tables
    assert tables["train"]["optimizers"]["generators"] == {"name": "sgd", "lr": 0.1, "momentum": 0.0}
    assert "profile" not in tables and tables["method"]["discriminator"]["name"] == "patchgan"


def test_a_path_wins_over_a_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = next(iter(all_recipes()))
    (tmp_path / f"{name}.toml").write_text("[method]\nname = 'dualgan'\n", "utf-8")
    assert load_recipe(f"{name}.toml").origin == f"{name}.toml"
    assert "bundled" in load_recipe(name).origin
    assert "bundled" in load_recipe(f"recipes/{name}.toml").origin  # as the README says it, from anywhere


def test_a_recipe_that_is_not_there_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no recipe 'dualgan_t1t3'.*Did you mean 'dualgan_t1t2'"):
        load_recipe("dualgan_t1t3")


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(TEXT, "utf-8-sig")
    assert load_recipe(path).check().train.steps == 100
