"""Classes out of somebody's checkout: imported for the moment of building, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from peers.side import Found, Setup, Side, full_precision

PACKAGES = ("data", "models", "options", "util")  # the top-level names that these repositories share


def find_checkout(folder: Path, *, called: str, url: str, files: tuple[str, ...]) -> Found:
    """The checkout's commit; UserError where the folder is not one."""
    where, remedy = f"--peer {called}={folder}", f"clone it with `git clone {url}`, and name the folder that this makes"
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}'", where=where, remedy=remedy)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        name = url.rsplit("/", 1)[-1]
        what = f"'{folder}' is no checkout of {name}: it has no {', no '.join(missing)}"
        raise UserError(what, where=where, remedy=remedy)
    return Found(commit_of(folder) or f"files {digest_of(folder)}", "checkout")


def commit_of(folder: Path) -> str | None:
    """The commit of a git checkout, with `+changes` where its Python files differ from it; None: no git there."""
    if not (folder / ".git").exists():  # a folder inside another repository would answer with that one's commit
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return commit[:12] + ("+changes" if _git(folder, "status", "--porcelain", "--", "*.py") else "")


def digest_of(folder: Path) -> str:
    """What tells two copies apart where no git does: a digest of the Python files that are used."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((folder / package).glob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def imported_from(folder: Path, flags: list[str]) -> Iterator[None]:
    """Inside, `import models` is the checkout's, and the command line is `train.py` with these flags.

    Afterwards the names are free again, for another checkout that uses them. Its printing is swallowed, and no
    compiled files are left in it.
    """
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in PACKAGES}
    path, arguments, no_bytecode = list(sys.path), sys.argv, sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.argv, sys.dont_write_bytecode = ["train.py", *flags], True
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as complaint:
            yield
    except SystemExit as error:  # argparse: a flag that this version does not have
        lines = complaint.getvalue().strip().splitlines() or [f"exit {error.code}"]
        raise RuntimeError(f"the checkout refused its options: {lines[-1]}") from None
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:], sys.argv, sys.dont_write_bytecode = path, arguments, no_bytecode


def built_model(folder: Path, setup: Setup, flags: dict[str, Any], first: dict[str, Any] | None = None) -> Any:
    """The checkout's model for training, as its own train.py builds it: its options, its defaults, its setup.

    `first` is a batch for models that look at data before they are set up. Batch size, channels, filters and size are
    the case's; all that `flags` does not name stays at the checkout's defaults.
    """
    case, cuda = setup.case, setup.device.type == "cuda"
    with tempfile.TemporaryDirectory(prefix="peer-") as scratch:  # its options are written down there
        flags = {
            "dataroot": scratch,
            "checkpoints_dir": scratch,
            "batch_size": case.batch,
            "input_nc": setup.channels["a"],
            "output_nc": setup.channels["b"],
            "ngf": case.width,
            "ndf": case.judge,
            "crop_size": case.size,
            **flags,
        }
        if "--gpu_ids" in (folder / "options" / "base_options.py").read_text("utf-8"):
            flags["gpu_ids"] = str(setup.device.index or 0) if cuda else "-1"
        if setup.schedule.steps:
            epochs = max(2, -(-setup.schedule.steps // setup.schedule.per_epoch))
            flags |= {"n_epochs": epochs - epochs // 2, "n_epochs_decay": epochs // 2}
        with imported_from(folder, [part for name, value in flags.items() for part in (f"--{name}", str(value))]):
            options = importlib.import_module("options.train_options").TrainOptions().parse()
            options.device = setup.device  # the newer versions ask for it, the older take gpu_ids
            torch.manual_seed(setup.seed)
            model = importlib.import_module("models").create_model(options)
            if first is not None:
                model.data_dependent_initialize(first)
            model.setup(options)
            return model


class CheckoutSide(Side):
    """A model with the interface that these repositories share: `set_input`, `optimize_parameters`."""

    notes = ("its data loader is left out: gantk's prepared images go to set_input",)

    def __init__(self, folder: Path, setup: Setup, flags: dict[str, Any], first: dict[str, Tensor] | None = None):
        with full_precision():
            self.model = built_model(folder, setup, flags, first and as_theirs(first))
        self.schedule, self.device, self.steps = setup.schedule, setup.device, 0

    def step(self, batch: dict[str, Tensor]) -> None:
        """As its train.py: the learning rate moves once an epoch."""
        with full_precision():
            self.model.set_input(as_theirs(batch))
            self.model.optimize_parameters()
        self.steps += 1
        if self.schedule.steps and self.steps % self.schedule.per_epoch == 0:
            with contextlib.redirect_stdout(io.StringIO()):
                self.model.update_learning_rate()

    def generator(self, to: str) -> nn.Module:
        """The network that makes images of a domain."""
        return self.model.netG

    @torch.no_grad()
    def translate(self, images: Tensor, to: str) -> Tensor:
        """One image at a time and in training mode, as its test.py does unless told otherwise."""
        with full_precision():
            return torch.cat([self.generator(to)(image.to(self.device)) for image in images.split(1)])

    def networks(self) -> Iterable[nn.Module]:
        return [getattr(self.model, f"net{name}") for name in self.model.model_names]


def as_theirs(batch: dict[str, Tensor]) -> dict[str, Any]:
    """A batch by the names that `set_input` reads."""
    return {"A": batch["a"], "B": batch["b"], "A_paths": [], "B_paths": []}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
