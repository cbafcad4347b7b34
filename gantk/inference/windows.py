"""Runs a network on images of any size: whole where memory allows, else in overlapping windows, as
large as it allows, whose results are blended.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from gantk.errors import UserError, shape_or_type
from gantk.machine.memory import UPPER_BOUND_BYTES_PER_VOXEL, Memory
from gantk.machine.runtime import Runtime
from gantk.machine.usage import GIB, free_memory
from gantk.method import Method
from gantk.plugin.spec import Part, Side
from gantk.prepare.module import pad_to_size
from gantk.recipe.tables import CheckedRecipe

TRIALS = (8, 16, 32, 64, 128, 256)  # sides tried until the network accepts one
MEASURED_SIDE = {2: 128, 3: 32}  # pixels: images on which a pass of the network is measured
Network = Callable[[Tensor], Tensor]  # (N, C, *size) to (N, D, *size)


@dataclass(frozen=True)
class Sides:
    """The sides of images that a network accepts: multiples of a number, from the smallest on."""

    multiple: Side
    smallest: Side

    def around(self, size: Sequence[int]) -> tuple[int, ...]:
        """The smallest of them that hold images of this size."""
        return tuple(-(-max(side, self.smallest) // self.multiple) * self.multiple for side in size)


@torch.no_grad()
def accepted_sides(network: Network, channels: int, dims: int) -> Sides | None:
    """The sides that a network accepts, found by trying some; None where it accepts none of these."""

    def accepts(side: int) -> bool:
        try:
            return network(_noise(channels, (side,) * dims)).shape[2:] == (side,) * dims
        except (UserError, RuntimeError, ValueError):
            return False

    for smallest in filter(accepts, TRIALS):
        steps = [2**power for power in range(smallest.bit_length())]
        multiple = next(step for step in steps if step == smallest or accepts(smallest + step))
        return Sides(multiple, smallest)
    return None


def _noise(channels: int, size: Sequence[int]) -> Tensor:
    """An image of noise in [-1, 1], (1, channels, *size)."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, channels, *size, generator=generator) * 2 - 1


class AnySize:
    """A network that takes images of any size: (N, C, *size) to (N, D, *size), float32.

    Images are padded by reflection to sides that the network accepts. Those that need more memory
    than `memory` are processed in windows: a norm takes its statistics from one window, so that
    grays may differ between them; neighbours are blended where they overlap. An image that
    requires gradients is processed whole.

    What the network accepts and needs is measured once, when the first image of another size than
    `size` comes.
    """

    def __init__(
        self,
        network: Network,
        size: Sequence[int],  # of the training images, which are run as they are
        channels: int,
        *,
        batch: int = 16,  # images or windows per call, at most
        memory: float = 2**30,  # bytes that a call may need besides weights and images
        overlap: float = 0.25,  # share of a window's side that the next one covers
    ):
        self.network = network
        self.size = tuple(size)
        self.channels = channels
        self.batch = batch
        self.memory = memory
        self.overlap = overlap
        self.known: dict[str, Any] = {}  # what was measured; networks may share it

    @property
    def sides(self) -> Sides | None:
        """The sides that the network accepts; None: only those of the training images."""
        if "sides" not in self.known:
            self.known["sides"] = accepted_sides(self.network, self.channels, len(self.size))
        return self.known["sides"]

    @property
    def bytes_per_pixel(self) -> float:
        """Peak memory of a pass, as it grows from an image to one of twice as many pixels."""
        if self.sides is None:
            return UPPER_BOUND_BYTES_PER_VOXEL
        if "bytes" not in self.known:
            size = self.sides.around([MEASURED_SIDE[len(self.size)]] * len(self.size))
            peaks = []
            for image in (size, (*size[:-1], 2 * size[-1])):
                with Memory() as used, torch.no_grad():
                    self.network(_noise(self.channels, image))
                peaks.append(used.peak)
            self.known["bytes"] = max(1.0, (peaks[1] - peaks[0]) / prod(size))
        return self.known["bytes"]

    def padded(self, size: Sequence[int]) -> tuple[int, ...]:
        """The sides that images of a size are padded to."""
        if tuple(size) == self.size:
            return self.size
        if self.sides is None:
            return tuple(map(max, size, self.size))
        return self.sides.around(size)

    def window(self, size: Sequence[int]) -> tuple[int, ...]:
        """The sides of the windows in which images of a size are processed; as large as `padded`
        where they are processed whole.
        """
        whole = self.padded(size)
        if whole == self.size or self.sides is None:
            return self.size
        if self._bytes_of(whole) <= self.memory:
            return whole

        # none smaller than the training images
        least = [*map(min, whole, self.sides.around(self.size))]
        window = [*whole]
        counts = [1] * len(whole)
        while self._bytes_of(window) > self.memory and window != least:
            axis = max(range(len(whole)), key=lambda axis: window[axis] / least[axis])
            counts[axis] += 1
            share = counts[axis] - (counts[axis] - 1) * self.overlap  # of a side, without overlaps
            (side,) = self.sides.around([ceil(whole[axis] / share)])
            window[axis] = max(side, least[axis])
        return tuple(window)

    def _bytes_of(self, size: Sequence[int]) -> float:
        """The memory that an image may need; measured only where an upper bound does not do."""
        most = prod(size) * UPPER_BOUND_BYTES_PER_VOXEL
        return most if most <= self.memory else prod(size) * self.bytes_per_pixel

    def __call__(self, images: Tensor) -> Tensor:
        size = images.shape[2:]
        graph = images.requires_grad and torch.is_grad_enabled()
        framed, inside = pad_to_size(images, self.padded(size))
        window = self.padded(size) if graph else self.window(size)
        with torch.set_grad_enabled(graph):
            # as many windows at once as the memory allows
            batch = self.batch
            if window != self.size:
                batch = max(1, min(batch, int(self.memory / self._bytes_of(window))))
            made = by_windows(framed, window, self.overlap, self.network, batch)
        if graph and not made.requires_grad:
            raise UserError(
                "this model gives no gradients",
                where="images",
                remedy="load a run folder, or call .detach() on the tensor",
            )
        return made[(slice(None), slice(None), *inside)]


