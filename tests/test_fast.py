"""train.fast: one recipe key for all that makes a step quicker, and the keys of earlier versions that lead to it."""

from __future__ import annotations

import pytest

from gantk import Terms, UserError
from gantk.losses.structure import LocalNCC
from gantk.plugin.loader import registry
from gantk.plugin.registry import Entry
from gantk.plugin.spec import bind_or_raise
from gantk.recipe.load import load_recipe, resolved
from gantk.recipe.tables import FastTable

METHOD = {"structure": "local_ncc", "flatness": "flat_region", "texture": "noise_floor", "coarse": "low_res_warmup"}


def fast(*settings: str, **tables) -> FastTable:
    return load_recipe({"method": "cyclegan", "train": {"steps": 1}} | tables).override(settings).check().train.fast


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


@pytest.mark.parametrize("old", METHOD)
@pytest.mark.parametrize("method", ["cyclegan", "dualgan", "cut", "munit"])
def test_method_options_go_by_their_names_of_0_1_too(method, old):
    recipe = load_recipe({"method": {"name": method, old: 0.25}, "train": {"steps": 1}})
    assert recipe.check().method.options[METHOD[old]] == 0.25
    again = load_recipe({"method": {"name": method, METHOD[old]: 0.5}, "train": {"steps": 1}})
    assert again.override([f"method.{old}=0.75"]).check().method.options[METHOD[old]] == 0.75


def test_a_method_that_has_an_option_of_an_old_name_keeps_it(monkeypatch):
    def own(geometry, *, structure: float = 0.0, local_ncc: float = 0.0):
        """A third party's."""

    monkeypatch.setitem(registry().entries, ("method", "own"), Entry("method", "own", own, "a test"))
    recipe = load_recipe({"method": {"name": "own"}, "train": {"steps": 1}}).override(["method.structure=1.0"])
    assert recipe.check().method.options == {"structure": 1.0, "local_ncc": 0.0} and not recipe.notes
    with pytest.raises(UserError, match="no option 'coarse'"):
        recipe.override(["method.coarse=1.0"]).check()


def test_losses_go_by_their_names_of_0_1_too():
    with pytest.warns(DeprecationWarning, match="local_ncc"):
        assert bind_or_raise("loss", "structure").target is LocalNCC
    assert Terms(1.0, 1.0, structure=2.0, texture=0.06) == Terms(1.0, 1.0, local_ncc=2.0, noise_floor=0.06)


def test_one_part_can_be_turned_on_where_all_is_off(tiny_recipe):
    fast = load_recipe(tiny_recipe).override(["train.fast=false", "train.fast.kernels=true"]).check().train.fast
    assert [name for name, value in fast if value] == ["kernels"]
