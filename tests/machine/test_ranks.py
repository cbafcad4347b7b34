"""Several processes train as one: launched, agreed, averaged, started again; N of them are one of N
times the batch.

What a rank draws at random is its own, so a step of N ranks is that of one process only where
nothing is drawn, or the draws are the same. Here they are: `SharedDraws` gives each rank its share
of what one process draws for all images.
"""

import contextlib
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from several import children, finish, free_port, start, torchrun
from tiny import random_images, registered, same_weights, weights_of
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from gantk import registry
from gantk.errors import UserError
from gantk.machine import ranks as machine
from gantk.machine.device import choose
from gantk.machine.launch import Launch, launch
from gantk.machine.ranks import Reduction
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Stage
from gantk.recipe.load import load_recipe
from gantk.runs.folder import RunFolder
from gantk.testing.small import small_part, small_size, train_table
from gantk.training.engine import Engine
from gantk.training.restart import identity_of

sgd = registered("optimizer", "sgd")

# ---- commands that run as several processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "speaks", "said"),
    [
        (
            "train.batch=3",
            0,
            ["rank 1 (", "its train.batch is 3, that of rank 0 is 2", "same recipe"],
        ),
        ("train.btch=3", 1, ["btch"]),
    ],
)
def test_ranks_started_differently_stop_before_training(tiny_recipe, tmp_path, other, speaks, said):
    ends = finish(start(tiny_recipe, tmp_path, own={1: ["--set", other]}))
    assert [code for code, _, _ in ends] == [2, 2]
    # of a host without a name
    expected = ("[c10d]", "waits for 1 other process")
    lines = ends[1 - speaks][2].splitlines()
    others = [line for line in lines if not any(words in line for words in expected)]
    assert all(part in ends[speaks][2] for part in said)
    assert others == []
    assert not (tmp_path / "ranks").exists()


