"""Small networks that are trained in seconds: a U-Net, and a seeded training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from gantk.plugin.spec import bind
from gantk.prepare.module import pad_to_size
from gantk.progress import track

# of the small U-Net
WIDTH = 16
DEPTH = 3
BATCH = {2: 8, 3: 2}  # images per training step, by dimensions
LEARNING_RATE = 5e-3  # Adam's learning rate


class SmallUNet(nn.Module):
    """A U-Net of width 16 for images of any size: (N, inputs, *size) to (N, outputs, *size),
    unbounded.

    Three halvings, fewer for a `size` below 16; odd sides are padded by reflection, and the output
    is cropped. It has batch norm, because instance norm removes an image's brightness: on T1 -> T2
    at 96 px, 200 steps give 28 dB with batch norm and 25 dB with instance norm. Weights are
    initialised as in He et al. (2015), to learn faster.
    """

    def __init__(self, inputs: int, outputs: int, dims: int, size: tuple[int, ...]):
        from gantk import UNet

        super().__init__()
        depth = max(1, min(DEPTH, min(size).bit_length() - 2))
        shape = {
            "width": WIDTH,
            "depth": depth,
            "norm": "batch",
            "stem": 1,
            "head": 2,
            "activation_out": "none",
        }
        self.unet = UNet(inputs, outputs, dims, **shape)
        for parameter in self.unet.parameters():
            if parameter.ndim > 2:
                nn.init.kaiming_normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        multiple = 2**self.unet.depth
        larger, box = pad_to_size(x, tuple(-(-side // multiple) * multiple for side in x.shape[2:]))
        return self.unet(larger)[(slice(None), slice(None), *box)]


def train_network(
    make: Callable[[], nn.Module],
    loss: Callable[[nn.Module, torch.Generator], Tensor],
    steps: int,
    seed: int,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> nn.Module:
    """Train the network that `make` returns for `steps` steps on `loss(network, generator)`;
    returns it in eval mode.

    The learning rate of `optimizer` (None: Adam at 5e-3) has cosine decay to 0. The same seed gives
    the same weights on the same machine: on a GPU, deterministic convolutions are used instead of
    the fastest. The network is frozen, and the state of the global random generators is restored.
    """
    generator = torch.Generator().manual_seed(seed)
    repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
        repeatable,
    ):
        torch.default_generator.manual_seed(seed)
        network = make().train()
        build = optimizer or bind(
            "optimizer", {"name": "adam", "lr": LEARNING_RATE, "betas": [0.9, 0.999]}
        )
        optimizer = build(network.parameters())
        rate = optimizer.param_groups[0]["lr"]
        for step in track(range(steps), "training a network", "step"):
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            value = loss(network, generator)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    return network.eval().requires_grad_(False)


def mirror_randomly(images: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Mirror images of several batches along the last axis at random; images of the same index are
    treated alike.
    """
    turned = torch.rand(len(images[0]), generator=generator) < 0.5
    turned = [turned.view(-1, *[1] * (batch.ndim - 1)).to(batch.device) for batch in images]
    return [
        torch.where(yes, batch.flip(-1), batch) for yes, batch in zip(turned, images, strict=True)
    ]
