"""`gantk doctor`: checks the machine, the versions and the plugins."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator

from gantk import __version__
from gantk.errors import count_noun, one_line
from gantk.plugin.loader import installed_version, load

NEEDED_PACKAGES = (
    "kornia",
    "timm",
    "pydantic",
    "nibabel",
    "safetensors",
    "pytorch-fid",
    "lpips",
)


def findings() -> Iterator[tuple[str, str, str | None]]:
    """Yield a line for each check: (name, state, problem or None)."""
    yield "gantk", __version__, None
    yield "python", f"{platform.python_version()} on {platform.platform()}", None
    yield "torch", installed_version("torch") or "-", None
    for name in NEEDED_PACKAGES:
        found = installed_version(name)
        yield name, found or "-", None if found else f"not installed: pip install {name}"

    yield from _torch()
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    problem = "less than 2 GiB free: checkpoints may not fit" if free < 2 else None
    yield "disk", f"{free:.1f} GiB free in this folder", problem
    plugins = load().plugins
    broken = [plugin for plugin in plugins if plugin.problem and not plugin.disabled]
    disabled = [plugin.name for plugin in plugins if plugin.disabled]
    off = f"; switched off: {', '.join(disabled)}" if disabled else ""
    yield "plugins", f"{len(plugins) - len(broken) - len(disabled)} loaded{off}", None
    for plugin in broken:
        yield f"plugin {plugin.name}", f"{plugin.distribution} {plugin.version}", plugin.problem


def _torch() -> Iterator[tuple[str, str, str | None]]:
    try:
        import torch

        from gantk.machine.device import cuda_trouble
        from gantk.machine.runtime import describe, start

        machine = describe(start())
    except Exception as error:  # a broken torch may raise anything
        yield "device", "-", f"torch cannot start: {one_line(error)}"
        return

    threads = count_noun(machine["threads"], "thread")
    device = f"{machine['device']} ({machine['cpu']}, {threads}), {machine['precision']}"
    yield "device", device, None
    if machine["cuda"]:
        driver = machine["driver"] or "unknown"
        yield "cuda", f"{machine['cuda']}, cuDNN {machine['cudnn']}, driver {driver}", None
    elif torch.version.cuda and not torch.cuda.is_available():
        about = (
            f"torch was built for CUDA {torch.version.cuda}, but no GPU is visible, so"
            " gantk uses the CPU"
        )
        yield "cuda", about, cuda_trouble()

    try:
        import torchvision  # noqa: F401  (timm, lpips and pytorch-fid need it)
    except Exception as error:
        why = one_line(error, 60)
        problem = f"it does not match this torch ({why}): install the matching version"
        yield "torchvision", "-", problem
