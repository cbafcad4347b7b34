"""Several processes train as one: launched, agreed, averaged, started again; two of batch 2 are one of batch 4."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import pytest
import ranked
import torch
from several import children, finish, start, torchrun
from torch import nn

from gantk.errors import UserError
from gantk.machine import ranks as machine
from gantk.machine.device import choose
from gantk.machine.launch import Launch, first_host, launch
from gantk.machine.ranks import Reduction
from gantk.plugin.loader import registry
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (["--set", "train.batch=3"], "its train.batch is 3, rank 0's is 2"),
        pytest.param(["--set", "data.source.subjects=7"], "subjects is 7, rank 0's is 6", marks=pytest.mark.slow),
    ],
)
def test_ranks_that_were_started_differently_stop_before_training(tiny_recipe, tmp_path, other, said):
    ends = finish(start(tiny_recipe, tmp_path, own={1: other}))
    assert [code for code, _, _ in ends] == [2, 2]
    assert "rank 1 (" in ends[0][2] and said in ends[0][2] and "same recipe" in ends[0][2]
    assert ends[1][2] == ""  # one message
    assert not (tmp_path / "ranks").exists()


def test_a_mistake_of_one_rank_stops_all_with_its_message(tiny_recipe, tmp_path):
    ends = finish(start(tiny_recipe, tmp_path, own={1: ["--set", "train.btch=3"]}))
    assert [code for code, _, _ in ends] == [2, 2]
    assert "btch" in ends[1][2] and ends[0][2] == ""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_a_rank_is_killed_the_others_stop_and_say_how_to_go_on(tiny_recipe, tmp_path, victim):
    tiny_recipe["train"] |= {"steps": 1000000, "save_every": 2, "sample_every": 1000000, "log_every": 2}
    processes = start(tiny_recipe, tmp_path)
    saved = tmp_path / "ranks" / "checkpoints" / "step-000004"
    wait_for(saved, processes[0])
    processes[victim].kill()
    code, _, err = finish(processes, timeout=120)[1 - victim]
    assert code == 1
    assert f"rank {1 - victim} (" in err and "lost the others: one stopped or cannot be reached" in err
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


def wait_for(path, process: subprocess.Popen) -> None:
    """Until the path is there; fails where the process ends before."""
    while not path.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            pytest.fail(f"it ended too early: {finish([process])}")


# ---- who a process is among several ------------------------------------------------------------------------

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node01", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[01-02]",
}


def test_a_process_alone_is_the_only_one():
    assert launch({}) == launch({"WORLD_SIZE": "1"}) == Launch()
    assert launch(SRUN | {"SLURM_STEP_NUM_TASKS": "1"}) == Launch()
    job = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "a[1-2]"}
    assert launch(job) == Launch(), "a batch script is one process, however many tasks its job has"


def test_torchrun_says_who_it_is_and_how_often_it_was_started():
    assert launch(TORCHRUN) == Launch(3, 4, 1)
    elastic = {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
    assert launch(TORCHRUN | elastic) == Launch(3, 4, 1, 2, True, True)
    assert launch(SRUN | TORCHRUN) == Launch(3, 4, 1), "torchrun within srun is torchrun"


def test_srun_is_told_as_torchrun_would_tell_it():
    environment = SRUN | {"SLURM_RESTART_COUNT": "1"}
    assert launch(environment) == Launch(5, 8, 1, restarts=1)
    told = [environment[name] for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR")]
    assert told == ["8", "5", "1", "node01"] and 1024 < int(environment["MASTER_PORT"]) < 32768


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
        ({k: v for k, v in TORCHRUN.items() if k != "MASTER_ADDR"}, "no MASTER_ADDR"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        (TORCHRUN | {"RANK": "4"}, "RANK is '4'. Allowed: a whole number from 0 to 3"),
        (TORCHRUN | {"MASTER_PORT": "99999"}, "MASTER_PORT is '99999'. Allowed: a whole number from 1 to 65535"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_PROCID"}, "no RANK"),
        (SRUN | {"SLURM_STEP_NODELIST": ""}, "names no host"),
    ],
)
def test_half_an_environment_is_an_error_with_a_remedy(environment, said):
    with pytest.raises(UserError) as error:
        launch(dict(environment))
    assert said in str(error.value)
    assert error.value.remedy


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None: zeros(*size))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose(None, 6, 2) == torch.device("cuda:2")
    assert choose("cuda:1", 6, 2) == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # srun shows each task its own
    assert choose("cuda", 6, 2) == torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="rank 6 is process 3 of its machine, which has 2 GPUs.*--nproc-per-node 2"):
        choose(None, 6, 2)


# ---- gradients become their mean: the other rank is played by what it would have sent ---------------------


class Other:
    """The second rank: it holds `share` times this rank's gradients; `lends` changes a message before it is summed."""

    def __init__(self, monkeypatch, share: float = 3.0):
        self.share, self.sent = share, []
        self.lends = lambda flat: None
        monkeypatch.setattr(machine.dist, "all_reduce", self.all_reduce)

    def all_reduce(self, flat: torch.Tensor, group=None) -> None:
        self.sent.append(len(flat))
        flat += self.share * flat
        self.lends(flat)


