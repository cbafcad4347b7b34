"""Every command, option and part of gantk 0.1 is there, and a run leaves the files that the README
lists.

names.json holds the options of every command and of every part that a recipe can name, as that
version offered them.
"""

import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from files import HERE, NOISE, TINY, ended, gantk, log_of, pictures, process, recipe, saved
from PIL import Image

NAMES = json.loads((HERE / "names.json").read_text("utf-8"))


def said(*words: object) -> str:
    """What a command that succeeds prints."""
    done = gantk(*words)
    assert done.code == 0, f"gantk {words}: {done.err}{done.out}"
    return done.out


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.float64)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """A folder with one of pictures for each domain, pairs by name; the second domain is the first
    one inverted.
    """
    folder = tmp_path_factory.mktemp("scans")
    for path in pictures(folder / "T1", 12, seed=1, name="p").iterdir():
        (folder / "T2").mkdir(exist_ok=True)
        Image.fromarray(255 - np.asarray(Image.open(path))).save(folder / "T2" / path.name)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, scans) -> Path:
    """A finished run on these scans, two of its steps traced: only to be read."""
    folder = tmp_path_factory.mktemp("run")
    more = {"data": {"split": {"by": "image"}}, "evaluate": {"metrics": ["psnr", "mae"]}}
    path = recipe(folder / "tiny.toml", train={"steps": 16, "save_every": 8}, **more)
    options = [
        "--data",
        scans,
        "--out",
        folder / "run",
        "--device",
        "cpu",
        "--profile-steps",
        2,
        "--seed",
        5,
    ]
    assert str(folder / "run" / "report.html") in said("run", path, *options).splitlines()[-1]
    return folder / "run"


# ---- what there is -------------------------------------------------------------------------------


def test_every_command_has_the_options_it_had():
    for command, options in NAMES["commands"].items():
        shown = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", said(*command.split(), "--help")))
        assert set(options) <= shown, f"gantk {command}: {set(options) - shown}"
    assert re.search(r"\d+\.\d+", said("--version"))


RENAMED = {  # options that are accepted under both names, losses that have the second alone
    "structure": "local_ncc",
    "flatness": "flat_region",
    "texture": "noise_floor",
    "coarse": "low_res_warmup",
}


def test_every_part_is_offered_with_the_options_it_had():
    listed = {tuple(line.split()[:2]) for line in said("list").splitlines()}
    for kind, parts in NAMES["parts"].items():
        assert {(kind, RENAMED.get(name, name)) for name in parts} <= listed
        for old, options in parts.items():
            name = RENAMED.get(old, old)
            first = {
                line.split()[0] for line in said("show", kind, name).splitlines() if line.strip()
            }
            wanted = {RENAMED.get(option, option) for option in options}
            assert wanted <= first, f"{kind} {name}: {wanted - first}"


def test_plugins_and_recipes_are_listed_and_a_recipe_is_copied(tmp_path):
    rows = [line.split() for line in said("plugins").splitlines()]
    for name in (
        "bench",
        "datasets",
        "dicom",
        "models",
        "scores",
        "style",
        "synthesis",
        "translation",
    ):
        assert any(row[0] == name and "did not load" not in " ".join(row) for row in rows), name
    known = {line.split()[0] for line in said("recipes").splitlines() if line.strip()}
    recorded = {
        name.partition("@")[0] for name in json.loads((HERE / "recipes.json").read_text("utf-8"))
    } - {"most"}
    assert recorded <= known
    said("recipes", "copy", "dualgan_t1t2", tmp_path / "mine.toml")
    assert tomllib.loads((tmp_path / "mine.toml").read_text("utf-8"))["method"]["name"] == "dualgan"


def test_the_doctor_looks_at_the_machine_and_at_a_recipe(tmp_path):
    done = gantk("doctor")
    rows = [line.split()[0] for line in done.out.splitlines() if line.strip()]
    assert done.code in (0, 1)
    assert {"gantk", "python", "torch", "device", "disk"} <= set(rows)
    wanted = [
        "--recipe",
        recipe(tmp_path / "tiny.toml"),
        "--device",
        "cpu",
        "--json",
        tmp_path / "forecast.json",
    ]
    rows = [line.split()[0] for line in said("doctor", *wanted).splitlines() if line.strip()]
    assert {"memory", "step", "training"} <= set(rows)
    assert json.loads((tmp_path / "forecast.json").read_text("utf-8"))


# ---- what a run leaves ---------------------------------------------------------------------------


