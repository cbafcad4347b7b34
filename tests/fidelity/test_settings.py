"""Every setting of a published recipe stays as it was chosen: those that its report states, and those
that it leaves open. `GANTK_RECORD=1` writes settings.json again; read the difference.
"""

import functools
import json
import os
import re

import numpy as np
import pytest
from systems import recipe_of
from test_published import NAMED, SYSTEMS, settings
from tiny import ROOT, read_json

from gantk.recipe.load import load_recipe, resolved
from gantk.recipe.published import ON

pytestmark = pytest.mark.fidelity

RECORD = ROOT / "tests" / "fidelity" / "settings.json"


def flat(tables):
    """ "a.b.c" -> value of tables but the recipe's own lists of what is stated and what is ours."""
    pairs = {".".join(map(str, path)): value for path, value in settings(tables)}
    lists = ("paper.stated", "paper.ours")
    kept = {key: value for key, value in pairs.items() if not key.startswith(lists)}
    return json.loads(json.dumps(kept))


def written(name):
    """What the file of a recipe says."""
    return flat(load_recipe(name).tables)


def used(name):
    """The settings in use, with the defaults of all parts."""
    return flat(resolved(recipe_of(name)))


def lines_of(name):
    pairs = used(name) | written(name)
    return ",\n".join(f"  {json.dumps(key)}: {json.dumps(x)}" for key, x in pairs.items())


@functools.cache
def recorded():
    if os.environ.get("GANTK_RECORD") == "1":
        recipes = [f' "{name}": {{\n{lines_of(name)}\n }}' for name in sorted(SYSTEMS)]
        RECORD.write_text("{\n" + ",\n".join(recipes) + "\n}\n", "utf-8")
    return read_json(RECORD)


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_setting_of_a_published_system_changes_unnoticed(name):
    known = recorded()[name]
    found = used(name) | written(name)

    assert {key: found.get(key) for key, value in known.items() if found.get(key) != value} == {}
    assert sorted(written(name).keys() - known.keys()) == []


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_recipe_calls_ours_what_its_report_leaves_open(name):
    paper = load_recipe(name).tables["paper"]
    stated = {".".join(map(str, path)): value for path, value in settings(paper["stated"])}
    named = NAMED.get(name, [])
    ours = tuple(paper["ours"])
    _, free = SYSTEMS[name]
    left_open = [key for key in written(name) if any(re.search(each, key) for each in free)]
    # R1 holds nothing out, and R4 has so many images; both are looked at by their effect
    by_effect = ("data.split.", "data.source.counts")
    # of one's own files, and how far and often images are changed
    elsewhere = ("paper.", "evaluate.", "data.source", "data.domains", "data.augment.", "post.")

    assert sorted(key for key, value in stated.items() if value == ON) == named
    assert [
        key
        for key in left_open
        if key in stated and key not in named and not key.startswith(by_effect)
    ] == []
    assert [
        key for key in left_open if key not in stated and not key.startswith(ours + elsewhere)
    ] == []


def test_the_other_learning_rate_of_r4_stands_at_the_generator():
    for name in ("dcgan_tumour", "pix2pix_tumour", "progan_tumour"):
        lines = (ROOT / "recipes" / f"{name}.toml").read_text("utf-8").splitlines()
        naming = [line.partition(" = ")[0] for line in lines if re.search(r"\b0\.01\b", line)]
        assert naming == (["optimizers.generator"] if name == "dcgan_tumour" else [])


def test_the_width_of_the_smoothing_is_said_to_be_ours():
    text = (ROOT / "recipes" / "pix2pix_tumour_style.toml").read_text("utf-8")
    (line,) = re.findall(r"^smooth = .*#.*", text, re.MULTILINE)

    assert "does not state" in line


@pytest.mark.parametrize("name", ["cyclegan_t1t2_unet15", "cyclegan_t1t2_64", "cyclegan_ct_mr"])
def test_black_and_white_are_the_ends_of_the_range(name):
    mapping = recipe_of(name).data.intensity()
    mapping = getattr(mapping, "parts", {"b": lambda: mapping})["b"]()
    pictures = [np.linspace(low, high, 64).reshape(1, 8, 8) for low, high in ((3, 90), (20, 250))]
    mapping.fit(pictures)

    ends = mapping.forward(np.array([3.0, 250.0], np.float32))
    assert ends.tolist() == SYSTEMS[name][0]["data.range"]
