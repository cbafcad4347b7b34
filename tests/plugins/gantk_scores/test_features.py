"""Images become vectors whole and unrounded, by networks that are built in, come as files, or from
timm by weights.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import registered, same_weights
from torch import nn

from gantk import timm_model
from gantk.errors import UserError
from gantk.metrics.sets import Features, Kid
from gantk.nets.pretrained import weights_file
from gantk_scores.features.inception import FILE

Inception = registered("features", "inception")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The folder that GANTK_WEIGHTS names."""
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    return tmp_path


# ---- built in


@pytest.mark.slow
def test_inception_features_are_pytorch_fids_own(weights, monkeypatch):
    from pytorch_fid import inception

    download = inception.load_state_dict_from_url
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda self, state: None)
        network = inception.fid_inception_v3()
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = 1.0  # norms keep the numbers of random weights from fading
        network.train()(torch.randn(4, 3, 107, 107))

    state = network.state_dict()
    torch.save(state, weights / FILE)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = inception.InceptionV3([3]).eval()
    monkeypatch.setattr(inception, "load_state_dict_from_url", download)
    features = Features("inception", 255.0, 2)

    assert Kid(2.0, 2, features="inception").name == "kid"
    assert inception.load_state_dict_from_url is download

    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 52))).float()
    with torch.no_grad():
        expected = theirs(pictures / 255)[0].flatten(1).numpy()

    assert expected.shape == (2, 2048)
    assert expected.std(0).mean() > 1e-3
    assert np.allclose(features(pictures), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_inception_without_weights_says_where_to_put_them(weights, monkeypatch):
    from pytorch_fid import inception

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights / "hub"))
    monkeypatch.setattr(inception, "load_state_dict_from_url", no_network)
    # the real one takes a second to draw
    monkeypatch.setattr(inception, "_inception_v3", lambda **_: nn.Module())

    with pytest.raises(UserError, match=f"{FILE}.*GANTK_WEIGHTS"):
        Inception()

    assert inception.load_state_dict_from_url is no_network


def test_images_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="NaN or infinite"):
        Features("random", 2.0, 2)(torch.full((1, 1, 32, 32), torch.inf))


# ---- weights of networks of timm


NAME = "test_vit3.r160_in1k"  # timm's smallest, 0.9 M weights


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """No hub, no cache of this machine, no folder of weights: each test says what there is."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANTK_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def trained():
    """Tensors that stand for published weights."""
    from timm import create_model  # takes seconds

    torch.manual_seed(7)
    return create_model(NAME.split(".")[0]).state_dict()


def test_a_network_of_timm_gives_its_pooled_features(weights, trained):
    save_file(trained, weights / f"{NAME}.safetensors")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = timm_model(NAME, num_classes=0)
    config = network.pretrained_cfg
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    resized = nn.functional.interpolate(
        images, config["input_size"][1:], mode="bilinear", antialias=True
    )
    seen = Features(NAME, 1.0, 2)

    assert np.allclose(seen(images), network((resized - mean) / std).numpy(), atol=1e-3)
    assert seen.suffix == f"_{NAME}"
    assert seen.what == f"{NAME}-pretrained"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_file_of_the_folder_is_what_gets_loaded(weights, trained, suffix):
    file = weights / f"{NAME}{suffix}"
    if suffix == ".safetensors":
        save_file(trained, file)
    elif suffix == ".pth":
        torch.save({"state_dict": trained, "epoch": 3}, file)  # as training scripts do
    else:
        torch.save(trained, file)

    assert weights_file(NAME) == file
    assert weights_file(NAME + suffix) == file
    assert weights_file("vgg") is None

    for options in ({}, {"num_classes": 0}):  # with its classifier and without
        model = timm_model(NAME, **options)
        own = model.state_dict()
        assert same_weights(own, {name: trained[name] for name in own})
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_the_hub_cached_is_used_without_a_network(monkeypatch, tmp_path, trained):
    snapshot = tmp_path / "cache" / f"models--timm--{NAME}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(trained, snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")

    assert same_weights(timm_model(NAME).state_dict(), trained)


def test_missing_weights_say_which_file_goes_where():
    words = (
        r"'vgg19.tv_in1k' are not on this machine and cannot be downloaded \(HF_HUB_OFFLINE is"
        r" set\)\. "
        r"Put vgg19.tv_in1k.safetensors .* into a folder, and set GANTK_WEIGHTS to this folder.*weights ="
        r' "random"'
    )

    with pytest.raises(UserError, match=words):
        timm_model("vgg19.tv_in1k")


def test_a_hub_that_does_not_answer_is_given_up_at_once(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*refused"):
        timm_model(NAME)
