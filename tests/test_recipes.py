"""The bundled recipes build in every profile, and published systems have their published shapes."""

import pytest
import torch
from tiny import ROOT
from torch import nn

from gantk.errors import UserError
from gantk.method import Geometry, Method, check_networks
from gantk.recipe.load import Recipe, leaves, load_recipe, resolved
from gantk.recipe.tables import Model
from gantk_lookup.departures import departures

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def variants() -> list:
    """Every recipe as it is and in each of its profiles."""
    return [
        pytest.param(path, profile, id=f"{path.stem}-{profile}" if profile else path.stem)
        for path in RECIPES
        for profile in (None, *load_recipe(path).tables.get("profile", {}))
    ]


def model_of(name: str, profile: str | None = None) -> Model:
    return load_recipe(ROOT / "recipes" / f"{name}.toml").override([], profile).check()


def build(model: Model, device: str = "meta") -> Method:
    """The recipe's method for its phantom; on the meta device, which knows shapes and holds no numbers."""
    data = model.data
    source = data.source(data.domains, data.dims, data.size)
    gray = dict.fromkeys(("a", "b"), 1)  # of real scans, which are not looked at here
    known = source.channels() if data.source.name == "phantom" else gray
    channels = {letter: count * (2 * data.neighbours + 1) for letter, count in known.items()}
    classes = ("healthy", "tumour") if data.labels else ()
    with torch.device(device):
        return model.method(Geometry(data.dims, data.patch or data.size, channels, classes))


def layers(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, CONVOLUTIONS)]


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


@pytest.mark.parametrize("name", ["cyclegan_t1t2_unet15", "dualgan_t1t2_unet15"])
@pytest.mark.parametrize("profile", [None, "cpu"])
def test_unet15_has_8_blocks_down_7_up_and_an_output_and_a_patchgan_of_5(name, profile):
    model = model_of(name, profile)
    method, sides = build(model), []
    for layer in layers(method.g_ab):
        layer.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[2]))
    method.g_ab(torch.empty(1, 1, *model.data.size, device="meta"))
    assert sides == [128, 64, 32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 64, 128, 256] and len(layers(method.d_b)) == 5
    assert [len(layers(block)) for block in (*method.g_ab.encoder, *method.g_ab.decoder)] == [1] * 16
    widths = [layer.out_channels for layer in layers(method.g_ab.encoder)]
    assert widths == [128, 256, 512, 1024, 1024, 1024, 1024, 1024] or profile


def test_system_64_goes_down_to_one_pixel_in_7_and_up_in_6_on_images_in_0_1():
    model = model_of("cyclegan_t1t2_64")
    method, sides = build(model), []
    for layer in layers(method.g_ab):
        layer.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[2]))
    method.g_ab(torch.empty(1, 1, *model.data.size, device="meta"))
    assert sides == [64, 32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 64] and len(layers(method.d_a)) == 5
    output = build(model_of("cyclegan_t1t2_64", "cpu"), "cpu").translate(torch.rand(1, 1, 64, 64), "b").detach()
    assert output.min() >= 0 and output.max() <= 1


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


def test_scores_stand_beside_the_one_system_and_direction_that_they_were_published_for():
    directions = {name: paper["published"] for name, paper in PAPERS.items() if "psnr" in str(paper.get("published"))}
    assert directions == {
        "cyclegan_t1t2_unet15": {"a_to_b": {"psnr": 8.09, "ssim": 0.0}},
        "dualgan_t1t2_unet15": {"b_to_a": {"psnr": 10.91, "ssim": 0.18}},
    }


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
