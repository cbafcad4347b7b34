"""Exported models, ONNX files and MONAI bundles: they answer as PyTorch does, say what they take,
name no machine.
"""

import json
import re
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import PATCHGAN, ROOT, UNET, phantom, python, read_json, small_run
from torch import nn

import gantk as toolkit
from gantk import Direction, Model
from gantk.errors import GantkError, UserError
from gantk.exports.exporting import require_steady
from gantk_models.monai.bundle import answers


def native(shape: tuple[int, ...]) -> np.ndarray:
    """Images on the phantom's scale."""
    return np.random.default_rng(0).uniform(0, 300, shape).astype(np.float32)


def export(run: Path, out: Path, say=lambda line: None, **options) -> Path:
    return toolkit.export(run, out=out, say=say, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    method = {"name": "regression", "generator": UNET}
    return small_run(tmp_path_factory.mktemp("paired"), method, scored=True)


@pytest.mark.slow
@pytest.mark.parametrize("shipped", [False, True])
def test_lines_of_the_guide_translate_as_gantk_does(run, tmp_path, monkeypatch, shipped):
    page = (ROOT / "docs/guides/onnx.md").read_text("utf-8")
    lines = page.partition("```python\n")[2].partition("```")[0]
    lines = re.sub(r"^scan = .*$", "scan = given", lines, flags=re.M)
    scan = native((3, 32, 32))
    if shipped:  # a skull-stripped head, of sides that the network does not take
        run = "t1t2"
        source = phantom(("T1", "T2"), 2, (90, 76), subjects=1, slices=3)
        scan = 900 * np.concatenate(
            [each.read() for each in source.records() if each.domain == "a"]
        )
        scan[scan < 0.1 * scan.max()] = 0
    monkeypatch.chdir(tmp_path)
    export(run, Path("t1_to_t2.onnx"))
    names = {"given": scan}
    exec(lines, names)

    expected = toolkit.load(run, device="cpu").translate(scan)

    assert np.abs(names["result"] - expected).max() < 1e-3 * np.ptp(expected)
    assert names["about"]["left_out"] == (["masked", "detail"] if shipped else ["detail"])


# ---- the comparison with PyTorch


def test_a_difference_above_the_tolerance_is_an_error(run):
    direction = Direction(Model.load(run, "cpu"), None)

    def off(image):
        outputs = direction.torch_outputs(image)
        return outputs + 0.02 if image.shape[2:] == (36, 40) else outputs

    assert direction.compare_outputs(off, "file")["largest"] == 0

    with pytest.raises(
        GantkError, match=r"regression, T1 to T2 differ from those of PyTorch.*1\.0e-02"
    ) as caught:
        direction.compare_outputs(off, "file", larger=4)

    assert caught.value.exit_code == 1
    for answer in (lambda image: image[..., 1:], lambda image: image * np.nan):
        with pytest.raises(GantkError, match="differ from those of PyTorch"):
            direction.compare_outputs(answer, "file")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Dropout(0.5), r"draws random numbers.*method\.test_dropout = false"),
        (nn.BatchNorm2d(1), "the result for an image changes"),
        (nn.Threshold(2.0, float("nan")), "diverged"),
        (nn.BatchNorm2d(1).eval(), None),
    ],
)
def test_layers_that_stay_in_training_mode_are_found(layer, message):
    """The best known reason why an exported network answers otherwise than the one it was made of."""
    images = np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, 1, 8, 8)
    if message is None:
        return require_steady(answers(layer), images)

    with pytest.raises(UserError, match=message):
        require_steady(answers(layer), images)


# ---- ONNX


@pytest.fixture(scope="module")
def onnx():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def exported(onnx, run, tmp_path_factory) -> tuple[Path, list[str]]:
    """The file, and what was said while it was made."""
    lines: list[str] = []
    return export(run, tmp_path_factory.mktemp("onnx") / "t2.onnx", lines.append), lines


