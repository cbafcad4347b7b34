"""Checkpoints: there whole or not at all, exact, and never a program; what `gantk resume` makes of
them.
"""

import copy
import os
import pickle
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CPU, read_json, registered, same_weights, write_json
from toy_method import Toy

from gantk import resume, run
from gantk.errors import UserError
from gantk.files import HOST
from gantk.method import Batch, Geometry
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder
from gantk.testing.small import small_part, train_table
from gantk.training.engine import Engine

adam = registered("optimizer", "adam")
adamw = registered("optimizer", "adamw")
rmsprop = registered("optimizer", "rmsprop")
sgd = registered("optimizer", "sgd")

META = {
    "method": "dualgan",
    "channels": {"a": 1},
    "intensity": {"a": {"name": "minmax", "range": [-1.0, 1.0]}},
}


def content(step: int) -> tuple[dict, dict, dict]:
    """(weights, state, meta) that belong to a step and to no other."""
    weights = {"model.w": torch.full((2, 3), float(step)), "ema.w": torch.full((2, 3), step + 0.5)}
    return weights, {"step": step, "moments": [torch.tensor([step])]}, META


def save(folder, step: int, keep: int = 1, also: tuple[int, ...] = ()):
    saved = checkpoint.save(folder, step, *content(step))
    checkpoint.prune(folder, keep, also, lambda step: True)
    return saved


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    torch.manual_seed(0)
    weights = {
        "half": torch.randn(3, 4).bfloat16(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "count": torch.tensor(2**32 - 1, dtype=torch.uint32),
        "empty": torch.zeros(0, 1, 8, 8),
        "tiny": torch.tensor([float("nan"), -0.0, 1e-45]),
    }
    moments = torch.randn(4, 2, 3, 3, dtype=torch.complex64).to(memory_format=torch.channels_last)
    state = {
        "step": 3,
        "optimizers": {"g": {"state": {0: {"exp_avg": moments}}, "lr": 0.1, "betas": (0.5, 0.9)}},
    }
    folder = checkpoint.save(tmp_path, 3, weights, state, {})
    loaded = checkpoint.load_weights(folder)
    for name, tensor in weights.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert bytes(loaded[name].flatten().view(torch.uint8)) == bytes(
            tensor.flatten().view(torch.uint8)
        ), name

    optimizer = checkpoint.load_state(folder).optimizers["g"]

    assert torch.equal(optimizer.state[0]["exp_avg"], moments)
    assert optimizer.betas == [
        0.5,
        0.9,
    ]
    # fused optimizers rely on it
    assert optimizer.state[0]["exp_avg"].stride() == moments.stride()


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just(torch.tensor([[1.5, -0.0]]).mT)
)
KEYS = st.integers(0) | st.text("abc.$ \u00e9")
STATES = st.recursive(PLAIN, lambda each: st.lists(each) | st.dictionaries(KEYS, each))


# ---- what is no checkpoint -----------------------------------------------------------------------

LOADERS = {
    "weights.safetensors": checkpoint.load_weights,
    "state.safetensors": checkpoint.load_state,
    "state.json": checkpoint.load_state,
    "meta.json": checkpoint.load_meta,
}


class Payload:
    """A pickle that leaves a folder behind when it is loaded."""

    def __reduce__(self):
        return (os.mkdir, ("it-ran",))


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize(
    "dress", [partial(pickle.dump, protocol=2), torch.save], ids=["pickle", "torch.save"]
)
def test_a_pickle_dressed_as_a_checkpoint_does_not_run(tmp_path, monkeypatch, name, dress):
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path, 1)
    with open(folder / name, "wb") as file:
        dress(Payload(), file)

    with pytest.raises(
        UserError, match=f"'{name}' cannot be read as a gantk checkpoint.*never loads pickled"
    ):
        LOADERS[name](folder)

    assert not (tmp_path / "it-ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", LOADERS)
def test_missing_or_damaged_files_are_refused(tmp_path, name):
    folder = save(tmp_path, 1)
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=f"'{name}' does not exist"):
        LOADERS[name](path.parent)

    rng = random.Random(0)
    for data, at in (
        (rng.randbytes(rng.randrange(200)), rng.randrange(len(whole))) for _ in range(60)
    ):
        for damaged in (data, whole[:at], whole[:at] + data + whole[at + len(data) :]):
            path.write_bytes(damaged)
            try:
                LOADERS[name](path.parent)
            except UserError as error:
                assert str(path) in str(error) or "upgrade" in str(error)


# ---- a state that is not this training's
# ----------------------------------------------------------


