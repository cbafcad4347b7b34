"""MONAI bundles: they are as the specification has them, answer as the run does, and MONAI itself runs them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import PATCHGAN, UNET, small_run
from torch import nn

import gantk as toolkit
from gantk import export
from gantk.data.intensity import MinMax, Percentile, Window, ZScore
from gantk.errors import UserError
from gantk.inference.pipeline import Frame, Pipeline
from gantk.inference.translator import Translator
from gantk_monai.bundle import answers
from gantk_monai.config import scaling
from gantk_monai.torchscript import Fitted, Stacked, compiled, loaded
from gantk_scales.scales import Nyul

REGRESSION = {"name": "regression", "generator": UNET}
TENSOR = {"type": str, "format": str, "modality": str, "num_channels": int, "spatial_shape": list, "dtype": str,
          "value_range": list, "is_patch_data": bool, "channel_def": dict}  # fmt: skip
MANDATORY = {"version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
             "description", "authors", "copyright", "network_data_format"}  # fmt: skip


def bundle_of(run: Path, out: Path, **options) -> Path:
    return export(run, format="monai", out=out, say=lambda line: None, **options)


def configs(bundle: Path) -> tuple[dict, dict]:
    """metadata.json and inference.json."""
    return tuple(json.loads((bundle / "configs" / f"{name}.json").read_text()) for name in ("metadata", "inference"))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("paired"), REGRESSION)


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory) -> Path:
    return bundle_of(run, tmp_path_factory.mktemp("monai") / "t1_to_t2")


def native(shape: tuple[int, ...]) -> np.ndarray:
    """Images on the phantom's scale."""
    return np.random.default_rng(0).uniform(0, 300, shape).astype(np.float32)


def test_a_bundle_is_what_the_specification_asks_for(run, bundle):
    meta, config = configs(bundle)
    assert meta.keys() >= MANDATORY and meta["version"] in meta["changelog"]
    for tensor in (meta["network_data_format"]["inputs"]["image"], meta["network_data_format"]["outputs"]["pred"]):
        assert all(isinstance(tensor[key], kind) for key, kind in TENSOR.items())
        assert sorted(tensor["channel_def"]) == [str(k) for k in range(tensor["num_channels"])]
    assert meta["network_data_format"]["inputs"]["image"]["modality"] == "MR"
    scores = json.loads((run / "metrics.json").read_text())["metrics"]["a_to_b"]
    assert meta["eval_metrics"]["psnr"] == scores["psnr"]["value"]
    card = (bundle / "docs" / "README.md").read_text()
    assert f"| psnr | {scores['psnr']['value']:.4g} |" in card and "not for diagnosis" in card
    assert "No licence has been chosen" in (bundle / "LICENSE").read_text()
    for text in re.findall(r'"(\$[^"]*)"', json.dumps(config)):
        ast.parse(re.sub(r"@(\w+)", r"\1", text[1:]))
    assert all(name in config for name in re.findall(r"@(\w+)", json.dumps(config)))
    places = [str(Path.home()).encode(), b"site-packages", str(bundle.parent).encode()]
    for file in (file for file in bundle.rglob("*") if file.is_file()):
        assert not [place for place in places if place in file.read_bytes()], file.name


def test_a_bundles_network_runs_without_gantk(run, bundle, tmp_path):
    there, pixels = Translator.load(run, "cpu"), native((2, 1, 41, 50))
    np.save(tmp_path / "in.npy", there.intensity["a"].forward(pixels))
    script = (
        "import sys, numpy, torch\n"
        "network = torch.jit.load(sys.argv[1] + '/models/model.ts')\n"
        "weights = torch.load(sys.argv[1] + '/models/model.pt', weights_only=True)\n"
        "numpy.save(sys.argv[3], network(torch.from_numpy(numpy.load(sys.argv[2]))).detach().numpy())\n"
        "print('gantk' in sys.modules, len(weights))\n"
    )
    command = [sys.executable, "-c", script, str(bundle), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["False", str(sum(name.startswith("g_ab") for name in there.method.state_dict()))]
    expected = there.translate(pixels)
    found = there.intensity["b"].inverse(np.load(tmp_path / "out.npy"))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))


