"""Plain PyTorch training loops around networks and losses of toolkits that bring no training of translators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from peers.side import OTHER, Setup, Side, full_precision


@dataclass(frozen=True)
class Parts:
    """A toolkit's classes: makers of networks, and its adversarial loss of a discriminator's answer."""

    generator: Callable[[int, int], nn.Module]  # channels in, channels out
    judge: Callable[[int], nn.Module]  # channels in
    adversarial: Callable[[object, bool, bool], Tensor]  # (answer, is it to be real, for the discriminator)


class Loop(Side):
    """What both loops share: Adam 2e-4 with beta1 = 0.5; half of the steps at that rate, then linearly down to zero."""

    notes = ("the training loop is plain PyTorch around its networks and losses", "it has no image pool")

    def __init__(self, parts: Parts, setup: Setup):
        self.setup, self.adversarial, self.steps = setup, parts.adversarial, 0
        torch.manual_seed(setup.seed)
        self.generators, self.judges = self.built(parts)
        for network in self.networks():
            network.to(setup.device).train()
        self.optimizers = [
            torch.optim.Adam(nn.ModuleList(group.values()).parameters(), lr=2e-4, betas=(0.5, 0.999))
            for group in (self.generators, self.judges)
        ]
        self.schedules = [torch.optim.lr_scheduler.LambdaLR(each, self._rate) for each in self.optimizers]

    def built(self, parts: Parts) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        """Generators and discriminators, each by the domain it makes or judges."""
        raise NotImplementedError(type(self).__name__)

    def losses(self, real: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The generators' loss, and the fakes it was computed with."""
        raise NotImplementedError(type(self).__name__)

    def seen(self, real: dict[str, Tensor], to: str, image: Tensor) -> Tensor:
        """What the discriminator of a domain is shown."""
        return image

    def step(self, batch: dict[str, Tensor]) -> None:
        real = {name: batch[name].to(self.setup.device) for name in "ab"}
        with full_precision():
            self._freeze(True)
            loss, fakes = self.losses(real)
            self._update(0, loss)
            self._freeze(False)
            answers = [
                (self.judges[to](self.seen(real, to, image)), truth)
                for to, fake in fakes.items()
                for image, truth in ((real[to], True), (fake.detach(), False))
            ]
            self._update(1, sum(self.adversarial(answer, truth, True) for answer, truth in answers) / 2)
        self.steps += 1
        for schedule in self.schedules:
            schedule.step()

    @torch.no_grad()
    def translate(self, images: Tensor, to: str) -> Tensor:
        network = self.generators[to].eval()
        with full_precision():
            made = torch.cat([network(image.to(self.setup.device)) for image in images.split(1)])
        network.train()
        return made

    def directions(self) -> list[str]:
        return list(self.generators)

    def networks(self) -> Iterable[nn.Module]:
        return [*self.generators.values(), *self.judges.values()]

    def _update(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()

    def _freeze(self, frozen: bool) -> None:
        for network in self.judges.values():
            network.requires_grad_(not frozen)

    def _rate(self, step: int) -> float:
        total = self.setup.schedule.steps
        return 1.0 if not total else min(1.0, 2.0 * max(0.0, 1.0 - step / total))


class CycleLoop(Loop):
    """CycleGAN (Zhu et al. 2017): adversarial + 10 x cycle + 5 x identity."""

    def built(self, parts: Parts) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        channels = self.setup.channels
        generators = {to: parts.generator(channels[OTHER[to]], channels[to]) for to in ("b", "a")}
        return generators, {to: parts.judge(channels[to]) for to in ("b", "a")}

    def losses(self, real: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        fakes = {to: network(real[OTHER[to]]) for to, network in self.generators.items()}
        loss = torch.zeros((), device=self.setup.device)
        for to, network in self.generators.items():
            loss = loss + self.adversarial(self.judges[to](fakes[to]), True, False)
            loss = loss + 10.0 * l1_loss(network(fakes[OTHER[to]]), real[to])
            loss = loss + 5.0 * l1_loss(network(real[to]), real[to])
        return loss, fakes


class PairLoop(Loop):
    """Pix2Pix (Isola et al. 2017): adversarial + 100 x L1, the discriminator sees input and output side by side."""

    notes = Loop.notes[:1]

    def built(self, parts: Parts) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        a, b = (self.setup.channels[name] for name in "ab")
        return {"b": parts.generator(a, b)}, {"b": parts.judge(a + b)}

    def seen(self, real: dict[str, Tensor], to: str, image: Tensor) -> Tensor:
        return torch.cat([real[OTHER[to]], image], 1)

    def losses(self, real: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        fake = self.generators["b"](real["a"])
        judged = self.adversarial(self.judges["b"](self.seen(real, "b", fake)), True, False)
        return judged + 100.0 * l1_loss(fake, real["b"]), {"b": fake}
