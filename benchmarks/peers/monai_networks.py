"""MONAI: its U-Net, PatchDiscriminator and PatchAdversarialLoss in a training loop, its metrics on the same images."""

from __future__ import annotations

import copy
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from peers.cases import DEPTHS, OVERLAP, WINDOWS, Case
from peers.loops import CycleLoop, Loop, PairLoop, Parts
from peers.side import Found, Setup, Side, full_precision

NAME = "monai"
REMEDY = "install it with `pip install monai`"
CRITERIA = {"cyclegan": "least_squares", "pix2pix": "bce"}


def find(folder: Path | None) -> Found | str:
    """The installed package, or what to do to have it."""
    if folder is not None:
        raise UserError("MONAI is a package, not a folder", where=f"--peer {NAME}={folder}", remedy=REMEDY)
    if find_spec("monai") is None:
        return REMEDY
    try:
        return Found(version("monai"), "package monai")
    except PackageNotFoundError:
        return Found("unknown", "package monai")


def unable(case: Case) -> str | None:
    """Why it cannot run a case, or None."""
    if case.method not in CRITERIA:
        return f"it has no part of {case.method}"
    return None if case.generator == "unet" else "it has no ResNet generator"


def build(folder: Path | None, setup: Setup, first: dict[str, Tensor]) -> Loop:
    """A CycleGAN or Pix2Pix of its classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.losses import PatchAdversarialLoss
        from monai.networks.nets import PatchDiscriminator, UNet

    case = setup.case
    filters = tuple(min(case.width * 2**level, case.width * 8) for level in range(DEPTHS[case.size]))

    def generator(inputs: int, outputs: int) -> nn.Module:
        network = UNet(2, inputs, outputs, channels=filters, strides=(2,) * (len(filters) - 1))
        return nn.Sequential(network, nn.Tanh())  # images are in [-1, 1]

    loss = PatchAdversarialLoss(criterion=CRITERIA[case.method])
    parts = Parts(
        generator=generator,
        judge=lambda inputs: PatchDiscriminator(2, case.judge, inputs),
        # its discriminator gives the features of every layer, the map of logits last
        adversarial=lambda answer, real, judging: loss(answer[-1], target_is_real=real, for_discriminator=judging),
    )
    side = (PairLoop if case.paired else CycleLoop)(parts, setup)
    side.name = NAME
    side.notes = (*side.notes, "UNet channels, which have no default, are the case's; its other options are defaults")
    return side


class Windows(Side):
    """Its SlidingWindowInferer around gantk's own generator, windows blended by a Gaussian; fp32."""

    name = NAME
    notes = ("the network is gantk's: what is compared is the way windows are cut and blended",)

    def __init__(self, network: nn.Module, case: Case):
        from monai.inferers import SlidingWindowInferer

        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
        self.device = next(self.network.parameters()).device
        side = (case.window, case.window)
        self.inferer = SlidingWindowInferer(side, sw_batch_size=WINDOWS, overlap=OVERLAP, mode="gaussian")

    def step(self, batch: dict[str, Tensor]) -> None:
        self.translate(batch["a"], "b")

    @torch.no_grad()
    def translate(self, images: Tensor, to: str) -> Tensor:
        with full_precision():
            return self.inferer(images.to(self.device), self.network).cpu()

    def networks(self) -> list[nn.Module]:
        return [self.network]


windows = Windows


@torch.no_grad()
def own_scores(made: Tensor, truth: Tensor, low: float, span: float) -> dict[str, float]:
    """The mean of its PSNRMetric and SSIMMetric over images (N, 1, H, W), black at 0, a range of `span`."""
    from monai.metrics import PSNRMetric, SSIMMetric

    made, truth = made.float() - low, truth.float() - low
    psnr, ssim = PSNRMetric(max_val=span), SSIMMetric(spatial_dims=2, data_range=span)
    return {"psnr": float(psnr(made, truth).mean()), "ssim": float(ssim(made, truth).mean())}
