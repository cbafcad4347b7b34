"""One-way translation with a small network: adversarial, and held to its input by the mean
intensity.
"""

from __future__ import annotations

from gantk import AdversarialLoss, Batch, Discriminator, Generator, Geometry, Loss, Method, Phase
from torch import Tensor, nn


class TwoLayers(nn.Module):
    """Two convolutions, any image size, two or three dimensions."""

    batch_independent = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dims: int,
        *,
        width: int = 8,  # filters between the two
    ):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.layers = nn.Sequential(
            conv(in_channels, width, 3, padding=1),
            nn.ReLU(),
            conv(width, out_channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MeanGap:
    """The absolute difference of the two mean intensities."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.float().mean() - target.float().mean()).abs()


class OneWay(Method):
    """From `a` to `b` without pairs and without a way back."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "two_layers",
        discriminator: Discriminator = "patchgan",
        adversarial: AdversarialLoss = "hinge",
        likeness: Loss = "mean_gap",
        weight: float = 1.0,  # of the likeness
    ):
        super().__init__(geometry)
        a = geometry.channels["a"]
        b = geometry.channels["b"]
        self.g_ab = generator(a, b, geometry.dims)
        self.d_b = discriminator(b, geometry.dims)
        self.adversarial = adversarial()
        self.likeness = likeness()
        self.weight = weight

    def phases(self) -> list[Phase]:
        return [
            Phase("generator", (self.g_ab,), self.generator_losses, ema=True),
            Phase("discriminator", (self.d_b,), self.discriminator_losses),
        ]

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        fake_b = self.g_ab(batch["a"])
        batch["fake_b"] = fake_b.detach()
        return {
            "adversarial": self.adversarial.generator(self.d_b(fake_b)),
            "likeness": self.weight * self.likeness(fake_b, batch["a"]),
        }

    def discriminator_losses(self, batch: Batch) -> dict[str, Tensor]:
        return {
            "d_b": self.adversarial.discriminator(self.d_b(batch["b"]), self.d_b(batch["fake_b"]))
        }

    def directions(self) -> list[str]:
        return ["b"]

    def translate(self, image: Tensor, to: str) -> Tensor:
        return self.g_ab(image)
