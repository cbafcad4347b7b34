"""Recipes: options as signatures say them, overrides, profiles, post-steps, and the place of a
mistake.
"""

import copy
import inspect
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from tiny import parts_with_options

from gantk import registry
from gantk.errors import UserError
from gantk.lookup.options import options_help
from gantk.plugin.registry import Entry
from gantk.plugin.spec import Generator, bind, options_model
from gantk.recipe.load import Recipe, all_recipes, load_recipe, resolved
from gantk.recipe.tables import FastTable
from gantk.runs.trained import Examples, Posts


class Sampler:
    """Takes one option of every type that a recipe can hold."""

    def __init__(
        self,
        context,
        *,
        count: int = 1,
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
    """The augmentation 'sampler', the post-step 'shift', and the method 'own' and the source
    'slides', whose options have names of 0.1.
    """

    def own(geometry, *, structure: float = 0.0, local_ncc: float = 0.0):
        """A third party's."""

    def slides(domains, dims, size, *, volumes: int = 1, channels: int = 1):
        """A third party's too."""

    for kind, name, target in (
        ("source", "slides", slides),
        ("augment", "sampler", Sampler),
        ("post", "shift", Shift),
        ("method", "own", own),
    ):
        monkeypatch.setitem(registry().entries, (kind, name), Entry(kind, name, target, "tests"))


# ---- the signature is the schema -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *[("count", value, "integer") for value in ("3", 3.5, True)],
        ("rate", float("inf"), "finite number"),
        ("flag", 1, "boolean"),
        ("mode", "r", "'p' or 'q'"),
        ("name_of", 5, "string, not 5"),
        ("sides", 4, "list"),
        ("sides", [1, "two"], '"two"'),
        ("pair", [0.1, 0.2, 0.3], r"not \[0\.1"),
    ],
)
def test_a_value_of_another_type_is_refused_and_quoted(parts, key, value, words):
    with pytest.raises(UserError, match=words) as raised:
        bind("augment", {"name": "sampler", key: value})
    assert raised.value.path == ((key, 1) if words == '"two"' else (key,))


def test_parts_in_the_wrong_place_are_refused():
    for key, loss, words in (
        ("adversarial", "l1", "needs a loss of logits. Allowed: bce, hinge, ls, wgan"),
        ("reconstruction", "ls", "needs a loss of output and target. Allowed: .*, l1, l"),
    ):
        with pytest.raises(
            UserError, match=f"the loss '{loss}' takes .*, but this key {words}"
        ) as raised:
            bind("method", {"name": "pix2pix", key: loss})
        assert raised.value.path == (key,)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(entry.kind, entry.name, id=f"{entry.kind}-{entry.name}")
        for entry in parts_with_options()
    ],
)
def test_every_part_has_schema_summary_and_explained_options(kind, name):
    target = registry().get(kind, name).load()
    model = options_model(target)  # fails where a parameter has no annotation that pydantic can use

    assert inspect.getdoc(target).split("\n\n")[0].endswith((".", ":"))

    if all(not field.is_required() for field in model.model_fields.values()):
        part = bind(kind, name)
        assert bind(kind, part.table()) == part  # the written defaults are what the signature says

    assert [option for option, _, _, comment in options_help(target) if not comment] == []


def test_every_layout_says_in_a_sentence_what_it_is_of():
    layouts = [entry.load() for entry in registry().of_kind("layout")]
    assert layouts
    assert [layout for layout in layouts if not layout.text.endswith(".")] == []


# ---- overrides and profiles ----------------------------------------------------------------------