def trained(rule, steps: int = 3):
    """An engine of two weights after a few steps, and what a checkpoint holds of it."""
    engine = Engine(Toy(ema=True), train_table(rule, ema=0.9), 4, CPU)
    taken = engine.fit(lambda step, stage: Batch(image=torch.ones(2, 1)))
    for _ in range(steps):
        next(taken)
    return engine, copy.deepcopy(engine.state_dict())


RULES = {
    "adam": adam,
    "adamw": adamw,
    "sgd": partial(sgd, momentum=0.9),
    "rmsprop": rmsprop,
}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_every_optimizer_resumes_from_its_state(tmp_path, rule, steps):
    whole, _ = trained(RULES[rule], 4)
    engine, state = trained(RULES[rule], steps)
    weights = {name: tensor.clone() for name, tensor in engine.method.state_dict().items()}
    average = {name: tensor.clone() for name, tensor in engine.ema.state_dict().items()}
    folder = checkpoint.save(tmp_path, steps, {}, state, {})
    other, _ = trained(RULES[rule], 0)
    other.method.load_state_dict(weights)
    other.load_state_dict(checkpoint.load_state(folder), average)
    for _ in other.fit(lambda step, stage: Batch(image=torch.ones(2, 1))):
        pass

    assert same_weights(other.method.state_dict(), whole.method.state_dict())


def at(state: dict, path: str, value) -> None:
    """Change what stands at a path such as `optimizers/play/state/0/exp_avg`; DROP: nothing stands
    there.
    """
    *above, last = (int(part) if part.isdigit() else part for part in path.split("/"))
    for part in above:
        state = state[part]

    if value == "DROP":
        del state[last]
    else:
        state[last] = value


FIRST = "optimizers/play/state/0"
GROUP = "optimizers/play/param_groups/0"
ALTERED = {
    "moments that are too short": (
        f"{FIRST}/exp_avg",
        torch.zeros(0, 1),
        "'exp_avg' of weight 0 is torch.float32 of the shape .0, 1",
    ),
    "moments of another type": (
        f"{FIRST}/exp_avg_sq",
        torch.zeros(1, 1).double(),
        "'exp_avg_sq' of weight 0 is torch.float64",
    ),
    "no moments": (f"{FIRST}/exp_avg", "DROP", "weight 0 has no 'exp_avg'"),
    "a weight too many": ("optimizers/play/state/9", {}, "holds the state of 2 of 1 weights"),
    "other groups": (f"{GROUP}/params", [0, 1], "other weights"),
    "no groups": ("optimizers/play/param_groups", [], "other weights"),
    "no such phase": ("optimizers/play", "DROP", "optimizer of phase 'play'"),
    "a list": ("optimizers", [1], "'state.json' .*: optimizers: "),
    "a step below 0": ("step", -3, "'state.json' .*: step: "),
    "a step beyond the training": ("step", 5, "5 of 4"),
    "a step that is text": ("step", "3", "'state.json' .*: step: "),
    "updates": ("ema_updates", 10**9, "1000000000 updates"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_foreign_states_are_refused_before_use(tmp_path, name):
    path, value, words = ALTERED[name]
    _, state = trained(adam)
    at(state, path, value)
    engine, before = trained(adam, 0)
    folder = checkpoint.save(tmp_path, 3, {}, state, {})
    with pytest.raises(UserError, match=f"{words}.*step-000003"):
        engine.load_state_dict(checkpoint.load_state(folder), engine.ema.state_dict(), str(folder))

    assert engine.step == 0
    assert str(engine.state_dict()) == str(before)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "g_ab.0.weight",
            torch.nan,
            "'g_ab.0.weight' in the checkpoint has values that are not finite",
        ),
    ],
)
def test_impossible_weights_are_refused(name, value, words):
    method = small_part("method", "dualgan", {})(Geometry(2, (16, 16), {"a": 1, "b": 1}))
    weights = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    name = name if name in weights else next(key for key, _ in method.named_parameters())
    weights[name].fill_(value)
    with pytest.raises(UserError, match=words.replace("g_ab.0.weight", name)):
        checkpoint.load_into(method, weights, "here")


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "state.safetensors", "state.json", "meta.json"]
)
def test_a_flipped_bit_in_a_checkpoint_is_an_error(tmp_path, name):
    path = save(tmp_path, 1) / name
    whole = bytearray(path.read_bytes())
    at = whole.index(b"-1.0") + 1 if name == "meta.json" else len(whole) - 2
    whole[at] ^= 2
    path.write_bytes(whole)
    with pytest.raises(
        UserError, match=f"'{name}' cannot be read.*(its SHA-256 differs|it is |column)"
    ):
        LOADERS[name](path.parent)


