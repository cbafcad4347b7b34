"""Every command, option and part of gantk 0.1 is there, and a run leaves the files that the README
lists.

names.json holds the options of every command and of every part that a recipe can name, as that
version offered them.
"""

import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from files import HERE, NOISE, TINY, gantk, log_of, pictures, recipe, saved
from PIL import Image
from tiny import python, read_json

NAMES = read_json(HERE / "names.json")


def said(*words: object) -> str:
    """What a command that succeeds prints."""
    done = gantk(*words).ok()
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
    """A finished run on these scans: only to be read."""
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
        "--seed",
        5,
    ]
    assert str(folder / "run" / "report.html") in said("run", path, *options)
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
PARTS = RENAMED | dict.fromkeys(("folders", "images", "nifti", "contrasts"), "files")


def test_every_part_is_offered_with_the_options_it_had():
    listed = {tuple(line.split()[:2]) for line in said("list").splitlines()}
    for kind, parts in NAMES["parts"].items():
        assert {(kind, PARTS.get(name, name)) for name in parts} <= listed
        for old, options in parts.items():
            name = PARTS.get(old, old)
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

    known = {line.split()[0] for line in said("recipes", "--all").splitlines() if line.strip()}
    recorded = {name.partition("@")[0] for name in read_json(HERE / "recipes.json")} - {"most"}

    assert recorded <= known
    said("recipes", "copy", "dualgan_t1t2", tmp_path / "mine.toml")
    assert tomllib.loads((tmp_path / "mine.toml").read_text("utf-8"))["method"]["name"] == "dualgan"


@pytest.mark.slow
def test_the_doctor_looks_at_the_machine():
    done = gantk("doctor")
    rows = [line.split()[0] for line in done.out.splitlines() if line.strip()]

    assert done.code in (0, 1)
    assert {"gantk", "python", "torch", "device", "disk"} <= set(rows)


@pytest.mark.slow
def test_a_recipe_is_tried(tmp_path):
    wanted = ["--try", "--device", "cpu", "--json", tmp_path / "forecast.json"]
    said_of_it = said("run", recipe(tmp_path / "tiny.toml"), *wanted)
    rows = [line.split()[0] for line in said_of_it.splitlines() if line.strip()]

    assert {"memory", "step", "training"} <= set(rows)
    assert read_json(tmp_path / "forecast.json")


# ---- what a run leaves ---------------------------------------------------------------------------


RUN_FILES = {
    "report.html",
    "metrics.json",
    "best.json",
    "usage.json",
    "recipe.toml",
    "environment.json",
    "split.json",
    "log.jsonl",
    "checkpoints",
    "samples",
}
CHECKPOINT_FILES = {"weights.safetensors", "state.safetensors", "state.json", "meta.json"}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_leaves_the_files_that_the_readme_lists(run):
    assert names_in(run) >= RUN_FILES
    assert saved(run) == ["step-000008", "step-000016"]
    for step in saved(run):
        assert names_in(run / "checkpoints" / step) == CHECKPOINT_FILES
    assert list((run / "samples").rglob("*.png"))


def test_a_run_says_what_it_was_and_every_loss(run):
    steps = [line for line in log_of(run) if "losses" in line]
    assert [line["step"] for line in steps] == list(range(1, 17))

    for line in steps:
        assert all(isinstance(value, float) for value in line["losses"].values())

    recipe = tomllib.loads((run / "recipe.toml").read_text("utf-8"))

    assert recipe["train"]["seed"] == 5
    environment = read_json(run / "environment.json")
    assert {"gantk", "packages", "command", "device", "precision", "python"} <= environment.keys()
    assert "step" in read_json(run / "best.json")


@pytest.mark.parametrize("way", ["a_to_b", "b_to_a"])
@pytest.mark.parametrize("name", ["psnr", "mae"])
def test_metrics_have_values_intervals_and_definitions(run, way, name):
    metrics = read_json(run / "metrics.json")
    scores = [metrics["metrics"][way][name]]
    for baseline in ("identity", "histogram", "intensity_map"):
        scores.append(metrics["baselines"][baseline][way][name])

    for score in scores:
        assert {"value", "ci95", "n", "definition"} <= score.keys()
        assert len(score["definition"]) > 10
        assert score["n"] >= 1
        if score["n"] < 6:  # resampling so few repeats the same values
            assert score["ci95"] is None
        else:
            low, high = score["ci95"]
            assert low <= score["value"] <= high
        if 1 < score["n"] < 6:
            low, high = score["range"]
            assert low <= score["value"] <= high


