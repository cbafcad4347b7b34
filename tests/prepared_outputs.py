"""What every path from native images to native images gives for fixed inputs, to be recorded by one
version of gantk and compared by another.

    python tests/prepared_outputs.py tests/prepare/recorded.npz          # networks as drawn
    python tests/prepared_outputs.py RECORDING.npz SHARED_DATA           # shipped models, real scans
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny import PATCHGAN, UNET, small_run

import gantk
from gantk.formats.image import Image

REGRESSION = {"name": "regression", "generator": UNET}
RUNS = {
    "pad": {},
    "resize": {"fit": "resize", "intensity": "nyul"},
    "crop": {"fit": "crop", "size": [24, 24]},
    "neighbours": {"neighbours": 1, "source": {"slices": 5}},
    "contrasts": {"domains": ["T1+FLAIR", "T2+PD"], "missing": "mask"},
    "scan": {"intensity": {"name": "percentile", "per": "volume"}, "fit": "resize"},
    "volume": {"dims": 3, "size": [16, 16, 16]},
}
AFFINE = np.diag([-1.2, -0.9, 2.5, 1.0])


def slices(channels: int = 1) -> np.ndarray:
    """Five slices (5, C, 41, 50) of blobs with noise, 0 to about 300; one of air, one constant."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:41, :50]
    blob = np.exp(-((rows - 20) ** 2 + (columns - 26) ** 2) / 180)
    images = blob * rng.uniform(150, 280, (5, channels, 1, 1)) + rng.uniform(
        0, 25, (5, channels, 41, 50)
    )
    images[1] = 3.0
    images[3] = 160.0
    return images.astype(np.float32)


def thinned(values: np.ndarray) -> np.ndarray:
    """Every third row and second column, which is what is recorded."""
    return values[..., ::3, ::2]


def translated(model: gantk.Model, images: np.ndarray) -> np.ndarray:
    """The translation of the slices (N, C, H, W) of one scan, (N, D, H, W); of several scans where
    each has its own mapping.
    """
    frame = model.frames["b"]
    if frame.channels > 1:
        given = zip(frame.sources, images.swapaxes(0, 1), strict=True)
        made = model.translate({name: each for name, each in given if not np.isnan(each).all()})
        return np.stack([*made.values()], axis=1)
    if frame.dims == 3:
        return model.translate(images[:, 0])[None, None]
    if model.pipelines["b"].source.per != "set":
        return np.stack(model.translate([*images[:, 0]]))[:, None]
    return model.translate(images[:, 0])[:, None]


def translated_tensor(model: gantk.Model, images: torch.Tensor) -> torch.Tensor:
    """The same of a tensor, with its graph."""
    frame = model.frames["b"]
    if frame.dims == 3:
        return model.translate(images[:, 0])[None, None]
    if model.pipelines["b"].source.per != "set":
        return torch.stack(model.translate([*images[:, 0]]))[:, None]
    return model.translate(images[:, 0])[:, None]


def outputs_of_run(run: Path) -> dict[str, np.ndarray]:
    """The results of a run for arrays, tensors with gradients and images with a grid."""
    model = gantk.load(run, device="cpu")
    frame = model.frames["b"]
    images = slices(frame.channels)

    results = {
        "array": translated(model, images),
        "other scale": translated(model, images * 9),
        "bytes": translated(model, (images * 0.8).clip(0, 255).astype(np.uint8)),
    }
    if frame.channels == 1:
        tensor = torch.from_numpy(images).requires_grad_()
        made = translated_tensor(model, tensor)
        made.square().mean().backward()
        results["tensor"] = made.detach().numpy()
        results["gradient"] = tensor.grad.numpy()
        if frame.dims == 3:
            results["gradient"] = tensor.grad.numpy().swapaxes(0, 1)[None]
    if frame.missing == "mask":
        lacking = images.copy()
        lacking[:, 1] = np.nan
        results["missing"] = translated(model, lacking)

    pixels = images.swapaxes(0, 1)
    scan = Image(np.ascontiguousarray(pixels), AFFINE, Path("scan"), np.dtype(np.int16), None)
    (done,) = model(scan)
    results["scan"] = done.pixels
    model = gantk.load(run, device="cpu")
    spacing = (3.0, 1.6, 1.4)
    model.recipe.data.spacing = spacing
    (done,) = model(scan)
    results["scan, resampled"] = done.pixels
    return results


def outputs_of_exports(runs: list[Path], folder: Path) -> dict[str, np.ndarray]:
    """The results of the first run as ONNX and as a MONAI bundle's network, and of the ensemble."""
    quiet = {"say": lambda line: None}
    images = slices()
    onnx = gantk.export(runs[0], out=folder / "x.onnx", **quiet)
    bundle = gantk.export(runs[0], out=folder / "bundle", format="monai", **quiet)
    network = torch.jit.load(bundle / "models" / "model.ts")
    with torch.no_grad():
        from_network = network(torch.from_numpy(images)).numpy()
    return {
        "ONNX": gantk.load(onnx).translate(images[:, 0])[:, None],
        "TorchScript": from_network,
        "ensemble": gantk.load(runs, device="cpu").translate(images[:, 0])[:, None],
    }


def outputs_of_shipped(data: Path) -> dict[str, np.ndarray]:
    """The results of the shipped models, in float32, for slices of real scans."""
    from gantk.formats.files import read

    t1 = read(next(data.glob("open_ms/patient07/T1*")))
    brats = {
        name: read(next(data.glob(f"brats/*/*_{name.lower()}.nii.gz")))
        for name in ("T1", "T2", "FLAIR")
    }
    results = {}
    for name, given, to in (("t1t2", t1, "T2"), ("missing", brats, "T1CE")):
        model = gantk.load(name, device="cpu")
        model.runtime = replace(model.runtime, precision="fp32")
        results[name] = model.translate(given, to=to).pixels[:, 60:100:4]
    return results


def all_outputs(folder: Path) -> dict[str, np.ndarray]:
    """Every result, by "run: path"."""
    results = {}
    for name, data in RUNS.items():
        (folder / name).mkdir()
        run = small_run(folder / name, REGRESSION, **data)
        for path, values in outputs_of_run(run).items():
            results[f"{name}: {path}"] = values

    (folder / "second").mkdir()
    small_run(folder / "second", {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN})
    members = [folder / name / "run" for name in ("pad", "second")]
    return results | outputs_of_exports(members, folder)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        found = outputs_of_shipped(Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            found = all_outputs(Path(scratch))
    np.savez_compressed(sys.argv[1], **{key: thinned(value) for key, value in found.items()})
