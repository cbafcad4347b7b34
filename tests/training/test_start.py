"""train.start: a training begins with another one's weights, as far as they fit, and says what did
not.
"""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY, draw_pictures, method_of, read_json, same_weights, weights_of

from gantk import pack, resume, run
from gantk.errors import UserError
from gantk.runs import trained
from gantk.training.start import _leaks

QUIET = {"device": "cpu", "say": lambda line: None}
LAST = "checkpoints/step-000004"
PAIRS = {"name": "regression", "generator": TINY["method"]["generator"]}


def begun(recipe: dict, start, out, **settings):
    """A run that has only started: its checkpoint of step 0, and the lines that it printed."""
    said: list[str] = []
    options = {"train.start": str(start), "train.steps": 0} | settings
    return run(recipe, set=options, out=out, device="cpu", say=said.append), said


@pytest.mark.quick_cases("")
@pytest.mark.parametrize("part", ["", LAST, f"{LAST}/weights.safetensors"])
def test_a_run_begins_with_the_averaged_weights_of_another(tiny_run, tiny_recipe, tmp_path, part):
    new, said = begun(tiny_recipe, tiny_run / part, tmp_path / "new")
    expected = trained.inference_state(tiny_run / LAST)
    found = weights_of(new.path, 0)
    taken = [name for name in expected if not name.startswith("pool")]

    assert all(torch.equal(found[f"model.{name}"], expected[name]) for name in taken)
    assert all(
        torch.equal(found[name], expected[name[4:]]) for name in found if name.startswith("ema.")
    )
    assert not found["model.pool_a.images"].any()
    assert expected["pool_a.images"].any()
    assert f"{len(taken)} of {len(taken)} tensors, 100% of the weights" in "".join(said)
    assert read_json(new.path / "environment.json")["start"]["taken"]
    scores = read_json(new.path / "metrics.json")  # the start is a row
    of_start = {key: own["psnr"]["value"] for key, own in scores["baselines"]["start"].items()}
    assert of_start == {key: own["psnr"]["value"] for key, own in scores["metrics"].items()}


def test_a_run_stopped_before_its_first_save_begins_as_ever(tiny_run, tiny_recipe, tmp_path):
    new, _ = begun(tiny_recipe, tiny_run, tmp_path / "new")
    expected = weights_of(new.path, 0)
    shutil.rmtree(new.path / "checkpoints")
    (new.path / "metrics.json").unlink()

    resume(new.path, **QUIET)

    assert same_weights(weights_of(new.path, 0), expected)


@pytest.mark.slow
def test_what_does_not_fit_is_named_and_drawn_as_ever(tiny_run, tiny_recipe, tmp_path):
    tiny_recipe["data"] |= {
        "domains": ["T2", "T1"],
        "intensity": {"name": "percentile", "high": 99.0},
    }
    deeper = {"method.generator.head": 2, "method.name": "cyclegan"}
    new, said = begun(tiny_recipe, tiny_run, tmp_path / "new", **deeper)
    plain, _ = begun(tiny_recipe, "", tmp_path / "plain", **deeper)
    expected = trained.inference_state(tiny_run / LAST)
    found = weights_of(new.path, 0)
    drawn = weights_of(plain.path, 0)
    record = read_json(new.path / "environment.json")["start"]

    assert all(torch.equal(found[f"model.{name}"], expected[name]) for name in record["taken"])
    assert all(
        torch.equal(found[f"model.{name}"], drawn[f"model.{name}"]) for name in record["not_there"]
    )
    assert {name.split(".")[1] for name in record["not_there"]} == {"decoder", "head"}
    said = "\n".join(said)
    assert "random weights, because the file lacks them: g_ab.decoder.2.0.conv, g_ab.head.0" in said
    assert (
        "not used, because this method lacks them: g_ab.decoder.2.conv, g_ba.decoder.2.conv (4 tensors)"
        in said
    )
    assert "on the domains T1 and T2, this recipe has T2 and T1" in said
    assert "high = 99.5 (here 99.0)" in said
    assert "start" not in read_json(new.path / "metrics.json")["baselines"]  # it is not whole


@pytest.mark.slow
def test_equal_starts_and_seeds_give_equal_weights(tiny_run, tiny_recipe, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "start")
    tiny_recipe["train"] |= {"start": str(tmp_path / "start"), "save_every": 2}
    one, two = (run(tiny_recipe, out=tmp_path / name, **QUIET) for name in ("one", "two"))
    shutil.rmtree(tmp_path / "start")
    shutil.rmtree(two.path / LAST)
    resume(two, **QUIET)

    assert same_weights(weights_of(one.path), weights_of(two.path))
    with pytest.raises(UserError, match=r"there is no folder '.*start'.*\(train.start\)"):
        run(tiny_recipe, out=tmp_path / "three", **QUIET)

    assert not (tmp_path / "three").exists()