# ---- what commands do ----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_onnx_file_gives_what_its_run_gives(run, scans, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    picture = scans / "T1" / "p-03.png"
    said("translate", run, picture, tmp_path / "by_torch.tif", "--device", "cpu")
    said("export", run, "--format", "onnx", "--out", tmp_path / "t1_to_t2.onnx")
    said("translate", tmp_path / "t1_to_t2.onnx", picture, tmp_path / "out.tif")

    by_torch = pixels(tmp_path / "by_torch.tif")
    assert np.abs(pixels(tmp_path / "out.tif") - by_torch).max() < 1e-4 * np.ptp(by_torch)


def test_data_are_looked_at_before_training(scans, tmp_path):
    assert "24 png" in said("data", "check", scans, "--json", tmp_path / "found.json")
    assert read_json(tmp_path / "found.json")

    broken = tmp_path / "broken"
    shutil.copytree(scans, broken)
    (broken / "T1" / "p-03.png").write_bytes(b"no picture")
    done = gantk("data", "check", broken)

    assert done.code == 1
    assert "p-03.png" in done.out
    assert re.search(r"[GM]i?B", said("data", "fetch"))


def test_metrics_name_domains_step_verdict_and_speed(run):
    metrics = read_json(run / "metrics.json")
    assert metrics["domains"] == ["T1", "T2"]
    assert metrics["step"] == 16
    assert "verdict" in metrics
    assert any(isinstance(value, float) and value > 0 for value in metrics["speed"].values())


def test_the_function_translate_does_what_the_command_does(run, scans, tmp_path):
    import gantk as toolkit

    lines: list[str] = []
    source = next((scans / "T1").iterdir())
    by_function = tmp_path / "api.png"
    by_command = tmp_path / "cli.png"
    options = {"to": "T2", "device": "cpu", "say": lines.append}
    written = toolkit.translate(run, source, by_function, **options)
    said("translate", run, source, by_command, "--to", "T2", "--device", "cpu")

    assert [Path(path) for path in written] == [by_function]
    assert lines
    assert by_function.read_bytes() == by_command.read_bytes()

    model = toolkit.load(run, device="cpu")
    image = pixels(source).astype(np.float32)
    values = model.translate(image, to="T2")

    assert values.shape == (32, 32)
    assert not np.array_equal(values, model.translate(image, to="T1"))
    difference = values.clip(0, 255) - pixels(by_command)
    assert np.abs(difference).max() <= 0.51


def test_a_run_is_trained_resumed_and_sampled_by_functions(tmp_path):
    import gantk as toolkit

    out = tmp_path / "noise"
    options = {"device": "cpu", "say": lambda line: None}
    folder = toolkit.run(TINY | NOISE, out=out, set=["train.seed=3"], **options)

    assert folder.path == out
    assert (out / "report.html").is_file()
    assert folder.recipe().tables["train"]["seed"] == 3
    assert toolkit.resume(out, **options).path == out
    assert len(toolkit.sample(out, n=2, out=tmp_path / "made", **options)) == 2


def test_functions_score_compare_and_check(run, scans, tmp_path):
    import gantk as toolkit

    options = {"device": "cpu", "say": lambda line: None}
    copied = shutil.copytree(run, tmp_path / "copy")
    scores = toolkit.evaluate(copied, metrics=["rmse"], **options)

    assert "rmse" in scores["metrics"]["a_to_b"]
    assert toolkit.compare(scans / "T1", scans / "T2", metrics=["mae"], **options)
    assert toolkit.check(scans)
    with pytest.raises(toolkit.UserError, match="there is no recipe 'nothing'"):
        toolkit.run("nothing")


def test_a_method_in_place_of_a_recipe_names_its_recipes():
    told = gantk("run", "munit").err
    assert "The recipes of munit are " in told
    assert {"munit_heads", "munit_t1t2"} <= set(re.findall(r"\w+", told))


def test_a_mistyped_recipe_is_found_before_torch_is_imported():
    code = (
        "import sys, gantk\n"
        "try: gantk.run('dualgan_t1t3')\n"
        "except gantk.UserError: print(*{'torch', 'pandas'} & set(sys.modules))"
    )
    assert python("-c", code).ok().out.strip() == ""


@pytest.mark.parametrize("command", [["list"], ["recipes"], ["plugins"], ["show", "model", "t1t2"]])
def test_what_only_lists_does_not_wait_for_torch(command):
    code = (
        "import sys, gantk.cli\n"
        f"try: gantk.cli.main({command})\n"
        "finally: print('torch' in sys.modules)"
    )
    assert python("-c", code).out.splitlines()[-1] == "False"


def test_recipes_begins_with_the_six_that_a_first_user_needs():
    lines = said("recipes").splitlines()
    assert lines[1].startswith("dualgan_t1t2")
    assert "gantk recipes --all" in lines[-1]
    assert not any("Published system" in line for line in lines)
