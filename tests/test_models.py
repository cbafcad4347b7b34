"""Models to be given away: packed small without names, used by name wherever a run is, never taken for a run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import draw_pictures
from volumes import volume

from gantk import load
from gantk.errors import GantkError, UserError
from gantk.formats.files import read
from gantk.runs.models import all_models
from gantk_models import packing

GIVE = "import gantk\n@gantk.hookimpl\ndef gantk_register(add):\n    add.models('given')"


@pytest.fixture(scope="module")
def packed(tiny_run, tmp_path_factory) -> Path:
    """The tiny run, packed: only to be read."""
    return packing.pack(tiny_run, tmp_path_factory.mktemp("packed") / "tiny", say=lambda line: None)


@pytest.fixture
def given(packed, add_plugin):
    """The same as the model `tiny_t1t2` of another distribution."""
    shutil.copytree(packed, add_plugin("my-package", "my_plugin", GIVE) / "given" / "tiny_t1t2")


def test_a_packed_model_holds_generators_in_16_bits_and_no_names(packed, tiny_run):
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    saved = "checkpoints/step-000004/"
    assert files == {saved + "weights.safetensors", saved + "meta.json", "recipe.toml", "metrics.json", "card.md"}
    weights = load_file(packed / saved / "weights.safetensors")
    assert {name.split(".")[1] for name in weights} == {"g_ab", "g_ba"}
    assert {each.dtype for each in weights.values()} == {np.dtype(np.float16)}
    told = "".join((packed / name).read_text("utf-8") for name in files if not name.endswith(".safetensors"))
    images = json.loads((tiny_run / "split.json").read_text("utf-8"))["splits"]["train"]
    assert not [image for image in images if f'"{image["subject"]}"' in told or image["key"] in told]
    score = json.loads((tiny_run / "metrics.json").read_text("utf-8"))["metrics"]["a_to_b"]["psnr"]["value"]
    card = (packed / "card.md").read_text("utf-8")
    assert f"| T1 to T2 | psnr | {score:.4g} dB |" in card and not re.search(r"\{\w+\}", card)


def test_a_packed_model_answers_as_its_run_does_within_a_gray_level(packed, tiny_run, tmp_path):
    (picture,) = draw_pictures(tmp_path, 1)
    pixels = read(picture).pixels[0]
    for to in ("T1", "T2"):
        one, other = (load(each, device="cpu").translate(pixels, to=to) for each in (tiny_run, packed))
        low, high = np.quantile(one, (0.0, 1.0))
        assert 0 < np.abs(one - other).max() < (high - low) / 100


def test_a_packed_model_is_scored_like_its_run_and_left_as_it_was(packed, tiny_run, gantk, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    assert gantk("eval", packed, "--metrics", "psnr", "--json", tmp_path / "scores.json").code == 0
    found, known = (json.loads(p.read_text("utf-8")) for p in (tmp_path / "scores.json", tiny_run / "metrics.json"))
    for way in ("a_to_b", "b_to_a"):
        values = [each["metrics"][way]["psnr"]["value"] for each in (found, known)]
        assert values[0] == pytest.approx(values[1], abs=0.05)
    assert {path: path.stat().st_mtime_ns for path in packed.rglob("*")} == before
    exported = gantk("export", packed, "--out", tmp_path / "x.onnx")
    assert exported.code == 0 and "held-out images of T1" in exported.out


def test_a_packed_model_is_not_resumed_and_not_scored_on_other_images(packed, gantk, tmp_path):
    refused = gantk("resume", packed)
    assert refused.code == 2 and "is a packed model: it holds weights alone" in refused.err
    other = Path(shutil.copytree(packed, tmp_path / "other"))
    recipe = (other / "recipe.toml").read_text("utf-8")
    (other / "recipe.toml").write_text(recipe.replace("subjects = 6", "subjects = 7"), "utf-8")
    assert recipe.count("subjects = 6") == 1
    refused = gantk("eval", other)
    assert refused.code == 2 and "the images here are not those that this model was trained on" in refused.err


def test_a_model_is_used_by_its_name_and_a_folder_of_that_name_wins(given, packed, gantk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "in", 1)
    assert all_models()["tiny_t1t2"][1] == "my-package"
    listed = json.loads(gantk("models", "--json", "-").out)
    assert [(each["domains"], each["from"]) for each in listed if each["name"] == "tiny_t1t2"] == [
        ("T1, T2", "my-package")
    ]
    assert "## Limits" in gantk("show", "model", "tiny_t1t2").out and "tiny_t1t2" in gantk("show", "model").out
    done = gantk("translate", "tiny_t1t2", "in/slice-00.png", "one.png", "--device", "cpu")
    lines = done.out.splitlines()
    assert done.code == 0 and lines[0].startswith("model    tiny_t1t2, shipped with my-package, weights sha256 ")
    assert lines[1].startswith("limits   Research software: not a medical device")
    shutil.copytree(packed, "tiny_t1t2")
    done = gantk("translate", "tiny_t1t2", "in/slice-00.png", "two.png", "--device", "cpu")
    assert done.out.splitlines()[0].startswith(
        "note     './tiny_t1t2' is taken, and not the model 'tiny_t1t2' that my-"
    )
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    for name, words in (
        ("tiny_t1t3", "Did you mean 'tiny_t1t2'?"),
        ("a/b", "no folder 'a/b'. Name"),
        ("ab://c/d", "no ad"),
    ):
        refused = gantk("translate", name, "in/slice-00.png", "three.png")
        assert refused.code == 2 and words in refused.err.replace("address of", "ad"), refused.err


def test_the_sidecar_of_a_translation_names_the_model_and_its_limits(packed, tmp_path, gantk):
    volume(tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    done = gantk("translate", packed, tmp_path / "raw", tmp_path / "made", "--device", "cpu")
    (sidecar,) = (tmp_path / "made").rglob("sub-01*.json")
    told = json.loads(sidecar.read_text("utf-8"))["GeneratedBy"][0]["Description"]
    assert done.code == 0 and told.startswith("tiny (dualgan), T1 to T2") and "no output is fit for diagnosis" in told


def test_what_cannot_be_packed_leaves_nothing(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "card.md").write_text("# Mine\n", "utf-8")
    with pytest.raises(UserError, match="has no section '## Limits'"):
        packing.pack(tiny_run, tmp_path / "new", card=tmp_path / "card.md")
    with pytest.raises(UserError, match="exists already"):
        packing.pack(tiny_run, tmp_path)
    monkeypatch.setattr(packing, "LEVELS", 10**7)
    with pytest.raises(GantkError, match="gray levels of 10000000 off, on 2 held-out images.*--dtype float32"):
        packing.pack(tiny_run, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["card.md"]
    packing.pack(tiny_run, tmp_path / "new", dtype="float32", discriminators=True)  # which answers to the bit
    weights = load_file(tmp_path / "new" / "checkpoints" / "step-000004" / "weights.safetensors")
    assert {name.split(".")[1] for name in weights} == {"g_ab", "g_ba", "d_a", "d_b"}