def metadata_of(onnx, path: Path) -> dict:
    return json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["gantk"])


def answer_of(path: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given)[
        0
    ]


def test_exported_model_matches_its_run_on_native_images(run, exported):
    model = toolkit.load(exported[0])
    there = toolkit.load(run, device="cpu")
    for size in ((32, 32), (41, 50)):
        pixels = native((3, *size))
        pixels[1] = 7.0  # nothing in it
        found = model.translate(pixels)
        expected = there.translate(pixels)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))

    assert {model.domain(name) for name in ("t2", "T2w", "b", None)} == {"b"}
    assert model.frames["b"] == there.frames["b"]
    assert model.run is None, "nobody looks for the scores of an exported file"


def test_windows_with_norms_of_their_own_are_told(onnx, tmp_path, monkeypatch):
    monkeypatch.setattr("gantk.exports.onnx.model.MAX_WHOLE_IMAGE_PIXELS", 40 * 40)
    cropped = small_run(tmp_path, {"name": "regression", "generator": UNET}, fit="crop")
    model = toolkit.load(export(cropped, tmp_path / "t2.onnx"))
    told = []
    for side in (32, 40, 64, 32):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.translate(native((side, side)))
        told.append(any("each with its own norms" in str(each.message) for each in caught))

    assert told == [False, False, True, False]


