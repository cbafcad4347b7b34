"""`gantk eval RUN --data OTHER` scores a run on other images and leaves the run as it is."""

import json
import shutil

import pytest
import tomli_w
from volumes import volume

import gantk
from gantk.errors import UserError
from gantk.runs.folder import RunFolder


def scans(folder, patients):
    for n in patients:
        for k, kind in enumerate(("T1", "T2")):
            volume(folder / f"p{n}" / f"{kind}.nii", 10 * n + k)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from tiny import TINY

    folder = tmp_path_factory.mktemp("other")
    data = TINY["data"] | {"source": "nifti", "size": [16, 16]}
    train = TINY["train"] | {"steps": 1}
    recipe = TINY | {"data": data, "train": train}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe), "utf-8")
    own = scans(folder / "own", range(4))
    return gantk.run(
        folder / "recipe.toml", data=own, out=folder / "run", device="cpu", say=lambda line: None
    ).path


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".json", ".html", ".png", ".safetensors")
    }


def test_all_other_images_are_scored_and_the_run_stays(run, tmp_path, gantk):
    before = contents(run)
    other = scans(tmp_path / "other", range(10, 13))
    out = tmp_path / "scores.json"
    done = gantk("eval", run, "--data", other, "--json", out, "--device", "cpu")

    assert done.code == 0, done.err
    scores = json.loads(out.read_text())
    assert scores["metrics"]["a_to_b"]["psnr"]["n"] == 3
    assert scores["data"] == str(other)
    assert "too good" not in done.out
    assert contents(run) == before


def test_the_runs_own_test_images_score_as_before(run, tmp_path):
    split = json.loads((run / "split.json").read_text())
    tested = {entry["subject"] for entry in split["splits"]["test"]}
    other = tmp_path / "other"
    for patient in tested:
        shutil.copytree(run.parent / "own" / patient, other / patient)
    said: list[str] = []
    scores = gantk.evaluate(run, data=other, device="cpu", say=said.append)
    own = json.loads((run / "metrics.json").read_text())
    for metric in ("psnr", "mae"):
        value = scores["metrics"]["a_to_b"][metric]["value"]
        assert value == pytest.approx(own["metrics"]["a_to_b"][metric]["value"], rel=1e-6)
    assert not any("too good" in line for line in said)


def test_images_of_the_training_are_told(run):
    from gantk.data.dataset import Data

    model = RunFolder.open(run).recipe().check()
    data = Data(model.data, model.method.target, RunFolder.open(run).split())
    data.test_on(model.data, model.method.target)
    copies, names = data.consequences()

    assert "the run was trained on" in copies
    assert "have the name of a training patient" in names
    assert data.consequences() == [copies, names]


def test_a_packed_model_names_another_way(tmp_path):
    with pytest.raises(UserError, match="t1t2' is packed") as refused:
        gantk.evaluate("t1t2", data=tmp_path, device="cpu", say=lambda line: None)
    assert "--pred FOLDER --truth FOLDER --match" in refused.value.remedy
