"""Images become vectors whole and unrounded, by networks that are built in, come as files, or from
timm by weights.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_sets import blobs
from torch import nn

import gantk_scores
from gantk import timm_model
from gantk.errors import UserError
from gantk.metrics.evaluate import default_metrics
from gantk.metrics.sets import Features, Kid
from gantk.nets.pretrained import weights_file
from gantk.runs.results import Results, Score
from gantk_scores.features.inception import FILE, Inception

TINY = "test_resnet"  # timm's smallest


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The folder that GANTK_WEIGHTS names."""
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    """A network whose weights were trained nowhere, its norms moved away from their start."""
    network = timm_model(TINY, "random", seed=3)
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return network.eval()


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
    noise = SimpleNamespace(samples=True, directions=tuple)

    assert default_metrics(noise) == ["kid"]
    torch.save(state, weights / FILE)
    assert default_metrics(noise) == [
        "kid",
        *({"name": name, "features": "inception"} for name in ("kid", "fid")),
    ]

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


def onnx_file(path, channels=1, batch="n", size=("h", "w"), pool=True):
    """Two numbers of each image: the mean of its first channel, and 1 more than three times that."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT
    kernel = np.zeros((2, 1 if channels == "c" else channels, 1, 1), np.float32)
    kernel[:, 0, 0, 0] = 1, 3
    tensors = [
        numpy_helper.from_array(kernel, "k"),
        numpy_helper.from_array(np.array([0, 1], np.float32), "b"),
    ]
    nodes = [helper.make_node("Conv", ["x", "k", "b"], ["y"])]
    nodes += [
        helper.make_node("GlobalAveragePool", ["y"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
    ]
    last = helper.make_tensor_value_info("f", kind, [batch, 2])
    if not pool:
        nodes = nodes[:1]
        last = helper.make_tensor_value_info("y", kind, [batch, 2, *size])

    first = helper.make_tensor_value_info("x", kind, [batch, channels, *size])
    model = helper.make_model(helper.make_graph(nodes, "g", [first], [last], tensors), ir_version=8)
    model.opset_import[0].version = 17
    onnx.save(model, str(path))


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize(
    ("batch", "size"), [("n", ("h", "w")), (1, (32, 32))], ids=["free", "fixed"]
)
def test_an_onnx_file_gives_its_own_numbers(weights, batch, size, pool):
    onnx_file(weights / "medical.onnx", batch=batch, size=size, pool=pool)
    images = blobs(5)
    means = (images / 2).mean((1, 2, 3)).numpy()
    found = Features("medical.onnx", 2.0, 2, side=32)(images)

    assert np.allclose(found, np.stack([means, 3 * means + 1], 1), atol=1e-6)
    scaled = Features("medical.onnx", 2.0, 2, mean=[0.5], std=[0.25], side=32)
    assert np.allclose(scaled(images)[:, 0], (means - 0.5) / 0.25, atol=1e-5)


# ---- weights for a timm network


WRAPPINGS = {
    "plain": lambda state: state,
    "a prefix, no classifier, no counts of batches": lambda state: {
        f"module.backbone.{key}": value
        for key, value in state.items()
        if not key.endswith(("fc.weight", "tracked"))
    },
    "a training's checkpoint": lambda state: {
        "optimizer": {"state": {0: {"a": torch.ones(2)}}},
        "model": state,
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_in_a_state_dict_as_it_comes(wrapping, tiny, weights):
    torch.save(WRAPPINGS[wrapping](tiny.state_dict()), weights / "RadImageNet-Tiny.pt")
    images = blobs(3, size=(64, 64), channels=3)
    seen = Features(TINY, 2.0, 2, weights="RadImageNet-Tiny.pt", side=64)
    mean, std = (torch.tensor(tiny.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = tiny.forward_head(
            tiny.forward_features((images / 2 - mean) / std), pre_logits=True
        ).numpy()

    assert np.allclose(seen(images), expected, rtol=1e-4, atol=1e-3)

    rows = {"kid_RadImageNet": Score(definition=f"kid/features={seen.what}")}
    alone = Results(metrics={"image": rows})
    beside = Results(metrics={"image": rows | {"kid": Score(definition="features=inception")}})
    gantk_scores.gantk_images_scored(alone)
    gantk_scores.gantk_images_scored(beside)

    assert "RadImageNet features often disagree" in alone.lines[0]
    assert beside.lines == []
    assert seen.suffix == "_RadImageNet-Tiny"
    assert seen.what.startswith(f"{TINY}-RadImageNet-Tiny.pt-sha256:")


def test_children_that_are_numbered_are_known_by_their_order(weights):
    """As the weights of a torchvision network are named that was wrapped into nn.Sequential before
    its classifier.
    """
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet18().eval()

    cut = nn.Sequential(*list(network.children())[:-1])
    torch.save(
        {f"backbone.{key}": value for key, value in cut.state_dict().items()},
        weights / "Medical.pt",
    )
    images = blobs(2, size=(64, 64), channels=3) / 2
    found = Features("resnet18", 1.0, 2, weights="Medical.pt", mean=[0.5], std=[0.5], side=64)(
        images
    )
    with torch.no_grad():
        assert np.allclose(found, cut((images - 0.5) / 0.5).flatten(1).numpy(), atol=1e-4)


def test_gray_networks_see_one_normalised_channel(tiny, weights):
    state = dict(tiny.state_dict())
    torch.save(state, weights / "colour.pt")
    torch.save(
        state | {"conv1.0.weight": state["conv1.0.weight"].sum(1, keepdim=True)},
        weights / "gray.pt",
    )
    images = blobs(2, size=(64, 64))
    plain = {"side": 64, "mean": [0.0], "std": [1.0]}
    gray, colour = (
        Features(TINY, 2.0, 2, weights=name, **plain) for name in ("gray.pt", "colour.pt")
    )

    assert gray.network.channels == 1
    assert np.allclose(gray(images), colour(images), atol=1e-4)
    known = Features(TINY, 2.0, 2, weights="gray.pt", mean=[0.1, 0.2, 0.6])
    # of three colours: gray is all of them alike
    assert known.network.mean.item() == pytest.approx(0.3)


REFUSED = [
    ({"weights": "absent.pt"}, "Put absent.pt into a folder and set GANTK_WEIGHTS to it"),
    ({"weights": "part.pt"}, "does not contain the weights of .*layer3"),
    ({"weights": "two.pt"}, "more than once"),
    ({"weights": "whole.pt", "mean": [0.1, 0.2]}, r"mean = \[0.1, 0.2\]"),
    ({"features": "tiny.pt"}, 'features = "resnet50", weights = "tiny.pt"'),
    ({"features": "inception", "weights": "tiny.pt"}, "'inception' have no option `weights`"),
    ({"features": "random", "side": 64}, "'random' have no option `side`"),
    ({"features": "absent.onnx"}, "Put absent.onnx into a folder and set GANTK_WEIGHTS"),
    ({"features": "broken.onnx"}, "cannot be read as an ONNX model"),
    ({"features": "free.onnx"}, "fixed number of channels"),
    ({"features": "fixed.onnx", "side": 20}, "takes images of 16 x 16 pixels, not side = 20"),
]


def test_weights_that_are_unavailable_are_one_error(tiny, weights, monkeypatch):
    from pytorch_fid import inception

    state = tiny.state_dict()
    files = {
        "whole": state,
        "part": {key: value for key, value in state.items() if "layer3" not in key},
        "two": {
            f"{side}.{key}": value
            for side in ("student", "teacher")
            for key, value in state.items()
        },
    }
    for name, held in files.items():
        torch.save(held, weights / f"{name}.pt")

    (weights / "broken.onnx").write_bytes(b"no network")
    onnx_file(weights / "fixed.onnx", size=(16, 16))
    onnx_file(weights / "free.onnx", channels="c")
    for options, message in REFUSED:
        with pytest.raises(UserError, match=message):
            Kid(2.0, 2, **{"features": TINY} | options)

    with pytest.raises(UserError, match="NaN or infinite"):
        Features("random", 2.0, 2)(torch.full((1, 1, 32, 32), torch.inf))

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights / "hub"))
    monkeypatch.setattr(inception, "load_state_dict_from_url", no_network)
    # the real one takes a second to draw
    monkeypatch.setattr(inception, "_inception_v3", lambda **_: nn.Module())

    with pytest.raises(UserError, match=f"{FILE}.*GANTK_WEIGHTS"):
        Inception()

    assert inception.load_state_dict_from_url is no_network


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


def same(model, state) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


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
        assert same(model, trained)
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_the_hub_cached_is_used_without_a_network(monkeypatch, tmp_path, trained):
    snapshot = tmp_path / "cache" / f"models--timm--{NAME}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(trained, snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")

    assert same(timm_model(NAME), trained)


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