def test_monai_itself_verifies_and_runs_a_bundle(run, bundle, tmp_path):
    bundles = pytest.importorskip("monai.bundle", reason="monai is not installed")
    pytest.importorskip("ignite", reason="pytorch-ignite is not installed")
    (tmp_path / "in").mkdir()
    affine = np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 2], [0, 1.5, 0, 3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(native((40, 6, 36)), affine), tmp_path / "in" / "scan.nii.gz")
    meta, config = (str(bundle / "configs" / f"{name}.json") for name in ("metadata", "inference"))
    options = {"config_file": config, "bundle_root": str(bundle)}
    bundles.verify_net_in_out("network", meta_file=meta, device="cpu", p=1, n=2, any=40, **options)
    bundles.run(dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"), **options)
    toolkit.translate(run, tmp_path / "in" / "scan.nii.gz", tmp_path / "t2.nii.gz", device="cpu", say=lambda line: None)
    ours, theirs = (nib.load(tmp_path / name) for name in ("t2.nii.gz", "out/scan_T2.nii.gz"))
    np.testing.assert_allclose(theirs.affine, ours.affine)
    np.testing.assert_allclose(theirs.get_fdata(), ours.get_fdata(), atol=1e-4 * np.ptp(ours.get_fdata()))
    try:
        bundles.verify_metadata(meta_file=meta, filepath=str(tmp_path / "schema.json"))
    except URLError:
        pytest.skip("all but metadata.json, whose schema lies on a server that cannot be reached")


def test_a_bundle_appears_whole_or_not_at_all(run, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        bundle_of(run, tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"] and not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(24, 24), (30, 41), (60, 17)], ids=str)
def test_images_of_any_size_are_fitted_in_a_bundle_as_by_gantk(fit, size):
    frame = Frame("A", "B", 2, (24, 24), 2, (-1.0, 1.0), fit=fit)
    network = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh()).requires_grad_(False)
    images, line = native((3, 2, *size)) / 150 - 1, Window(low=-1.0, high=1.0)
    images[1] = 0.5  # nothing in it
    expected = Pipeline(frame, line, line, answers(network)).stack(images, line)[0]
    script = loaded(compiled(Fitted(network, frame)))
    np.testing.assert_allclose(script(torch.from_numpy(images)).numpy(), expected, atol=2e-6)


def test_neighbours_in_a_bundle_are_those_of_gantk():
    frame = Frame("A", "B", 2, (32, 24), 1, (-1.0, 1.0), neighbours=1)
    network = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)
    images, line = native((5, 1, 40, 20)) / 150 - 1, Window(low=-1.0, high=1.0)
    expected = Pipeline(frame, line, line, answers(network)).stack(images, line)[0]
    script = loaded(compiled(Stacked(Fitted(network, frame), 1, 2)))
    found = script(torch.from_numpy(images).movedim(0, 1)[None])[0].movedim(1, 0)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def scaled(values: np.ndarray, step: dict) -> np.ndarray:
    """What MONAI's ScaleIntensityRange does."""
    share = (values - step["a_min"]) / (step["a_max"] - step["a_min"])
    return share * (step["b_max"] - step["b_min"]) + step["b_min"]


def test_a_bundles_intensities_are_the_runs(run, bundle):
    there, values = Translator.load(run, "cpu"), native((1, 7))
    steps = [step for part in ("preprocessing", "postprocessing") for step in configs(bundle)[1][part]["transforms"]]
    forth, back = (step for step in steps if step["_target_"] == "ScaleIntensityRanged")
    seen = scaled(values, forth)
    np.testing.assert_allclose(seen, there.intensity["a"].forward(values), atol=1e-6)
    np.testing.assert_allclose(scaled(seen, back), there.intensity["b"].inverse(seen), rtol=1e-5)


def test_mappings_of_each_scan_become_monais_own_transforms():
    (percentiles,) = scaling("x", Percentile(low=1.0, high=99.0, per="volume"), False)
    assert percentiles["_target_"] == "ScaleIntensityRangePercentilesd" and not percentiles["clip"]
    (ends,) = scaling("x", MinMax(per="image"), True)
    assert (ends["_target_"], ends["minv"], ends["maxv"]) == ("ScaleIntensityd", -1.0, 1.0)
    normal, line = scaling("x", ZScore(per="volume"), False)
    mapping, volume = ZScore(per="volume"), native((1, 4, 9, 9))
    mapping.fit([volume])
    found = scaled((volume - volume.mean()) / volume.std(), line)
    np.testing.assert_allclose(found, mapping.of(volume).forward(volume), atol=1e-5)
    for refused in (Nyul(), Percentile(per="volume", foreground=True), Percentile(per="image")):
        with pytest.raises(UserError, match=f"no transform for the intensity mapping '{refused.name}'.*export ONNX"):
            scaling("x", refused, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("dualgan", {"neighbours": 1, "source": {"slices": 5}}),
        ("pix2pix", {"domains": ["T1+FLAIR", "T2+PD"]}),
        ("pix2pix", {"dims": 3, "size": [24, 24, 24], "patch": [16, 16, 16]}),
    ],
    ids=["neighbours", "contrasts", "patches of volumes"],
)
def test_every_kind_of_run_becomes_a_bundle(name, data, tmp_path):
    run = small_run(tmp_path, {"name": name, "generator": UNET, "discriminator": PATCHGAN}, **data)
    meta, config = configs(bundle_of(run, tmp_path / "bundle"))
    assert meta["gantk"]["parity"]["largest"] < 1e-4
    slices = "dims" not in data and "neighbours" not in data
    assert config["inferer"]["_target_"] == ("SliceInferer" if slices else "SimpleInferer")
