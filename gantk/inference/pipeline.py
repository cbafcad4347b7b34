"""Translates one image, from the grid of its file and back.

sampling grid (plane, spacing) -> slices -> `Prepare` -> network -> detail of the input -> the file's
grid. Slices of a volume are resampled, translated and written as they are needed, so that it takes
little more memory than its own and that of its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import IntensityMapping
from gantk.data.masks import corner_levels, masked_out
from gantk.errors import UserError, count_noun
from gantk.formats.image import Image, slabs
from gantk.inference.frame import Frame
from gantk.inference.scales import Scales
from gantk.inference.windows import Network
from gantk.prepare.grid import SamplingGrid
from gantk.prepare.module import (
    MIN_VARIANCE_SHARE,
    WINDOW_REACH,
    Prepare,
    Scale,
    as_tensor,
    fit_lines,
    least_variance,
    neighbour_places,
)
from gantk.progress import track

# An image of so many pixels may be made of any image, however small ...
FREE_PIXELS = 2**22
MAX_ENLARGEMENT = 256  # ... a larger one only of an image of at least a 256th of its pixels
SLICES_PER_POST_BATCH = 512  # slices per batch for post-steps that need whole volumes
LINES_REACH = 2 * WINDOW_REACH  # planes on each side that the lines of a plane depend on
PostSteps = Callable[[Tensor, Tensor], Tensor]  # (results, what the network saw) to results


class Pipeline(Scales):
    """One direction of a trained model, from native images of one domain to those of the other."""

    def __init__(
        self,
        frame: Frame,  # what the network sees
        source: IntensityMapping,  # the fitted intensity mappings of both domains
        target: IntensityMapping,
        *,
        post_steps: PostSteps | None = None,
        whole: bool = False,  # whether these need all slices of a volume at once
    ):
        super().__init__(frame, source, target)
        self.post_steps = post_steps
        self.whole = whole

    def results(
        self,
        image: Image,
        network: Network,  # in network intensities; it returns (N, results x D, *size)
        count: int = 1,
        pixels: Tensor | None = None,
    ) -> tuple[list[Tensor], bool]:
        """Translate one image; returns the `count` results of the network, (D, *spatial) on the
        image's own grid, and whether these are on a scale of their own.

        `pixels`: those of an array, where gradients are to reach them. The choice of intensity
        mapping, the test for flat regions and the value of black are constants of the graph.
        """
        self.check_channels(image)
        if self.frame.dims > image.dims:
            raise UserError(
                f"'{image.path}' is a picture, but this model translates volumes", where="INPUT"
            )
        if pixels is not None and self.post_steps:
            raise UserError(
                "gradients do not pass the post-steps of this run",
                where="images",
                remedy="train with post = [], or .detach() the tensor",
            )
        mapping, result_scale = self.scales(image)
        prepare = self.preparation(mapping, result_scale)
        # before there are results: finding it takes as much memory as one
        levels = corner_levels(image.pixels) if self.frame.masked else None
        outside = None if levels is None else torch.from_numpy(masked_out(image.pixels))
        results = _Passage(self, image, network, count, prepare, pixels).results()
        for result in results:
            if outside is not None and levels is not None:
                # the target's native values of the region that is masked out of the input
                level = torch.from_numpy(levels).double().view(1, -1, *[1] * self.frame.dims)
                level = prepare.target_level(prepare.level(level), len(result))
                values = prepare.target.inverse(level).flatten().tolist()
                for channel, value in enumerate(values):
                    result[channel].masked_fill_(outside, value)
            # where the training had no negative values, as of magnitudes (MR), the lowest is 0 or the
            # input's own; not of pictures: what they cannot hold is counted later
            if image.affine is not None and self.frame.values.get("target", {}).get("low", -1) >= 0:
                result.clamp_(min=min(0.0, float(np.fmin.reduce(image.pixels, axis=None))))
        return results, result_scale is not self.target

    def grid_of(self, image: Image) -> SamplingGrid:
        """The sampling grid of an image: that of its training, and of an array its own."""
        if image.is_array:
            return SamplingGrid()
        return SamplingGrid(self.frame.plane, self.frame.spacing)

    def stack_of(self, image: Image) -> np.ndarray:
        """What the network sees of an image one by one: the slices of the plane of the training, or
        the whole image; (N, C, *spatial).
        """
        pixels = self.grid_of(image).forward(image).pixels
        return pixels.swapaxes(0, 1) if self.frame.dims < image.dims else pixels[None]

    def preparation(
        self, mapping: IntensityMapping, result_scale: IntensityMapping | None = None
    ) -> Prepare:
        """What images of one scan pass before the network, and results after it.

        `mapping`: the scan's, as `own_scale` returns it. `result_scale`: as `result_scale` returns
        it; None: the target's units.
        """
        frame = self.frame
        return Prepare(
            frame.size,
            frame.fit,
            Scale(mapping),
            Scale(result_scale or self.target),
            frame.range[0],
            frame.neighbours,
            frame.detail == "guided",
        )

    def check_channels(self, image: Image, where: str = "INPUT") -> None:
        """UserError if an image's channels are not those that the model was trained on."""
        channels = self.frame.channels
        names = self.frame.sources
        if image.channels != channels:
            remedy = "convert it, or train on images with as many channels"
            if channels == len(names) > 1:
                remedy = f"name a folder that holds one file for each of {', '.join(names)}"
            raise UserError(
                f"'{image.path}' has {count_noun(image.channels, 'channel')}, but this run"
                f" was trained on {channels}",
                where=where,
                remedy=remedy,
            )


