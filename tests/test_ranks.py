"""Several processes train as one: two ranks of batch 2 are one process of batch 4."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
import torch

import gantk
from gantk import checkpoint
from gantk.runfolder import RunFolder
from gantk.runtime import Runtime

WORLD = 2


@pytest.fixture
def recipe(tmp_path, pictures, tiny_recipe) -> dict:
    """Losses that are means over the images, and no random numbers inside a step: each rank draws its own.

    (Structure and flatness are means over all windows of a batch, weighted by what the batch shows.)
    """
    pictures(tmp_path / "data" / "trainA", 12, seed=1)
    pictures(tmp_path / "data" / "trainB", 12, seed=2)
    tiny_recipe["method"] |= {"pool": 0, "structure": 0.0, "flatness": 0.0}
    tiny_recipe["data"] |= {
        "source": {"name": "folders", "path": str(tmp_path / "data")},
        "domains": ["A", "B"],
        "split": {"test": 0.0, "validation": 0.0},
    }
    tiny_recipe["train"] |= {"steps": 4, "batch": 2}
    return tiny_recipe


def start(recipe: dict, folder: Path, *options: str) -> list[subprocess.Popen]:
    """The same command once for each rank, as torchrun starts it."""
    path = folder / "recipe-of-ranks.toml"
    path.write_text(tomli_w.dumps(recipe), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gantk",
        "run",
        str(path),
        "--out",
        str(folder / "ranks"),
        "--device",
        "cpu",
        *options,
    ]
    launch = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            command,
            env=os.environ | launch | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    try:
        ends = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *end) for process, end in zip(processes, ends, strict=True)]


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


class Sum:
    """Stands in for torch.distributed: the other rank holds the negative half."""

    def __call__(self, flat: torch.Tensor) -> None:
        flat += -0.5 * flat


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reduced_gradients_are_the_mean_in_the_layout_of_their_weights(monkeypatch, layout):
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2).contiguous(memory_format=layout))
    idle = torch.nn.Parameter(torch.randn(5))  # no gradient on any rank: it must not count as an optimizer's step
    gradient = torch.randn(4, 3, 2, 2)
    weight.grad = gradient.clone()
    monkeypatch.setattr("gantk.runtime.dist.all_reduce", Sum())
    Runtime(torch.device("cpu"), "fp32", True, 0, 2).reduce([weight, idle])
    torch.testing.assert_close(weight.grad, gradient * 0.25)
    assert weight.grad.stride() == weight.stride()
    assert idle.grad is None
