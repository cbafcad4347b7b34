"""Post-steps: a recipe's [[post]] tables, applied in order to what the networks made."""

from __future__ import annotations

import pytest
import torch

from gantk.errors import UserError
from gantk.plugin.loader import load
from gantk.plugin.registry import Entry
from gantk.recipe.load import Recipe, load_recipe, resolved
from gantk.runs.trained import Posts, spread_examples


class Shift:
    """Adds a number."""

    def __init__(self, dims: int, range: tuple[float, float], *, by: float = 0.5):
        self.by = by

    def __call__(self, images, examples):
        return images + self.by


class LikeExample(Shift):
    """Takes the mean of a training image, by gradient descent."""

    def __call__(self, images, examples):
        canvas = images.clone().requires_grad_(True)
        optimizer = torch.optim.SGD([canvas], lr=canvas.numel() / 2)
        for _ in range(20):
            optimizer.zero_grad()
            (canvas.mean() - examples(1).mean()).square().backward()
            optimizer.step()
        return canvas


@pytest.fixture(autouse=True)
def posts():
    entries = load().registry.entries
    for name, target in (("shift", Shift), ("like_example", LikeExample)):
        entries["post", name] = Entry("post", name, target, "tests")
    yield
    for name in ("shift", "like_example"):
        del entries["post", name]


def recipe_with(tiny_recipe, *steps) -> Recipe:
    return Recipe(tiny_recipe | {"post": list(steps)})


def test_steps_follow_each_other_in_the_recipes_order(tiny_recipe):
    model = recipe_with(tiny_recipe, {"name": "shift", "by": 1.0}, "shift", {"name": "like_example"}).check()
    with torch.no_grad():  # as inference runs; a step may optimise all the same
        done = Posts(model, (-1.0, 1.0))(torch.zeros(2, 1, 4, 4), lambda n: torch.full((n, 1, 4, 4), 0.25))
    assert not done.requires_grad
    assert done.mean() == pytest.approx(0.25, abs=1e-3)
    assert not Posts(recipe_with(tiny_recipe).check(), (-1.0, 1.0))


def test_post_steps_survive_being_written_out_and_read_again(tiny_recipe):
    tables = resolved(recipe_with(tiny_recipe, {"name": "shift", "by": 2.0}).check())
    assert tables["post"] == [{"name": "shift", "by": 2.0}]
    assert resolved(Recipe(tables).check()) == tables


def test_a_profile_replaces_all_post_steps(tmp_path):
    text = '[method]\nname = "dualgan"\n[train]\nsteps = 1\n[[post]]\nname = "shift"\n[[profile.cpu.post]]\n'
    path = tmp_path / "r.toml"
    path.write_text(text + 'name = "shift"\nby = 3.0\n')
    model = load_recipe(path).override([], "cpu").check()
    assert [part.options["by"] for part in model.post] == [3.0]


def test_a_mistake_in_a_post_step_names_its_line(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('[method]\nname = "dualgan"\n[train]\nsteps = 1\n[[post]]\nname = "shift"\nbyy = 3.0\n')
    with pytest.raises(UserError, match=r"'shift' has no option 'byy'.*Did you mean 'by'.*r\.toml:7"):
        load_recipe(path).check()


def test_examples_are_spread_over_the_training_images():
    images = [torch.full((1, 2, 2), float(i)) for i in range(10)]
    assert spread_examples(images)(3).mean((1, 2, 3)).tolist() == [0.0, 3.0, 6.0]
    assert len(spread_examples(images[:2])(5)) == 5
