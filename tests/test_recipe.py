"""Recipes: options as signatures say them, overrides, profiles, post-steps, and the place of a mistake."""

from __future__ import annotations

import copy
import inspect
import json
from typing import Literal

import pytest
import tomli_w
import torch

from gantk import Terms
from gantk.errors import UserError
from gantk.plugin.loader import registry
from gantk.plugin.registry import Entry
from gantk.plugin.spec import Generator, Part, bind, options_help, options_model
from gantk.recipe.load import Recipe, all_recipes, load_recipe, resolved
from gantk.recipe.tables import FastTable
from gantk.runs.trained import Posts, spread_examples

# ---- the signature is the schema -----------------------------------------------------------------


class Sampler:
    """Takes one option of every type that a recipe can hold."""

    def __init__(
        self,
        context,
        *,
        count: int = 1,  # how many
        rate: float = 0.5,
        name_of: str = "x",
        flag: bool = False,
        mode: Literal["p", "q"] = "p",
        pair: tuple[float, float] = (0.5, 0.9),
        sides: list[int] = [1, 2],
        limit: float | None = None,
        inner: Generator = "unet",
    ):
        """Keeps nothing."""


class Shift:
    """Adds a number."""

    def __init__(self, dims: int, range: tuple[float, float], *, by: float = 0.5):
        self.by = by

    def __call__(self, images, examples):
        return images + self.by


@pytest.fixture
def parts(monkeypatch):
    """The augmentation 'sampler', the post-step 'shift' and the method 'own', whose options have names of 0.1."""

    def own(geometry, *, structure: float = 0.0, local_ncc: float = 0.0):
        """A third party's."""

    for kind, name, target in (("augment", "sampler", Sampler), ("post", "shift", Shift), ("method", "own", own)):
        monkeypatch.setitem(registry().entries, (kind, name), Entry(kind, name, target, "tests"))


def test_options_of_every_type_arrive_as_the_types_of_the_signature(parts):
    options = {"count": 3, "rate": 2, "name_of": "y", "flag": True, "mode": "q", "pair": [1, 2.5], "sides": [4]}
    bound = bind("augment", {"name": "sampler", "limit": 1, **options}).options
    assert isinstance(bound["rate"], float) and bound["rate"] == 2.0  # a whole number may stand for a decimal
    assert bound["pair"] == (1.0, 2.5) and isinstance(bound["pair"], tuple)
    assert bound["sides"] == [4] and bound["flag"] is True and bound["mode"] == "q" and bound["limit"] == 1.0
    assert isinstance(bound["inner"], Part) and bound["inner"].name == "unet"
    assert bind("optimizer", "adam") == bind("optimizer", {"name": "adam"})
    assert bind("optimizer", "adam").options == {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *[("count", value, "integer") for value in ("3", 3.5, True)],
        ("rate", "fast", "number"),
        *[("rate", value, "finite number") for value in (float("nan"), float("inf"))],
        *[("flag", value, "boolean") for value in (1, "yes")],
        ("mode", "r", "'p' or 'q'"),
        ("name_of", 5, "string"),
        ("sides", 4, "list"),
        ("sides", [1, "two"], '"two"'),
        ("pair", [0.1, 0.2, 0.3], ""),
    ],
)
def test_a_value_of_another_type_is_refused_and_quoted(parts, key, value, words):
    with pytest.raises(UserError) as raised:
        bind("augment", {"name": "sampler", key: value})
    path, text = raised.value.path, str(raised.value)
    assert path == ((key, 1) if words == '"two"' else (key,))
    assert words in text and (isinstance(value, list) or json.dumps(value) in text)


@pytest.mark.parametrize(
    ("kind", "value", "path", "words"),
    [
        ("generator", {"name": "unet", "wdth": 64}, ("wdth",), "'unet' has no option 'wdth'|Did you mean 'width'?|dep"),
        ("generator", "unett", (), "there is no generator 'unett'|Did you mean 'unet'?|resnet"),
        ("method", {"name": "dualgan", "generator": {"name": "unet", "depth": "x"}}, ("generator", "depth"), "integer"),
        (
            "method",
            {"name": "dualgan", "adversarial": "l1"},
            ("adversarial",),
            "the loss 'l1' cannot be used here|Allowed: bce, hinge, ls, wgan_gp",
        ),
    ],
    ids=["option", "name", "inner", "loss"],
)
def test_a_mistake_in_a_part_keeps_its_path_and_names_what_there_is(kind, value, path, words):
    with pytest.raises(UserError) as raised:
        bind(kind, value)
    assert raised.value.path == path and all(word in str(raised.value) for word in words.split("|"))


