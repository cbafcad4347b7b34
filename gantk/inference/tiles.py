"""Runs a network on images of any size: whole if memory allows, else in tiles with the same result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from gantk.inference.receptive_field import Crops, Requirements, Split, Unfit
from gantk.inference.windows import Tile, at, shrunk, tiles
from gantk.machine.memory import UPPER_BOUND_BYTES_PER_VOXEL
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.nets.blocks import memory_format
from gantk.nets.statistics import Moments, apply_norm, moments
from gantk.prepare.module import pad_to_size
from gantk.recipe.tables import CheckedRecipe

MAX_MAP_MEMORY_SHARE = 0.75  # largest share of the memory for the small maps of the whole image
# times that a voxel may be computed per pass; beyond that, tiles stay larger than the memory
MAX_PASSES_PER_VOXEL = 8


@dataclass(frozen=True)
class Plan:
    """How images of one size are processed."""

    size: tuple[int, ...]  # of the images, padded to multiples that the network accepts
    window: tuple[int, ...]  # sides of a tile, or of the whole image
    batch: int  # images or tiles at once
    # of tiles: which maps are computed whole; None: the whole image
    split: Split | None = None


@dataclass
class TiledNetwork:
    """A network that takes images of any size: (N, C, *size) to (N, D, *size), float32, on the CPU.

    The result in tiles equals that of the whole image, to rounding, also with instance or group
    norms: computed per tile, these would give neighbouring tiles different brightness. Instead
    there are passes over the tiles, each of which gathers the statistics of one more norm (Chan,
    Golub and LeVeque 1983). Small maps, deep inside the network, are computed for the whole image
    at once: that saves passes, and tiles need less overlap.

    Valid sides, receptive field and memory are measured by running the network, once per object.
    A network that cannot be split (its layers run in another order each time) is run on the whole
    image.
    """

    # placed (n, C, *size) to (n, D, *size), layers of `module` in order
    function: Callable[[Tensor], Tensor]
    module: nn.Module  # a network or a method, in eval mode
    batch: int = 16  # images or tiles per call, at most
    memory: int = 1 << 30  # bytes that a call may need besides weights and images
    # maps of 1/level of the voxels or less are computed whole; None: as memory allows
    level: float | None = None
    # moves images to the network's device and memory format
    place: Callable[[Tensor], Tensor] = lambda x: x
    size: tuple[int, ...] | None = None  # images of this size are run whole
    autocast: Callable[[], AbstractContextManager] = nullcontext
    graph: bool = False  # whether results stay on the device, with their autograd graph
    _requirements: Requirements | None = None
    _plans: dict[tuple[int, ...], Plan] = field(default_factory=dict)

    @classmethod
    def of_method(
        cls,
        function: Callable[[Tensor], Tensor],
        method: Method,
        model: CheckedRecipe,
        runtime: Runtime,
        *,
        graph: bool = False,
    ) -> TiledNetwork:
        """The tiled network of `function`, which runs layers of `method`.

        The recipe's [translate] table sets how many images are run at once, and how much memory
        they may need. With `graph` there are no tiles.
        """
        table = model.translate
        return cls(
            function,
            method,
            batch=table.batch,
            memory=2**62 if graph else int(table.memory * 2**30),
            place=partial(runtime.place, dims=model.data.dims),
            size=tuple(method.geometry.size),
            autocast=runtime.autocast,
            graph=graph,
        )

    def __call__(self, images: Tensor) -> Tensor:
        plan = self.plan(tuple(images.shape[1:]))
        home = images.device if self.graph else torch.device("cpu")
        framed, inside = pad_to_size(images.to(home), plan.size)
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()), self.autocast():
            if plan.split:
                needs = self._requirements_of(images.shape[1], images.ndim - 2)
                parts = [_in_tiles(needs, plan, plan.split, image) for image in framed.split(1)]
            else:
                parts = []
                for part in framed.split(plan.batch):
                    parts.append(self.function(self.place(part)).float().to(home))

        return torch.cat(parts)[at(inside)]

    def _run_placed(self, images: Tensor) -> Tensor:
        with self.autocast():
            return self.function(images)

    @torch.no_grad()
    def plan(self, shape: tuple[int, ...]) -> Plan:
        """The plan for images of shape (C, *size), cached."""
        if shape[1:] == self.size:
            return Plan(shape[1:], shape[1:], self.batch)
        if shape not in self._plans:
            try:
                self._plans[shape] = self._make_plan(shape[0], shape[1:])
            except Unfit:
                self._plans[shape] = Plan(shape[1:], shape[1:], self.batch)
        return self._plans[shape]

    def _requirements_of(self, channels: int, dims: int) -> Requirements:
        needs = self._requirements
        if needs is None or needs.channels != channels:
            needs = Requirements(self._run_placed, self.module, channels, dims, self.place)
            self._requirements = needs
        return needs

    def _make_plan(self, channels: int, size: tuple[int, ...]) -> Plan:
        needs = self._requirements_of(channels, len(size))
        steps = zip(size, needs.base, needs.multiple, strict=True)
        size = tuple(-(-max(side, least) // step) * step for side, least, step in steps)
        need: float = math.prod(size) * UPPER_BOUND_BYTES_PER_VOXEL
        if need > self.memory:
            need = math.prod(size) * needs.bytes_per_voxel
        if need <= self.memory:
            return Plan(size, size, max(1, min(self.batch, int(self.memory / need))))

        split = self._split(needs, math.prod(size))
        room = self.memory - split.bytes_per_voxel * math.prod(size)  # for a call of the network
        window = self._window(needs.multiple, size, split, room / needs.bytes_per_voxel)
        batch = int(room // (needs.bytes_per_voxel * math.prod(window)))
        return Plan(size, window, max(1, min(self.batch, batch)), None if window == size else split)

    def _split(self, needs: Requirements, voxels: int) -> Split:
        """Split at the lowest level that memory allows: lower levels mean fewer passes and less
        overlap of tiles.
        """
        levels = sorted({call.ratio for call in needs.calls if call.ratio > 1})
        for level in [*levels, math.inf] if self.level is None else [self.level]:
            try:
                split = needs.split(level)
            except Unfit:
                if level in (self.level, math.inf):
                    raise
                continue
            if split.bytes_per_voxel * voxels <= MAX_MAP_MEMORY_SHARE * self.memory:
                break

        return split

    def _window(
        self, multiple: tuple[int, ...], size: tuple[int, ...], split: Split, voxels: float
    ) -> tuple[int, ...]:
        """The sides of a tile of at most `voxels` voxels, as far as its overlap leaves an inner
        part.
        """
        around = split.overlap
        window = size
        counts = [1] * len(size)
        while math.prod(window) > voxels:
            axis = max(range(len(size)), key=lambda a: (window[a] - around[a]) / multiple[a])
            counts[axis] += 1
            side = -(-(size[axis] + (counts[axis] - 1) * around[axis]) // counts[axis])
            side = -(-side // multiple[axis]) * multiple[axis]
            smaller = (*window[:axis], side, *window[axis + 1 :])
            inner = [
                part - rim * (part < full)
                for part, full, rim in zip(smaller, size, around, strict=True)
            ]
            if (
                counts[axis] > size[axis]
                or min(inner) <= 0
                or math.prod(smaller) > MAX_PASSES_PER_VOXEL * math.prod(inner)
            ):
                break

            window = smaller

        return window


class _Reached(Exception):
    """Ends a pass at its target call; the argument is that call's input or output."""


