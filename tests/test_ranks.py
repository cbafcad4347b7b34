"""Several processes train as one: two ranks of batch 2 are one process of batch 4."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess

import pytest
import torch
from several import children, finish, start, torchrun

import gantk
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder


@pytest.fixture
def recipe(tmp_path, pictures, tiny_recipe) -> dict:
    """Losses that are means over the images, and no random numbers inside a step: each rank draws its own.

    (Structure and flatness are means over all windows of a batch, weighted by what the batch shows.)
    """
    pictures(tmp_path / "data" / "trainA", 12, seed=1)
    pictures(tmp_path / "data" / "trainB", 12, seed=2)
    tiny_recipe["method"] |= {"pool": 0, "local_ncc": 0.0, "flat_region": 0.0}
    tiny_recipe["data"] |= {
        "source": {"name": "folders", "path": str(tmp_path / "data")},
        "domains": ["A", "B"],
        "split": {"test": 0.0, "validation": 0.0},
    }
    tiny_recipe["train"] |= {"steps": 4, "batch": 2}
    return tiny_recipe


def scored(folder) -> dict:
    """metrics.json without what depends on the clock."""
    return {key: value for key, value in json.loads((folder / "metrics.json").read_text()).items() if key != "speed"}


def test_two_ranks_of_batch_2_are_one_process_of_batch_4(recipe, tmp_path):
    processes = start(recipe, tmp_path)
    recipe["train"]["batch"] = 4
    gantk.run(recipe, out=tmp_path / "one", device="cpu", say=lambda line: None)
    (code, out, err), (other_code, other_out, _) = finish(processes)
    assert (code, other_code) == (0, 0), err
    assert "2 ranks" in out and other_out == ""  # the first one speaks
    one, ranks = (checkpoint.load_weights(tmp_path / name / "checkpoints" / "step-000004") for name in ("one", "ranks"))
    assert one.keys() == ranks.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            ranks[name], tensor, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    logs = [RunFolder(tmp_path / name).read_log() for name in ("one", "ranks")]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]


@pytest.mark.slow
def test_a_stop_of_one_rank_stops_all_and_saves(recipe, tmp_path):
    recipe["train"] |= {"steps": 1000000, "save_every": 1000000, "log_every": 2}
    processes = start(recipe, tmp_path)
    log = tmp_path / "ranks" / "log.jsonl"
    while not log.exists() or log.read_bytes().count(b"\n") < 4:
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(timeout=0.01)
            pytest.fail(f"it ended too early: {finish(processes)}")
    processes[1].send_signal(signal.SIGINT)
    ends = finish(processes)
    assert [code for code, _, _ in ends] == [130, 130]
    assert "gantk resume" in ends[0][2]
    assert len(checkpoint.steps_saved(tmp_path / "ranks" / "checkpoints")) == 1


@pytest.mark.slow
def test_ranks_share_the_scoring_and_the_scores_are_those_of_one(tiny_recipe, tmp_path):
    tiny_recipe["method"] |= {"pool": 0, "local_ncc": 0.0, "flat_region": 0.0}
    tiny_recipe["data"]["source"] |= {"subjects": 8, "slices": 3}
    tiny_recipe["translate"] = {"batch": 1}  # several passes to share
    tiny_recipe["train"] |= {"steps": 2}
    (code, _, err), _ = finish(start(tiny_recipe, tmp_path))
    assert code == 0, err
    shared = scored(tmp_path / "ranks")
    gantk.evaluate(tmp_path / "ranks", device="cpu", say=lambda line: None)
    assert scored(tmp_path / "ranks") == shared


@pytest.mark.slow
def test_what_ranks_remember_for_themselves_is_saved(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 3}
    (code, _, err), _ = finish(start(tiny_recipe, tmp_path))
    assert code == 0, err
    saved = tmp_path / "ranks" / "checkpoints" / "step-000003"
    own, first = checkpoint.load_state(saved)["ranks"], checkpoint.load_weights(saved)
    assert len(own) == 1
    assert int(own[0]["pool_a.count"]) == int(first["model.pool_a.count"]) == 4
    assert not torch.equal(own[0]["pool_a.images"], first["model.pool_a.images"])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (["--set", "train.batch=3"], "its train.batch is 3, rank 0's is 2"),
        pytest.param(["--set", "data.source.subjects=7"], "subjects is 7, rank 0's is 6", marks=pytest.mark.slow),
        pytest.param(["--seed", "5"], "its train.seed is 5, rank 0's is 0", marks=pytest.mark.slow),
    ],
)
def test_ranks_that_were_started_differently_stop_before_training(tiny_recipe, tmp_path, other, said):
    ends = finish(start(tiny_recipe, tmp_path, own={1: other}))
    assert [code for code, _, _ in ends] == [2, 2]
    assert "rank 1 (" in ends[0][2]
    assert said in ends[0][2]
    assert "start all ranks with the same recipe" in ends[0][2].lower()
    assert ends[1][2] == ""  # one message
    assert not (tmp_path / "ranks").exists()


def test_a_mistake_of_one_rank_stops_all_with_its_message(tiny_recipe, tmp_path):
    ends = finish(start(tiny_recipe, tmp_path, own={1: ["--set", "train.btch=3"]}))
    assert [code for code, _, _ in ends] == [2, 2]
    assert "train.btch" in ends[1][2] or "btch" in ends[1][2]
    assert ends[0][2] == ""


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_is_killed_is_named_by_the_others(tiny_recipe, tmp_path, victim):
    tiny_recipe["train"] |= {"steps": 1000000, "save_every": 2, "sample_every": 1000000, "log_every": 2}
    processes = start(tiny_recipe, tmp_path)
    saved = tmp_path / "ranks" / "checkpoints" / "step-000004"
    wait_for(saved, processes[0])
    processes[victim].kill()
    code, _, err = finish(processes, timeout=120)[1 - victim]
    assert code == 1
    assert f"rank {victim} (" in err
    assert f"process {processes[victim].pid}) of 2 stopped or cannot be reached" in err
    assert "gantk resume" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_weights_are_those_of_an_undisturbed_run(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 16, "save_every": 4}
    whole = torchrun(tiny_recipe, tmp_path, tmp_path / "whole")
    assert finish([whole])[0][0] == 0
    broken = torchrun(tiny_recipe, tmp_path, tmp_path / "broken", "--max-restarts", "2")
    wait_for(tmp_path / "broken" / "checkpoints" / "step-000008", broken)
    os.kill(children(broken)[-1], signal.SIGKILL)
    code, out, err = finish([broken])[0]
    assert code == 0, err
    assert "after step " in out
    expected, found = (
        checkpoint.load_weights(tmp_path / name / "checkpoints" / "step-000016") for name in ("whole", "broken")
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    steps = [line["step"] for line in RunFolder(tmp_path / "broken").read_log() if "losses" in line]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_torchrun_goes_on_with_an_unfinished_run_and_leaves_a_finished_one_alone(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 400, "save_every": 4, "sample_every": 1000}
    first = torchrun(tiny_recipe, tmp_path, tmp_path / "run")
    wait_for(tmp_path / "run" / "checkpoints" / "step-000004", first)
    for child in children(first):
        os.kill(child, signal.SIGKILL)
    assert finish([first])[0][0] != 0
    other = tiny_recipe | {"train": tiny_recipe["train"] | {"seed": 1}}
    code, _, err = finish([torchrun(other, tmp_path, tmp_path / "run")])[0]
    assert code != 0
    assert "already holds a run" in err
    code, out, err = finish([torchrun(tiny_recipe, tmp_path, tmp_path / "run")])[0]
    assert code == 0, err
    assert "resume " in out
    assert checkpoint.steps_saved(tmp_path / "run" / "checkpoints")[-1] == 400
    code, _, err = finish([torchrun(tiny_recipe, tmp_path, tmp_path / "run")])[0]
    assert code != 0
    assert "already holds a run" in err


def wait_for(path, process: subprocess.Popen) -> None:
    """Until the path is there; fails where the process ends before."""
    while not path.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            pytest.fail(f"it ended too early: {finish([process])}")
