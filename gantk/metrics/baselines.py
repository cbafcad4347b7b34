"""Baselines that a model must beat: identity, histogram matching, the best intensity map, a small U-Net with L1.

Each takes images (N, C, *size) and gives images, so that every metric scores a baseline as it scores a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.inference.windows import padded
from gantk.machine.runtime import Runtime
from gantk.plugin.spec import bind_or_raise

QUANTILES = 4096  # of a domain's pooled intensities
BINS = 256  # of the intensity map
PIXELS = 2**16  # of each training image that the intensity map looks at
WIDTH, DEPTH = 16, 3  # of the small U-Net
BATCH = {2: 8, 3: 2}  # images of its training step, by dimensions
RATE = 5e-3  # Adam's
PASS = 2**20  # positions that go through it at once after training


def identity(source: Tensor, channels: int | None = None) -> Tensor:
    """The source itself, as if nothing had to be done; its channel mean, repeated, where counts differ."""
    if channels in (None, source.shape[1]):
        return source
    return source.mean(1, keepdim=True).expand(-1, channels, *source.shape[2:])


class HistogramMatching:
    """Each image gets the intensity distribution of the target domain's training images; needs no pairs.

    Pixels keep their order by brightness: the one at quantile q becomes the target domain's pooled quantile q. Pixels
    of one value, such as air, share the middle of their ranks, so that they stay one value.
    """

    def __init__(self, target: Iterable[Tensor]):
        """`target`: the target domain's training images, (C, *size) each."""
        # Evenly spaced order statistics stand for an image, whatever its size: each image counts alike.
        pools = []
        for image in target:
            ordered = np.sort(flat(image), axis=1)
            pools.append(ordered[:, np.linspace(0, ordered.shape[1] - 1, QUANTILES).round().astype(int)])
        if not pools:
            raise UserError("histogram matching needs training images of the target domain")
        self.levels = np.linspace(0, 1, QUANTILES)
        self.quantiles = np.quantile(np.concatenate(pools, axis=1), self.levels, axis=1)  # (QUANTILES, C)

    def __call__(self, source: Tensor) -> Tensor:
        channels = self.quantiles.shape[1]
        images = identity(source, channels).detach().float().cpu().numpy()
        matched = np.empty_like(images)
        for n, image in enumerate(images):
            for c, values in enumerate(image):
                _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
                middle = (np.cumsum(counts) - counts / 2) / values.size
                levels = np.interp(middle, self.levels, self.quantiles[:, c])
                matched[n, c] = levels[inverse].reshape(values.shape)
        return torch.from_numpy(matched).to(source.device)


class IntensityMap:
    """The best a look-up table can do: the mean target intensity of every source intensity, fitted on training pairs.

    256 bins of the (channel mean) source intensity, linear between their mean intensities, constant beyond the ends;
    no order is imposed, so that an inverted contrast is within reach. A model that does not beat this has learned
    brightness and nothing of the anatomy.
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]):
        """`pairs`: registered (source, target) training images, (C, *size) each; 65536 random pixels of larger ones."""
        images = [_some_pixels(flat(source).mean(0), flat(target)) for source, target in pairs]
        if not images:
            raise UserError("an intensity map needs registered training pairs")
        source, target = (np.concatenate(parts, -1) for parts in zip(*images, strict=True))
        step = max((source.max() - source.min()) / BINS, np.finfo(np.float32).tiny)
        bins = np.clip(((source - source.min()) / step).astype(int), 0, BINS - 1)
        sums = np.stack([np.bincount(bins, values, BINS) for values in (source, *target)])
        counts = np.bincount(bins, minlength=BINS)
        self.places, *self.means = sums[:, counts > 0] / counts[counts > 0]

    def __call__(self, source: Tensor) -> Tensor:
        values = source.detach().float().cpu().numpy().mean(1)
        mapped = np.stack([np.interp(values, self.places, means) for means in self.means], 1)
        return torch.from_numpy(mapped.astype(np.float32)).to(source.device)


def linearly_corrected(output: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """a * output + b with the a and b, per image and channel, that bring it closest to the reference in mean square.

    It looks at the reference, so its score is not a result: the gap to the uncorrected score says how much of the error
    is mere brightness and contrast (`a` may be negative). A constant output becomes the reference's mean.
    """
    axes = tuple(range(2, output.ndim))
    exact = torch.float32 if output.device.type == "mps" else torch.float64  # Apple's devices know no float64
    x, y = output.detach().to(exact), reference.detach().to(exact)
    weight = torch.ones_like(x) if mask is None else (mask > 0).expand_as(x).to(exact)
    total = weight.sum(axes, keepdim=True).clamp_min(1)
    mean_x, mean_y = ((weight * v).sum(axes, keepdim=True) / total for v in (x, y))
    spread = (weight * (x - mean_x).square()).sum(axes, keepdim=True)
    joint = (weight * (x - mean_x) * (y - mean_y)).sum(axes, keepdim=True)
    slope = torch.where(spread > 1e-12 * total, joint / spread.clamp_min(1e-30), 0.0)
    return (mean_y + slope * (x - mean_x)).float()


def flat(image: Tensor) -> np.ndarray:
    """(C, *size) as a float64 array (C, positions)."""
    return image.detach().cpu().double().flatten(1).numpy()


def _some_pixels(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same seeded choice of PIXELS positions of both, so that a data set of volumes fits into memory."""
    if source.size <= PIXELS:
        return source, target
    chosen = np.random.default_rng(0).choice(source.size, PIXELS, replace=False)
    return source[chosen], target[:, chosen]


