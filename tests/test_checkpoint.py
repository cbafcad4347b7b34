"""Checkpoints: there whole or not at all, exact, and never a program; what `gantk resume` makes of them."""

from __future__ import annotations

import json
import os
import pickle
import random
from functools import partial

import pytest
import torch

from gantk.errors import UserError
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder


def content(step: int) -> tuple[dict, dict, dict]:
    """(weights, state, meta) that belong to a step and to no other."""
    weights = {"model.w": torch.full((2, 3), float(step)), "ema.w": torch.full((2, 3), step + 0.5)}
    return weights, {"step": step, "moments": [torch.tensor([step])]}, {"method": "dualgan"}


def save(folder, step: int, keep: int = 1, also: tuple[int, ...] = ()):
    return checkpoint.save(folder, step, *content(step), keep, also)


def assert_whole(folder, step: int) -> None:
    """All three files of that step's checkpoint are its own."""
    path = folder / f"step-{step:06d}"
    assert checkpoint.load_meta(path) == {"method": "dualgan", "format": checkpoint.FORMAT, "step": step}
    weights = checkpoint.load_weights(path)
    assert weights.keys() == content(step)[0].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in content(step)[0].items())
    assert checkpoint.load_state(path)["step"] == step


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    torch.manual_seed(0)
    weights = {
        "half": torch.randn(3, 4).bfloat16(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 1, 8, 8),
        "tiny": torch.tensor([float("nan"), -0.0, 1e-45]),
    }
    moments = torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last)
    state = {"step": 3, "optimizers": {"g": {"state": {0: {"exp_avg": moments}}, "lr": 0.1, "betas": (0.5, 0.9)}}}
    folder = checkpoint.save(tmp_path, 3, weights, state, {}, 1)
    loaded = checkpoint.load_weights(folder)
    for name, tensor in weights.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert bytes(loaded[name].flatten().view(torch.uint8)) == bytes(tensor.flatten().view(torch.uint8))
    optimizer = checkpoint.load_state(folder)["optimizers"]["g"]
    assert torch.equal(optimizer["state"][0]["exp_avg"], moments) and optimizer["betas"] == (0.5, 0.9)
    assert optimizer["state"][0]["exp_avg"].stride() == moments.stride()  # fused optimizers rely on it


class Crash(BaseException):
    """The process ends here."""


# Everything through which save() touches the disk; unlink is file by file, where a folder is removed.
DISK = [(checkpoint, "save_file"), (torch, "save")]
DISK += [(os, name) for name in ("fsync", "replace", "rename", "open", "unlink")]


def crash_at(patches, number: int, after: bool) -> list[str]:
    """The `number`-th call that touches the disk does not return, before or after it did its work; the calls so far."""
    calls: list[str] = []

    def tapped(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            now = len(calls) == number
            if now and not after:
                raise Crash
            result = function(*args, **kwargs)
            if now:
                raise Crash
            return result

        return call

    for module, name in DISK:
        patches.setattr(module, name, tapped(name, getattr(module, name)))
    return calls


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_point_of_a_save_leaves_whole_checkpoints(tmp_path, monkeypatch, after, again):
    new = 10 if again else 20
    for number in range(1, 100):
        folder = tmp_path / str(number)
        save(folder, 5)
        save(folder, 10, also=(5,))  # 5 is the one with the best scores
        with monkeypatch.context() as patches:
            calls, crashed = crash_at(patches, number, after), False
            try:
                save(folder, new, also=(5,))
            except Crash:
                crashed = True
        found = checkpoint.steps_saved(folder)
        assert found[0] == 5 and found[-1] in (10, new)
        for step in found:
            assert_whole(folder, step)
        save(folder, new, also=(5,))  # what the resumed run does
        assert_whole(folder, new)
        assert len(list(folder.iterdir())) == 2, "a crashed save left something behind"
        if not crashed:
            break
    assert number > 8 and {"save_file", "replace", "fsync", "unlink"} <= set(calls)


# ---- what is no checkpoint -----------------------------------------------------------------------

LOADERS = {
    "weights.safetensors": checkpoint.load_weights,
    "state.pt": checkpoint.load_state,
    "meta.json": checkpoint.load_meta,
}


class Payload:
    """A pickle that leaves a folder behind when it is loaded."""

    def __reduce__(self):
        return (os.mkdir, ("it-ran",))


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("dress", [partial(pickle.dump, protocol=2), torch.save], ids=["pickle", "torch.save"])
def test_a_pickle_dressed_as_a_checkpoint_does_not_run(tmp_path, monkeypatch, name, dress):
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path, 1)
    with open(folder / name, "wb") as file:
        dress(Payload(), file)
    with pytest.raises(UserError, match=f"'{name}' is not a readable gantk checkpoint.*never loaded"):
        LOADERS[name](folder)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_file_and_any_bytes_are_refused_or_read_and_nothing_else_is_raised(tmp_path, name):
    path = save(tmp_path, 1) / name
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=f"'{name}' is not a readable gantk checkpoint"):
        LOADERS[name](path.parent)
    rng = random.Random(0)
    for data, at in ((rng.randbytes(rng.randrange(200)), rng.randrange(len(whole))) for _ in range(60)):
        for damaged in (data, whole[:at], whole[:at] + data + whole[at + len(data) :]):
            path.write_bytes(damaged)
            try:
                LOADERS[name](path.parent)
            except UserError as error:
                assert str(path) in str(error) or "upgrade" in str(error)


# ---- resuming; tests/promises/test_killed_runs.py kills processes --------------------------------


def test_a_resume_keeps_the_intensities_of_its_checkpoint(copied_run):
    from gantk.machine.runtime import start
    from gantk.training.assemble import assemble, restore

    model = RunFolder.open(copied_run).recipe().check()
    saved = copied_run / "checkpoints" / "step-000004"
    meta = json.loads((saved / "meta.json").read_text())
    meta["intensity"]["a"]["fitted"] = [1.0, 2.0]  # as if the training images had changed since
    (saved / "meta.json").write_text(json.dumps(meta))
    parts = assemble(model, start("cpu", "fp32"))
    restore(parts, saved)
    assert parts.batches.sets["a"].intensity.state()["fitted"] == [1.0, 2.0]