def test_export_metadata_is_complete_and_anonymous(onnx, exported):
    path, lines = exported
    said = next(line for line in lines if line.startswith("parity"))

    assert "held-out images of T1" in said
    assert "of the range" in said
    meta = metadata_of(onnx, path)
    assert 0 <= meta["parity"]["mean"] <= meta["parity"]["largest"] < 1e-5
    assert meta["parity"]["batches"][0] == 1
    assert len(meta["parity"]["batches"]) > 1
    # the recipe's, and another that the network takes
    assert meta["parity"]["sizes"] == ["32 x 32", "36 x 40"]
    assert meta["free"] == {"batch": True, "sizes": {"multiple": 4, "smallest": 8}}
    assert answer_of(path, {"image": np.zeros((5, 1, 44, 60), np.float32)}).shape == (5, 1, 44, 60)

    onnx.checker.check_model(onnx.load(path))
    places = [
        str(Path.home()),
        str(Path(toolkit.__file__).parent),
        "site-packages",
        str(path.parent),
        '.py"',
    ]

    assert not [place for place in places if place.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("foreign", "gantk did not export it"),
        ("missing", "does not exist"),
        ("cut short", "cannot be read as an ONNX model"),
        ({"frame": None}, "frame.*required"),
        ({"format": 2}, "format 2, but this gantk reads formats up to 1"),
        ({"window": [8, 10**9]}, r"16384.*window\.1"),
        ({"overlap": float("nan")}, "finite number.*overlap"),
        ({"frame": {"dims": 7}}, r"frame\.(dims|source|target)"),
        ({"format": "1"}, "format: it should be a whole number"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_invalid_or_foreign_onnx_files_are_refused(onnx, exported, tmp_path, change, message):
    path = tmp_path / "x.onnx"
    model = onnx.load(exported[0])
    meta = metadata_of(onnx, exported[0])
    del model.metadata_props[:]
    if isinstance(change, dict):
        change = json.dumps(
            {key: value for key, value in (meta | change).items() if value is not None}
        )

    if change[0] in "{[9":  # what it says of itself
        model.metadata_props.add(key="gantk", value=change)
    if change != "missing":
        onnx.save(model, path)
    if change == "cut short":
        path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(UserError, match=message):
        toolkit.load(path)


CASES = {
    "cyclegan": (
        {"generator": {"name": "resnet", "width": 4, "blocks": 1}, "discriminator": PATCHGAN},
        {},
    ),
    "dualgan": (
        {"generator": UNET | {"norm": "group"}, "discriminator": PATCHGAN},
        {"neighbours": 1, "source": {"slices": 5}},
    ),
    "pix2pix": (
        {
            "both": True,
            "discriminator": PATCHGAN,
            "generator": UNET | {"norm": "batch", "up": "transpose"},
        },
        {"domains": ["T1+FLAIR", "T2+PD"], "intensity": "nyul"},
    ),
    "regression": (
        {"generator": UNET | {"name": "attention_unet"}},
        {"dims": 3, "size": [24, 24, 24], "patch": [16, 16, 16]},
    ),
    "munit": ({"width": 4, "blocks": 1, "mlp_dim": 8, "scales": 1}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_exported_directions_match_pytorch(onnx, case, tmp_path):
    method, data = CASES[case]
    run = small_run(tmp_path, {"name": case} | method, steps=2, **data)
    there = Model.load(run, "cpu")
    for letter in there.method.directions():
        path = export(run, tmp_path / f"{letter}.onnx", to=letter)
        meta = metadata_of(onnx, path)
        model = toolkit.load(path)
        assert meta["parity"]["largest"] < 1e-4
        assert "held-out" in meta["parity"]["on"]
        assert meta["free"]["batch"]
        assert meta["free"]["sizes"]
        frame = model.frames[letter]
        assert frame == there.frames[letter]
        pixels = native((frame.channels, *frame.size))
        pixels = pixels if frame.channels > 1 else pixels[0]
        expected = there.translate(pixels, to=letter)
        np.testing.assert_allclose(model.translate(pixels), expected, atol=1e-3 * np.ptp(expected))


@pytest.mark.slow
def test_a_translation_that_is_an_optimisation_is_refused(onnx, tmp_path):
    method = {
        "name": "style",
        "weights": "random",
        "content_layers": ["conv1_2"],
        "style_layers": ["conv1_1"],
    }
    run = small_run(tmp_path, method | {"translate_steps": 3}, steps=1)

    with pytest.raises(UserError, match="does more than run networks"):
        export(run, tmp_path / "x.onnx")

    # which would stop any torch.compile after it
    assert not torch.nn.modules.module._global_buffer_registration_hooks


# ---- MONAI bundles
TENSOR = {
    "type": str,
    "format": str,
    "modality": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
    "is_patch_data": bool,
    "channel_def": dict,
}
MANDATORY = """version monai_version pytorch_version numpy_version required_packages_version task description authors
copyright network_data_format"""


def configs(bundle: Path) -> tuple[dict, dict]:
    """metadata.json and inference.json."""
    return tuple(
        read_json(bundle / "configs" / f"{name}.json") for name in ("metadata", "inference")
    )


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory) -> Path:
    return export(run, tmp_path_factory.mktemp("monai") / "t1_to_t2", format="monai")


def test_a_bundles_metadata_are_what_the_specification_asks_for(bundle):
    meta, _ = configs(bundle)
    assert meta.keys() >= set(MANDATORY.split())
    assert meta["version"] in meta["changelog"]

    formats = meta["network_data_format"]
    for tensor in (formats["inputs"]["image"], formats["outputs"]["pred"]):
        for key, kind in TENSOR.items():
            assert isinstance(tensor[key], kind)
        assert sorted(tensor["channel_def"]) == [str(k) for k in range(tensor["num_channels"])]


def test_a_bundles_card_states_scores_limits_and_licence(run, bundle):
    meta, _ = configs(bundle)
    metrics = read_json(run / "metrics.json")
    psnr = metrics["metrics"]["a_to_b"]["psnr"]["value"]

    assert meta["eval_metrics"]["psnr"] == psnr
    card = (bundle / "docs" / "README.md").read_text()
    assert f"| {psnr:.2f} " in card
    assert "not for diagnosis" in card
    assert "monai[fire,ignite,nibabel]" in card
    assert "have no licence yet" in (bundle / "LICENSE").read_text()


@pytest.mark.slow
def test_a_bundles_network_runs_without_gantk(run, bundle, tmp_path):
    there = Model.load(run, "cpu")
    pixels = native((2, 1, 41, 50))
    np.save(tmp_path / "in.npy", pixels)
    script = (
        "import sys, numpy, torch\n"
        "network = torch.jit.load(sys.argv[1] + '/models/model.ts')\n"
        "numpy.save('out.npy', network(torch.from_numpy(numpy.load('in.npy'))).detach().numpy())\n"
        "print('gantk' in sys.modules)\n"
    )
    done = python("-c", script, bundle, cwd=tmp_path).ok()

    assert done.out.split() == ["False"]

    found = np.load(tmp_path / "out.npy")
    expected = np.stack([there.translate(each) for each in pixels])

    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))


def test_monai_itself_verifies_and_runs_a_bundle(run, bundle, tmp_path):
    bundles = pytest.importorskip("monai.bundle", reason="monai is not installed")
    pytest.importorskip("ignite", reason="pytorch-ignite is not installed")
    scan = tmp_path / "in" / "scan.nii.gz"
    scan.parent.mkdir()
    affine = np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 2], [0, 1.5, 0, 3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(native((40, 6, 36)), affine), scan)
    meta, config = (str(bundle / "configs" / f"{name}.json") for name in ("metadata", "inference"))
    options = {"config_file": config, "bundle_root": str(bundle)}
    bundles.verify_net_in_out("network", meta_file=meta, device="cpu", p=1, n=2, any=40, **options)
    bundles.run(dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"), **options)
    toolkit.translate(run, scan, tmp_path / "t2.nii.gz", device="cpu", say=lambda line: None)
    ours, theirs = (nib.load(tmp_path / name) for name in ("t2.nii.gz", "out/scan_T2.nii.gz"))

    expected = ours.get_fdata()

    np.testing.assert_allclose(theirs.affine, ours.affine)
    np.testing.assert_allclose(theirs.get_fdata(), expected, atol=1e-4 * np.ptp(expected))


def test_a_bundle_appears_whole_or_not_at_all(run, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("gantk_models.monai.bundle.write_file", full)

    with pytest.raises(OSError, match="no space"):
        export(run, tmp_path / "empty", format="monai")

    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_a_bundle_takes_and_returns_the_units_of_the_files(run, bundle):
    meta, config = configs(bundle)
    steps = [
        step["_target_"]
        for part in ("preprocessing", "postprocessing")
        for step in config[part]["transforms"]
    ]
    low, high = meta["network_data_format"]["inputs"]["image"]["value_range"]

    assert not [step for step in steps if "Scale" in step or "Normalize" in step]
    black, white = Model.load(run, "cpu").intensity["a"].inverse(np.array([-1.0, 1.0]))
    np.testing.assert_allclose([low, high], [black, white])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"intensity": {"name": "zscore", "per": "volume"}}, "each scan has its own intensity"),
        ({"neighbours": 1, "source": {"slices": 5}}, "cannot give a slice its neighbours"),
    ],
)
def test_a_bundle_that_monai_cannot_run_is_refused(tmp_path, data, message):
    run = small_run(tmp_path, {"name": "regression", "generator": UNET}, **data)

    with pytest.raises(UserError, match=f"(?i){message}.*export ONNX"):
        export(run, tmp_path / "bundle", format="monai")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "inferer", "data"),
    [
        ("pix2pix", "SliceInferer", {"domains": ["T1+FLAIR", "T2+PD"]}),
        ("pix2pix", "SimpleInferer", {"dims": 3, "size": [24, 24, 24], "patch": [16, 16, 16]}),
    ],
)
def test_every_kind_of_run_becomes_a_bundle(name, inferer, data, tmp_path):
    run = small_run(tmp_path, {"name": name, "generator": UNET, "discriminator": PATCHGAN}, **data)
    meta, config = configs(export(run, tmp_path / "bundle", format="monai"))

    assert meta["gantk"]["parity"]["largest"] < 1e-4
    assert config["inferer"]["_target_"] == inferer