class Regression:
    """The strongest simple baseline: what plain L1 regression makes of the sources, on pairs, with no discriminator.

    A U-Net of width 16 is trained for `steps` steps of Adam on 8 random pairs (2 volumes) of (source, target), each
    (C, *size), mirrored or not along the last axis, to minimise the mean absolute error (Isola et al., 2017, table 1,
    "L1"). It gives the median of what is possible: hard to beat in PSNR, smooth to look at. On one core about 0.1 s
    a step at 96 x 96 in bfloat16. `low` and `high` are the network intensities of black and white, which outputs never
    leave. A source's NaN (a contrast that a patient lacks) is seen as black; a target's is not learned from. The same
    seed on the same machine gives the same images. UserError where there are no pairs, or images of several sizes.
    """

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
        self.dims, self.low, self.high, self.runtime = dims, float(low), float(high), runtime
        pairs = [(source.detach().float(), target.detach().float()) for source, target in pairs]
        sizes = sorted({tuple(image.shape[1:]) for pair in pairs for image in pair})
        if len(sizes) != 1 or steps < 1:
            what = f"{steps} steps on {len(pairs)} registered training pairs of the sizes {sizes} teach nothing"
            raise UserError(what, where="evaluate.regression", allowed="1 or more steps on pairs of one size")

        def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
            chosen = torch.randint(len(pairs), (BATCH[dims],), generator=generator).tolist()
            source, target = (torch.stack(images) for images in zip(*(pairs[i] for i in chosen), strict=True))
            source, target = mirrored([source, target], generator)
            target = runtime.place(self._scaled(target), dims)
            with runtime.autocast():
                output, known = network(self._seen(source)), target.isfinite()
                return ((output.float() - target.nan_to_num()).abs() * known).sum() / known.sum().clamp_min(1)

        channels = [image.shape[0] for image in pairs[0]]
        self.network = trained(lambda: runtime.place(SmallUNet(*channels, dims, sizes[0]), dims), loss, steps, seed)

    @torch.no_grad()
    def __call__(self, sources: Tensor) -> Tensor:
        """(N, C, *size) to (N, C', *size), float32, on the sources' device; each image whatever the others."""
        made = []
        for part in sources.split(max(1, PASS // math.prod(sources.shape[2:]))):
            with self.runtime.autocast():
                output = self.network(self._seen(part)).float().clamp(-1, 1)
            made.append((self.low + (output + 1) * (self.high - self.low) / 2).to(sources.device))
        return torch.cat(made)

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
        from gantk.nets.unet import UNet

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


def trained(
    make: Callable[[], nn.Module],
    loss: Callable[[nn.Module, torch.Generator], Tensor],
    steps: int,
    seed: int,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> nn.Module:
    """The network that `make` gives after `steps` steps on `loss(network, generator)`, frozen, in eval mode.

    `optimizer` (None: Adam at 5e-3) has its learning rate lowered to 0 along half a cosine. The same seed gives the
    same weights on the same machine: on a GPU the convolutions are those that give the same sums each time, rather than
    the fastest. The global random generators are left as they were.
    """
    generator = torch.Generator().manual_seed(seed)
    repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]), repeatable:
        torch.default_generator.manual_seed(seed)
        network = make().train()
        build = optimizer or bind_or_raise("optimizer", {"name": "adam", "lr": RATE, "betas": [0.9, 0.999]})
        optimizer = build(network.parameters())
        rate = optimizer.param_groups[0]["lr"]
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            value = loss(network, generator)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def mirrored(images: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Batches of images that belong together, each image mirrored along its last axis or not, all of them alike."""
    turned = torch.rand(len(images[0]), generator=generator) < 0.5
    turned = [turned.view(-1, *[1] * (batch.ndim - 1)).to(batch.device) for batch in images]
    return [torch.where(yes, batch.flip(-1), batch) for yes, batch in zip(turned, images, strict=True)]