def network_of_method(
    translate: Network,
    method: Method,
    to: str,
    model: CheckedRecipe,
    runtime: Runtime,
    count: int = 1,
) -> AnySize:
    """The network of any size of a function that runs layers of `method` and makes `count` images of
    each. The recipe's [translate] table sets how many images are run at once, and how much memory
    they may need.
    """
    dims = model.data.dims
    channels = count * method.geometry.channels[to]

    def network(images: Tensor) -> Tensor:
        with runtime.autocast():
            made = translate(runtime.place(images, dims))
        expected = (len(images), channels, *images.shape[2:])
        if not isinstance(made, Tensor) or made.shape != expected:
            generators = [
                f"method.{key}: '{part.name}'"
                for key, part in model.method.options.items()
                if isinstance(part, Part) and part.kind == "generator"
            ]
            owner = " with ".join([f"method: '{model.method.name}'", *generators[:1]])
            domain = model.data.domains["ab".index(to)]
            raise UserError(
                f"{owner} returns {shape_or_type(made)} for images of domain {domain}",
                allowed=str(expected),
                remedy="its `translate` returns images of the size that it is given, the generator's last"
                " layer `out_channels` channels",
            )
        return made.float().to(images.device)

    table = model.translate
    free = free_memory(runtime.device)
    memory = table.memory if free is None else min(table.memory, free / 2)
    source = next(letter for letter in method.geometry.channels if letter != to)
    return AnySize(
        network,
        method.geometry.size,
        method.geometry.channels[source],
        batch=table.batch,
        memory=memory * GIB,
        overlap=table.overlap,
    )


# ---- windows


def by_windows(
    images: Tensor, window: Sequence[int], overlap: float, network: Network, batch: int = 16
) -> Tensor:
    """Apply a network, (n, C, *window) -> (n, D, *window), to overlapping windows of images and blend
    its results: a window weighs most at its middle.

    (N, C, *size), no side shorter than the window's, to (N, D, *size), float32. `overlap`: share of
    a window's side that the next one covers, 0 to below 1; more is smoother and slower. `batch`:
    windows per call.
    """
    size = images.shape[2:]
    if tuple(size) == tuple(window):
        return torch.cat([network(part) for part in images.split(batch)])

    bell = torch.ones(())
    starts = []
    for side, part in zip(size, window, strict=True):
        places = (torch.arange(part) + 0.5) / part - 0.5
        bell = bell[..., None] * torch.exp(-0.5 * (places / 0.25).square())
        step = max(1, int(part * (1 - overlap)))
        count = 1 + -(-(side - part) // step)
        starts.append([round(n * (side - part) / max(1, count - 1)) for n in range(count)])
    bell = bell.to(images.device)
    boxes = [
        tuple(slice(start, start + part) for start, part in zip(corner, window, strict=True))
        for corner in itertools.product(*starts)
    ]
    weights = images.new_zeros(size)
    for box in boxes:
        weights[box] += bell

    total: Any = None
    windows: list[Any] = [(n, slice(None), *box) for n in range(len(images)) for box in boxes]
    for first in range(0, len(windows), batch):
        chosen = windows[first : first + batch]
        made = network(torch.stack([images[place] for place in chosen]))
        if total is None:
            total = made.new_zeros(len(images), made.shape[1], *size)
        for place, part in zip(chosen, made, strict=True):
            total[place] += part * bell
    return total / weights