@dataclass(eq=False)
class _Passage:
    """One image on its way through a network and back; arguments as of `Pipeline.results`."""

    pipeline: Pipeline
    image: Image
    network: Network
    count: int
    prepare: Prepare
    pixels: Tensor | None

    def __post_init__(self) -> None:
        self.grid = self.pipeline.grid_of(self.image)
        self.native: Any = self.pixels
        if self.pixels is None:
            self.native = self.grid.to_grid_order(self.image.pixels)
        self.dims = self.pipeline.frame.dims
        self.by_slice = self.dims < self.image.dims
        self.sides = list(self.grid.sides(self.image.pixels.shape[1:], self.image.spacing))
        seen = self.sides[-self.dims :]
        expect_enlargement(seen, self.pipeline.frame)
        self.resamples = self.grid.resamples(self.image)
        # whether results get the detail of the input
        self.sharpens = self.prepare.guided and (self.resamples or self.prepare.sharpens(seen))

    def results(self) -> list[Tensor]:
        """The results on the grid of the image, (D, *spatial) in native intensities."""
        is_whole = self.resamples or not self.by_slice
        results: list[Tensor] = []
        first = 0  # of a block's planes
        for maps in [self._volume()] if is_whole else map(self._lines, self._blocks()):
            count = self.native.shape[1] if is_whole else len(maps)
            in_one = self.pixels is not None or self.image.dims == 2
            parts = [slice(0, count)] if in_one else slabs((count, *self.native.shape[2:]))
            for part in parts:
                native = slice(first + part.start, first + part.stop)
                planes = self._planes(maps, part, as_tensor(self.native[:, native])[None])
                if not results:
                    shape = (len(planes[0]), *self.image.pixels.shape[1:])
                    results = [torch.from_numpy(np.empty(shape, np.float32)) for _ in planes]
                for result, made in zip(results, planes, strict=True):
                    on_grid: Any = result
                    if self.pixels is None:
                        on_grid = self.grid.to_grid_order(result.numpy())
                    on_grid[:, native] = made
            first += count
        return results

    def _planes(self, maps: Tensor, part: slice, native: Tensor) -> list[Tensor]:
        """Some planes of each result, in native intensities: of the network's output or, with detail,
        of its lines applied to these planes of the image, (1, C, planes, *spatial).
        """
        enlarge = self.prepare.enlarge

        def on_grid(first: int, last: int) -> Tensor:
            if self.by_slice:
                return enlarge(maps[first:last], self.sides[1:]).swapaxes(0, 1)
            return enlarge(maps, self.sides, first, last)[0]

        if self.resamples:
            voxels = self.grid.to_voxels(lambda *ends: on_grid(*ends).numpy(), self.image, part)
            placed = torch.from_numpy(voxels)
        else:
            placed = on_grid(part.start, part.stop)
        planes = []
        for output in placed[None].chunk(self.count, 1):
            if self.sharpens:
                rest, slope = output.chunk(2, 1)
                output = rest + slope * self.prepare.detail(native, rest.shape[1])
            planes.append(self.prepare.target.inverse(output)[0])
        return planes

    def _lines(self, maps: Tensor, least: Tensor | None = None) -> Tensor:
        """The lines (rest, slope) by which the outputs in `maps`, (N, K, *size), follow from what the
        network saw, see `fit_lines`; where it does not sharpen, the outputs.
        """
        if not self.sharpens:
            return maps
        channels = self.image.channels
        made, seen = maps.split([maps.shape[1] - channels, channels], 1)
        least = least_variance(seen) if least is None else least
        return torch.cat(
            [
                each
                for output in made.chunk(self.count, 1)
                for each in fit_lines(output, seen, least)
            ],
            1,
        )

    def _volume(self) -> Tensor:
        """The lines of a volume, whose windows reach over its planes: (planes, K, *size) where the
        network sees slices, else (1, K, *size); or those of one picture.
        """
        maps = torch.cat([*self._blocks()])
        if not self.sharpens or self.image.dims == 2:
            return self._lines(maps)
        least = least_variance(maps[:, -self.image.channels :])
        if self.by_slice:
            maps = maps.swapaxes(0, 1)[None]
            least = torch.tensor([MIN_VARIANCE_SHARE * np.ptp(self.pipeline.frame.range) ** 2])
        lines = []
        for part in slabs(tuple(maps.shape[2:])):
            begin = max(0, part.start - LINES_REACH)
            around = self._lines(maps[:, :, begin : part.stop + LINES_REACH], least)
            lines.append(around[:, :, part.start - begin : part.stop - begin])
        maps = torch.cat(lines, 2)
        return maps[0].swapaxes(0, 1) if self.by_slice else maps

    def _slice(self, slab_of: Callable[[int], Tensor], number: int) -> Tensor:
        """What the network sees of the image, one by one, (C, *spatial), as `Pipeline.stack_of`."""
        if not self.resamples:
            return as_tensor(self.native[:, number] if self.by_slice else self.native)
        if not self.by_slice:
            return torch.from_numpy(self.grid.forward(self.image).pixels)
        part, place = divmod(number, slabs(tuple(self.sides))[0].stop)
        return slab_of(part)[:, place]

    def _slab(self, number: int) -> Tensor:
        """Some neighbouring slices of the sampling grid, resampled: a volume of fine slices is never
        resampled as a whole.
        """
        part = slabs(tuple(self.sides))[number]
        return torch.from_numpy(self.grid.from_voxels(self.image, part))

    def _blocks(self) -> Iterator[Tensor]:
        """Run the network on all slices; yields blocks (slices, K, *size) of its results and, where
        it sharpens, of what it saw. Blank slices skip the network.
        """
        frame = self.pipeline.frame
        total = self.sides[0] if self.by_slice else 1
        size = SLICES_PER_POST_BATCH if self.pipeline.whole else frame.batch
        reach = 2 * frame.neighbours + 2
        # of this call, not of `self`: a cycle would keep the image while its result is written
        slice_of = lru_cache(reach)(partial(self._slice, lru_cache(reach)(self._slab)))
        rows = neighbour_places(torch.arange(total), frame.neighbours, total).tolist()
        shown: list[Tensor] = []  # of the block's slices that are not blank
        blank: dict[int, Tensor] = {}  # a pixel of each blank slice, by its place in the block
        corner: Any = (..., *[slice(1)] * self.dims)
        made: list[Tensor] = []
        for number, row in enumerate(track(rows, "", "slice")):
            native = slice_of(number)
            stacked = torch.cat([slice_of(place) for place in row])[None]
            if self.prepare.is_blank(native[None]):
                blank[len(shown) + len(blank)] = native[corner]
            else:
                shown.append(self.prepare(stacked))
            if len(shown) < size and number + 1 < total:
                continue

            seen = torch.cat(shown or [self.prepare(stacked)])
            if shown or not made:
                made = self._run(seen)
            outputs = torch.cat(made, 1)[: len(shown)]
            count = len(shown) + len(blank)
            block = seen.new_empty(count, outputs.shape[1], *seen.shape[2:])
            block[[place for place in range(count) if place not in blank]] = outputs
            if blank:
                values = torch.stack([*blank.values()])
                levels = [self.prepare.blank_level(values, made[0].shape[1])] * self.count
                if self.sharpens:
                    levels.append(self.prepare.detail(values, values.shape[1]))
                block[[*blank]] = torch.cat(levels, 1)
            shown, blank = [], {}
            yield block

    def _run(self, seen: Tensor) -> list[Tensor]:
        """The results of the network, (N, D, *size) each; and what it saw where it sharpens."""
        prepare = self.prepare
        made = [prepare.middle(each) for each in self.network(seen).chunk(self.count, 1)]
        if self.pipeline.post_steps:
            made = [self.pipeline.post_steps(each, seen) for each in made]
        return [*made, prepare.middle(seen)] if self.sharpens else made


def expect_enlargement(native: list[int], frame: Frame) -> None:
    """UserError where a network's images are far larger than these: the size of a file bounds time
    and memory, whatever a recipe says.
    """
    pixels = prod(frame.size)
    if frame.fit == "crop" or pixels <= max(FREE_PIXELS, MAX_ENLARGEMENT * prod(native)):
        return

    sides, wanted = (" x ".join(map(str, each)) for each in (native, frame.size))
    raise UserError(
        f"this model would enlarge an image of {sides} to {wanted}",
        where="data.size of the model's recipe",
        allowed=f"at most {FREE_PIXELS:,} pixels, or {MAX_ENLARGEMENT} times those of the image",
        remedy="use a model of smaller images, or larger images",
    )
