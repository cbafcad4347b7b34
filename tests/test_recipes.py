"""The bundled recipes build in every profile, and published systems have their published shapes."""

from __future__ import annotations

import pytest
import torch
from tiny import ROOT
from torch import nn

from gantk.errors import UserError
from gantk.method import Geometry, Method, check_networks
from gantk.recipe.load import Recipe, load_recipe, resolved
from gantk.recipe.tables import Model

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
    if path.stem != "t1t2_patients":  # two real patients are what it is about; without them it says where it looked
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
def test_unet15_has_15_layers_and_a_patchgan_of_5(name, profile):
    method = build(model_of(name, profile))
    assert len(layers(method.g_ab)) == 15 and len(layers(method.d_b)) == 5
    widths = [layer.out_channels for layer in layers(method.g_ab.encoder)][:4]
    assert widths == [128, 256, 512, 1024] or profile


def test_system_64_goes_down_to_one_pixel_in_7_and_up_in_6_on_images_in_0_1():
    model = model_of("cyclegan_t1t2_64")
    method, sides = build(model), []
    for layer in layers(method.g_ab):
        layer.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[2]))
    method.g_ab(torch.empty(1, 1, *model.data.size, device="meta"))
    assert sides == [64, 32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 64] and len(layers(method.d_a)) == 5
    output = build(model_of("cyclegan_t1t2_64", "cpu"), "cpu").translate(torch.rand(1, 1, 64, 64), "b").detach()
    assert output.min() >= 0 and output.max() <= 1


def test_a_recipe_that_holds_nobody_out_of_its_own_files_tests_on_some_of_yours(tmp_path):
    assert load_recipe("t1t2_patients").check().data.split.test == 0
    yours = load_recipe("t1t2_patients").with_data({"name": "nifti", "path": str(tmp_path)}).check().data.split
    assert yours.test > 0 and yours.by == "auto"