def test_a_run_leaves_the_files_that_the_readme_lists(run):
    files = (
        "report.html metrics.json best.json usage.json recipe.toml environment.json split.json"
        " log.jsonl"
    )
    assert set(files.split()) | {"checkpoints", "samples", "profile"} <= {
        path.name for path in run.iterdir()
    }
    assert saved(run) == ["step-000008", "step-000016"]
    for step in saved(run):
        held = {path.name for path in (run / "checkpoints" / step).iterdir()}
        assert held == {"weights.safetensors", "state.safetensors", "state.json", "meta.json"}
    assert list((run / "profile").iterdir())
    assert list((run / "samples").rglob("*.png"))
    steps = [line for line in log_of(run) if "losses" in line]
    assert [line["step"] for line in steps] == list(range(1, 17))
    assert all(isinstance(value, float) for line in steps for value in line["losses"].values())
    assert tomllib.loads((run / "recipe.toml").read_text("utf-8"))["train"]["seed"] == 5
    environment = json.loads((run / "environment.json").read_text("utf-8"))
    assert {"gantk", "packages", "command", "device", "precision", "python"} <= environment.keys()
    assert "step" in json.loads((run / "best.json").read_text("utf-8"))


def test_metrics_have_values_intervals_and_definitions(run):
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    for way in ("a_to_b", "b_to_a"):
        baselines = [
            metrics["baselines"][name][way] for name in ("identity", "histogram", "intensity_map")
        ]
        for scores in (metrics["metrics"][way], *baselines):
            for name in ("psnr", "mae"):
                score = scores[name]
                assert {"value", "ci95", "n", "definition"} <= score.keys()
                # of one patient there is no interval
                low, high = score["ci95"] or [score["value"]] * 2
                assert (score["ci95"] is None) == (score["n"] == 1)
                assert score["n"] >= 1
                assert low <= score["value"] <= high
                assert len(score["definition"]) > 10
    assert metrics["domains"] == ["T1", "T2"]
    assert metrics["step"] == 16
    assert "verdict" in metrics
    assert any(isinstance(value, float) and value > 0 for value in metrics["speed"].values())


# ---- what commands do ----------------------------------------------------------------------------


def test_an_onnx_file_translates_without_torch(run, scans, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    picture = scans / "T1" / "p-03.png"
    said("translate", run, picture, tmp_path / "by_torch.tif", "--device", "cpu")
    said("export", run, "--format", "onnx", "--out", tmp_path / "t1_to_t2.onnx")
    blocked = "import sys; sys.modules['torch'] = None; from gantk.cli import main; main()"
    words = ("translate", "t1_to_t2.onnx", picture, "out.tif")
    done = ended(process(*words, cwd=tmp_path, before=("-c", blocked)))
    assert done.code == 0, done.err
    by_torch = pixels(tmp_path / "by_torch.tif")
    assert np.abs(pixels(tmp_path / "out.tif") - by_torch).max() < 1e-4 * np.ptp(by_torch)


def test_data_are_looked_at_before_training(scans, tmp_path):
    assert "24 png" in said("data", "check", scans, "--json", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text("utf-8"))
    broken = tmp_path / "broken"
    shutil.copytree(scans, broken)
    (broken / "T1" / "p-03.png").write_bytes(b"no picture")
    done = gantk("data", "check", broken)
    assert done.code == 1
    assert "p-03.png" in done.out
    assert re.search(r"[GM]i?B", said("data", "fetch"))


def test_the_functions_do_what_the_commands_do(run, scans, tmp_path):
    import gantk as toolkit

    lines: list[str] = []
    source = next((scans / "T1").iterdir())
    written_to = toolkit.translate(
        run, source, tmp_path / "api.png", to="T2", device="cpu", say=lines.append
    )
    said("translate", run, source, tmp_path / "cli.png", "--to", "T2", "--device", "cpu")
    assert [Path(path) for path in written_to] == [tmp_path / "api.png"]
    assert lines
    assert (tmp_path / "api.png").read_bytes() == (tmp_path / "cli.png").read_bytes()
    model = toolkit.load(run, device="cpu")
    image = pixels(source)[None, None].astype(np.float32)
    values, other = (model.translate(image, to=to) for to in ("T2", "T1"))
    assert values.shape == (1, 1, 32, 32)
    assert not np.array_equal(values, other)
    assert np.abs(values[0, 0].clip(0, 255) - pixels(tmp_path / "cli.png")).max() <= 0.51
    folder = toolkit.run(
        TINY | NOISE, out=tmp_path / "noise", device="cpu", set=["train.seed=3"], say=lines.append
    )
    assert folder.path == tmp_path / "noise"
    assert (folder.path / "report.html").is_file()
    assert folder.recipe().tables["train"]["seed"] == 3
    assert toolkit.resume(folder.path, device="cpu", say=lines.append).path == folder.path
    assert (
        len(toolkit.sample(folder.path, n=2, out=tmp_path / "made", device="cpu", say=lines.append))
        == 2
    )
    scores = toolkit.evaluate(
        shutil.copytree(run, tmp_path / "copy"), metrics=["rmse"], device="cpu", say=lines.append
    )
    assert "rmse" in scores["metrics"]["a_to_b"]
    assert toolkit.compare(
        scans / "T1", scans / "T2", metrics=["mae"], device="cpu", say=lines.append
    )
    assert toolkit.check(scans)
    with pytest.raises(toolkit.UserError, match="there is no recipe 'nothing'"):
        toolkit.run("nothing")
