"""CUT as its authors published it (Park et al. 2020), out of its checkout."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from peers.cases import Case
from peers.checkouts import CheckoutSide, find_checkout
from peers.reference import GENERATORS
from peers.side import Found, Setup

NAME = "cut"
URL = "https://github.com/taesungp/contrastive-unpaired-translation"
REMEDY = f"clone it with `git clone {URL}`, and pass --peer {NAME}=FOLDER"
FILES = ("models/cut_model.py", "models/patchnce.py", "options/train_options.py")


def find(folder: Path | None) -> Found | str:
    """The checkout that was named, or what to do to have one."""
    return REMEDY if folder is None else find_checkout(folder, called=NAME, url=URL, files=FILES)


def unable(case: Case) -> str | None:
    """Why it cannot run a case, or None."""
    if case.method != "cut":
        return "its CycleGAN is the reference's, which is compared by itself"
    return None if case.generator in GENERATORS else "the layers of its contrastive loss are those of a ResNet"


class Cut(CheckoutSide):
    """Its CUTModel in mode CUT, at its defaults: fp32, blurred halvings and doublings, 256 patches of five layers."""

    name = NAME

    def __init__(self, folder: Path | None, setup: Setup, first: dict[str, Tensor]):
        super().__init__(folder, setup, {"model": "cut", "netG": GENERATORS[setup.case.generator]}, first)

    def directions(self) -> list[str]:
        return ["b"]


build = Cut
