"""KonfAI: the generator, discriminator and patch loss of its CycleGAN models, in a training loop."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from gantk.errors import UserError
from peers.cases import Case
from peers.loops import CycleLoop, Loop, Parts
from peers.side import Found, Setup

NAME = "konfai"
REMEDY = "install it with `pip install konfai`"


def find(folder: Path | None) -> Found | str:
    """The installed package, or what to do to have it."""
    if folder is not None:
        raise UserError("KonfAI is a package, not a folder", where=f"--peer {NAME}={folder}", remedy=REMEDY)
    if find_spec("konfai") is None:
        return REMEDY
    try:
        return Found(version("konfai"), "package konfai")
    except PackageNotFoundError:
        return Found("unknown", "package konfai")


def unable(case: Case) -> str | None:
    """Why it cannot run a case, or None."""
    shallow = case.method == "cyclegan" and case.generator == "resnet6-shallow"
    return None if shallow else "its translating generator is a ResNet of 6 blocks that halves once"


def build(folder: Path | None, setup: Setup, first: dict[str, Tensor]) -> Loop:
    """A CycleGAN of the blocks that its CycleGanGeneratorV1 and CycleGanDiscriminator are made of, in 2-D."""
    from konfai.metric.measure.adversarial import PatchGanLoss
    from konfai.models.python.generation.diffusionGan import Discriminator, GeneratorV1

    case = setup.case
    losses = {real: PatchGanLoss(target=float(real)).to(setup.device) for real in (True, False)}

    def judge(inputs: int) -> nn.Module:
        wide = [inputs, case.judge, case.judge * 2, case.judge * 4, case.judge * 4]
        return Discriminator.DiscriminatorBlock(channels=wide, dim=2)

    parts = Parts(
        generator=lambda inputs, outputs: GeneratorV1.GeneratorBlock(case.width, 2, in_channels=inputs),
        judge=judge,
        adversarial=lambda answer, real, judging: losses[real](answer),
    )
    side = CycleLoop(parts, setup)
    side.name = NAME
    side.notes = (*side.notes, "weights as PyTorch draws them")
    return side
