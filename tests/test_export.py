"""Exported models: they answer as PyTorch does, carry all that native images need, and name no machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import PATCHGAN, UNET, small_run
from torch import nn

import gantk as toolkit
from gantk.errors import GantkError, UserError
from gantk.exports.exporting import Direction, require_steady
from gantk.inference.pipeline import Look
from gantk.inference.translator import Translator
from gantk.nets.blocks import InstanceNorm, norm

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

REGRESSION = {"name": "regression", "generator": UNET}


def native(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Images on the phantom's scale."""
    return np.random.default_rng(seed).uniform(0, 300, shape).astype(np.float32)


def export(run: Path, out: Path, say=lambda line: None, **options) -> Path:
    return toolkit.export(run, out=out, say=say, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("paired"), REGRESSION)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> tuple[Path, list[str]]:
    """The file, and what was said while it was made."""
    lines: list[str] = []
    return export(run, tmp_path_factory.mktemp("onnx") / "t2.onnx", lines.append), lines


def metadata_of(path: Path) -> dict:
    return json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["gantk"])


def rewritten(source: Path, target: Path, meta: dict | None) -> Path:
    """A copy of an exported file with another text in place of its metadata, or with none."""
    model = onnx.load(source)
    del model.metadata_props[:]
    if meta is not None:
        entry = model.metadata_props.add()
        entry.key, entry.value = "gantk", json.dumps(meta)
    target.write_bytes(model.SerializeToString())
    return target


# ---- ONNX


def test_an_exported_model_translates_native_images_as_its_run_does(run, exported):
    model, there = toolkit.load(exported[0]), toolkit.load(run, device="cpu")
    for size in ((32, 32), (41, 50)):
        pixels = native((3, 1, *size))
        pixels[1] = 7.0  # nothing in it
        found, expected = model.translate(pixels), there.translate(pixels)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))
    assert model.domain("t2") == model.domain("b") == model.domain(None) == "b"
    assert model.frame("b") == there.frame("b")


def test_the_file_says_what_it_takes_and_how_near_it_is_and_names_no_machine(exported):
    path, lines = exported
    said = next(line for line in lines if line.startswith("parity"))
    assert "held-out images of T1" in said and "of the range" in said
    meta = metadata_of(path)
    assert 0 <= meta["parity"]["mean"] <= meta["parity"]["largest"] < 1e-5
    assert meta["parity"]["batches"][0] == 1 and len(meta["parity"]["batches"]) > 1
    assert meta["parity"]["sizes"] == ["32 x 32", "36 x 40"]  # the recipe's, and another that the network takes
    assert meta["free"] == {"batch": True, "sizes": {"multiple": 4, "smallest": 8}}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, "height", "width"]
    assert session.run(None, {"image": np.zeros((5, 1, 44, 60), np.float32)})[0].shape == (5, 1, 44, 60)
    onnx.checker.check_model(onnx.load(path))
    places = [str(Path.home()), str(Path(toolkit.__file__).parent), "site-packages", str(path.parent), '.py"']
    assert not [place for place in places if place.encode() in path.read_bytes()]


def test_what_an_exported_model_cannot_do_is_refused(exported):
    model = toolkit.load(exported[0])
    with pytest.raises(UserError, match="cannot produce 'T1'.*T2.*Export the other direction"):
        model.domain("T1")
    with pytest.raises(UserError, match="no images from noise"):
        toolkit.sample(exported[0], out="nowhere")
    for look in (Look(variants=2), Look(uncertainty="flips")):
        with pytest.raises(UserError, match="one answer to an image"):
            model.translate(native((1, 1, 32, 32)), look=look)


