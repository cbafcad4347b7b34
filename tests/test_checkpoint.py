"""Checkpoints: there whole or not at all, exact, and never a program."""

from __future__ import annotations

import os
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantk.errors import UserError
from gantk.runs import checkpoint


def content(step: int) -> tuple[dict, dict, dict]:
    """(weights, state, meta) that belong to a step and to no other."""
    weights = {"model.w": torch.full((2, 3), float(step)), "ema.w": torch.full((2, 3), step + 0.5)}
    return weights, {"step": step, "moments": [torch.tensor([step])]}, {"method": "dualgan"}


def save(folder, step: int, keep: int = 3, also: tuple[int, ...] = ()):
    return checkpoint.save(folder, step, *content(step), keep, also)


def assert_whole(folder, step: int) -> None:
    """The newest checkpoint is that step's and all three of its files are."""
    newest = checkpoint.latest(folder)
    assert newest.name == f"step-{step:06d}"
    assert checkpoint.load_meta(newest) == {"method": "dualgan", "format": checkpoint.FORMAT, "step": step}
    weights = checkpoint.load_weights(newest)
    assert weights.keys() == content(step)[0].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in content(step)[0].items())
    assert checkpoint.load_state(newest)["step"] == step


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
    back = checkpoint.load_state(folder)
    assert torch.equal(back["optimizers"]["g"]["state"][0]["exp_avg"], moments)
    assert back["optimizers"]["g"]["state"][0]["exp_avg"].stride() == moments.stride()  # fused optimizers rely on it
    assert back["optimizers"]["g"]["betas"] == (0.5, 0.9)


def test_a_named_step_stays_however_old_it_is(tmp_path):
    save(tmp_path, 2, keep=1)
    for step in (4, 6, 8):
        save(tmp_path, step, keep=1, also=(2, 8))
        assert checkpoint.steps_saved(tmp_path) == [2, step]
    assert_whole_at(tmp_path, 2)
    checkpoint.prune(tmp_path, 2, (8,))
    assert checkpoint.steps_saved(tmp_path) == [2, 8], "the named one is among the newest two: no further one is kept"
    checkpoint.prune(tmp_path, 1, {3})
    assert checkpoint.steps_saved(tmp_path) == [8]


class Crash(BaseException):
    """The process ends here."""


# Everything through which save() touches the disk.
DISK = [
    (checkpoint, "save_file"),
    (os, "fsync"),
    (os, "replace"),
    (os, "rename"),
    (os, "open"),
    (torch, "save"),
    (os, "unlink"),  # file by file, where a folder is removed
]