TEXT = """\
[method]
name = "cyclegan"
generator = "unet"
identity = 1.0
[data]
split = { test = 0.3 }
[train]
steps = 100
optimizer = { name = "adam", lr = 1e-3 }
[profile.small]
train.steps = 5
train.optimizer = { lr = 5e-4 }
method.generator = { name = "unet", width = 8 }
data.size = [32, 32]
[profile.wrong]
train.stepz = 5
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(TEXT, "utf-8-sig")  # a byte order mark is no mistake
    return load_recipe("mine.toml")


def mistake(recipe: Recipe) -> str:
    with pytest.raises(UserError) as raised:
        recipe.check()
    return str(raised.value)


def small(**tables) -> Recipe:
    """The shortest recipe, with further tables."""
    return load_recipe({"method": "dualgan", "train": {"steps": 1}} | tables)


def test_options_alone_are_the_default_parts():
    recipe = small(method={"name": "cyclegan", "generator": {"width": 8}})
    model = recipe.override(["method.discriminator.width=3", "train.optimizer.lr=1e-3"]).check()
    bound = (
        *(model.method.options[name] for name in ("generator", "discriminator")),
        model.train.optimizer,
    )
    found = [(part.name, part.options.get("width", part.options.get("lr"))) for part in bound]

    assert found == [("resnet", 8), ("patchgan", 3), ("adam", 1e-3)]


@pytest.mark.parametrize(
    ("setting", "keys", "value"),
    [
        ("train.steps=7", "train steps", 7),
        ("data.size=[64, 48]", "data size", (64, 48)),
        ("train.channels_last=false", "train fast channels_last", False),
        ("train.optimizer=sgd", "train optimizer name", "sgd"),
        ('method.generator={name="resnet", width=4}', "method generator width", 4),
        ("data.source={name='phantom', subjects=9}", "data source subjects", 9),
    ],
)
def test_set_takes_toml_values_with_dotted_keys(recipe, setting, keys, value):
    found = resolved(recipe.override(["train.steps=6", setting]).check())  # later settings win
    for key in keys.split():
        found = found[key]

    assert (tuple(found) if isinstance(value, tuple) else found) == value


def test_profiles_lie_over_the_recipe_and_settings_over_both(recipe):
    before = copy.deepcopy(recipe.tables)
    model = recipe.override([], "small").check()

    assert model.train.steps == 5
    assert model.data.size == (32, 32)
    assert model.train.optimizer.name == "adam"
    assert model.train.optimizer.options["lr"] == 5e-4
    assert model.method.options["generator"].options["width"] == 8
    assert model.data.split.test == 0.3
    assert model.method.options["identity"] == 1.0
    assert recipe.override(["train.steps=9"], "small").check().train.steps == 9
    assert recipe.check().train.steps == 100
    assert recipe.tables == before
    recipe.tables["profile"]["tiny"] = {"data": {"size": [16, 16]}}
    both = recipe.override([], "small,tiny").check()
    assert (both.train.steps, both.data.size) == (5, (16, 16)), "the last profile wins"
    for tables in ({"profile": 3}, {"profile": {"small": 3}}):
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


# ---- mistakes and where they are -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "profile", "where"),
    [
        (["train.optimizer.lr='x'"], None, "set train.optimizer.lr='x'"),
        # a table that was not there
        (["method.discriminator.wdth=3"], None, "set method.discriminator.wdth=3"),
        ([], "wrong", "mine.toml:16"),
    ],
)
def test_a_mistake_names_the_option_or_the_line_that_made_it(recipe, settings, profile, where):
    assert mistake(recipe.override(settings, profile)).endswith(f"({where})")


@pytest.mark.parametrize(
    ("setting", "words"),
    [(setting, "does not have the form key=value") for setting in ("=3", "train..steps=3", "", 5)]
    + [
        (f"data.size={value}", rf"data\.size: input should be a list{such}, not ")
        for value, such in [("[1,", ""), ("", ""), ("$fp32", ""), (64, r", such as \[64, 64\]")]
    ]
    + [
        ("data.domains=[CT, MR]", "not .*CT, MR.* not valid TOML: put quotes"),
        ("evaluate.metrics=psnr,ssim", r"""Write --set 'evaluate.metrics=\["psnr", "ssim"\]'"""),
        ({7: 1}, "no option '7'"),
        ("seed=3", r"Did you mean 'train\.seed'"),
    ]
    + [("train.batch=(2)", r"train\.batch: input should be a valid integer, not .\(2\)")],
)
def test_a_setting_that_is_none_is_refused(recipe, setting, words):
    with pytest.raises(UserError, match=words):
        recipe.override([setting] if isinstance(setting, str) else setting).check()


@pytest.mark.parametrize(
    "value", [r"(\d\d)\d+", "[a-z]+", "12", "true", "2024-01-01", "a{2}", "", "[1]", "'q'", "#x"]
)
def test_where_a_text_is_wanted_a_setting_needs_no_quotes(recipe, value):
    settings = [
        "data.source=images",
        f"data.source.patient={value}",
        "data.source.path=2024",
        'data.domains=["MR"]',
    ]
    source = recipe.override(settings).check().data.source.options

    assert source["patient"] == value.strip("'")
    assert source["path"] == "2024"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"train": {}}, "neither train.steps nor train.epochs is given. Set one of the two"),
        ({"train": {"steps": 3, "epochs": 1}}, "both train.steps and train.epochs are given"),
        *[
            ({"data": {"domains": each}}, "data.domains: it should be one name or two")
            for each in ([], ["T1", "T1"], ["", "T2"])
        ],
        (
            {"data": {"dims": 3, "size": [32, 32]}},
            "data.size: it should have 3 positive sides if data.dims is 3",
        ),
    ],
)
def test_keys_that_do_not_go_with_each_other_are_an_error(tables, words):
    assert words in mistake(small(**tables))


def test_a_path_wins_over_a_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = next(iter(all_recipes()))
    (tmp_path / f"{name}.toml").write_text("[method]\nname = 'dualgan'\n", "utf-8")

    assert load_recipe(f"{name}.toml").origin == f"{name}.toml"
    for given in (name, f"recipes/{name}.toml"):  # as the README says it, from anywhere
        assert "bundled" in load_recipe(given).origin


# ---- post-steps: [[post]] tables, applied in order to what the networks made
# ----------------------


def test_post_steps_run_in_order_with_training_images(parts):
    model = small(post=[{"name": "shift", "by": 1.0}, "shift"]).check()
    done = Posts(model, (-1.0, 1.0))(torch.zeros(2, 1, 4, 4), lambda n: torch.zeros(n, 1, 4, 4))

    assert done.unique().tolist() == [1.5]
    assert not Posts(small().check(), (-1.0, 1.0)).steps
    tables = resolved(model)
    assert [post["by"] for post in tables["post"]] == [1.0, 0.5]
    assert resolved(Recipe(tables).check()) == tables
    assert examples_of(10)(3).mean((1, 2, 3)).tolist() == [0.0, 3.0, 6.0]
    assert len(examples_of(2)(5)) == 5


def examples_of(count: int, made_from=()) -> Examples:
    """Of a training on so many images, the first all 0 and healthy, the next all 1 with a tumour,
    and so on.
    """
    labels = ["healthy", "tumour"] * count
    training = [
        SimpleNamespace(domain="image", label=labels[i], value=float(i)) for i in range(count)
    ]
    data = SimpleNamespace(
        training=training, image=lambda record: torch.full((1, 2, 2), record.value)
    )
    return Examples(lambda: data, "image", "cpu", made_from)


def test_examples_of_post_steps_are_inputs_or_same_class():
    made_of = ["tumour", "tumour", "healthy", "tumour"]
    assert examples_of(10, made_of).real(4).mean((1, 2, 3)).tolist() == [1.0, 3.0, 0.0, 5.0]
    assert examples_of(10).real(5).mean((1, 2, 3)).tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    inputs = torch.rand(2, 1, 2, 2)
    assert torch.equal(examples_of(10, inputs).real(2), inputs)


# ---- train.fast, and the keys of earlier versions ------------------------------------------------


def fast(*settings: str) -> FastTable:
    return small().override(settings).check().train.fast


def test_fast_is_one_switch_or_a_table_of_its_parts():
    assert fast("train.fast=true") == fast() == FastTable()
    assert not any(vars(fast("train.fast=false")).values())
    assert (
        fast("train.fast={kernels=false}")
        == fast("train.fast.kernels=false")
        == FastTable(kernels=False)
    )
    assert [
        name for name, value in fast("train.fast=false", "train.fast.kernels=true") if value
    ] == ["kernels"]


def test_old_keys_in_a_file_give_way_to_what_is_said_later(tmp_path):
    file = tmp_path / "old.toml"
    file.write_text(
        '[method]\nname = "cyclegan"\n[train]\nsteps = 1\nkernels = false\nallocator = "kep"\n'
        "[profile.gpu]\ntrain.capture = 'off'\n"
    )
    recipe = load_recipe(str(file)).override(
        ["train.allocator=keep", "train.fast.batched_forward=false"], "gpu"
    )

    assert recipe.check().train.fast == FastTable(
        kernels=False, cuda_graph=False, batched_forward=False
    )
    assert recipe.notes["train.kernels"] == "train.kernels is now train.fast.kernels"
    assert mistake(load_recipe(str(file))).endswith(f"({file}:6)")


def test_options_go_by_their_earlier_names_too(parts):
    again = small(method={"name": "munit", "local_ncc": 0.5}).override(["method.structure=0.75"])
    assert again.check().method.options["local_ncc"] == 0.75
    # whose own option has an old name
    own = small(method={"name": "own"}).override(["method.structure=1.0"])
    assert own.check().method.options == {"structure": 1.0, "local_ncc": 0.0}
    assert not own.notes
    slides = small(data={"source": {"name": "slides", "volumes": 2}})
    slides = slides.override(["data.source.channels=3"])
    assert slides.check().data.source.options == {"volumes": 2, "channels": 3}
    assert not slides.notes
