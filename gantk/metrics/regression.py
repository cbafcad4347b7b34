"""The strongest simple rival: a small U-Net that regresses the target from the source, trained on registered pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.inference.windows import padded
from gantk.machine.runtime import Runtime
from gantk.nets.unet import UNet
from gantk.training.optim import adam

WIDTH, DEPTH = 16, 3  # of the U-Net
BATCH = {2: 8, 3: 2}  # images of a training step, by dimensions
RATE = 5e-3  # Adam's, falling to 0 along half a cosine
PASS = 2**20  # positions that go through the network at once after training


class Regression:
    """What plain L1 regression makes of the sources: a rival that looks at pairs, but has no discriminator.

    A U-Net of width 16 is trained for `steps` steps of Adam on 8 random pairs (2 volumes), mirrored or not along the
    last axis, to minimise the mean absolute error (Isola et al., 2017, table 1, "L1"). It gives the median of what is
    possible: hard to beat in PSNR, smooth to look at.

    Args:
        pairs: registered training images (source, target), (C, *size) and (C', *size), in network intensities.
        dims: 2 or 3.
        steps: of training; on one core about 0.1 s each at 96 x 96 in bfloat16.
        seed: of the weights, the order and the mirroring. The same seed on the same machine gives the same images; the
            global random generators are left as they were.
        low, high: the network intensities of black and white; outputs never leave them.
        runtime: where and how precisely it computes.

    A source's NaN (a contrast that a patient lacks) is seen as black; a target's is not learned from. UserError where
    there are no pairs, or images of several sizes.
    """

    name = "regression"

    def __init__(
        self,
        pairs: Iterable[tuple[Tensor, Tensor]],
        *,
        dims: int,
        steps: int,
        seed: int,
        low: float,
        high: float,
        runtime: Runtime,
    ):
        self.dims, self.steps, self.low, self.high, self.runtime = dims, steps, float(low), float(high), runtime
        found = [(source.detach().float(), target.detach().float()) for source, target in pairs]
        _expect(found, steps)
        with torch.inference_mode(False), seeded(seed), repeatable():
            self.network = self._trained(found, torch.Generator().manual_seed(seed))

    @property
    def definition(self) -> str:
        """How the images were made, as it stands beside their scores."""
        return f"{self.name}/l1-unet-{WIDTH}/steps={self.steps}"

    @torch.no_grad()
    def __call__(self, sources: Tensor) -> Tensor:
        """(N, C, *size) to (N, C', *size), float32, on the sources' device; each image whatever the others."""
        count = max(1, PASS // math.prod(sources.shape[2:]))
        made = [self._images(self._seen(part)).to(sources.device) for part in sources.split(count)]
        return torch.cat(made)

    def _trained(self, pairs: list[tuple[Tensor, Tensor]], generator: torch.Generator) -> nn.Module:
        """The network after `steps` steps, in eval mode."""
        channels = [image.shape[0] for image in pairs[0]]
        network = SmallUNet(*channels, self.dims, pairs[0][0].shape[1:])
        network = self.runtime.place(network, self.dims).train()
        optimizer = adam(network.parameters(), lr=RATE, betas=(0.9, 0.999))
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = RATE * falling(step / self.steps)
            chosen = torch.randint(len(pairs), (BATCH[self.dims],), generator=generator).tolist()
            source, target = (torch.stack(images) for images in zip(*(pairs[i] for i in chosen), strict=True))
            source, target = mirrored([source, target], generator)
            target = self.runtime.place(self._scaled(target), self.dims)
            with torch.enable_grad(), self.runtime.autocast():
                output = network(self._seen(source))
                known = target.isfinite()
                loss = ((output.float() - target.nan_to_num()).abs() * known).sum() / known.sum().clamp_min(1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.eval().requires_grad_(False)

    def _images(self, seen: Tensor) -> Tensor:
        """The network's answer in network intensities."""
        with self.runtime.autocast():
            output = self.network(seen).float().clamp(-1, 1)
        return self.low + (output + 1) * (self.high - self.low) / 2

    def _seen(self, source: Tensor) -> Tensor:
        """A source as the network sees it: placed, from -1 to 1, what is missing black."""
        return self.runtime.place(self._scaled(source).nan_to_num(nan=-1.0), self.dims)

    def _scaled(self, image: Tensor) -> Tensor:
        return 2 * (image.float() - self.low) / (self.high - self.low) - 1


class SmallUNet(nn.Module):
    """A U-Net of width 16 for images of any size: (N, inputs, *size) to (N, outputs, *size), unbounded.

    Three halvings, fewer for `size`s below 16; sides that do not halve are extended by reflection, and the result cut.
    Batch norm, since instance norm forgets how bright an image is: on T1 -> T2 at 96 px, 200 steps give 28 dB with it
    and 25 dB with instance norm. Weights begin as those of He et al. (2015), which learn in fewer steps.
    """

    def __init__(self, inputs: int, outputs: int, dims: int, size: tuple[int, ...]):
        super().__init__()
        depth = max(1, min(DEPTH, min(size).bit_length() - 2))
        self.unet = UNet(
            inputs, outputs, dims, width=WIDTH, depth=depth, norm="batch", stem=1, head=2, activation_out="none"
        )
        for parameter in self.unet.parameters():
            if parameter.ndim > 2:
                nn.init.kaiming_normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        multiple = 2**self.unet.depth
        larger, box = padded(x, tuple(-(-side // multiple) * multiple for side in x.shape[2:]))
        return self.unet(larger)[(slice(None), slice(None), *box)]


def mirrored(images: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Batches of images that belong together, each image mirrored along its last axis or not, all of them alike."""
    turned = torch.rand(len(images[0]), generator=generator) < 0.5
    turned = [turned.view(-1, *[1] * (batch.ndim - 1)).to(batch.device) for batch in images]
    return [torch.where(yes, batch.flip(-1), batch) for yes, batch in zip(turned, images, strict=True)]


def falling(progress: float) -> float:
    """Half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU's random generator begins at `seed`, and is afterwards where it was; those of other devices are not
    touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def repeatable() -> Iterator[None]:
    """On a GPU the convolutions that give the same sums each time, rather than the fastest."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def _expect(pairs: list[tuple[Tensor, Tensor]], steps: int) -> None:
    """UserError for what cannot be learned from."""
    if not pairs:
        raise UserError("a regression needs registered training pairs", where="evaluate.regression")
    if steps < 1:
        raise UserError(f"{steps} steps train nothing", where="evaluate.regression", allowed="1 or more")
    sizes = {tuple(image.shape[1:]) for pair in pairs for image in pair}
    if len(sizes) > 1:
        found = " and ".join(str(list(size)) for size in sorted(sizes)[:2])
        raise UserError(f"a regression learns from images of one size, and these have {found}", where="data.size")
