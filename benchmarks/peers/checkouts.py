"""The reference CycleGAN and pix2pix, and CUT, imported from checkouts of their authors'
repositories.
"""

import contextlib
import hashlib
import importlib
import io
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gantk.errors import UserError
from gantk_bench.rows import commit
from peers.cases import Case
from peers.sides import Setup, Side, full_precision

PACKAGES = ("data", "models", "options", "util")  # top-level packages in each of these repositories
GENERATORS = {"resnet9": "resnet_9blocks", "resnet6": "resnet_6blocks"}


class CheckoutSide(Side):
    """A model with these repositories' interface: `set_input`, `optimize_parameters`."""

    url = ""
    files = ()
    notes = ("its data loader is left out: gantk's prepared images go to set_input",)

    @classmethod
    def find(cls, folder: Path | None) -> tuple[str, str] | str:
        """(version, "checkout"), or how to get one if `folder` is None; UserError if the folder is
        not a checkout.
        """
        if folder is None:
            return f"clone it with `git clone {cls.url}`, and pass --peer {cls.name}=FOLDER"
        where = f"--peer {cls.name}={folder}"
        remedy = f"clone it with `git clone {cls.url}`, and name the folder that this makes"
        if not folder.is_dir():
            raise UserError(f"there is no folder '{folder}'", where=where, remedy=remedy)
        missing = [file for file in cls.files if not (folder / file).is_file()]
        if missing:
            what = (
                f"'{folder}' is no checkout of {cls.url.rsplit('/', 1)[-1]}: it has no"
                f" {', no '.join(missing)}"
            )
            raise UserError(what, where=where, remedy=remedy)
        return version_of(folder, cls.files[0]), "checkout"

    def __init__(self, folder: Path, setup: Setup, first: dict[str, Tensor]):
        with full_precision():
            self.model = build_model(
                folder, setup, self.flags(setup.case), first if self.needs_batch else None
            )

    needs_batch = False  # whether the model needs a batch to create its networks

    def flags(self, case: Case) -> dict[str, Any]:
        """Flags of the checkout's train.py for the case's model; others keep their defaults."""
        raise NotImplementedError(type(self).__name__)

    def step(self, batch: dict[str, Tensor]) -> None:
        with full_precision():
            self.model.set_input(named_batch(batch))
            self.model.optimize_parameters()

    def networks(self) -> Iterable[nn.Module]:
        return [getattr(self.model, f"net{name}") for name in self.model.model_names]


class Reference(CheckoutSide):
    """CycleGANModel or Pix2PixModel (Zhu et al. 2017; Isola et al. 2017) at its defaults: fp32,
    pool of 50, identity loss, or L1 and dropout.
    """

    name = "reference"
    url = "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix"
    files = ("models/cycle_gan_model.py", "models/pix2pix_model.py", "options/train_options.py")

    @staticmethod
    def unable(case: Case) -> str | None:
        """The reason why it cannot run a case, or None."""
        if case.method not in ("cyclegan", "pix2pix"):
            return f"it has no {case.method}"
        return "its ResNets halve twice" if case.generator == "resnet6-shallow" else None

    def flags(self, case: Case) -> dict[str, Any]:
        if case.paired:
            model = {"model": "pix2pix", "dataset_mode": "aligned"}
        else:
            model = {"model": "cycle_gan"}
        return model | {"netG": GENERATORS.get(case.generator) or f"unet_{case.size}"}


class Cut(CheckoutSide):
    """CUTModel (Park et al. 2020) in mode CUT at its defaults: fp32, blurred halvings, 256 patches
    of five layers.
    """

    name = "cut"
    url = "https://github.com/taesungp/contrastive-unpaired-translation"
    files = ("models/cut_model.py", "models/patchnce.py", "options/train_options.py")
    needs_batch = True

    @staticmethod
    def unable(case: Case) -> str | None:
        if case.method != "cut":
            return "its CycleGAN is the reference's, which is compared by itself"
        if case.generator in GENERATORS:
            return None
        return "the layers of its contrastive loss are those of a ResNet"

    def flags(self, case: Case) -> dict[str, Any]:
        return {"model": "cut", "netG": GENERATORS[case.generator]}


def build_model(
    folder: Path, setup: Setup, flags: dict[str, Any], first: dict[str, Tensor] | None
) -> Any:
    """The checkout's model, built as in its own train.py with the given `flags` (name -> value).

    Batch size, channels, filters and image size are the case's; flags that are not given keep their
    defaults.
    """
    case = setup.case
    # the checkout's code writes its options there
    with tempfile.TemporaryDirectory(prefix="peer-") as scratch:
        own = {
            "dataroot": scratch,
            "checkpoints_dir": scratch,
            "batch_size": case.batch,
            "crop_size": case.size,
        }
        own |= {"input_nc": setup.channels["a"], "output_nc": setup.channels["b"]}
        flags = own | {"ngf": case.width, "ndf": case.d_width} | flags
        if "--gpu_ids" in (folder / "options" / "base_options.py").read_text("utf-8"):
            flags["gpu_ids"] = str(setup.device.index or 0) if setup.device.type == "cuda" else "-1"
        with imported_from(
            folder, [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        ):
            options = importlib.import_module("options.train_options").TrainOptions().parse()
            options.device = setup.device  # newer versions read it, older ones use gpu_ids
            model = importlib.import_module("models").create_model(options)
            if first is not None:
                model.data_dependent_initialize(named_batch(first))
            model.setup(options)
            return model


@contextlib.contextmanager
def imported_from(folder: Path, flags: list[str]) -> Iterator[None]:
    """Inside, `import models` imports the checkout's package, and sys.argv is `train.py` with these
    flags.

    At exit the packages are removed from sys.modules, so that another checkout can be imported.
    Printed output is discarded, and no compiled files are written into the checkout.
    """
    before = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in PACKAGES
    }
    path = list(sys.path)
    arguments = sys.argv
    no_bytecode = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.argv = ["train.py", *flags]
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


def named_batch(batch: dict[str, Tensor]) -> dict[str, Any]:
    """A batch under the names that `set_input` reads."""
    return {"A": batch["a"], "B": batch["b"], "A_paths": [], "B_paths": []}


def version_of(folder: Path, tracked: str) -> str:
    """The commit of a git checkout, with `+changes` if it was edited; without git a hash of its
    Python files.
    """
    if git := commit(folder, tracked):
        return git["commit"][:12] + "+changes" * git["dirty"]
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (folder / package).glob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return f"files {digest.hexdigest()[:12]}"
