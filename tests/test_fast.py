"""train.fast: one recipe key for all that makes a step quicker, and the keys of earlier versions that lead to it."""

from __future__ import annotations

import pytest

from gantk.recipe.load import load_recipe, resolved
from gantk.recipe.tables import FastTable

OLD = {
    "train.channels_last=false": {"channels_last": False},
    "train.batched=false": {"batched_forward": False},
    "train.allocator=system": {"keep_memory": False},
    'train.allocator="keep"': {"keep_memory": True},
    "train.capture=off": {"cuda_graph": False},
    "train.compile=true": {"compile": True},
    "data.pin=false": {"pin": False},
    "translate.pipelined=false": {"pipelined": False},
    "train.frozen=false": {},
    "train.overlap=false": {},
}


def fast(*settings: str, **tables) -> FastTable:
    return load_recipe({"method": "cyclegan", "train": {"steps": 1}} | tables).override(settings).check().train.fast


@pytest.mark.parametrize("setting", OLD)
def test_keys_of_earlier_versions_still_work_and_are_noted_once(setting):
    recipe = load_recipe("dualgan_t1t2").override([setting])
    assert recipe.check().train.fast == FastTable(**OLD[setting])
    assert list(recipe.notes) == [setting.split("=")[0]]
    assert ("has no effect" in str(recipe.notes)) == (OLD[setting] == {})


def test_fast_is_one_switch_or_a_table_of_its_parts():
    assert fast("train.fast=true") == fast() == FastTable()
    off = fast("train.fast=false")
    assert not any(vars(off).values())
    assert fast("train.fast={kernels=false}") == fast("train.fast.kernels=false") == FastTable(kernels=False)


def test_old_keys_in_a_file_give_way_to_what_is_said_later(tmp_path):
    file = tmp_path / "old.toml"
    file.write_text(
        '[method]\nname = "cyclegan"\n[train]\nsteps = 1\nkernels = false\nallocator = "kep"\n'
        "[profile.gpu]\ntrain.capture = 'off'\n"
    )
    recipe = load_recipe(str(file)).override(["train.allocator=keep", "train.fast.fused=false"], "gpu")
    expected = FastTable(kernels=False, cuda_graph=False, fused=False)
    assert recipe.check().train.fast == expected
    assert load_recipe(resolved(recipe.check())).check().train.fast == expected, "what a run folder keeps"
    with pytest.raises(Exception, match=rf"train.fast.keep_memory: .*\({file}:6\)"):
        load_recipe(str(file)).check()
