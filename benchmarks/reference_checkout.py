"""A training step of the reference CycleGAN, from a checkout of its authors' repository, for
`gantk bench --suite gpu --reference FOLDER`.
"""

import contextlib
import importlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gantk.errors import UserError

URL = "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix"
FILES = ("models/cycle_gan_model.py", "options/train_options.py")
PACKAGES = ("data", "models", "options", "util")  # top-level packages of the repository
# case -> (its generator, image side in pixels)
CASES = {
    "cyclegan-256-resnet9": ("resnet_9blocks", 256),
    "cyclegan-256-unet": ("unet_256", 256),
}
ON_TINY = {"ngf": 4, "ndf": 4}


def reference_step(
    folder: Path, case: str, device: torch.device, tiny: bool
) -> tuple[Callable[[], None], int]:
    """(one training step of CycleGANModel at its defaults, in float32, on a batch of noise that stays
    on the device; the number of its weights). UserError if the folder is not a checkout.
    """
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        remedy = f"clone it with `git clone {URL}`, and name the folder that this makes"
        what = f"'{folder}' is no checkout of {URL}: it has no {', no '.join(missing)}"
        raise UserError(what, where=f"--reference {folder}", remedy=remedy)

    generator, side = CASES[case]
    flags = {"model": "cycle_gan", "netG": generator, "batch_size": 1, "crop_size": side}
    flags |= {"input_nc": 1, "output_nc": 1} | (ON_TINY if tiny else {})
    model = build_model(folder, flags, device)
    images = {name: (torch.rand(1, 1, side, side) * 2 - 1).to(device) for name in "AB"}

    def step() -> None:
        with full_precision():
            model.set_input({**images, "A_paths": [], "B_paths": []})
            model.optimize_parameters()

    networks = [getattr(model, f"net{name}") for name in model.model_names]
    weights = sum(weight.numel() for network in networks for weight in network.parameters())
    return step, weights


def build_model(folder: Path, flags: dict[str, Any], device: torch.device) -> Any:
    """The checkout's model, built as in its own train.py; flags that are not given keep their
    defaults.
    """
    # the checkout's code writes its options there
    with tempfile.TemporaryDirectory(prefix="reference-") as scratch:
        flags = flags | {"dataroot": scratch, "checkpoints_dir": scratch}
        if "--gpu_ids" in (folder / "options" / "base_options.py").read_text("utf-8"):
            flags["gpu_ids"] = str(device.index or 0) if device.type == "cuda" else "-1"
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        with imported_from(folder, words), full_precision():
            options = importlib.import_module("options.train_options").TrainOptions().parse()
            options.device = device  # newer versions read it, older ones use gpu_ids
            model = importlib.import_module("models").create_model(options)
            model.setup(options)
            return model


@contextlib.contextmanager
def imported_from(folder: Path, words: list[str]) -> Iterator[None]:
    """Inside, `import models` imports the checkout's package, and sys.argv is `train.py` with these
    words. Printed output is discarded, and no compiled files are written into the checkout.
    """
    before = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in PACKAGES
    }
    path = list(sys.path)
    arguments = sys.argv
    no_bytecode = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.argv = ["train.py", *words]
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()) as stderr,
        ):
            yield
    except SystemExit as error:  # argparse: this version lacks a flag
        lines = stderr.getvalue().strip().splitlines() or [f"exit {error.code}"]
        raise RuntimeError(f"the checkout refused its options: {lines[-1]}") from None
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path
        sys.argv = arguments
        sys.dont_write_bytecode = no_bytecode


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inside, float32 products are computed in float32, torch's default; gantk's runtime sets TF32
    on a GPU.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