def test_machines_may_keep_the_same_files_at_different_places(tiny_recipe):
    def identity(place: str, name: str = "images") -> dict:
        source = {
            "name": "mixed",
            "sources": [{"name": name, "path": f"/{place}/scans"}, {"name": "phantom"}],
        }
        model = load_recipe(tiny_recipe).override({"data.source": source}).check()
        return identity_of(model, SimpleNamespace(splits={}))

    assert identity("here") == identity("there") != identity("here", "aligned")


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until the path is there; fails where the process ends before."""
    while not path.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            pytest.fail(f"it ended too early: {finish([process])}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_ranks_stop_when_one_is_killed(tiny_recipe, tmp_path, victim):
    tiny_recipe["train"] |= {
        "steps": 1000000,
        "save_every": 2,
        "sample_every": 1000000,
        "log_every": 2,
    }
    processes = start(tiny_recipe, tmp_path)
    wait_for(tmp_path / "ranks" / "checkpoints" / "step-000004", processes[0])
    processes[victim].kill()
    code, _, err = finish(processes, timeout=120)[1 - victim]

    assert code == 1
    assert "gantk resume" in err
    assert "Traceback" not in err
    assert f"rank {1 - victim} (" in err
    assert "lost the connection: another rank stopped or cannot be reached" in err


@pytest.mark.slow
def test_a_restarted_rank_ends_with_the_undisturbed_weights(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 16, "save_every": 4}
    assert finish([torchrun(tiny_recipe, tmp_path, tmp_path / "whole")])[0][0] == 0

    broken = torchrun(tiny_recipe, tmp_path, tmp_path / "broken", "--max-restarts", "2")
    wait_for(tmp_path / "broken" / "checkpoints" / "step-000008", broken)
    os.kill(children(broken)[-1], signal.SIGKILL)
    code, out, err = finish([broken])[0]

    assert code == 0, err
    assert "after step " in out, err

    expected, found = (weights_of(tmp_path / name, 16) for name in ("whole", "broken"))

    assert same_weights(expected, found)
    steps = [line.step for line in RunFolder(tmp_path / "broken").read_log() if line.losses]
    assert steps == sorted(set(steps))


# ---- who a process is among several

TORCHRUN = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node01",
    "MASTER_PORT": "29500",
}
ELASTIC = {
    "TORCHELASTIC_RUN_ID": "x",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_MAX_RESTARTS": "3",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[01-02]",
}
SCRIPT = {
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_JOB_NODELIST": "a[1-2]",
}


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
        assert environment["MASTER_ADDR"] == "node01"
        assert 1024 < int(environment["MASTER_PORT"]) < 32768


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "lacks RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        (TORCHRUN | {"RANK": "4"}, "RANK is '4'. Allowed: a whole number from 0 to 3"),
        (SRUN | {"SLURM_PROCID": ""}, "lacks RANK"),
        (SRUN | {"SLURM_STEP_NODELIST": ""}, "contains no host name"),
    ],
    ids=["half", "no-number", "beyond", "srun", "nodes"],
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
    # srun shows each task its own
    for gpus, asked, given in ((4, None, 2), (4, "cuda:1", 1), (1, "cuda", 0)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert choose(asked, 6, 2) == torch.device("cuda", given)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    with pytest.raises(
        UserError,
        match="rank 6 is process 3 on its machine, which has only 2 GPUs.*--nproc-per-node 2",
    ):
        choose(None, 6, 2)


# ---- gradients become their mean: the other rank is played by what it would have sent


class Other:
    """The second rank: it holds 3 times this rank's gradients; `lends` changes a message before it
    is summed.
    """

    def __init__(self):
        self.messages = 0
        self.lends = lambda flat: None

    def all_reduce(self, flat: Tensor, group=None) -> None:
        self.messages += 1
        flat += 3.0 * flat
        self.lends(flat)


@pytest.fixture
def other(monkeypatch) -> Other:
    other = Other()
    monkeypatch.setattr(machine.dist, "all_reduce", other.all_reduce)
    return other


def test_unused_parameters_get_gradients_of_other_ranks(other):
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)).to(
        memory_format=torch.channels_last
    )
    idle = nn.Linear(3, 3)
    lent = nn.Linear(2, 2).double()
    reducing = Reduction([*net.parameters(), *idle.parameters(), *lent.parameters()], 2)
    other.lends = lambda flat: flat.fill_(5.0) if flat.dtype == torch.float64 else None
    net(random_images(2, 4, (12, 12))).square().mean().backward()
    reducing.reduce()

    assert all(p.grad is None for p in idle.parameters())
    assert all(torch.equal(p.grad, torch.full_like(p, 2.5)) for p in lent.parameters())
    assert all(p.grad.stride() == p.stride() for p in net.parameters())
    assert other.messages == 2, "one for each type of number"


# ---- every method that is registered, trained by several ranks and by one process Compared are the
# weights and their average after two steps of SGD in float32. Image pools and what a
# discriminator's augmentation adapts to are each rank's own, so there are none; norms here keep the
# images apart.

# images of all ranks; later, kinks of ReLU and L1 make much of a rounding error
WORLD = 4
STEPS = 2
IMAGES = 4
DRAWS = (torch.rand, torch.randn, torch.rand_like, torch.randn_like)
PASSES = 3  # batches that may go through a network together
GAME = {"name": "wgan_gp"}  # a penalty: its gradient goes through a gradient
NETWORK = {"name": "unet", "width": 4, "depth": 2}
JUDGE = {"name": "munit", "width": 4, "layers": 2}
PLAIN = {"local_ncc": 0.0, "flat_region": 0.0}
# What a method needs to be small and to be a mean over its images; every other one is tested with
# its defaults.
CASES: dict[str, list[dict]] = {
    "cyclegan": [
        {"dtype": torch.float64},  # its ResNet makes 1e-3 of a rounding error of float32
        {"options": {"generator": NETWORK, "augment": ["translate"], "defense": 0.05}},
        {"options": {"generator": NETWORK}, "microbatch": 1},
    ],
    # embeddings near 0 have gradients of 1e6
    "cut": [{"options": {"patches": 16, "width": 8}, "lr": 1e-4}],
    "dcgan": [
        {},
        {"options": {"adversarial": GAME}},
        {"options": {"conditional": True}},
    ],
    "dualgan": [
        {"options": PLAIN},
        {"options": PLAIN | {"adversarial": GAME, "low_res_warmup": 0.5}},
    ],
    "munit": [{"options": {"width": 4, "blocks": 1, "mlp_dim": 8, "discriminator": JUDGE}}],
    "pix2pix": [{}, {"options": {"both": True, "generator": NETWORK}, "dims": 3}],
    # a stage for each size: most weights take no part at first
    "progan": [{"options": {"width": 8, "latent": 8}}],
    "spade": [{"lr": 1e-3}],  # sums of another order grow in spectral norms
    "style": [
        {
            "options": {
                "weights": "random",
                "content_layers": ["conv2_1"],
                "style_layers": ["conv1_1", "conv2_1"],
            }
        },
    ],
}
NAMED = {
    f"{method}-{number}": {"method": method} | case
    for method in registry()["method"]
    for number, case in enumerate(CASES.get(method, [{}]), 1)
}


class SharedDraws(TorchFunctionMode):
    """Random tensors with a row for each image are this rank's rows of the tensor that one process
    would draw.
    """

    def __init__(self, rank: int, world: int, batch: int):
        super().__init__()
        self.rank = rank
        self.world = world
        self.batch = batch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in DRAWS or self.world == 1 or kwargs.get("generator") is not None:
            return func(*args, **kwargs)

        like = isinstance(args[0], Tensor)
        if like:
            shape = args[0].shape
        else:
            shape = torch.Size(args[0] if isinstance(args[0], (tuple, list)) else args)

        passes, odd = divmod(shape[0], self.batch) if shape else (0, 0)
        if odd or not 1 <= passes <= PASSES:
            return func(*args, **kwargs)

        whole = (self.world * shape[0], *shape[1:])
        drawn = func(args[0].new_empty(whole), **kwargs) if like else func(*whole, **kwargs)
        return drawn.unflatten(0, (passes, self.world, self.batch))[:, self.rank].flatten(0, 1)


class OneSeed(Runtime):
    """Every rank has the same random numbers."""

    def seed(self, seed: int, step: int) -> None:
        torch.manual_seed(1000 * seed + step)


class Flat(nn.Module):
    """In the place of a deviation over the batch: one channel of 0."""

    def forward(self, x: Tensor, *about: Any) -> Tensor:
        return torch.cat([x, torch.zeros_like(x[:, :1])], 1)


def keep_apart(module: nn.Module) -> None:
    """Put layers that keep the images of a batch apart in the place of those that mix them."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, nn.GroupNorm(child.num_features, child.num_features))
        elif getattr(child, "mixes_batch", False):
            setattr(module, name, Flat())
        else:
            keep_apart(child)