def crash_at(monkeypatch, number: int, after: bool) -> list[str]:
    """The `number`-th call that touches the disk does not return, before or after it did its work; the calls so far."""
    calls: list[str] = []

    def tapped(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == number and not after:
                raise Crash
            result = function(*args, **kwargs)
            if len(calls) == number and after:
                raise Crash
            return result

        return call

    for module, name in DISK:
        monkeypatch.setattr(module, name, tapped(name, getattr(module, name)))
    return calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_point_of_a_save_leaves_the_named_step_whole(tmp_path, monkeypatch, after):
    number, crashed = 0, True
    while crashed:
        number += 1
        folder = tmp_path / str(number)
        save(folder, 10, keep=1)
        save(folder, 20, keep=1, also=(10,))
        with monkeypatch.context() as patches:
            crash_at(patches, number, after)
            try:
                save(folder, 30, keep=1, also=(10,))
                crashed = False
            except Crash:
                crashed = True
        assert_whole_at(folder, 10)
        assert_whole_at(folder, checkpoint.steps_saved(folder)[-1])
        save(folder, 30, keep=1, also=(10,))
        assert checkpoint.steps_saved(folder) == [10, 30]
    assert number > 8


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_point_of_a_save_leaves_a_whole_newest_checkpoint(tmp_path, monkeypatch, after, again):
    number, crashed = 0, True
    while crashed:
        number += 1
        folder = tmp_path / str(number)
        save(folder, 10, keep=1)
        new = 10 if again else 20
        with monkeypatch.context() as patches:
            calls = crash_at(patches, number, after)
            try:
                save(folder, new, keep=1)
                crashed = False
            except Crash:
                crashed = True
        if crashed and again:  # the moment between two renames may leave neither, but never a half of one
            assert checkpoint.steps_saved(folder) in ([], [10])
        else:
            assert checkpoint.steps_saved(folder)[-1] in (10, new)
        for step in checkpoint.steps_saved(folder):
            assert_whole_at(folder, step)
        save(folder, new, keep=1)  # what the resumed run does
        assert_whole(folder, new)
        assert len(list(folder.iterdir())) == 1, "a crashed save left something behind"
    assert number > 8 and {"save_file", "rename", "replace", "fsync", "unlink"} <= set(calls)


def assert_whole_at(folder, step: int) -> None:
    path = folder / f"step-{step:06d}"
    assert checkpoint.load_meta(path)["step"] == step
    assert float(checkpoint.load_weights(path)["model.w"][0, 0]) == step
    assert checkpoint.load_state(path)["step"] == step


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    path.write_text("old")
    for number in (1, 2):
        with monkeypatch.context() as patches:
            crash_at(patches, number, after=False)
            with pytest.raises(Crash):
                checkpoint.write_file(path, b"new")
        assert path.read_text() == "old"
    checkpoint.write_file(path, b"new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["log.txt"]


LOADERS = {
    "weights.safetensors": checkpoint.load_weights,
    "state.pt": checkpoint.load_state,
    "meta.json": checkpoint.load_meta,
}


class Payload:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("dress", [partial(pickle.dump, protocol=2), torch.save], ids=["pickle", "torch.save"])
def test_a_pickle_dressed_as_a_checkpoint_does_not_run(tmp_path, name, dress):
    folder = save(tmp_path, 1)
    with open(folder / name, "wb") as file:
        dress(Payload(str(tmp_path / "it-ran")), file)
    with pytest.raises(UserError, match=f"'{name}' is not a readable gantk checkpoint.*never loaded"):
        LOADERS[name](folder)
    assert not (tmp_path / "it-ran").exists()
    torch.load(folder / name, weights_only=False) if dress is torch.save else pickle.loads((folder / name).read_bytes())
    assert (tmp_path / "it-ran").exists(), "the payload is no payload: this test proves nothing"


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "a folder"])
def test_a_damaged_file_is_one_clear_error(tmp_path, name, damage):
    folder = save(tmp_path, 1)
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    with pytest.raises(UserError, match=f"'{name}' is not a readable gantk checkpoint"):
        LOADERS[name](folder)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", LOADERS)
def test_any_bytes_are_refused_or_read_and_nothing_else_is_raised(tmp_path, name):
    path = save(tmp_path, 1) / name
    whole = path.read_bytes()

    @settings(max_examples=60, deadline=None)
    @given(data=st.binary(max_size=200), place=st.floats(0, 1))
    def damage(data, place):
        at = int(place * len(whole))
        for damaged in (data, whole[:at] + data + whole[at + len(data) :]):
            path.write_bytes(damaged)
            try:
                LOADERS[name](path.parent)
            except UserError as error:
                assert str(path) in str(error) or "upgrade" in str(error)

    damage()


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"weight": torch.zeros(3, 2)}, r"'bias' is missing there \(1 differences\)"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "x": torch.zeros(1)}, "'x' is unknown here"),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, r"'weight' is \[3, 4\] there and \[3, 2\] here"),
    ],
)
def test_weights_of_another_network_are_refused_with_the_first_difference(weights, words):
    module = torch.nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(UserError, match=words):
        checkpoint.load_into(module, weights, "somewhere")
    assert torch.equal(module.weight, before)