def test_what_no_state_may_hold_is_named_where_it_is_saved(tmp_path):
    with pytest.raises(
        UserError, match="contains a PosixPath, which a checkpoint cannot store.*: tensors, num"
    ):
        checkpoint.save(tmp_path, 1, {}, {"optimizers": {"g": [0, tmp_path]}}, {})
    with pytest.raises(
        UserError,
        match=r"the weight 'model.w' is complex128 \[2\], a type that a checkpoint cannot store",
    ):
        checkpoint.save(tmp_path, 1, {"model.w": torch.zeros(2, dtype=torch.complex128)}, {}, {})


@settings(max_examples=25, deadline=None)
@given(STATES)
def test_any_state_of_plain_values_comes_back_as_it_was(tmp_path_factory, state):
    folder = checkpoint.save(tmp_path_factory.mktemp("any"), 1, {}, {"held": state}, {})
    assert repr(checkpoint.load_state(folder).held) == repr(state)


# ---- resuming; tests/promises/test_killed_runs.py kills processes --------------------------------


def unsigned_metadata(file: Path) -> dict:
    """The metadata of a checkpoint without their digest, to be changed and written back."""
    meta = read_json(file)
    del meta["sha256"]
    return meta


def test_a_resume_keeps_the_intensities_of_its_checkpoint(copied_run):
    from gantk.machine.runtime import start
    from gantk.training.assemble import assemble, restore

    model = RunFolder.open(copied_run).recipe().check()
    saved = copied_run / "checkpoints" / "step-000004"
    meta = unsigned_metadata(saved / "meta.json")
    meta["intensity"]["a"]["fitted"] = [1.0, 2.0]  # as if the training images had changed since
    write_json(saved / "meta.json", meta)
    parts = assemble(model, start("cpu", "fp32"))
    restore(parts, saved)

    assert parts.batches.sets["a"].intensity.state()["fitted"] == [1.0, 2.0]


@pytest.mark.parametrize(
    "change",
    [
        {"channels": {}},
        {"channels": {"a": 1}},
        {"channels": {"image": 1}},
        {"intensity": {"a": None}},
        {"values": {"a": None}},
    ],
    ids=str,
)
def test_metadata_that_leave_a_domain_out_are_one_error(change, copied_run):
    from gantk import load

    file = copied_run / "checkpoints" / "step-000004" / "meta.json"
    meta = unsigned_metadata(file)
    for key in change.keys() & {"intensity", "values"}:
        change = {key: {"a": meta[key]["a"]}}
    write_json(file, meta | change)
    with pytest.raises(UserError, match=f"the checkpoint is damaged: '{next(iter(change))}'"):
        load(copied_run, device="cpu")


def test_a_look_of_another_length_is_an_error(copied_run):
    from gantk import load

    file = copied_run / "checkpoints" / "step-000004" / "meta.json"
    meta = unsigned_metadata(file)
    meta["values"]["a"] |= {"looks": [[0.1]], "look_near": 0.1}
    write_json(file, meta)
    with pytest.raises(UserError, match="values.a.looks.0: List should have at least 26 items"):
        load(copied_run, device="cpu")


def test_a_run_killed_while_dropping_a_checkpoint_is_clean(copied_run):
    # a number used again
    (left := copied_run / f"checkpoints/.step-000002.{HOST}-{os.getpid()}-{0:08x}.tmp").mkdir()
    (copied_run / "metrics.json").unlink()
    resume(copied_run, device="cpu", say=lambda line: None)

    assert (copied_run / "metrics.json").exists()
    assert not left.exists()


@pytest.mark.parametrize("again", ["run", "resume"])
def test_a_run_killed_before_its_first_checkpoint_restarts(again, copied_run, tiny_recipe):
    weights = (copied_run / "checkpoints/step-000004/weights.safetensors").read_bytes()
    for saved in (copied_run / "checkpoints").iterdir():
        shutil.rmtree(saved)

    (copied_run / "samples/step-000099").mkdir()
    quiet = {"out": copied_run, "device": "cpu", "say": lambda line: None}
    with pytest.raises(UserError, match="already contains a run.*gantk resume"):
        run(tiny_recipe, **quiet)  # it has scores: somebody removed its checkpoints

    with pytest.raises(UserError, match="its checkpoints are gone"):
        resume(copied_run, device="cpu")

    (copied_run / "metrics.json").unlink()
    with pytest.raises(UserError, match=f"already contains a run.*gantk resume {copied_run}"):
        run(tiny_recipe, set={"train.batch": 1}, **quiet)

    if again == "run":
        run(str(copied_run / "recipe.toml"), **quiet)
    else:
        resume(copied_run, device="cpu", say=lambda line: None)

    assert (copied_run / "checkpoints/step-000004/weights.safetensors").read_bytes() == weights
    steps = [line.step for line in RunFolder(copied_run).read_log() if line.losses]
    assert steps == [1, 2, 3, 4]
    assert not (copied_run / "samples/step-000099").exists()