def test_files_that_are_no_exported_model_get_one_message_each(exported, tmp_path):
    path, meta = exported[0], metadata_of(exported[0])
    cut, text = tmp_path / "cut.onnx", tmp_path / "text.onnx"
    cut.write_bytes(path.read_bytes()[:-200])
    text.write_text("no model")
    lacking = {key: value for key, value in meta.items() if key != "frame"}
    for message, file in [
        ("there is no file", tmp_path / "missing.onnx"),
        ("not a readable", cut),
        ("not a readable", text),
        ("not one that gantk exported", rewritten(path, tmp_path / "foreign.onnx", None)),
        ("says of itself is damaged", rewritten(path, tmp_path / "damaged.onnx", lacking)),
        ("format 2, and this gantk reads up to 1", rewritten(path, tmp_path / "newer.onnx", meta | {"format": 2})),
        ("makes images from noise", rewritten(path, tmp_path / "noise.onnx", meta | {"kind": "samples"})),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            toolkit.load(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "no exporter 'tflite'.*monai, onnx"),
        ({"out": "model.bin"}, "no .onnx file"),
        ({"out": "there.onnx"}, "exists already"),
        ({"out": "no/such/x.onnx"}, "there is no folder"),
        ({"out": "full", "format": "monai"}, "exists already"),
        ({"tolerance": 0.0}, "no tolerance"),
        ({"to": "FLAIR"}, "cannot produce 'FLAIR'"),
    ],
    ids=str,
)
def test_wrong_input_is_refused_before_anything_is_written(run, tmp_path, options, message):
    (tmp_path / "there.onnx").write_bytes(b"mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    options = {"out": "x.onnx"} | options
    with pytest.raises(UserError, match=message):
        export(run, **options | {"out": tmp_path / options["out"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "there.onnx"]
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"


# ---- the comparison with PyTorch


def test_a_difference_above_the_tolerance_is_an_error(run):
    direction = Direction(Translator.load(run, "cpu"), None)
    assert direction.checked(direction.expected, "file", 1e-9)["largest"] == 0
    off = lambda image: direction.expected(image) + (0.02 if image.shape[2:] == (36, 40) else 0)  # noqa: E731
    assert direction.checked(off, "file", 1e-9)["largest"] == 0
    with pytest.raises(GantkError, match=r"regression, T1 to T2 does not answer as PyTorch.*1\.0e-02") as caught:
        direction.checked(off, "file", 0.009, larger=4)
    assert caught.value.exit_code == 1
    for answer in (lambda image: image[..., 1:], lambda image: image * np.nan):
        with pytest.raises(GantkError, match="does not answer"):
            direction.checked(answer, "file", 1.0)


def answers(network: nn.Module):
    def call(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    return call


def test_layers_that_stay_in_training_mode_are_found():
    """The best known reason why an exported network answers otherwise than the one it was made of."""
    images = (np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, 1, 8, 8),)
    with pytest.raises(UserError, match=r"draws random numbers.*method\.test_dropout = false"):
        require_steady(answers(nn.Dropout(0.5).train()), images)
    layer = nn.BatchNorm2d(1).train()
    with pytest.raises(UserError, match="alone and in a batch"):
        require_steady(answers(layer), images)
    require_steady(answers(layer.eval()), images)
    with pytest.raises(UserError, match="diverged"):
        require_steady(lambda images: images * np.nan, images)


def test_drawn_images_stand_in_for_data_that_are_gone(run, monkeypatch):
    def gone(*args):
        raise UserError("there is no folder '/secret/patients'")

    monkeypatch.setattr("gantk.exports.exporting.Data", gone)
    direction = Direction(Translator.load(run, "cpu"), None)
    assert "not real ones" in direction.on and "/secret" not in direction.on and "/secret/patients" in direction.why
    (images,) = direction.inputs
    assert images.shape == (4, 1, 32, 32) and images.min() >= -1 and images.max() <= 1


def test_norms_whose_means_are_taken_axis_by_axis_are_the_same_norms():
    from gantk_onnx.graph import exact_norms

    torch.manual_seed(0)
    for dims in (2, 3):
        network = nn.Sequential(norm("instance", 4, dims, affine=True), norm("group", 4, dims), nn.GroupNorm(2, 4))
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(3, 4, *(9, 10, 11)[:dims]) * 5 + 20
        exact = exact_norms(network)
        assert not any(isinstance(part, (InstanceNorm, nn.GroupNorm)) for part in exact.modules())
        with torch.no_grad():
            torch.testing.assert_close(exact(x), network(x), rtol=1e-4, atol=1e-4)


# ---- every method, slowly

CASES = {
    "cyclegan": ({"generator": {"name": "resnet", "width": 4, "blocks": 1}, "discriminator": PATCHGAN}, {}),
    "dualgan": (
        {"generator": UNET | {"norm": "group"}, "discriminator": PATCHGAN},
        {"neighbours": 1, "source": {"slices": 5}},
    ),
    "pix2pix": (
        {"both": True, "discriminator": PATCHGAN, "generator": UNET | {"norm": "batch", "up": "transpose"}},
        {"domains": ["T1+FLAIR", "T2+PD"], "intensity": "nyul"},
    ),
    "regression": (
        {"generator": UNET | {"name": "attention_unet", "attention": [1]}},
        {"dims": 3, "size": [24, 24, 24], "patch": [16, 16, 16]},
    ),
    "munit": ({"width": 4, "blocks": 1, "mlp_dim": 8, "scales": 1}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_direction_of_every_method_answers_as_pytorch_does(case, tmp_path):
    method, data = CASES[case]
    run = small_run(tmp_path, {"name": case} | method, steps=2, **data)
    there = Translator.load(run, "cpu")
    for letter in there.method.directions():
        path = export(run, tmp_path / f"{letter}.onnx", to=letter)
        meta, model = metadata_of(path), toolkit.load(path)
        assert meta["parity"]["largest"] < 1e-4 and "held-out" in meta["parity"]["on"]
        assert meta["free"]["batch"] and meta["free"]["sizes"]
        frame = model.frame(letter)
        assert frame == there.frame(letter)
        pixels = native((2, frame.channels, *frame.size))
        expected = there.translate(pixels, to=letter)
        np.testing.assert_allclose(model.translate(pixels), expected, atol=1e-3 * np.ptp(expected))


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "dcgan", "width": 4, "latent": 8, "discriminator": {"name": "dcgan", "width": 4, "depth": 3}},
        {"name": "progan", "width": 8, "latent": 8},
    ],
    ids=lambda method: method["name"],
)
def test_images_from_noise_are_exported_with_the_noise_as_input(method, conditional, tmp_path):
    data = {"labels": True, "source": {"lesions": 1, "healthy": 0.5}} if conditional else {}
    run = small_run(tmp_path, method | {"conditional": conditional}, steps=6, domains=["FLAIR"], **data)
    path = export(run, tmp_path / "x.onnx")
    session, method = onnxruntime.InferenceSession(path), Translator.load(run, "cpu").method
    noise = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    given = {"noise": noise} | ({"label": np.arange(5) % 2} if conditional else {})
    (found,) = session.run(None, given)
    with torch.no_grad():
        labels = torch.from_numpy(given["label"]) if conditional else None
        expected = method.sampler()(torch.from_numpy(noise), labels)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    with pytest.raises(UserError, match="makes images from noise"):
        toolkit.load(path)
    with pytest.raises(UserError, match="starts from files"):
        export(run, tmp_path / "bundle", format="monai")


@pytest.mark.slow
def test_a_translation_that_is_an_optimisation_is_refused(tmp_path):
    method = {"name": "style", "weights": "random", "content_layers": ["conv1_2"], "style_layers": ["conv1_1"]}
    run = small_run(tmp_path, method | {"translate_steps": 3}, steps=1)
    with pytest.raises(UserError, match="more than a pass through networks"):
        export(run, tmp_path / "x.onnx")
