"""The reference CycleGAN and pix2pix implementation (Zhu et al. 2017; Isola et al. 2017), out of its checkout."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from peers.cases import Case
from peers.checkouts import CheckoutSide, find_checkout
from peers.side import Found, Setup

NAME = "reference"
URL = "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix"
REMEDY = f"clone it with `git clone {URL}`, and pass --peer {NAME}=FOLDER"
FILES = ("models/cycle_gan_model.py", "models/pix2pix_model.py", "options/train_options.py")
GENERATORS = {"resnet9": "resnet_9blocks", "resnet6": "resnet_6blocks"}


def find(folder: Path | None) -> Found | str:
    """The checkout that was named, or what to do to have one."""
    return REMEDY if folder is None else find_checkout(folder, called=NAME, url=URL, files=FILES)


def unable(case: Case) -> str | None:
    """Why it cannot run a case, or None."""
    if case.method not in ("cyclegan", "pix2pix"):
        return f"it has no {case.method}"
    return "its ResNets halve twice" if case.generator == "resnet6-shallow" else None


class Reference(CheckoutSide):
    """Its CycleGANModel or Pix2PixModel, at its defaults: fp32, pool of 50 and identity loss, or L1 and dropout."""

    name = NAME

    def __init__(self, folder: Path | None, setup: Setup, first: dict[str, Tensor]):
        case = setup.case
        flags = {"model": "pix2pix", "dataset_mode": "aligned"} if case.paired else {"model": "cycle_gan"}
        self.paired = case.paired
        super().__init__(folder, setup, flags | {"netG": GENERATORS.get(case.generator) or f"unet_{case.size}"})

    def generator(self, to: str) -> nn.Module:
        if self.paired:
            return self.model.netG
        return self.model.netG_A if to == "b" else self.model.netG_B  # its letters are the other way round

    def directions(self) -> list[str]:
        return ["b"] if self.paired else ["b", "a"]


build = Reference
