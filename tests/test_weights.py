"""Weights of other people's networks: found, made or refused in one sentence, and never waited for."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from gantk.errors import UserError
from gantk.nets.pretrained import timm_model, weights_file

NAME = "test_vit3.r160_in1k"  # timm's smallest, 0.9 M weights


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """No hub, no cache of this machine, no folder of weights: each test says what there is."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANTK_WEIGHTS", raising=False)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty folder that GANTK_WEIGHTS names."""
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def trained():
    """Tensors that stand for published weights."""
    torch.manual_seed(7)
    return timm.create_model(NAME.split(".")[0]).state_dict()


def same(model, state) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_random_weights_come_from_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (timm_model(NAME, "random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again.state_dict())
    assert not same(first, other.state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_file_of_the_folder_is_what_gets_loaded(folder, trained, suffix):
    save = save_file if suffix == ".safetensors" else torch.save
    wrapped = {"state_dict": trained, "epoch": 3}  # as training scripts do
    save(wrapped if suffix == ".pth" else trained, folder / f"{NAME}{suffix}")
    assert weights_file(NAME) == weights_file(NAME + suffix) == folder / f"{NAME}{suffix}"
    assert weights_file("vgg") is None
    for options in ({}, {"num_classes": 0}):  # with its classifier and without
        model = timm_model(NAME, **options)
        assert same(model, trained) and not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_the_hub_cached_is_used_without_a_network(monkeypatch, tmp_path, trained):
    snapshot = tmp_path / "cache" / f"models--timm--{NAME}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(trained, snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert same(timm_model(NAME), trained)


def test_missing_weights_are_one_error_that_says_which_file_to_put_where():
    words = (
        r"'vgg19.tv_in1k' are not on this machine and cannot be fetched \(HF_HUB_OFFLINE is set\)\. "
        r'Put vgg19.tv_in1k.safetensors .* into a folder, and set GANTK_WEIGHTS to it.*weights = "random"'
    )
    with pytest.raises(UserError, match=words):
        timm_model("vgg19.tv_in1k")


def test_a_hub_that_does_not_answer_is_given_up_at_once(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was left to wait for the network"))
    with pytest.raises(UserError, match="no answer from http://127.0.0.1:9: .*refused"):
        timm_model(NAME)

    def fails(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("gantk.nets.pretrained._unreachable", lambda config: None)
    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(UserError, match=r"cannot be fetched \(disk full\)"):
        timm_model(NAME)


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        (".safetensors", b"no weights", "is not a readable file of weights"),
        (".pth", b"", "is not a readable file of weights"),
        (".bin", b"\x80\x04\x95junk", "is not a readable file of weights"),
        (".pth", {"weight": Bomb()}, "a pickle that may run code"),
        (".pth", {"epoch": 3}, "holds no tensors by"),
        (".pth", {"weight": torch.zeros(3)}, f"does not hold the weights of '{NAME}'"),
    ],
    ids=["no header", "empty", "junk", "a program", "no tensors", "another network"],
)
def test_a_file_without_these_weights_is_refused_by_name_and_no_pickle_is_run(
    folder, monkeypatch, suffix, content, words
):
    monkeypatch.chdir(folder)
    path = folder / f"{NAME}{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=f"'{path}'.*{words}"):
        timm_model(NAME)
    assert list(folder.iterdir()) == [path]
