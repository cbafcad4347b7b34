"""Several processes train as one: launched, agreed, averaged, started again; N of them are one of N times the batch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from several import children, finish, free_port, start, torchrun
from tiny import UNET
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.machine import ranks as machine
from gantk.machine.device import choose
from gantk.machine.launch import Launch, first_host, launch
from gantk.machine.ranks import Reduction
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Stage
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder
from gantk.testing.small import random_images, small_part, small_size, train_table
from gantk.training.engine import Engine
from gantk.training.optim import sgd

# ---- commands that run as several processes


@pytest.mark.parametrize(
    ("other", "speaks", "said"),
    [
        ("train.batch=3", 0, ["rank 1 (", "its train.batch is 3, rank 0's is 2", "same recipe"]),
        ("train.btch=3", 1, ["btch"]),
    ],
)
def test_ranks_that_were_started_differently_stop_before_training_with_one_message(
    tiny_recipe, tmp_path, other, speaks, said
):
    ends = finish(start(tiny_recipe, tmp_path, own={1: ["--set", other]}))
    assert [code for code, _, _ in ends] == [2, 2]
    assert all(part in ends[speaks][2] for part in said) and ends[1 - speaks][2] == ""
    assert not (tmp_path / "ranks").exists()


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until the path is there; fails where the process ends before."""
    while not path.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            pytest.fail(f"it ended too early: {finish([process])}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_a_rank_is_killed_the_others_stop_and_say_how_to_go_on(tiny_recipe, tmp_path, victim):
    tiny_recipe["train"] |= {"steps": 1000000, "save_every": 2, "sample_every": 1000000, "log_every": 2}
    processes = start(tiny_recipe, tmp_path)
    wait_for(tmp_path / "ranks" / "checkpoints" / "step-000004", processes[0])
    processes[victim].kill()
    code, _, err = finish(processes, timeout=120)[1 - victim]
    assert code == 1 and "gantk resume" in err and "Traceback" not in err
    assert f"rank {1 - victim} (" in err and "lost the others: one stopped or cannot be reached" in err


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_weights_are_those_of_an_undisturbed_run(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 16, "save_every": 4}
    assert finish([torchrun(tiny_recipe, tmp_path, tmp_path / "whole")])[0][0] == 0
    broken = torchrun(tiny_recipe, tmp_path, tmp_path / "broken", "--max-restarts", "2")
    wait_for(tmp_path / "broken" / "checkpoints" / "step-000008", broken)
    os.kill(children(broken)[-1], signal.SIGKILL)
    code, out, err = finish([broken])[0]
    assert code == 0 and "after step " in out, err
    last = "checkpoints/step-000016"
    expected, found = (checkpoint.load_weights(tmp_path / name / last) for name in ("whole", "broken"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    steps = [line["step"] for line in RunFolder(tmp_path / "broken").read_log() if "losses" in line]
    assert steps == sorted(set(steps))


# ---- who a process is among several

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node01", "MASTER_PORT": "29500"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
SRUN = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "node[01-02]"}  # fmt: skip
SCRIPT = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "a[1-2]"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        ({"WORLD_SIZE": "1"}, Launch()),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, Launch()),
        (SCRIPT, Launch()),  # one process, however many tasks its job has
        (TORCHRUN, Launch(3, 4, 1)),
        (TORCHRUN | ELASTIC, Launch(3, 4, 1, 2, True, True)),
        (SRUN | TORCHRUN, Launch(3, 4, 1)),  # torchrun within srun is torchrun
        (SRUN | {"SLURM_RESTART_COUNT": "1"}, Launch(5, 8, 1, restarts=1)),
    ],
    ids=["alone", "world-of-1", "step-of-1", "script", "torchrun", "elastic", "both", "srun"],
)
def test_a_process_knows_which_of_how_many_it_is(environment, expected):
    environment = dict(environment)
    assert launch(environment) == expected
    if expected.world > 1:  # what torch reads is there
        assert environment["MASTER_ADDR"] == "node01" and 1024 < int(environment["MASTER_PORT"]) < 32768


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node[01-04,07]", "node01"), ("login,node[01-04]", "login"), ("rack[1-2]n[03,4].org", "rack1n03.org")],
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        (TORCHRUN | {"RANK": "4"}, "RANK is '4'. Allowed: a whole number from 0 to 3"),
        (SRUN | {"SLURM_PROCID": ""}, "no RANK"),
        (SRUN | {"SLURM_STEP_NODELIST": ""}, "names no host"),
    ],
)
def test_half_an_environment_is_an_error_with_a_remedy(environment, said):
    with pytest.raises(UserError) as error:
        launch(dict(environment))
    assert said in str(error.value) and error.value.remedy


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None: zeros(*size))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpus, asked, given in ((4, None, 2), (4, "cuda:1", 1), (1, "cuda", 0)):  # srun shows each task its own
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert choose(asked, 6, 2) == torch.device("cuda", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="rank 6 is process 3 of its machine, which has 2 GPUs.*--nproc-per-node 2"):
        choose(None, 6, 2)