UNEXPLAINED = {"generator", "discriminator", "adversarial"}  # their names say it


@pytest.mark.parametrize(("kind", "name"), [pytest.param(*key, id="-".join(key)) for key in sorted(registry().entries)])
def test_every_registered_part_has_a_schema_a_summary_and_explained_options(kind, name):
    entry = registry().get(kind, name)
    model = options_model(entry.load())  # fails where a parameter has no annotation that pydantic can use
    summary = inspect.getdoc(entry.load()).split("\n")[0]
    assert summary.endswith((".", ":")) and len(summary) > 15
    if all(not field.is_required() for field in model.model_fields.values()):
        part = bind(kind, name)
        assert bind(kind, part.table()) == part  # the written defaults are what the signature says
    for option, _, _, comment in options_help(entry.load()):
        assert comment or option in UNEXPLAINED, f"{kind} {name}: no comment beside '{option}'"


# ---- overrides and profiles ----------------------------------------------------------------------

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


def small(**tables) -> Recipe:
    """The shortest recipe, with further tables."""
    return load_recipe({"method": "dualgan", "train": {"steps": 1}} | tables)


def test_every_key_has_a_default_but_the_method_and_the_length():
    model = small().check()
    assert model.method.name == "dualgan" and model.data.source.name == "phantom" and model.train.batch == 1


def test_options_alone_are_the_default_parts():
    recipe = small(method={"name": "cyclegan", "generator": {"width": 8}})
    model = recipe.override(["method.discriminator.width=3", "train.optimizer.lr=1e-3"]).check()
    generator, discriminator = (model.method.options[name] for name in ("generator", "discriminator"))
    assert (generator.name, generator.options["width"]) == ("resnet", 8)
    assert (discriminator.name, discriminator.options["width"]) == ("patchgan", 3)
    assert (model.train.optimizer.name, model.train.optimizer.options["lr"]) == ("adam", 1e-3)


@pytest.mark.parametrize(
    ("setting", "table", "keys", "value"),
    [
        ("train.steps=7", "train", ["steps"], 7),
        ("data.size=[64, 48]", "data", ["size"], [64, 48]),
        ("train.channels_last=false", "train", ["fast", "channels_last"], False),
        ("train.optimizer.lr=1e-5", "train", ["optimizer", "lr"], 1e-5),
        ("train.optimizer=sgd", "train", ["optimizer", "name"], "sgd"),
        ('method.generator={name="resnet", width=4}', "method", ["generator", "width"], 4),
        ("data.split.seed=4", "data", ["split", "seed"], 4),
        ("data.source={name='phantom', subjects=9}", "data", ["source", "subjects"], 9),
    ],
)
def test_set_takes_toml_values_with_dotted_keys(recipe, setting, table, keys, value):
    found = resolved(recipe.override(["train.steps=6", setting]).check())[table]  # later settings win
    for key in keys:
        found = found[key]
    assert (list(found) if isinstance(value, list) else found) == value


def test_a_profile_is_laid_over_the_recipe_and_settings_over_both(recipe):
    before = copy.deepcopy(recipe.tables)
    model = recipe.override([], "small").check()
    assert model.train.steps == 5 and model.data.size == (32, 32)
    assert model.train.optimizer.name == "adam" and model.train.optimizer.options["lr"] == 5e-4
    assert model.method.options["generator"].options["width"] == 8
    assert model.data.split.test == 0.3 and model.method.options["identity"] == 1.0
    assert recipe.override(["train.steps=9"], "small").check().train.steps == 9
    assert recipe.check().train.steps == 100 and recipe.tables == before


@pytest.mark.parametrize("tables", [{"profile": 3}, {"profile": {"small": 3}}, {}])
def test_profiles_that_are_no_tables_are_an_error(tables):
    with pytest.raises(UserError, match="no profile 'small'"):
        small(**tables).override([], "small")


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