def _in_tiles(needs: Requirements, plan: Plan, split: Split, image: Tensor) -> Tensor:
    """Run a network on an image (1, C, *size) in tiles; returns (1, D, *size), float32.

    The network runs for the whole image, but computes small maps only. Whatever it needs of large
    maps, the statistics of a norm or a small map made from them, comes from a pass over the tiles
    up to that call.
    """
    all_tiles = tiles(plan.size, plan.window, split.overlap, split.align)
    known: dict[int, Moments] = {}  # by the number of a norm

    def parts(target: int | None, crops: Crops) -> Iterator[tuple[Tile, Tensor]]:
        """Yield each tile with the target call's input (norm) or output (gathered); target None:
        the result.
        """

        def visit(number: int, output: Callable[[], Tensor]) -> None:
            if number == target:
                raise _Reached(output())

        def norm(number: int, x: Tensor) -> Tensor:
            if number == target:
                raise _Reached(x)
            return apply_norm(needs.calls[number].layer, x, known[number])

        for first in range(0, len(all_tiles), plan.batch):
            batch = all_tiles[first : first + plan.batch]

            def crop(number: int, k: int, arg: Tensor, batch: Sequence[Tile] = batch) -> Tensor:
                if (number, k) not in crops:
                    return arg
                factors = split.crops[number, k]
                whole = crops[number, k]
                return torch.cat([whole[at(shrunk(tile.box, factors))] for tile in batch])

            placed = needs.place(torch.cat([image[at(tile.box)] for tile in batch]))
            try:
                made = needs.run_part(placed, split, crop, visit, norm)
            except _Reached as reached:
                made = reached.args[0]

            if len(made) != len(batch):
                raise Unfit(f"it maps {len(batch)} images to {len(made)} images")

            yield from zip(batch, made.split(1), strict=True)

    def gather(number: int, crops: Crops) -> Tensor:
        return _assemble_map(parts(number, crops), plan.size, needs.calls[number].map_factors)

    def measure(number: int, crops: Crops) -> None:
        call = needs.calls[number]
        if call.groups is None:  # no norm
            return
        for tile, part in parts(number, crops):
            local = part[at(shrunk(tile.local, call.map_factors))]
            found = moments(local, call.groups)
            known[number] = known[number] + found if number in known else found

    crops = needs.run_whole(plan.size, split.level, gather, measure)
    last = ((tile, part.float().cpu()) for tile, part in parts(None, crops))
    return _assemble_map(last, plan.size, (1,) * len(plan.size))


def _assemble_map(
    parts: Iterable[tuple[Tile, Tensor]], size: tuple[int, ...], factors: tuple[int, ...]
) -> Tensor:
    """Assemble the map of the whole image from the inner parts of the tiles' maps."""
    whole: Tensor | None = None
    for tile, part in parts:
        if whole is None:
            sides = [side // by for side, by in zip(size, factors, strict=True)]
            whole = torch.empty(
                (1, part.shape[1], *sides),
                dtype=part.dtype,
                device=part.device,
                memory_format=memory_format(part),
            )

        whole[at(shrunk(tile.inner, factors))] = part[at(shrunk(tile.local, factors))]

    if whole is None:
        raise ValueError("there are no tiles")

    return whole


class AnySize:
    """A method whose `translate` takes images of any size on the CPU and returns float32 there.

    Uncertainties that change images or weights between translations can so be computed for whole
    images.
    """

    def __init__(self, method: Method, model: CheckedRecipe, runtime: Runtime):
        self.method = method

        @cache
        def network_to(to: str) -> TiledNetwork:
            function = partial(method.translate, to=to)
            return TiledNetwork.of_method(function, method, model, runtime)

        self._network_to = network_to

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def translate(self, images: Tensor, to: str) -> Tensor:
        """Translate images (N, C, *size) to domain `to`."""
        return self._network_to(to)(images)