def test_networks_of_another_width_or_nan_are_refused(tiny_run, tiny_recipe, tmp_path):
    words = (
        r"do not fit .* \(only 1 tensor would fit\): .* float32 \[8, 16, 3, 3\], here .*Use the \[method\]"
        r" table"
    )
    with pytest.raises(UserError, match=words):
        begun(
            tiny_recipe | {"method": PAIRS},
            tiny_run,
            tmp_path / "new",
            **{"method.generator.width": 6},
        )

    save_file(
        {"g_ab.encoder.1.0.weight": torch.full((8, 4, 4, 4), torch.nan)},
        tmp_path / "nan.safetensors",
    )
    with pytest.raises(
        UserError, match="'g_ab.encoder.1.0.weight' in .* has values that are not finite"
    ):
        begun(tiny_recipe, tmp_path / "nan.safetensors", tmp_path / "new")

    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_files_that_the_start_was_trained_on_are_no_test_images(tiny_recipe, tmp_path):
    for seed, domain in enumerate(("T1", "T2")):
        draw_pictures(tmp_path / domain, 6, seed=seed)

    split = {"test": 0.4, "validation": 0.0, "by": "image", "seed": 0}
    tiny_recipe["data"] |= {"source": {"name": "folders", "path": str(tmp_path)}, "split": split}
    first = run(
        tiny_recipe | {"method": PAIRS}, set={"train.steps": 0}, out=tmp_path / "first", **QUIET
    )
    other = {"method.both": True, "data.split.seed": 1}
    begun(tiny_recipe | {"method": PAIRS}, first.path, tmp_path / "same", **{"method.both": True})
    told = r"was trained on \d+ files? that this split holds out.*--allow-leakage.*train.start"
    for start in (first.path, pack(first.path, tmp_path / "packed", say=print)):
        with pytest.raises(UserError, match=told):
            begun(tiny_recipe | {"method": PAIRS}, start, tmp_path / "other", **other)


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_no_image_that_is_held_out_was_trained_on_by_the_start(held_out, tmp_path, monkeypatch):
    before = SimpleNamespace(train=[SimpleNamespace(sha256="1")], by="patient")
    monkeypatch.setattr("gantk.training.start.split_of", lambda *run: before)
    scan = SimpleNamespace(path=tmp_path / "scan.png")
    data = SimpleNamespace(
        splits={"validation": [], "test": []} | {held_out: [scan]},
        preparation=SimpleNamespace(sha256=lambda paths: dict.fromkeys(paths, "1")),
    )
    leaks = _leaks("run", SimpleNamespace(packed=None), tmp_path, data)

    assert "trained on 1 file that this split holds out, such as 'scan.png'" in str(leaks)


@pytest.mark.slow
def test_back_translation_learns_while_the_start_stays(tiny_run, tiny_recipe, tmp_path):
    tiny_recipe["method"] = {"name": "back_translation", "generator": TINY["method"]["generator"]}
    tiny_recipe["train"] |= {"start": str(tiny_run), "steps": 40, "save_every": 20, "log_every": 1}
    whole, cut = (run(tiny_recipe, out=tmp_path / name, **QUIET) for name in ("whole", "cut"))
    shutil.rmtree(cut.path / "checkpoints/step-000040")
    resume(cut, **QUIET)  # what it goes on from is not taken for the start
    begun = trained.inference_state(tiny_run / LAST)
    found = weights_of(whole.path)
    for way in ("ab", "ba"):
        kept = {name: one for name, one in found.items() if name.startswith(f"model.start_{way}.")}
        assert kept
        assert all(
            torch.equal(one, begun[name.replace("model.start_", "g_")])
            for name, one in kept.items()
        )
        assert any(
            not torch.equal(found[f"model.g_{way}.{name[15:]}"], one) for name, one in kept.items()
        )

    assert same_weights(found, weights_of(cut.path))

    rows = [json.loads(line) for line in (whole.path / "log.jsonl").read_text().splitlines()]
    far = [sum(row["losses"].values()) for row in rows if "losses" in row]

    assert sum(far[-5:]) < 0.9 * sum(far[:5])


def test_the_start_translates_as_in_use_while_the_rest_trains():
    method = {
        "name": "back_translation",
        "generator": PAIRS["generator"] | {"dropout": 0.5},
        "match": 0.0,
    }
    method = method_of(method, (32, 32))
    image = torch.rand(1, 1, 32, 32)
    method.begin(None, {})

    for to, other in ("ab", "ba"):
        made = method.back_translate(to, {to: image})
        assert made.equal(method.eval().translate(image, other))
