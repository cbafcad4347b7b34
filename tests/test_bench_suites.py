"""Suites and plans: what each recipe gets, what is refused, and what a label, a grid and a hash are made of."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path

import pytest
import tomli_w

from gantk.errors import UserError
from gantk.recipe.load import Recipe, all_recipes, load_recipe
from gantk_bench.grid import combinations, parse_axis, short_keys
from gantk_bench.plan import Wish, jobs_for, recipe_hash, recipe_names
from gantk_bench.suite import all_suites, load_suite
from gantk_bench.tomltext import settings_of, toml_value

PLUGIN = """
import gantk
@gantk.hookimpl
def gantk_register(add):
    add.suites("my_suites")
    add.recipes("my_recipes")
"""


@pytest.fixture
def suite(tmp_path):
    """`suite(text)` loads a suite of that text."""

    def load(text: str):
        path = tmp_path / "mine.toml"
        path.write_text(text, "utf-8")
        return load_suite(str(path))

    return load


@pytest.fixture
def recipe(tmp_path, tiny_recipe):
    """`recipe(name, **tables)` writes the tiny recipe, changed; its path."""

    def write(name: str = "tiny", **tables) -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(tomli_w.dumps(copy.deepcopy(tiny_recipe) | tables), "utf-8")
        return str(path)

    return write


def planned(names, suite, *, named: bool = True, **wish):
    return jobs_for(names, suite, Wish(**wish), named=named)


# ---- the bundled suites --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quick", "full"])
def test_a_bundled_suite_has_a_job_for_every_recipe_and_none_has_a_problem(name):
    suite = load_suite(name)
    names, named = recipe_names([], True, suite)
    jobs = planned(names, suite, named=named)
    assert [job.recipe for job in jobs] == sorted(all_recipes())
    assert [(job.label, job.problem, job.skip) for job in jobs if job.problem or job.skip] == []
    assert all(job.limit for job in jobs) and suite.summary


def test_quick_shortens_every_bundled_recipe_by_name_and_needs_neither_files_nor_weights():
    suite = load_suite("quick")
    bundled = {name for name, (_, owner) in all_recipes().items() if owner == "gantk"}
    assert set(suite.recipe) == bundled
    for job in planned(sorted(bundled), suite, named=False):
        model = load_recipe(job.recipe).override(job.settings, job.profile).check()
        assert model.data.source.name == "phantom", job.recipe
        assert [part.options.get("weights") for part in model.post] in ([], ["random"]), job.recipe
        assert model.train.steps <= 2000 and model.evaluate.regression == 100, job.recipe
        scored = {part.name for part in model.evaluate.metrics}
        assert scored in ({"psnr", "ssim", "mae", "nrmse"}, {"kid", "prdc", "diversity"}), job.recipe


def test_full_trains_as_published():
    suite = load_suite("full")
    for job in planned(sorted(set(all_recipes()) - {"t1t2_patients"}), suite, named=False):
        as_written, model = load_recipe(job.recipe).check(), load_recipe(job.recipe).override(job.settings).check()
        assert job.profile is None
        for table in ("method", "data", "train"):
            assert repr(getattr(model, table)) == repr(getattr(as_written, table)), job.recipe


# ---- what a suite gives --------------------------------------------------------------------------


def test_a_profile_is_applied_where_a_recipe_has_it(suite, recipe):
    with_it = recipe("small", profile={"cpu": {"train": {"batch": 1}}})
    jobs = planned([with_it, recipe()], suite('profile = "cpu"'))
    assert [job.profile for job in jobs] == ["cpu", None]
    (as_published,) = planned(["munit_t1t2"], suite('profile = "cpu"\n[recipe.munit_t1t2]\nprofile = ""'))
    assert as_published.profile is None and as_published.steps == 1_000_000


def test_metrics_follow_the_kind_of_method(suite):
    chosen = suite('[metrics]\ntranslate = ["psnr"]\nnoise = [{ name = "kid", features = "random" }]')
    translates, makes = planned(["cut_t1t2", "dcgan_phantom"], chosen)
    assert translates.settings == ('evaluate.metrics=["psnr"]',)
    assert makes.settings == ('evaluate.metrics=[{ name = "kid", features = "random" }]',)
    assert planned(["cut_t1t2"], suite(""))[0].settings == ()  # each recipe keeps its own


def test_long_trainings_are_cut_and_those_with_steps_of_their_own_are_not(suite):
    chosen = suite("max_steps = 900\n[recipe.cyclegan_25d.set]\ntrain.steps = 1000")
    steps = {job.recipe: job.steps for job in planned(["cut_t1t2", "cyclegan_3d", "cyclegan_25d"], chosen)}
    assert steps == {"cut_t1t2": 900, "cyclegan_3d": 500, "cyclegan_25d": 1000}
    (in_epochs,) = planned(["cyclegan_t1t2_64"], chosen)
    assert in_epochs.steps == 900


def test_the_command_line_wins_over_the_recipe_s_table_and_that_over_the_suite(suite):
    chosen = suite("[set]\ntrain.seed = 1\ntrain.batch = 3\n[recipe.cut_t1t2.set]\ntrain.batch = 2")
    assert planned(["cut_t1t2"], chosen)[0].settings == ("train.seed=1", "train.batch=3", "train.batch=2")
    (job,) = planned(["cut_t1t2"], chosen, settings=("train.seed=7",), grid=("train.batch=5",))
    assert job.facts["seed"] == 7
    assert job.arguments[-4:] == ["--set", "train.seed=7", "--set", "train.batch=5"]


def test_limits_go_from_the_suite_over_the_recipe_to_the_command_line(suite):
    chosen = suite("limit = 10\n[recipe.cut_t1t2]\nlimit = 20")
    assert [job.limit for job in planned(["cut_t1t2", "cyclegan_3d"], chosen)] == [20, 10]
    assert [job.limit for job in planned(["cut_t1t2"], chosen, limit=5)] == [5]


def test_a_recipe_that_is_left_out_says_why(suite):
    (job,) = planned(["cut_t1t2"], suite('[recipe.cut_t1t2]\nskip = "needs a licence"'), named=False)
    assert job.skip == "needs a licence"


def test_all_is_what_the_suite_lists_or_every_recipe(suite):
    assert recipe_names([], True, suite('recipes = ["cut_t1t2"]')) == (["cut_t1t2"], False)
    assert recipe_names([], True, suite("")) == (sorted(all_recipes()), False)


def test_a_broken_recipe_that_nobody_named_is_a_row_and_a_named_one_an_error(suite, recipe):
    broken = recipe("broken", method={"name": "no_such_gan"})
    jobs = planned([broken, "cut_t1t2"], suite(""), named=False)
    assert "there is no method 'no_such_gan'" in jobs[0].problem and jobs[1].problem is None
    with pytest.raises(UserError, match="there is no method 'no_such_gan'"):
        planned([broken], suite(""))


def test_a_setting_that_does_not_fit_a_recipe_is_an_error_even_where_nobody_named_it(suite):
    with pytest.raises(UserError) as caught:
        planned(["cut_t1t2", "dcgan_phantom"], suite(""), named=False, settings=("method.nce=0.2",))
    assert "'dcgan' has no option 'nce'" in str(caught.value) and "dcgan_phantom" in str(caught.value)


# ---- a third party's -----------------------------------------------------------------------------


def test_a_plugin_s_suite_is_found_by_name_and_its_recipes_are_part_of_all(add_plugin, tiny_recipe):
    folder = add_plugin("my-package", "my_plugin", PLUGIN)
    for package, name, tables in (
        ("my_suites", "night", {"limit": 5.0, "recipe": {"mine": {"set": {"train": {"steps": 2}}}}}),
        ("my_recipes", "mine", tiny_recipe),
    ):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
        (folder / package / f"{name}.toml").write_text(tomli_w.dumps(tables), "utf-8")
    assert all_suites()["night"][1] == "my-package"
    suite = load_suite("night")
    names, named = recipe_names([], True, suite)
    (mine,) = [job for job in planned(names, suite, named=named) if job.recipe == "mine"]
    assert (mine.steps, mine.limit, suite.name) == (2, 5.0, "night")
    in_quick = [job for job in planned(["mine"], load_suite("quick"), named=False)]
    assert in_quick[0].problem is None


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, told",
    [
        ("limt = 3", "the suite has no option 'limt'. Did you mean 'limit'?"),
        ("limit = 0", "limit: input should be greater than 0"),
        ('jobs = "two"', "jobs: "),
        ("[recipe.cut_t1t3]\nlimit = 3", "there is no recipe 'cut_t1t3'. Did you mean 'cut_t1t2'?"),
        ('recipes = ["cut_t1t3"]', "there is no recipe 'cut_t1t3'"),
        (
            "\n[recipe.cut_t1t2]\nsteps = 3",
            "recipe.cut_t1t2: it has no option 'steps'. Options: profile, set, limit, skip",
        ),
        ("[recipe]\ncut_t1t2 = 3", "'cut_t1t2' is a table"),
        ("recipe = 3", "recipe is a table of tables"),
        ("[metrics]\nnoises = []", "Did you mean 'noise'?"),
        ("limit = ", "is not valid TOML"),
    ],
)
def test_a_mistake_in_a_suite_is_named_with_its_place(suite, text, told):
    with pytest.raises(UserError) as caught:
        suite(text)
    assert told in str(caught.value) and "mine.toml" in str(caught.value)


def test_a_suite_that_is_not_there_is_an_error_with_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match="there is no suite 'quik'.*full, quick.*Did you mean 'quick'?"):
        load_suite("quik")
    with pytest.raises(UserError, match="is a folder, not a suite"):
        load_suite(str(tmp_path))


def test_a_wrong_setting_of_a_suite_names_the_recipe_s_key(suite):
    with pytest.raises(UserError, match="Did you mean 'steps'.*cut_t1t2, suite mine: --set train.stesp=3"):
        planned(["cut_t1t2"], suite("[set]\ntrain.stesp = 3"))


# ---- grids, labels, settings, hashes -------------------------------------------------------------


def test_commas_inside_brackets_and_quotes_belong_to_the_value():
    axis = parse_axis('method.generator={ name = "unet", width = 8 },"resnet", [1, 2],"a,b\\",c",plain')
    assert [value.value for value in axis] == [{"name": "unet", "width": 8}, "resnet", [1, 2], 'a,b",c', "plain"]
    assert axis[1].setting == 'method.generator="resnet"'


@pytest.mark.parametrize("text", ["train.steps", "=1", "train.steps=1,,2", "train.steps=", "train steps=1", "a=1,1"])
def test_what_is_no_axis_is_refused(text):
    with pytest.raises(UserError, match="--grid"):
        parse_axis(text)


def test_all_combinations_are_made_seeds_varying_fastest():
    made = combinations(["train.seed=0,1", "method.cycle=1,2"])
    assert [[value.value for value in values] for values in made] == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert [[v.text for v in values] for values in combinations([], 2)] == [["0"], ["1"]]
    assert list(combinations([])) == [()]


def test_labels_use_the_shortest_keys_that_differ(suite):
    assert short_keys(["method.generator.width", "method.discriminator.width", "train.seed"]) == {
        "method.generator.width": "generator.width",
        "method.discriminator.width": "discriminator.width",
        "train.seed": "seed",
    }
    grid = ('method.generator={ name = "unet", width = 8 },"resnet"',)
    jobs = planned(["cut_t1t2"], suite(""), grid=grid)
    assert [job.label for job in jobs] == ['cut_t1t2 generator={name="unet",width=8}', 'cut_t1t2 generator="resnet"']
    assert len({job.folder for job in jobs}) == 2
    assert all(set(job.folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.=+-") for job in jobs)


def test_tables_become_settings_that_read_back_as_they_were():
    table = {"train": {"steps": 3, "optimizer": {"name": "adam", "lr": 1e-05}}, "data": {"domains": ["Ä\n\x7f", "b"]}}
    recipe = Recipe({}).override(settings_of(table))
    assert recipe.tables == table
    assert tomllib.loads(f"x = {toml_value([True, 1.5, {'a b': []}])}") == {"x": [True, 1.5, {"a b": []}]}


def test_a_hash_changes_with_every_setting_and_not_with_what_a_recipe_says_of_itself(suite, recipe):
    hash_of = lambda path, **wish: planned([path], suite(""), **wish)[0].facts["recipe_hash"]  # noqa: E731
    first = hash_of(recipe())
    assert first == hash_of(recipe("renamed", summary="another", paper={"system": "a system"}))
    assert first != hash_of(recipe(), settings=("train.batch=3",))
    assert first == hash_of(recipe(), settings=("train.batch=2",))  # as it is anyway


def test_data_count_by_their_name_wherever_they_lie():
    tables = {"data": {"source": {"name": "folders", "path": "/x/heads"}}}
    moved = {"data": {"source": {"name": "folders", "path": "/y/heads"}}}
    assert recipe_hash(tables, "/x/heads") == recipe_hash(moved, "/y/heads") != recipe_hash(tables, "/x/hearts")


def test_steps_of_every_quick_recipe_are_where_the_table_has_them():
    text = Path(all_suites()["quick"][0]).read_text("utf-8")
    tables = tomllib.loads(text)["recipe"]
    for name, table in tables.items():
        (job,) = planned([name], load_suite("quick"), named=False)
        assert job.steps == table["set"]["train"]["steps"]
