"""A run that is killed anywhere and resumed ends with the very same bytes as one that was left alone."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
import torch

from gantk.recipe.load import load_recipe
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder

RECIPES = sorted((Path(__file__).resolve().parent.parent / "recipes").glob("*.toml"))
STEPS, SAVE_EVERY = 14, 3
CALLS = 9  # calls to the disk inside one save


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Everything that remembers: image pool, EMA, dropout, augmentation, momentum, two stages, a schedule."""
    from tiny import TINY, draw_pictures

    folder = tmp_path_factory.mktemp("killed")
    draw_pictures(folder / "data" / "trainA", 9, seed=1)
    draw_pictures(folder / "data" / "trainB", 11, seed=2)
    tables = TINY | {
        "data": {
            "source": {"name": "folders", "path": str(folder / "data")},
            "domains": ["A", "B"],
            "size": [32, 32],
            "augment": ["hflip", "brightness"],
            "split": {"test": 0.0, "validation": 0.0},
        },
        "train": {
            "steps": STEPS,
            "batch": 2,
            "precision": "fp32",
            "ema": 0.9,
            "seed": 3,
            "log_every": 1,
            "sample_every": 5,
        }
        | {"save_every": SAVE_EVERY, "keep": 2, "schedule": "cosine"},
    }
    generator = tables["method"]["generator"] | {"dropout": 0.3}
    tables["method"] = tables["method"] | {"generator": generator, "pool": 3, "low_res_warmup": 0.4}
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(tables), "utf-8")
    return path


def sittings(recipe: Path, folder: Path, plan: dict[str, list[dict]]) -> dict[str, list[str]]:
    command = [sys.executable, str(Path(__file__).parent / "sittings.py"), str(recipe), str(folder), json.dumps(plan)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def same(one, other) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def logged(folder: Path) -> list[dict]:
    """The log without what a clock says."""
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in RunFolder(folder).read_log()
    ]


def assert_as_if_never_killed(folder: Path, whole: Path) -> None:
    ends = [each / "checkpoints" / f"step-{STEPS:06d}" for each in (folder, whole)]
    names = checkpoint.load_weights(ends[1]).keys()
    assert {
        "ema.g_ab.encoder.0.0.weight",
        "model.pool_a.images",
        "model.pool_b.count",
        "model.d_a.layers.0.weight",
    } <= names
    assert (ends[0] / "weights.safetensors").read_bytes() == (ends[1] / "weights.safetensors").read_bytes()
    assert same(*map(checkpoint.load_state, ends))
    assert logged(folder) == logged(whole)
    steps = [line["step"] for line in logged(folder) if "losses" in line]
    assert steps == list(range(1, STEPS + 1))
    assert [p.name for p in (folder / "checkpoints").iterdir() if p.name.startswith(".")] == []
    assert checkpoint.steps_saved(folder / "checkpoints") == checkpoint.steps_saved(whole / "checkpoints")
    sampled = json.loads((folder / "samples" / "index.json").read_text())["steps"]
    assert sampled == json.loads((whole / "samples" / "index.json").read_text())["steps"] == [0, 5, 10, STEPS]


def test_a_killed_run_resumes_to_the_bit(recipe, tmp_path):
    chance = random.Random(7)
    plan = {
        "at-random-steps": [
            {"step": chance.randrange(SAVE_EVERY, STEPS), "point": chance.randrange(4)} for _ in range(2)
        ],
        "from-outside": [{"log": chance.randrange(4, 8)}, {"log": chance.randrange(8, 12)}],
        "inside-saves": [{"save": 2, "call": 1}, {"save": 1, "call": chance.randrange(2, CALLS)}],
        "before-the-first-save": [{"step": 1, "point": 1}],
    }
    ended = sittings(recipe, tmp_path, plan)
    assert ended == {"whole": ["exit 0"]} | {name: ["killed"] * len(kills) + ["exit 0"] for name, kills in plan.items()}
    for name in plan:
        assert_as_if_never_killed(tmp_path / name, tmp_path / "whole")


@pytest.mark.slow
def test_a_run_killed_at_every_step_and_at_every_point_of_a_save_resumes_to_the_bit(recipe, tmp_path):
    plan = {f"step-{step}-{point}": [{"step": step, "point": point}] for step in range(STEPS) for point in range(3)}
    plan |= {f"save-{save}-{call}": [{"save": save, "call": call}] for save in (1, 2, 4) for call in range(1, CALLS)}
    plan |= {f"log-{lines}": [{"log": lines}, {"log": lines + 4}] for lines in range(1, 8)}
    ended = sittings(recipe, tmp_path, plan)
    for name, kills in plan.items():
        assert ended[name] == ["killed"] * len(kills) + ["exit 0"], name
        assert_as_if_never_killed(tmp_path / name, tmp_path / "whole")


