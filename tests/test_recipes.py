"""The bundled recipes build in every profile, and those of published systems say what their reports state."""

import pytest
import torch
from tiny import ROOT

from gantk.errors import UserError
from gantk.method import Geometry, Method, check_networks
from gantk.recipe.load import Recipe, leaves, load_recipe, resolved
from gantk.recipe.tables import Model
from gantk_lookup.departures import departures

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def variants() -> list:
    """Every recipe as it is and in each of its profiles."""
    return [
        pytest.param(path, profile, id=f"{path.stem}-{profile}" if profile else path.stem)
        for path in RECIPES
        for profile in (None, *load_recipe(path).tables.get("profile", {}))
    ]


def build(model: Model) -> Method:
    """The recipe's method for its phantom, on the meta device, which knows shapes and holds no numbers."""
    data = model.data
    source = data.source(data.domains, data.dims, data.size)
    gray = dict.fromkeys(("a", "b"), 1)  # of real scans, which are not looked at here
    known = source.channels() if data.source.name == "phantom" else gray
    channels = {letter: count * (2 * data.neighbours + 1) for letter, count in known.items()}
    classes = ("healthy", "tumour") if data.labels else ()
    with torch.device("meta"):
        return model.method(Geometry(data.dims, data.patch or data.size, channels, classes))


@pytest.mark.parametrize(("path", "profile"), variants())
def test_every_recipe_builds_networks_and_is_the_same_once_its_defaults_are_written_out(path, profile):
    model = load_recipe(path).override([], profile).check()
    assert model.summary.count(".") and len(model.summary) <= 120
    tables = resolved(model)
    assert resolved(Recipe(tables).check()) == tables
    if path.stem not in ("t1t2", "t1t2_patients"):  # real patients are what they are about; without, they say where
        assert model.data.source.name == "phantom"
    try:
        method = build(model)
    except UserError as error:  # what others trained has to be fetched first
        assert "GANTK_WEIGHTS" in str(error)
        pytest.skip("needs pretrained weights")
    check_networks(method)
    geometry = method.geometry
    for to in method.directions() if model.method.name != "style" else []:  # which optimises
        image = torch.empty(1, geometry.channels["b" if to == "a" else "a"], *geometry.size, device="meta")
        assert method.translate(image, to).shape == (1, geometry.channels[to], *geometry.size)


PAPERS = {path.stem: load_recipe(path).tables.get("paper", {}) for path in RECIPES}
REPORTS = [name for name, paper in PAPERS.items() if isinstance(paper.get("stated"), dict)]
LENGTHS = {"size", "width", "base", "latent", "mlp_dim", "epochs", "steps", "batch", "images", "post"}


@pytest.mark.parametrize("name", REPORTS)
def test_a_published_system_is_as_its_report_states_and_its_profile_changes_sizes_and_lengths_alone(name):
    tables, model = load_recipe(name).tables, load_recipe(name).check()
    theirs, ours = tables["paper"]["stated"], set(tables["paper"]["ours"])  # what the report says, and leaves open
    stated = {".".join(path) for path in leaves(theirs)}
    assert departures(theirs, resolved(model), filled_in=True) == {} == departures(theirs, tables, filled_in=False)
    assert {path[-1] for over in tables.get("profile", {}).values() for path in leaves(over)} <= LENGTHS
    assert not stated & ours
    # every setting is either stated or marked as ours; where images come from is the user's affair
    known = tuple(f"{key}." for key in stated | ours | {"data.source", "data.domains"})
    keys = [".".join(path) + "." for table in ("method", "data", "train") for path in leaves({table: tables[table]})]
    assert [key for key in keys if not (key.startswith(known) or any(each.startswith(key) for each in known))] == []


def test_recipes_and_show_tell_where_a_recipe_departs_from_its_report(gantk, tmp_path):
    text = (ROOT / "recipes" / "cyclegan_t1t2_64.toml").read_text("utf-8")
    mine = tmp_path / "mine.toml"
    text = text.replace("lr = 2e-4, betas", "lr = 1e-3, betas").replace("method.pool = 0", "method.pol = 0")
    mine.write_text(text + "train.schedule = 'linear'\n", "utf-8")
    shown = gantk("show", "recipe", mine).out
    assert "# departs: train.optimizer.lr = 0.001 where the report has 0.0002" in shown
    assert "# departs: method.pol = not said where the report has 0" in shown
    assert '# --profile cpu: train.schedule.name = "linear" (without it "constant", as stated)' in shown
    assert "# --profile cpu: method.generator.width = 16 (without it 64, ours)" in shown
    within = gantk("show", "recipe", mine, "--profile", "cpu").out
    assert '# departs: train.schedule = { name = "linear"' in within and "# --profile" not in within
    assert "# departs" not in gantk("show", "recipe", "cyclegan_t1t2_64").out
    rows = {line.split()[0]: line for line in gantk("recipes").out.splitlines()}
    assert "as stated; cpu: other size" in rows["cyclegan_ct_mr"] and "stated" not in rows["ct_mr_heads"]
    (tmp_path / "shown.toml").write_text(shown, "utf-8")
    assert resolved(load_recipe(tmp_path / "shown.toml").check()) == resolved(load_recipe(mine).check())


def test_a_recipe_that_holds_nobody_out_of_its_own_files_tests_on_some_of_yours(tmp_path):
    assert load_recipe("t1t2_patients").check().data.split.test == 0
    yours = load_recipe("t1t2_patients").with_data({"name": "nifti", "path": str(tmp_path)}).check().data.split
    assert yours.test > 0 and yours.by == "auto"
