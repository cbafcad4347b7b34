"""Models to be given away: packed small without names, used by name wherever a run is, sent to a
hub and fetched.
"""

import base64
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from servers import Handler, hub_reply, serve
from tiny import ROOT, draw_pictures, python, read_json
from volumes import volume

import gantk as toolkit
from gantk.errors import GantkError, UserError
from gantk.files import sha256_of
from gantk.formats.files import read
from gantk.runs.models import all_models

GIVE = "import gantk\n@gantk.hookimpl\ndef gantk_register(add):\n    add.models('given')"
SAVED = "checkpoints/step-000004"


@pytest.fixture(scope="module")
def packed(tiny_run, tmp_path_factory) -> Path:
    """The tiny run, packed: only to be read."""
    return toolkit.pack(tiny_run, tmp_path_factory.mktemp("packed") / "tiny", say=lambda line: None)


def test_packed_models_hold_16_bit_weights_and_no_names(packed, tiny_run):
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert files == {
        f"{SAVED}/weights.safetensors",
        f"{SAVED}/meta.json",
        "recipe.toml",
        "metrics.json",
        "card.md",
    }
    weights = load_file(packed / SAVED / "weights.safetensors")
    assert {name.split(".")[1] for name in weights} == {"g_ab", "g_ba"}
    assert {each.dtype for each in weights.values()} == {np.dtype(np.float16)}

    told = "".join(
        (packed / name).read_text("utf-8") for name in files if not name.endswith(".safetensors")
    )
    images = read_json(tiny_run / "split.json")["splits"]["train"]

    assert not [
        image for image in images if f'"{image["subject"]}"' in told or image["key"] in told
    ]

    score = read_json(tiny_run / "metrics.json")["metrics"]["a_to_b"]["psnr"]["value"]
    card = (packed / "card.md").read_text("utf-8")

    assert f"| T1 -> T2 | PSNR | {score:.2f} dB |" in card
    assert not re.search(r"\{\w+\}", card)


@pytest.mark.slow
def test_packed_models_answer_and_score_as_their_run(packed, tiny_run, gantk, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    pixels = read(draw_pictures(tmp_path, 1)[0]).pixels[0]

    gantk("eval", packed, "--metrics", "psnr", "--json", tmp_path / "scores.json").ok()

    scores = [
        read_json(tmp_path / "scores.json")["metrics"],
        read_json(tiny_run / "metrics.json")["metrics"],
    ]
    for to, way in (("T1", "b_to_a"), ("T2", "a_to_b")):
        one, other = (
            toolkit.load(each, device="cpu").translate(pixels, to=to) for each in (tiny_run, packed)
        )
        assert 0 < np.abs(one - other).max() < np.ptp(one) / 100
        assert scores[0][way]["psnr"]["value"] == pytest.approx(
            scores[1][way]["psnr"]["value"], abs=0.05
        )

    assert {path: path.stat().st_mtime_ns for path in packed.rglob("*")} == before
    exported = gantk("export", packed, "--out", tmp_path / "x.onnx").ok()
    assert "held-out images of T1" in exported.out


def test_packed_models_are_not_resumed_or_scored_elsewhere(packed, gantk, tmp_path):
    refused = gantk("resume", packed).refused()
    assert "is a packed model, which contains weights but no state" in refused

    other = Path(shutil.copytree(packed, tmp_path / "other"))
    recipe = (other / "recipe.toml").read_text("utf-8")
    (other / "recipe.toml").write_text(recipe.replace("subjects = 6", "subjects = 7"), "utf-8")
    told = gantk("eval", other).refused()

    assert "these images differ from those that the model was trained" in told


def test_models_are_used_by_name_unless_a_folder_has_it(
    packed, tiny_run, add_plugin, gantk, tmp_path, monkeypatch
):
    shutil.copytree(packed, add_plugin("my-package", "my_plugin", GIVE) / "given" / "tiny_t1t2")
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "in", 1)

    assert all_models()["tiny_t1t2"][1] == "my-package"

    (listed,) = [
        each
        for each in json.loads(gantk("models", "--json", "-").out)
        if each["name"] == "tiny_t1t2"
    ]

    assert (listed["domains"], listed["from"]) == ("T1, T2", "my-package")
    assert gantk("show", "tiny_t1t2").out == gantk("show", "model", "tiny_t1t2").out
    shown = gantk("show", "model", "tiny_t1t2").out
    assert "limits   " in shown and "licence  not stated" in shown
    assert len(shown.splitlines()) <= 24
    assert "## Limits" in gantk("show", "model", "tiny_t1t2", "--full").out
    assert "of a run: `gantk card RUN`" in gantk("show", "model", tiny_run, "--full").refused()
    assert "tiny_t1t2" in gantk("show", "model").out

    one, two = (
        ("translate", "tiny_t1t2", "in/slice-00.png", name, "--device", "cpu")
        for name in ("1.png", "2.png")
    )
    first, second, *_ = gantk(*one).out.splitlines()

    assert first.startswith("model    tiny_t1t2 from my-package, weights sha256 ")
    assert second.startswith("limits   Research software: not a medical device")
    shutil.copytree(packed, "tiny_t1t2")
    assert gantk(*two).out.startswith(
        "note     './tiny_t1t2' is used, not the model 'tiny_t1t2' from my-package"
    )
    assert Path("1.png").read_bytes() == Path("2.png").read_bytes()

    wrong = {
        "tiny_t1t3": "Did you mean 'tiny_t1t2'?",
        "a/b": "no folder 'a/b'. Name",
        "ab://c": "not the ad",
    }
    for name, told in wrong.items():
        refused = gantk("translate", name, "in/slice-00.png", "3.png").refused()
        assert told in refused


