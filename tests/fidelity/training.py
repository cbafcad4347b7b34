"""The trainings of the published systems in plain torch, written from the reports: the losses of a
step, and which of its two optimizers updates what.
"""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bce(logits: Tensor, real: bool) -> Tensor:
    probability = logits.sigmoid()
    return -(probability if real else 1 - probability).log().mean()


def least_squares(logits: Tensor, real: bool) -> Tensor:
    return ((logits - float(real)) ** 2).mean()


def l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean()


class Cycle:
    """R0 to R3: adversarial, cycle and identity losses of both generators in one update; then both
    discriminators, on the fakes of the same pass. `share`: of the sum of a discriminator's terms.
    """

    def __init__(self, game: Callable, cycle: float, identity: float, share: float = 0.5):
        self.game = game
        self.cycle = cycle
        self.identity = identity
        self.share = share

    def generators(self, n: nn.Module, batch: dict) -> Tensor:
        a = batch["a"]
        b = batch["b"]
        fake_b = n.g_ab(a)
        fake_a = n.g_ba(b)
        batch["fakes"] = fake_a.detach(), fake_b.detach()
        adversarial = self.game(n.d_a(fake_a), True) + self.game(n.d_b(fake_b), True)
        cycles = l1(n.g_ba(fake_b), a) + l1(n.g_ab(fake_a), b)
        same = l1(n.g_ba(a), a) + l1(n.g_ab(b), b)
        return adversarial + self.cycle * cycles + self.identity * same

    def discriminators(self, n: nn.Module, batch: dict) -> Tensor:
        fake_a, fake_b = batch["fakes"]
        of_a = self.game(n.d_a(batch["a"]), True) + self.game(n.d_a(fake_a), False)
        of_b = self.game(n.d_b(batch["b"]), True) + self.game(n.d_b(fake_b), False)
        return self.share * (of_a + of_b)


class Pix2Pix:
    """R4: image, noise and class in; sigmoid cross-entropy of pairs, the sum of both terms; 100 x L1."""

    def generators(self, n: nn.Module, batch: dict) -> Tensor:
        a = batch["a"]
        noise = torch.randn(len(a), 1, *a.shape[2:])
        classes = F.one_hot(batch["label"], 2)[:, :, None, None].expand(-1, -1, *a.shape[2:])
        fake = n.g_ab(torch.cat([a, noise, classes], 1))
        batch["fake"] = fake.detach()
        return bce(n.d_ab(torch.cat([a, fake], 1)), True) + 100 * l1(fake, batch["b"])

    def discriminators(self, n: nn.Module, batch: dict) -> Tensor:
        real, fake = (torch.cat([batch["a"], batch[name]], 1) for name in ("b", "fake"))
        return bce(n.d_ab(real), True) + bce(n.d_ab(fake), False)


class DCGAN:
    """R4: uniform noise from -1 to 1, binary cross-entropy."""

    def generators(self, n: nn.Module, batch: dict) -> Tensor:
        images = batch["image"]
        fake = n.generator(2 * torch.rand(len(images), n.latent) - 1)
        batch["fake"] = fake.detach()
        return bce(n.discriminator(fake), True)

    def discriminators(self, n: nn.Module, batch: dict) -> Tensor:
        real = n.discriminator(batch["image"])
        return 0.5 * (bce(real, True) + bce(n.discriminator(batch["fake"]), False))


class StyleGAN:
    """Chang et al. 2018 (R4's Style Transfer GAN): adversarial losses on the outputs of G and F,
    identity |F(G(x, y)) - x|, style |G(F(y), G(x, y)) - y|. Ours: a term |G(F(y), y) - y|, networks
    that give a change of the image, noise of 0.05 on fakes before the way back.
    """

    def generators(self, n: nn.Module, batch: dict) -> Tensor:
        x = batch["a"]
        y = batch["b"]

        def g(image: Tensor, example: Tensor) -> Tensor:
            return image + 2 * n.g_ab(torch.cat([image, example], 1))

        def f(image: Tensor) -> Tensor:
            return image + 2 * n.g_ba(image)

        made = g(x, y)
        noise_x = 0.05 * torch.randn_like(x)
        noise_y = 0.05 * torch.randn_like(y)
        plain = f(y)
        batch["fakes"] = plain.detach(), made.detach()
        adversarial = bce(n.d_a(plain), True) + bce(n.d_b(made), True)
        identity = l1(f(made + noise_x), x + noise_x)
        style = l1(g(plain + noise_y, made), y + noise_y)
        return adversarial + 10 * identity + 10 * style + 10 * l1(g(plain, y), y)

    discriminators = Cycle(bce, 0.0, 0.0).discriminators


def train(
    system, networks: nn.Module, rates: dict, betas: tuple, batches: list, decay: float
) -> Iterator:
    """Plain steps of a system, with Adam; yields the losses of each, of generators and of
    discriminators. `rates`: constant learning rates of both; `decay`: of all weights.
    """
    parts = {role: [] for role in rates}
    for name, network in networks.named_children():
        role = "generators" if name.startswith("g") else "discriminators"
        if list(network.parameters()):
            parts[role] += network.parameters()
    rules = {
        role: torch.optim.Adam(parts[role], rates[role], betas, weight_decay=decay)
        for role in rates
    }
    for seed, batch in batches:
        torch.manual_seed(seed)
        losses = []
        for role, rule in rules.items():
            networks.zero_grad()
            loss = getattr(system, role)(networks, batch)
            loss.backward()
            rule.step()
            losses.append(float(loss.detach()))
        yield losses


def plain_copy(method: nn.Module) -> nn.Module:
    """A copy of a method's networks with their weights, as plain children of one module."""
    copied = nn.Module()
    for name, child in method.named_children():
        copied.add_module(name, copy.deepcopy(child))
    copied.latent = getattr(method, "latent", 0)
    return copied.train()
