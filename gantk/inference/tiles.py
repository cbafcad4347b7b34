"""Images of any size through a network: whole where memory allows, else in tiles that agree with the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from gantk.inference.receptive_field import Call, Crops, Requirements, Split, Unfit
from gantk.inference.windows import Tile, by_windows, padded, shrunk, tiles
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.nets.blocks import memory_format
from gantk.nets.statistics import Moments, moments, normalised
from gantk.recipe.tables import Model

DEAREST = 4096  # bytes a voxel, more than any network here needs: what then fits into memory goes whole, unmeasured
SHARE = 0.75  # of the memory, at most, for the small maps of the whole image
TOO_OFTEN = 8  # times that a voxel is computed in each pass; rather than more, tiles take more memory


@dataclass(frozen=True)
class Plan:
    """How images of one size go through a network."""

    size: tuple[int, ...]  # of the images, brought to a multiple of what the network takes
    window: tuple[int, ...]  # sides of a tile; the image's where it goes whole
    batch: int  # images or tiles at once
    split: Split | None = (
        None  # of tiles: which maps are computed whole; None: windows on their own, or the image whole
    )


class Tiling:
    """A function that runs a network, for images of any size: (N, C, *size) to (N, D, *size), float32, on the host.

    Tiles give what the whole image gives, to rounding, where instance or group norms are in the network too: an
    instance norm over one tile knows its brightness and contrast only, and neighbours then differ. It takes passes over
    the tiles: each gathers the statistics of one more norm (Chan, Golub and LeVeque 1983). Small maps, deep inside the
    network, are computed for the whole image at once: that saves passes, and tiles need no wide surroundings.

    What the network takes, how far it sees and how much memory it needs is measured by trying it, once a `Tiling`. One
    that cannot be taken apart (its layers come in another order each time) goes by windows on their own, or whole.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],  # placed (n, C, *size) to (n, D, *size), by layers of `module` in order
        module: nn.Module,  # a network or a method, in eval mode
        *,
        window: tuple[int, ...] | None = None,  # of windows that are each on their own, blended; None: tiles
        overlap: float = 0.25,  # share of a window's side that the next one covers too
        batch: int = 16,  # images or tiles per call, at most
        memory: int = 1 << 30,  # bytes that a call may need beside the weights and the images themselves
        level: float | None = None,  # maps of 1/level of the voxels or less are computed whole; None: as memory allows
        place: Callable[[Tensor], Tensor] = lambda x: x,  # brings images to the network's device and memory format
    ):
        self.function, self.module, self.window, self.overlap = function, module, window, overlap
        self.batch, self.memory, self.level, self.place = batch, memory, level, place
        self._needs: Requirements | None = None
        self._plans: dict[tuple[int, ...], Plan] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        plan = self.plan(tuple(images.shape[1:]))
        framed, inside = padded(images.cpu(), plan.size)
        if plan.split:
            done = torch.cat([_in_tiles(self._needs, plan, image) for image in framed.split(1)])
        elif plan.window != plan.size:
            run = lambda part: self._run(torch.from_numpy(part)).numpy()  # noqa: E731
            done = torch.from_numpy(by_windows(framed.numpy(), plan.window, self.overlap, run, plan.batch))
        else:
            done = torch.cat([self._run(part) for part in framed.split(plan.batch)])
        return done[(..., *inside)]

    def _run(self, images: Tensor) -> Tensor:
        return self.function(self.place(images)).float().cpu()

    @torch.no_grad()
    def plan(self, shape: tuple[int, ...]) -> Plan:
        """How images of this shape, (C, *size), go through the network."""
        if shape not in self._plans:
            try:
                self._plans[shape] = self._planned(shape[0], shape[1:])
            except Unfit:
                window = self.window or shape[1:]
                self._plans[shape] = Plan(tuple(map(max, shape[1:], window)), window, self.batch)
        return self._plans[shape]

    def _planned(self, channels: int, size: tuple[int, ...]) -> Plan:
        if self.window:
            raise Unfit("as asked for")
        if self._needs is None or self._needs.channels != channels:
            self._needs = Requirements(self.function, self.module, channels, len(size), self.place)
        needs = self._needs
        steps = zip(size, needs.base, needs.multiple, strict=True)
        size = tuple(-(-max(side, least) // step) * step for side, least, step in steps)
        need = math.prod(size) * DEAREST
        if need > self.memory:
            need = math.prod(size) * needs.bytes_per_voxel
        if need <= self.memory:
            return Plan(size, size, max(1, min(self.batch, int(self.memory / need))))
        split = self._split(math.prod(size))
        room = self.memory - split.bytes_per_voxel * math.prod(size)  # for a call of the network
        window = self._window(size, split, room / needs.bytes_per_voxel)
        batch = int(room // (needs.bytes_per_voxel * math.prod(window)))
        return Plan(size, window, max(1, min(self.batch, batch)), None if window == size else split)

    def _split(self, voxels: int) -> Split:
        """At the lowest level that memory allows: the lower, the fewer passes, the narrower what is around a tile."""
        levels = sorted({call.ratio for call in self._needs.calls if call.ratio > 1})
        for level in [*levels, math.inf] if self.level is None else [self.level]:
            try:
                split = self._needs.split(level)
            except Unfit:
                if level in (self.level, math.inf):
                    raise
                continue
            if split.bytes_per_voxel * voxels <= SHARE * self.memory:
                break
        return split

    def _window(self, size: tuple[int, ...], split: Split, voxels: float) -> tuple[int, ...]:
        """The sides of a tile of at most so many voxels, but not all rim."""
        multiple, around, window, counts = self._needs.multiple, split.around, size, [1] * len(size)
        while math.prod(window) > voxels:
            axis = max(range(len(size)), key=lambda a: (window[a] - around[a]) / multiple[a])
            counts[axis] += 1
            side = -(-(size[axis] + (counts[axis] - 1) * around[axis]) // counts[axis])
            side = -(-side // multiple[axis]) * multiple[axis]
            smaller = (*window[:axis], side, *window[axis + 1 :])
            inner = [part - rim * (part < full) for part, full, rim in zip(smaller, size, around, strict=True)]
            if counts[axis] > size[axis] or min(inner) <= 0 or math.prod(smaller) > TOO_OFTEN * math.prod(inner):
                break
            window = smaller
        return window


class _Reached(Exception):
    """A pass has come to the call that it was for, with what it was for."""


def _in_tiles(needs: Requirements, plan: Plan, image: Tensor) -> Tensor:
    """An image (1, C, *size) through a network in tiles: (1, D, *size), float32.

    The network runs for the whole image, of which small maps alone are computed. What that takes of large ones, the
    statistics of a norm or a small map that is made of them, is brought by a pass of the tiles up to there.
    """
    split, places, known = plan.split, tiles(plan.size, plan.window, plan.split.around, plan.split.align), {}

    def parts(target: int | None, crops: Crops) -> Iterator[tuple[Tile, Tensor]]:
        """Each tile with what goes into the norm, or comes out of the call, that is the target; None: of all."""
        for first in range(0, len(places), plan.batch):
            now = places[first : first + plan.batch]

            def crop(number: int, k: int, arg: Tensor, now: Sequence[Tile] = now) -> Tensor:
                if (number, k) not in crops:
                    return arg
                return torch.cat([crops[number, k][(..., *shrunk(tile.box, split.crops[number, k]))] for tile in now])

            def visit(number: int, call: Call, args: tuple, forward: Callable) -> Tensor | None:
                if number == target:
                    raise _Reached(forward(*args) if number in split.gathered else args[0])
                return None if number in split.gathered else normalised(call.layer, args[0], known[number])

            placed = needs.place(torch.cat([image[(..., *tile.box)] for tile in now]))
            try:
                made = needs.run_part(placed, split, crop, visit)
            except _Reached as reached:
                made = reached.args[0]
            if len(made) != len(now):
                raise Unfit(f"it makes {len(made)} images of {len(now)}")
            yield from zip(now, made.split(1), strict=True)

    def bring(number: int, crops: Crops) -> Tensor | None:
        call, total = needs.calls[number], None
        if number in split.gathered:
            return _assembled(parts(number, crops), plan.size, call.factors)
        for tile, part in parts(number, crops):
            found: Moments = moments(part[(..., *shrunk(tile.local, call.factors))], call.groups)
            total = found if total is None else total + found
        known[number] = total
        return None

    crops = needs.run_whole(plan.size, split.level, bring)
    last = ((tile, part.float().cpu()) for tile, part in parts(None, crops))
    return _assembled(last, plan.size, (1,) * len(plan.size))


def _assembled(parts: Iterable[tuple[Tile, Tensor]], size: tuple[int, ...], factors: tuple[int, ...]) -> Tensor:
    """A map of the whole image, of the inner parts of the tiles' maps."""
    whole = None
    for tile, part in parts:
        if whole is None:
            shape = (1, part.shape[1], *[side // by for side, by in zip(size, factors, strict=True)])
            whole = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=memory_format(part))
        whole[(..., *shrunk(tile.inner, factors))] = part[(..., *shrunk(tile.local, factors))]
    return whole


def whole_images(
    network: Callable[[Tensor], Tensor], method: Method, model: Model, runtime: Runtime
) -> Callable[[Tensor], Tensor]:
    """What runs `network`, which uses layers of `method`, on (N, C, *size): (N, D, *size), float32, on the host.

    Images of the size that the method was trained at go straight through, others by `Tiling`. The recipe's [translate]
    table says how many go at once, how much memory they may need, and what norms take their statistics of.
    """
    table, size = model.translate, tuple(method.geometry.size)
    place = partial(runtime.place, dims=model.data.dims)

    def straight(images: Tensor) -> Tensor:
        with runtime.autocast():
            return network(images)

    window = size if table.statistics == "window" else None
    options = {"overlap": table.overlap, "batch": table.batch, "memory": int(table.memory * 2**30), "place": place}
    tiling = Tiling(straight, method, window=window, **options)

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != size:
            return tiling(images)
        return torch.cat([straight(place(part)).float().cpu() for part in images.split(table.batch)])

    return run


class AnySize:
    """A method whose translations take images of any size on the host, and are there, float32: see `whole_images`.

    What is done to images or weights between translations, as uncertainties do, is then done to whole images.
    """

    def __init__(self, method: Method, model: Model, runtime: Runtime):
        self.method = method
        self._through = cache(lambda to: whole_images(lambda x: method.translate(x, to), method, model, runtime))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def translate(self, images: Tensor, to: str) -> Tensor:
        """Images (N, C, *size) in domain `to`."""
        return self._through(to)(images)