def test_sidecars_name_the_model_and_its_limits(packed, tmp_path, gantk):
    volume(tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")  # noise
    done = gantk("translate", packed, tmp_path / "raw", tmp_path / "made", "--device", "cpu")
    (sidecar,) = (tmp_path / "made").rglob("sub-01*.json")
    told = read_json(sidecar)["GeneratedBy"][0]["Description"]

    assert done.code == 0
    assert told.startswith("tiny (dualgan), T1 to T2")
    assert "no output is fit for diagnosis" in told
    fits, doubt = read_json(sidecar)["Warnings"]
    assert fits == "fits the training data: no (lesions are not checked)"
    assert doubt.startswith("the input is noise")
    assert doubt in done.out
    found = read_json(sidecar)["FitsTrainingData"]["T1"]
    assert found["Fits"] == "no"
    assert doubt in found["Reasons"]


def test_what_cannot_be_packed_leaves_nothing(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "card.md").write_text("# Mine\n", "utf-8")
    with pytest.raises(UserError, match="has no section '## Limits'"):
        toolkit.pack(tiny_run, tmp_path / "new", card=tmp_path / "card.md")

    with pytest.raises(UserError, match="did not write"):
        toolkit.pack(tiny_run, tmp_path)

    monkeypatch.setattr("gantk_models.packing.LEVELS", 10**7)
    with pytest.raises(
        GantkError, match="gray levels of 10000000, on 2 held-out images.*--dtype float32"
    ):
        toolkit.pack(tiny_run, tmp_path / "new")

    assert [path.name for path in tmp_path.iterdir()] == ["card.md"]

    # which answers to the bit
    toolkit.pack(tiny_run, tmp_path / "new", dtype="float32")
    weights = load_file(tmp_path / "new" / SAVED / "weights.safetensors")

    assert {name.split(".")[1] for name in weights} == {"g_ab", "g_ba"}


# ---- a hub: a real server on this machine, asked by the library as the Hugging Face hub is


COMMIT = 40 * "1"


def taking(files: dict[str, bytes]):
    """Answers of a hub that takes uploads into `files`, as one commit."""

    def reply(handler: Handler) -> None:
        parts = handler.path.partition("?")[0].split("/")
        repository = f"{handler.server.url}/me/tiny"
        if "gone" in parts:
            handler.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        elif parts[-1] == "create":
            handler.answer(json.dumps({"url": repository}).encode())
        elif "preupload" in parts:
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            asked = [{"path": file["path"]} | mode for file in json.loads(handler.body)["files"]]
            handler.answer(json.dumps({"files": asked}).encode())
        elif "commit" in parts:
            for sent in map(json.loads, handler.body.splitlines()):
                if sent["key"] == "file":
                    files[sent["value"]["path"]] = base64.b64decode(sent["value"]["content"])
            made = {"commitUrl": f"{repository}/commit/{COMMIT}", "commitOid": COMMIT}
            handler.answer(json.dumps(made | {"success": True}).encode())
        else:
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"etag-{parts[-1]}"'}
            hub_reply(files, COMMIT, headers)(handler)

    return reply


# The commands share an interpreter, whose start takes seconds.
SEVERAL = """import files, json, sys
ends = [files.gantk(*words) for words in json.loads(sys.argv[1])]
print(json.dumps([(end.code, end.out + end.err) for end in ends]))"""


@pytest.fixture
def hub(tmp_path):
    """`hub(["push", ...], ...)` runs commands one after the other in a process whose hub is a
    server of `hub.files`; their ends. `hub.asked`: its requests meanwhile.
    """
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install gantk[hub]")
    own = {"HF_TOKEN": "hf_me", "HF_HUB_OFFLINE": "0"}
    own |= {"HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    own["PYTHONPATH"] = (
        f"{ROOT / 'tests'}:{ROOT / 'tests' / 'promises'}:{os.environ.get('PYTHONPATH', '')}"
    )

    def call(*commands: list[object]) -> list[tuple[int, str]]:
        call.asked.clear()
        given = json.dumps([[str(word) for word in words] for words in commands])
        return json.loads(python("-c", SEVERAL, given, cwd=tmp_path, **own).ok().out)

    call.files = {"setup.py": b"raise SystemExit('executed')"}  # of somebody else
    with serve(taking(call.files)) as server:
        own["HF_ENDPOINT"] = server.url
        call.asked = server.asked
        yield call


ON_CPU = ["--device", "cpu"]


@pytest.mark.slow
def test_a_model_is_pushed_with_its_cards_and_licence(hub, tiny_run):
    ((code, said),) = hub(["push", tiny_run, "me/tiny", "--license", "cc-by-4.0"])
    assert code == 0
    assert f"pushed   hf://me/tiny@{COMMIT}, weights sha256 " in said
    names = "README.md card.md meta.json metrics.json recipe.toml setup.py weights.safetensors"
    assert sorted(path.rpartition("/")[2] for path in hub.files) == names.split()
    readme = hub.files["README.md"]
    assert readme.startswith(b"---\nlibrary_name: gantk\n")
    assert b"\nlicense: cc-by-4.0\n---\n" in readme
    assert readme.endswith(hub.files["card.md"])


@pytest.mark.slow
def test_pushed_models_are_fetched_once_by_address(hub, tiny_run, pictures, tmp_path):
    (picture,) = pictures(tmp_path / "in", 1)
    push = ["push", tiny_run, "me/tiny", "--license", "cc-by-4.0"]
    _, (code, said) = hub(push, ["translate", "hf://me/tiny", picture, "one.png", *ON_CPU])

    assert code == 0

    (weights,) = (tmp_path / "hf").rglob("weights.safetensors")
    address = f"model    hf://me/tiny@{COMMIT}, weights sha256 {sha256_of(weights)[:8]}\nlimits "

    assert address in said
    downloads = [one for one in hub.asked if one.startswith("GET") and "weights.safetensors" in one]
    assert len(downloads) == 1
    assert not list((tmp_path / "hf").rglob("setup.py"))

    ((code, said),) = hub(["translate", f"hf://me/tiny@{COMMIT}", picture, "two.png", *ON_CPU])
    assert code == 0
    assert hub.asked == [], said
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.slow
def test_a_model_that_the_hub_does_not_have_is_one_error(hub, pictures, tmp_path):
    (picture,) = pictures(tmp_path / "in", 1)
    ((code, said),) = hub(["translate", "hf://me/gone", picture, "out.png"])

    assert code == 1
    assert said.startswith("error  'hf://me/gone' cannot be downloaded: 404")
    assert "Traceback" not in said


def test_model_mistakes_are_one_message(gantk):
    images = ("in.png", "out.png")
    no_model = "there is no folder 'nowhere', and no model of that name"
    for words, told in (
        (
            ("translate", "hf://me", *images),
            "'hf://me' is not a valid address of a model. Allowed: hf://USER/NAME",
        ),
        (("push", "nowhere", "me/tiny"), no_model),
        (
            ("push", "nowhere", "tiny"),
            "'tiny' is not a valid name on the hub. Allowed: USER/NAME",
        ),
    ):
        done = gantk(*words).refused()
        assert done.startswith(f"error {told}")
