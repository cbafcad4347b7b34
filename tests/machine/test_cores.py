"""Threads of a training: within the quota of its container, the same after a resume."""

import pytest
import torch

import gantk
from gantk.machine import cores
from gantk.training.engine import Engine


@pytest.fixture
def two_threads(monkeypatch):
    """Torch has two threads, and the user chose no number."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_resume_takes_the_threads_of_its_save(two_threads, monkeypatch, tiny_recipe, tmp_path):
    taken = []
    step = Engine.train_step
    monkeypatch.setattr(
        Engine, "train_step", lambda *given: taken.append(torch.get_num_threads()) or step(*given)
    )
    monkeypatch.setattr(cores, "cgroup_quota", lambda: 1)
    whole = gantk.run(tiny_recipe, set=["train.steps=8"], out=tmp_path / "whole", device="cpu").path
    last = sorted(whole.glob("checkpoints/step-*"))[-1]
    weights = (last / "weights.safetensors").read_bytes()
    last.rename(tmp_path / last.name)
    monkeypatch.setattr(cores, "cgroup_quota", lambda: cores.NO_QUOTA)  # of another machine
    gantk.resume(whole, device="cpu")

    assert set(taken) == {1}
    assert torch.get_num_threads() == 2
    assert (last / "weights.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    "limit", [{"cpu.max": "15 10", "a/b/cpu.max": "max 10"}, {"cpu,x/a/cpu.cfs_quota_us": "11"}]
)
def test_the_smallest_cgroup_quota_counts(tmp_path, monkeypatch, limit):
    limit |= {"self/cgroup": "4:cpu,x:/a/b\n0::/a/b", "cpu,x/a/cpu.cfs_period_us": "10"}
    for at, text in limit.items():
        (tmp_path / at).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / at).write_text(text)
    monkeypatch.setattr(cores, "PROC", tmp_path)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)

    assert cores.cgroup_quota() == 2


def test_a_quota_bounds_the_threads(two_threads, monkeypatch):
    monkeypatch.setattr(cores, "cgroup_quota", lambda: 1)
    threads = cores.Threads(fixed=False)

    assert threads.choose(0) == "threads  1 from step 0: the CPU quota of this container"
    assert torch.get_num_threads() == 1
    threads.reset()
    assert torch.get_num_threads() == 2