def test_a_resolved_recipe_resolves_to_itself(recipe, tmp_path):
    recipe.tables["paper"] = {"title": "On tests", "psnr": {"t2": 20.5}}
    recipe.tables["train"]["optimizers"] = {"generators": {"name": "sgd", "lr": 0.1}}
    recipe.tables["data"]["augment"] = ["hflip", {"name": "rotate"}]
    first = recipe.override([], "small").check()
    tables = resolved(first)
    path = tmp_path / "resolved.toml"
    path.write_text(tomli_w.dumps(tables), "utf-8")
    second = load_recipe(path).check()
    assert second == first and resolved(second) == tables
    assert tables["train"]["optimizers"]["generators"] == {"name": "sgd", "lr": 0.1, "momentum": 0.0}
    assert "profile" not in tables and tables["method"]["discriminator"]["name"] == "patchgan"


# ---- mistakes and where they are -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "profile", "where"),
    [
        (["train.stepz=3"], None, "--set train.stepz=3"),
        (["train.optimizer.lr='x'"], None, "--set train.optimizer.lr='x'"),
        (["method.discriminator.wdth=3"], None, "--set method.discriminator.wdth=3"),  # a table that was not there
        ([], "wrong", "mine.toml:26"),
    ],
)
def test_a_mistake_names_the_option_or_the_line_that_made_it(recipe, settings, profile, where):
    assert mistake(recipe.override(settings, profile)).endswith(f"({where})")


@pytest.mark.parametrize(
    ("line", "wrong", "place"),
    [
        ("identity = 1.0", "identiti = 1.0", 7),
        ('generator = "unet"', 'generator = { name = "unet", wdth = 3 }', 6),
        ("split = { test = 0.3 }", "split = { tset = 0.3 }", 11),
        ("steps = 100", "steps = 1.5", 14),
        ("[data]", "[dta]", 9),
        ("format = 1", "format = 2", 1),
        ("format = 1", "format = 'one'", 1),
    ],
)
def test_a_mistake_names_its_line(tmp_path, line, wrong, place):
    path = tmp_path / "r.toml"
    path.write_text(TEXT.replace(line, wrong, 1), "utf-8-sig")  # a byte order mark is no mistake
    assert mistake(load_recipe(path)).endswith(f"({path}:{place})")


@pytest.mark.parametrize(
    ("setting", "words"),
    [(setting, r"is not key=value.*--set train\.steps=200") for setting in ("train.steps", "=3", "train..steps=3", "")]
    + [(f"data.size={value}", "is not a TOML value") for value in ("[1,", "", "$fp32", "(1,2)")],
)
def test_a_setting_that_is_none_is_refused(recipe, setting, words):
    with pytest.raises(UserError, match=words):
        recipe.override([setting])


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"train": {}}, "train.steps and train.epochs: neither given. Give one of the two, for example train.steps"),
        ({"train": {"steps": 3, "epochs": 1}}, "train.steps and train.epochs: both given"),
        *[
            ({"data": {"domains": domains}}, "data.domains: one name or two different ones")
            for domains in ([], ["a", "b", "c"], ["T1", "T1"], ["", "T2"])
        ],
        ({"data": {"dims": 3, "size": [32, 32]}}, "data.size: 3 positive sides are needed, because data.dims is 3"),
    ],
)
def test_keys_that_do_not_go_with_each_other_are_an_error(tables, words):
    assert words in mistake(small(**tables))


def test_a_path_wins_over_a_bundled_name_and_a_missing_one_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = next(iter(all_recipes()))
    (tmp_path / f"{name}.toml").write_text("[method]\nname = 'dualgan'\n", "utf-8")
    assert load_recipe(f"{name}.toml").origin == f"{name}.toml"
    assert "bundled" in load_recipe(name).origin
    assert "bundled" in load_recipe(f"recipes/{name}.toml").origin  # as the README says it, from anywhere


# ---- post-steps: [[post]] tables, applied in order to what the networks made ----------------------


