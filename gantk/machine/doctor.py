"""`gantk doctor`: the machine, the versions, the plugins, what a recipe would take, and a word on what is amiss."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from gantk.plugin.loader import load

if TYPE_CHECKING:
    from gantk.costs.forecast import Forecast

NEEDED = ("torch", "kornia", "timm", "pydantic", "nibabel", "nilearn", "safetensors", "pytorch-fid", "lpips")
EXTRAS = {"dicom": "pydicom", "onnx": "onnxruntime", "track": "tensorboard", "app": "gradio"}


def findings() -> Iterator[tuple[str, str, str | None]]:
    """(what, how it stands, what is wrong or None), line by line."""
    from gantk.version import version_of_gantk

    yield "gantk", version_of_gantk(), None
    yield "python", f"{platform.python_version()} on {platform.platform()}", None
    for name in NEEDED:
        found = _version(name)
        yield name, found or "-", None if found else f"not installed: pip install {name}"
    yield from _torch()
    missing = [extra for extra, package in EXTRAS.items() if _version(package) is None]
    yield "extras", f"not installed: {', '.join(missing)}" if missing else "all installed", None
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    yield "disk", f"{free:.1f} GiB free here", "less than 2 GiB: checkpoints may not fit" if free < 2 else None
    for plugin in load().plugins:
        yield f"plugin {plugin.name}", f"{plugin.distribution} {plugin.version}", plugin.problem


def _torch() -> Iterator[tuple[str, str, str | None]]:
    try:
        import torch

        from gantk.machine.device import cuda_trouble
        from gantk.machine.runtime import describe, start

        machine = describe(start())
    except Exception as error:  # a broken torch must be reported, whatever it raises
        yield "device", "-", f"torch does not start: {error}"
        return
    yield (
        "device",
        f"{machine['device']} ({machine['cpu']}, {machine['threads']} threads), {machine['precision']}",
        None,
    )
    if machine["cuda"]:
        yield "cuda", f"{machine['cuda']}, cuDNN {machine['cudnn']}, driver {machine['driver'] or 'unknown'}", None
    elif torch.version.cuda and not torch.cuda.is_available():
        trouble = cuda_trouble()
        about = f"torch is built for CUDA {torch.version.cuda}; no device is visible, the CPU is used"
        yield "cuda", about, f"{trouble[0]}: {trouble[1]}" if trouble else None
    try:
        import torchvision  # noqa: F401  (timm, lpips and pytorch-fid stand on it)
    except Exception as error:
        remedy = "install the torchvision that belongs to this torch"
        yield "torchvision", "-", f"it does not fit this torch ({str(error)[:60]}): {remedy}"


def prospects(found: Forecast) -> Iterator[tuple[str, str, str | None]]:
    """What a training takes, line by line, as `findings` has it."""
    from gantk.report.facts import duration, short_time

    need = found.need
    parts = [
        ("weights", need.weights, "and their average " + _size(need.average) if need.average else ""),
        ("gradients", need.gradients, ""),
        ("optimizer", need.optimizer, ""),
        ("buffers", need.buffers, "image pools, statistics"),
        ("activations", need.activations, "what waits for the backward pass, and what is at work"),
        ("capture", found.capture, "copies while the step is recorded"),
        ("process", found.process, "Python, torch and what they load"),
        ("gaps", round(need.total * (found.spare - 1)), "between the allocator's blocks"),
    ]
    for name, size, about in parts:
        if size:
            yield name, f"{_size(size)}{', ' + about if about else ''}", None
    has = "" if found.available is None else f" of the {_size(found.available)} that {found.device} has"
    yield "peak", f"{_size(found.peak)}{has}, decoded images apart", None if found.fits else "it will not fit"
    for way in found.ways:
        verdict = "fits" if way.fits else "still too much"
        yield "with", f"{' '.join(f'--set {each}' for each in way.settings)}: {_size(way.peak)}, {verdict}", None
    yield "step", f"{short_time(found.step_s)}, {found.timed}", None
    if found.hours is not None:
        yield "training", f"{duration(3600 * found.hours)}, samples and scores apart", None


def _size(count: int) -> str:
    """`31.2 GiB`, `640 MiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
