"""Every row of every bundled suite can start: its settings fit its recipe, its data needs no files,
and it has test images to be scored on.
"""

import pytest

from gantk.data.dataset import open_source
from gantk.recipe.load import load_recipe
from gantk_bench.plan import Options, jobs_for, recipe_names
from gantk_bench.suite import all_suites, load_suite


def embedded(part) -> bool:
    return (
        part.name == "phantom"
        or bool(part.options.get("sources"))
        and all(embedded(each) for each in part.options["sources"])
    )


@pytest.mark.parametrize("name", sorted(all_suites()))
def test_every_row_of_a_suite_can_start(name):
    suite = load_suite(name)
    recipes, named = recipe_names([], True, suite)
    jobs = jobs_for(recipes, suite, Options(), named=named)

    assert {job.recipe for job in jobs} == set(recipes)
    for job in jobs:
        assert not job.problem, job.problem
        model = load_recipe(job.source).override(job.settings, job.profile).check()
        assert embedded(model.data.source), job.label
        open_source(model.data)
        assert model.data.split.test or model.data.split.folds, f"{job.label} has no test images"