def test_post_steps_follow_each_other_and_survive_being_written_out(parts):
    model = small(post=[{"name": "shift", "by": 1.0}, "shift"]).check()
    done = Posts(model, (-1.0, 1.0))(torch.zeros(2, 1, 4, 4), lambda n: torch.zeros(n, 1, 4, 4))
    assert done.unique().tolist() == [1.5] and not Posts(small().check(), (-1.0, 1.0))
    tables = resolved(model)
    assert tables["post"] == [{"name": "shift", "by": 1.0}, {"name": "shift", "by": 0.5}]
    assert resolved(Recipe(tables).check()) == tables


def test_a_profile_replaces_all_post_steps_and_a_mistake_in_one_names_its_line(parts, tmp_path):
    path = tmp_path / "r.toml"
    text = '[method]\nname = "dualgan"\n[train]\nsteps = 1\n[[post]]\nname = "shift"\n'
    path.write_text(text + '[[profile.cpu.post]]\nname = "shift"\nby = 3.0\n')
    assert [part.options["by"] for part in load_recipe(path).override([], "cpu").check().post] == [3.0]
    path.write_text(text + "byy = 3.0\n")
    with pytest.raises(UserError, match=r"'shift' has no option 'byy'.*Did you mean 'by'.*r\.toml:7"):
        load_recipe(path).check()


def test_examples_are_spread_over_the_training_images():
    images = [torch.full((1, 2, 2), float(i)) for i in range(10)]
    assert spread_examples(images)(3).mean((1, 2, 3)).tolist() == [0.0, 3.0, 6.0]
    assert len(spread_examples(images[:2])(5)) == 5


# ---- train.fast, and the keys of earlier versions ------------------------------------------------

OLD = {"structure": "local_ncc", "flatness": "flat_region", "texture": "noise_floor", "coarse": "low_res_warmup"}


def fast(*settings: str) -> FastTable:
    return small().override(settings).check().train.fast


def test_fast_is_one_switch_or_a_table_of_its_parts():
    assert fast("train.fast=true") == fast() == FastTable()
    assert not any(vars(fast("train.fast=false")).values())
    assert fast("train.fast={kernels=false}") == fast("train.fast.kernels=false") == FastTable(kernels=False)
    assert [name for name, value in fast("train.fast=false", "train.fast.kernels=true") if value] == ["kernels"]


def test_old_keys_in_a_file_give_way_to_what_is_said_later(tmp_path):
    file = tmp_path / "old.toml"
    file.write_text(
        '[method]\nname = "cyclegan"\n[train]\nsteps = 1\nkernels = false\nallocator = "kep"\n'
        "[profile.gpu]\ntrain.capture = 'off'\n"
    )
    recipe = load_recipe(str(file)).override(["train.allocator=keep", "train.fast.fused=false"], "gpu")
    assert recipe.check().train.fast == FastTable(kernels=False, cuda_graph=False, fused=False)
    assert load_recipe(resolved(recipe.check())).check().train.fast == recipe.check().train.fast
    assert recipe.notes["train.kernels"] == "train.kernels is now train.fast.kernels"
    with pytest.raises(UserError, match=rf"train.fast.keep_memory: .*\({file}:6\)"):
        load_recipe(str(file)).check()


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("method", ["cyclegan", "munit"])
def test_method_options_go_by_their_names_of_0_1_too(method, old):
    assert small(method={"name": method, old: 0.25}).check().method.options[OLD[old]] == 0.25
    again = small(method={"name": method, OLD[old]: 0.5}).override([f"method.{old}=0.75"])
    assert again.check().method.options[OLD[old]] == 0.75


def test_a_method_that_has_an_option_of_an_old_name_keeps_it(parts):
    recipe = small(method={"name": "own"}).override(["method.structure=1.0"])
    assert recipe.check().method.options == {"structure": 1.0, "local_ncc": 0.0} and not recipe.notes
    with pytest.raises(UserError, match="no option 'coarse'"):
        recipe.override(["method.coarse=1.0"]).check()


def test_losses_go_by_their_names_of_0_1_too():
    with pytest.warns(DeprecationWarning, match="local_ncc"):
        assert bind("loss", "structure").target is bind("loss", "local_ncc").target
    assert Terms(1.0, 1.0, structure=2.0, texture=0.06) == Terms(1.0, 1.0, local_ncc=2.0, noise_floor=0.06)
