"""Every setting of a published recipe stays as it was chosen: those that its report states, and those
that it leaves open. `GANTK_RECORD=1` writes settings.json again; read the difference.
"""

import functools
import json
import os

import pytest
from systems import recipe_of
from test_published import SYSTEMS, settings
from tiny import ROOT

from gantk.recipe.load import load_recipe, resolved

RECORD = ROOT / "tests" / "fidelity" / "settings.json"


def flat(tables):
    """ "a.b.c" -> value of tables but the recipe's own lists of what is stated and what is ours."""
    pairs = {".".join(map(str, path)): value for path, value in settings(tables)}
    lists = ("paper.stated", "paper.ours")
    kept = {key: value for key, value in pairs.items() if not key.startswith(lists)}
    return json.loads(json.dumps(kept))


def written(name):
    """What the file of a recipe says."""
    return flat(load_recipe(ROOT / "recipes" / f"{name}.toml").tables)


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
    return json.loads(RECORD.read_text("utf-8"))


@pytest.mark.fidelity
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_setting_of_a_published_system_changes_unnoticed(name):
    known = recorded()[name]
    found = used(name) | written(name)

    assert {key: found.get(key) for key, value in known.items() if found.get(key) != value} == {}
    assert sorted(written(name).keys() - known.keys()) == []