# ---- gradients become their mean


def test_what_took_part_nowhere_keeps_no_gradient_and_what_took_part_elsewhere_gets_one(monkeypatch):
    messages = []

    def all_reduce(flat: Tensor, group=None) -> None:
        """As if another rank had three times the gradients, and some in float64, where this one has none."""
        messages.append(flat.dtype)
        flat.fill_(5.0) if flat.dtype == torch.float64 else flat.mul_(4.0)

    monkeypatch.setattr(machine.dist, "all_reduce", all_reduce)
    net, idle, lent = nn.Conv2d(4, 4, 3), nn.Linear(3, 3), nn.Linear(2, 2).double()
    reducing = Reduction([*net.parameters(), *idle.parameters(), *lent.parameters()], 2)
    net(random_images(2, 4, (12, 12))).square().mean().backward()
    own = net.weight.grad.clone()
    reducing.reduce()
    torch.testing.assert_close(net.weight.grad, 2 * own)
    assert all(p.grad is None for p in idle.parameters())
    assert all(torch.equal(p.grad, torch.full_like(p, 2.5)) for p in lent.parameters())
    assert len(messages) == 2, "one for each type of number"


# ---- a method trained by several ranks and by one process: weights and their average after two steps of SGD
# What a rank draws at random is its own, so these methods draw nothing; none keeps a pool or mixes a batch's images.

STEPS, IMAGES = 2, 4  # images of all ranks together; later, kinks of ReLU and L1 make much of a rounding error
PLAIN = {"local_ncc": 0.0, "flat_region": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "cyclegan": {},
    "cyclegan by microbatches": {"microbatch": 1, "generator": UNET},
    "dualgan": PLAIN | {"critic": 2},
    "pix2pix of volumes": {"dims": 3, "both": True, "generator": UNET},
    "regression": {},
}


def train(name: str, rank: int, world: int) -> dict[str, Tensor]:
    """The weights, and their moving average, after some steps on this rank's images."""
    torch.manual_seed(0)
    options, count = dict(CASES[name]), IMAGES // world
    dims, microbatch = options.pop("dims", 2), options.pop("microbatch", None)
    part = small_part("method", name.split()[0], options, pool=0)
    method = part(Geometry(dims, small_size(dims), dict.fromkeys(part.target.reads, 1)))
    runtime = Runtime(torch.device("cpu"), "fp32", True, rank, world)
    runtime.place(method, dims)
    engine = Engine(method, train_table(partial(sgd, lr=0.01), microbatch=microbatch), STEPS, runtime)

    def batch_at(step: int, stage: Stage) -> Batch:
        own, each = slice(rank * count, (rank + 1) * count), enumerate(method.reads)
        return Batch({name: random_images(IMAGES, 1, stage.size, seed=100 * step + k)[own] for k, name in each})

    for _ in engine.fit(batch_at):
        pass
    weights = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    average = engine.ema.state_dict() if engine.ema else {}
    return weights | {f"average of {name}": average[name].clone() for name in weights if name in average}


def train_all(rank: int, names: tuple[str, ...], world: int, port: int, folder: str) -> None:
    """All cases in one process of several."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.save({name: train(name, rank, world) for name in names}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("world", "names"),
    [(2, ("cyclegan by microbatches",)), pytest.param(4, tuple(CASES), marks=pytest.mark.slow)],
    ids=["2", "4"],
)
def test_ranks_are_one_process(tmp_path, world, names):
    processes.spawn(train_all, (names, world, free_port(), str(tmp_path)), world)
    ranks, wrong = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)], []
    for case in names:
        alone = train(case, 0, 1)
        for rank, weights in enumerate(each[case] for each in ranks):
            assert weights.keys() == alone.keys()
            off = [name for name in alone if not torch.allclose(weights[name], alone[name], rtol=1e-4, atol=1e-5)]
            wrong += [f"{case}, rank {rank}: '{name}' is another" for name in off]
            apart = [name for name in alone if not torch.equal(weights[name], ranks[0][case][name])]
            wrong += [f"{case}: '{name}' of rank {rank} is not rank 0's" for name in apart]
    assert not wrong, f"{len(wrong)} differences:\n" + "\n".join(wrong[:20])
