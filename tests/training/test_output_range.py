"""A generator whose last activation cannot produce black or white is refused before a training."""

import pytest

from gantk.errors import UserError
from gantk.method import Geometry, check_output_range
from gantk.recipe.load import load_recipe


@pytest.mark.parametrize(
    ("recipe", "activation", "ends", "fits"),
    [
        ("cyclegan_t1t2_64", "sigmoid", [0.0, 1.0], True),
        ("cyclegan_t1t2_64", "sigmoid", [-1.0, 1.0], False),
        ("cyclegan_t1t2_64", "tanh", [-1.0, 1.0], True),
        ("cyclegan_t1t2_64", "tanh", [0.0, 2.0], False),
        ("cyclegan_t1t2_64", "none", [-3.0, 3.0], True),
        ("cyclegan_ct_mr", "sigmoid", [-1.0, 1.0], False),
        ("munit_t1t2", "sigmoid", [-1.0, 1.0], False),
    ],
)
def test_an_output_that_cannot_reach_black_is_refused(recipe, activation, ends, fits):
    key = "method" if recipe.startswith("munit") else "method.generator"
    settings = [f'{key}.activation_out="{activation}"']
    if recipe.startswith("munit"):
        settings += ["method.width=4", "method.blocks=1"]
    else:
        settings += ["method.generator.width=4"]
    model = load_recipe(recipe).override(settings).check()
    geometry = Geometry(2, model.data.size, {"a": 1, "b": 1}, range=tuple(ends))
    method = model.method(geometry)

    if fits:
        check_output_range(method)
    else:
        with pytest.raises(UserError, match="last activation"):
            check_output_range(method)
