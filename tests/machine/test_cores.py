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