SHORT = ["train.steps=4", "train.batch=2", "train.save_every=2", "train.sample_every=4", "train.log_every=1"]
SHORT += ["data.source.subjects=16", "evaluate.samples=1", "evaluate.images=8"]


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_resumes_to_the_bit_after_a_kill(path, tmp_path):
    loaded = load_recipe(path)
    slices = ["data.source.slices=3"] if loaded.tables["data"].get("dims", 2) == 2 else []
    profile = "cpu" if "cpu" in loaded.tables.get("profile", {}) else None
    if loaded.tables["data"]["source"] != "phantom" and loaded.tables["data"]["source"]["name"] != "phantom":
        loaded.tables["data"]["source"] = {"name": "phantom"}  # real patients are not at hand everywhere
    short = tmp_path / "short.toml"
    short.write_text(tomli_w.dumps(loaded.override([*SHORT, *slices], profile).tables))
    assert sittings(short, tmp_path, {"killed": [{"step": 3, "point": 1}]})["killed"] == ["killed", "exit 0"]
    ends = [tmp_path / name / "checkpoints" / "step-000004" for name in ("killed", "whole")]
    assert (ends[0] / "weights.safetensors").read_bytes() == (ends[1] / "weights.safetensors").read_bytes()
    assert same(*map(checkpoint.load_state, ends))
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


def test_a_finished_run_resumed_stays_as_it_is(copied_run, gantk):
    before = {path: path.read_bytes() for path in (copied_run / "checkpoints").rglob("*") if path.is_file()}
    log = logged(copied_run)
    outcome = gantk("resume", copied_run, "--device", "cpu")
    assert outcome.code == 0 and "after step 4 of 4" in outcome.out
    assert {path: path.read_bytes() for path in (copied_run / "checkpoints").rglob("*") if path.is_file()} == before
    assert logged(copied_run) == log


def test_a_log_line_cut_off_by_a_crash_is_dropped(tmp_path):
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.log({"step": step, "seconds": 0.5 * step, "losses": {}})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 4, "losses": {"generators/cyc')
    assert [line["step"] for line in run.read_log()] == [1, 2, 3]
    assert run.rewind_log(2) == 1.0
    assert [line["step"] for line in run.read_log()] == [1, 2]


def wait_for_log(path: Path, process: subprocess.Popen, lines: int) -> None:
    """Until the log has that many lines; the process must not end before."""
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            pytest.fail(f"it ended too early: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_says_how_to_go_on_and_exits_130(recipe, tmp_path, number, gantk):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "gantk", "run", str(recipe), "--out", str(run), "--device", "cpu"]
    command += ["--set", "train.steps=1000000", "--set", "train.save_every=1000000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for_log(run / "log.jsonl", process, 5)
        process.send_signal(number)
        out, err = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 130
    steps = checkpoint.steps_saved(run / "checkpoints")
    assert len(steps) == 1 and steps[0] >= 3
    assert f"gantk resume {run}" in err and f"stopped after step {steps[0]} of 1000000" in err
    assert "Traceback" not in out + err
    assert checkpoint.load_state(checkpoint.latest(run / "checkpoints"))["step"] == steps[0]


def test_a_run_of_no_steps_leaves_a_checkpoint(tiny_recipe, tmp_path):
    import gantk

    tiny_recipe["train"]["steps"] = 0
    run = gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    assert (run.path / "checkpoints" / "step-000000" / "weights.safetensors").is_file()


def test_a_resume_keeps_the_intensities_of_its_checkpoint(copied_run):
    from gantk.machine.runtime import start
    from gantk.training.assemble import assemble, restore

    model = RunFolder.open(copied_run).recipe().check()
    checkpointed = copied_run / "checkpoints" / "step-000004"
    meta = json.loads((checkpointed / "meta.json").read_text())
    meta["intensity"]["a"]["fitted"] = [1.0, 2.0]  # as if the training images had changed since
    (checkpointed / "meta.json").write_text(json.dumps(meta))
    parts = assemble(model, start("cpu", "fp32"))
    restore(parts, checkpointed)
    assert parts.batches.sets["a"].intensity.state()["fitted"] == [1.0, 2.0]