@pytest.fixture
def other(monkeypatch) -> Other:
    return Other(monkeypatch)


def network(layout=torch.channels_last) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    return nn.Sequential(*layers).to(memory_format=layout)


def image(seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 4, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_gradients_are_the_mean_in_the_layout_of_their_weights(other, layout):
    net, alone = network(layout), network(layout)
    reducing = Reduction(net.parameters(), 2)
    for step in range(3):
        for each in (net, alone):
            each.zero_grad()
            for seed in (step, step + 9):  # a network may run several times
                each(image(seed)).square().mean().backward()
        reducing.reduce()
        for mine, own in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, 2 * own.grad)  # (1 + 3) / 2
            assert mine.grad.stride() == mine.stride() and mine.grad.data_ptr() % machine.ALIGNED == 0
    assert len(other.sent) == 3


def test_what_took_part_nowhere_keeps_no_gradient_and_what_took_part_elsewhere_gets_one(other):
    net, idle, lent = network(), nn.Linear(3, 3), nn.Linear(2, 2).double()
    reducing = Reduction([*net.parameters(), *idle.parameters(), *lent.parameters()], 2)
    other.lends = lambda flat: flat.fill_(5.0) if flat.dtype == torch.float64 else None
    net(image()).square().mean().backward()
    reducing.reduce()
    assert all(p.grad is None for p in idle.parameters())
    assert all(torch.equal(p.grad, torch.full_like(p, 2.5)) for p in lent.parameters())
    assert all(p.grad is not None for p in net.parameters())
    assert len(other.sent) == 2, "one message for each type of number"


# ---- every method that is registered ----------------------------------------------------------------------
# Compared are the weights and their average after two steps of SGD in float32. Image pools and what a discriminator's
# augmentation adapts to are each rank's own, so there are none; norms here keep the images apart.

GAME = {"name": "wgan_gp"}  # a penalty: its gradient goes through a gradient
NETWORK = {"name": "unet", "width": 4, "depth": 2}
JUDGE = {"name": "munit", "width": 4, "layers": 2}
# What a method needs to be small and to be a mean over its images; every other one is tested with its defaults.
CASES: dict[str, list[dict]] = {
    "cyclegan": [
        {},
        {"options": {"generator": NETWORK, "augment": ["translate"], "defense": 0.05}},
        {"options": {"generator": NETWORK}, "microbatch": 1},
    ],
    "cut": [{"options": {"patches": 16, "width": 8}, "lr": 1e-4}],  # embeddings near 0 have gradients of 1e6
    "dcgan": [{}, {"options": {"critic": 2, "adversarial": GAME}}, {"options": {"conditional": True}}],
    "dualgan": [
        {"options": {"local_ncc": 0.0, "flat_region": 0.0}},
        {"options": {"local_ncc": 0.0, "flat_region": 0.0, "critic": 2, "adversarial": GAME, "low_res_warmup": 0.5}},
    ],
    "munit": [{"options": {"width": 4, "blocks": 1, "mlp_dim": 8, "discriminator": JUDGE}}],
    "pix2pix": [{}, {"options": {"both": True, "generator": NETWORK}, "dims": 3}],
    "progan": [{"options": {"width": 8, "latent": 8}}],  # a stage for each size: most weights take no part at first
    "style": [
        {"options": {"weights": "random", "content_layers": ["conv2_1"], "style_layers": ["conv1_1", "conv2_1"]}},
    ],
}
NAMED = {
    f"{method}-{number}": {"method": method} | case
    for method in registry().names("method")
    for number, case in enumerate(CASES.get(method, [{}]), 1)
}


@pytest.fixture(autouse=True)
def one_thread():
    """As many as the ranks have: sums over several threads add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


QUICK = ("cyclegan-3", "dcgan-2")  # a microbatch; a gradient penalty


@pytest.mark.parametrize(
    ("world", "names"), [(2, QUICK), pytest.param(4, tuple(NAMED), marks=pytest.mark.slow)], ids=["2", "4"]
)
def test_ranks_are_one_process_for_every_method(tmp_path, world, names):
    wrong = []
    for case, ranks in ranked.trained({name: NAMED[name] for name in names}, world, tmp_path).items():
        alone = ranked.train(NAMED[case], 0, 1)
        for rank, weights in enumerate(ranks):
            assert weights.keys() == alone.keys()
            off = [name for name in alone if not torch.allclose(weights[name], alone[name], rtol=1e-4, atol=1e-5)]
            wrong += [f"{case}, rank {rank}: '{name}' is another" for name in off]
            apart = [name for name in alone if not torch.equal(weights[name], ranks[0][name])]
            wrong += [f"{case}: '{name}' of rank {rank} is not rank 0's" for name in apart]
    assert not wrong, f"{len(wrong)} differences:\n" + "\n".join(wrong[:20])
