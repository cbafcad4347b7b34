"""MONAI and KonfAI: their networks and losses in a plain PyTorch loop, as they have no training of
translators.
"""

import copy
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from gantk.errors import UserError
from peers.cases import DEPTHS, OVERLAP, WINDOWS, Case
from peers.sides import OTHER, Setup, Side, full_precision

CRITERIA = {"cyclegan": "least_squares", "pix2pix": "bce"}


class Loop(Side):
    """CycleGAN: adversarial + 10 x cycle + 5 x identity (Zhu et al. 2017). Pix2Pix: adversarial +
    100 x L1, with the discriminator on the concatenated input and output (Isola et al. 2017). Adam
    2e-4, beta1 0.5.

    Args:
        generator: (input channels, output channels) -> generator.
        discriminator: input channels -> discriminator.
        adversarial: (logits, target is real, for the discriminator) -> loss.
    """

    notes = (
        "the training loop is plain PyTorch around its networks and losses",
        "it has no image pool",
    )

    @classmethod
    def find(cls, folder: Path | None) -> tuple[str, str] | str:
        """(version, where) of the installed package, or how to install it; UserError if a folder is
        given.
        """
        remedy = f"install it with `pip install {cls.name}`"
        if folder is not None:
            raise UserError(
                f"{cls.name} is a package, no folder",
                where=f"--peer {cls.name}={folder}",
                remedy=remedy,
            )
        return remedy if find_spec(cls.name) is None else (version(cls.name), f"package {cls.name}")

    def __init__(
        self,
        setup: Setup,
        generator: Callable[[int, int], nn.Module],
        discriminator: Callable[[int], nn.Module],
        adversarial: Callable[[object, bool, bool], Tensor],
    ):
        self.setup = setup
        self.adversarial = adversarial
        self.paired = setup.case.paired
        channels = setup.channels
        targets = ("b",) if self.paired else ("b", "a")
        self.generators = {to: generator(channels[OTHER[to]], channels[to]) for to in targets}
        d_channels = {
            to: channels["a"] + channels["b"] if self.paired else channels[to] for to in targets
        }
        self.discriminators = {to: discriminator(d_channels[to]) for to in targets}
        for network in self.networks():
            network.to(setup.device).train()
        self.optimizers = [
            torch.optim.Adam(
                nn.ModuleList(group.values()).parameters(), lr=2e-4, betas=(0.5, 0.999)
            )
            for group in (self.generators, self.discriminators)
        ]

    def step(self, batch: dict[str, Tensor]) -> None:
        real = {name: batch[name].to(self.setup.device) for name in "ab"}
        with (
            full_precision(),
            torch.autocast(self.setup.device.type, torch.bfloat16, self.setup.bf16),
        ):
            self._freeze(True)
            loss, fakes = self.losses(real)
            self._update(0, loss)
            self._freeze(False)
            judged = [
                (to, *each)
                for to in fakes
                for each in ((real[to], True), (fakes[to].detach(), False))
            ]
            logits = [
                (self.discriminators[to](self._d_input(real, to, image)), truth)
                for to, image, truth in judged
            ]
            self._update(
                1, sum(self.adversarial(answer, truth, True) for answer, truth in logits) / 2
            )

    def losses(self, real: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(the generators' loss, the fakes that it was computed from)."""
        fakes = {to: network(real[OTHER[to]]) for to, network in self.generators.items()}
        loss = torch.zeros((), device=self.setup.device)
        for to, network in self.generators.items():
            loss = loss + self.adversarial(
                self.discriminators[to](self._d_input(real, to, fakes[to])), True, False
            )
            if self.paired:
                loss = loss + 100.0 * l1_loss(fakes[to], real[to])
            else:
                loss = loss + 10.0 * l1_loss(network(fakes[OTHER[to]]), real[to])
                loss = loss + 5.0 * l1_loss(network(real[to]), real[to])
        return loss, fakes

    def networks(self) -> Iterable[nn.Module]:
        return [*self.generators.values(), *self.discriminators.values()]

    def _d_input(self, real: dict[str, Tensor], to: str, image: Tensor) -> Tensor:
        return torch.cat([real[OTHER[to]], image], 1) if self.paired else image

    def _update(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()

    def _freeze(self, frozen: bool) -> None:
        for network in self.discriminators.values():
            network.requires_grad_(not frozen)


class Monai(Loop):
    """A Loop with MONAI's U-Net, PatchDiscriminator and PatchAdversarialLoss."""

    name = "monai"
    notes = (
        *Loop.notes,
        "UNet channels, which have no default, are the case's; its other options are defaults",
    )

    @staticmethod
    def unable(case: Case) -> str | None:
        """The reason why it cannot run a case, or None."""
        if case.method not in CRITERIA:
            return f"it has no part of {case.method}"
        return None if case.generator == "unet" else "it has no ResNet generator"

    def __init__(self, folder: Path | None, setup: Setup, first: dict[str, Tensor]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from monai.losses import PatchAdversarialLoss
            from monai.networks.nets import PatchDiscriminator, UNet

        case = setup.case
        loss = PatchAdversarialLoss(criterion=CRITERIA[case.method])
        depth = DEPTHS[case.size]

        def unet(width: int, inputs: int = 1, outputs: int = 1) -> nn.Module:
            filters = tuple(width * min(2**level, 8) for level in range(depth))
            return nn.Sequential(UNet(2, inputs, outputs, filters, (2,) * (depth - 1)), nn.Tanh())

        def weights(width: int) -> int:
            with torch.device("meta"):
                # of each domain
                pair = nn.Sequential(unet(width), PatchDiscriminator(2, case.d_width, 1))
            return 2 * sum(map(Tensor.numel, pair.parameters()))

        if case.equal:
            width = bisect_left(range(1 << 10), setup.weights, case.width, key=weights)
        else:
            width = case.width
        super().__init__(  # images are in [-1, 1]
            setup,
            lambda inputs, outputs: unet(width, inputs, outputs),
            lambda inputs: PatchDiscriminator(2, case.d_width, inputs),
            # MONAI's discriminator returns the features of every layer, with the logits last
            lambda answer, real, judging: loss(
                answer[-1], target_is_real=real, for_discriminator=judging
            ),
        )


class MonaiWindows(Side):
    """MONAI's SlidingWindowInferer with gantk's generator, windows blended by a Gaussian; fp32."""

    name = "monai"
    notes = ("the network is gantk's: what is compared is the way windows are cut and blended",)

    def __init__(self, network: nn.Module, case: Case):
        from monai.inferers import SlidingWindowInferer

        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
        self.device = next(self.network.parameters()).device
        self.inferer = SlidingWindowInferer(
            (case.window,) * 2, sw_batch_size=WINDOWS, overlap=OVERLAP, mode="gaussian"
        )

    @torch.no_grad()
    def step(self, batch: dict[str, Tensor]) -> None:
        with full_precision():
            self.inferer(batch["a"].to(self.device), self.network).cpu()

    def networks(self) -> list[nn.Module]:
        return [self.network]


class Konfai(Loop):
    """A 2-D CycleGAN with the blocks of KonfAI's CycleGanGeneratorV1 and CycleGanDiscriminator."""

    name = "konfai"
    notes = (*Loop.notes, "weights as PyTorch draws them")

    @staticmethod
    def unable(case: Case) -> str | None:
        shallow = case.method == "cyclegan" and case.generator == "resnet6-shallow"
        if shallow:
            return None
        return "its translating generator is a ResNet of 6 blocks that halves once"

    def __init__(self, folder: Path | None, setup: Setup, first: dict[str, Tensor]):
        from konfai.metric.measure.adversarial import PatchGanLoss
        from konfai.models.python.generation.diffusionGan import Discriminator, GeneratorV1

        case = setup.case
        losses = {real: PatchGanLoss(target=float(real)).to(setup.device) for real in (True, False)}
        wide = [case.d_width, case.d_width * 2, case.d_width * 4, case.d_width * 4]
        super().__init__(
            setup,
            lambda inputs, outputs: GeneratorV1.GeneratorBlock(case.width, 2, in_channels=inputs),
            lambda inputs: Discriminator.DiscriminatorBlock(channels=[inputs, *wide], dim=2),
            lambda answer, real, judging: losses[real](answer),
        )