def build(case: dict[str, Any]) -> Method:
    """A small method, the same in every process."""
    torch.manual_seed(0)
    options = case.get("options", {})
    dims = case.get("dims", 2)
    part = small_part("method", case["method"], options, pool=0)
    classes = ("healthy", "tumour") if options.get("conditional") else ()
    method = part(Geometry(dims, small_size(dims), dict.fromkeys(part.target.reads, 1), classes))
    keep_apart(method)
    return method


def train(case: dict[str, Any], rank: int, world: int) -> dict[str, Tensor]:
    """The weights, and their moving average, after some steps on this rank's images."""
    torch.set_default_dtype(case.get("dtype", torch.float32))
    method = build(case)
    count = IMAGES // world
    microbatch = case.get("microbatch")
    runtime = OneSeed(torch.device("cpu"), "fp32", True, rank, world)
    runtime.place(method, method.geometry.dims)
    table = train_table(partial(sgd, lr=case.get("lr", 0.01)), microbatch=microbatch)
    engine = Engine(method, table, STEPS, runtime)

    def batch_at(step: int, stage: Stage) -> Batch:
        own = slice(rank * count, (rank + 1) * count)
        each = enumerate(method.reads)
        images = {
            name: random_images(IMAGES, 1, stage.size, seed=100 * step + k)[own] for k, name in each
        }
        return Batch(
            images | ({"label": (torch.arange(IMAGES) % 2)[own]} if method.geometry.classes else {})
        )

    with SharedDraws(rank, world, microbatch or count):
        for _ in engine.fit(batch_at):
            pass

    weights = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    average = engine.ema.state_dict() if engine.ema else {}
    torch.set_default_dtype(torch.float32)
    return weights | {
        f"average of {name}": average[name].clone() for name in weights if name in average
    }


def train_all(rank: int, world: int, port: int, folder: str) -> None:
    """All cases in one process of several."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.save(
        {name: train(case, rank, world) for name, case in NAMED.items()}, f"{folder}/{rank}.pt"
    )
    dist.destroy_process_group()


@pytest.fixture
def one_thread():
    """As many as the ranks have: sums over several threads add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_ranks_are_one_process_for_every_method(one_thread, tmp_path):
    processes.spawn(train_all, (WORLD, free_port(), str(tmp_path)), WORLD)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    wrong = []
    for case in NAMED:
        alone = train(NAMED[case], 0, 1)
        for rank, weights in enumerate(each[case] for each in ranks):
            assert weights.keys() == alone.keys()
            off = [
                name
                for name in alone
                if not torch.allclose(weights[name], alone[name], rtol=1e-4, atol=1e-5)
            ]
            wrong += [f"{case}, rank {rank}: '{name}' is another" for name in off]
            apart = [name for name in alone if not torch.equal(weights[name], ranks[0][case][name])]
            wrong += [f"{case}: '{name}' of rank {rank} is not rank 0's" for name in apart]

    assert not wrong, f"{len(wrong)} differences:\n" + "\n".join(wrong[:20])
