"""Translates one image, from the grid of its file and back.

sampling grid (plane, spacing) -> slices -> `Prepare` -> network -> detail of the input -> the file's
grid. Slices of a volume are resampled, translated and written as they are needed, so that it takes
little more memory than its own and that of its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import IntensityMapping
from gantk.data.masks import outside_of
from gantk.errors import UserError, count_noun
from gantk.formats.image import Image, slabs
from gantk.inference.frame import Frame
from gantk.inference.scales import Scales
from gantk.prepare.grid import SamplingGrid
from gantk.prepare.module import (
    MIN_VARIANCE_SHARE,
    WINDOW_REACH,
    Prepare,
    Scale,
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
Network = Callable[[Tensor], Tensor]  # (N, C, *size) to (N, results x D, *size)
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
        network: Network,  # in network intensities
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
            what = f"'{image.path}' is a picture, but this model translates volumes"
            raise UserError(what, where="INPUT")
        if pixels is not None and self.post_steps:
            what = "gradients do not pass the post-steps of this run"
            raise UserError(
                what, where="images", remedy="train with post = [], or .detach() the tensor"
            )
        mapping, result_scale = self.scales(image)
        prepare = self.preparation(mapping, result_scale)
        # before there are results: finding it takes as much memory as one
        outside = outside_of(image.pixels) if self.frame.masked else None
        results = _Passage(self, image, network, count, prepare, pixels).results()

        lowest = self._lowest_result(image)
        for result in results:
            if outside:
                level = self._level_outside(outside.level, prepare, len(result))
                for plane, region in enumerate(outside.planes()):
                    for channel, value in enumerate(level.tolist()):
                        result[channel, plane].masked_fill_(torch.from_numpy(region), value)
            if lowest is not None:
                result.clamp_(min=lowest)
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
            what = (
                f"'{image.path}' has {count_noun(image.channels, 'channel')}, but this run"
                f" was trained on {channels}"
            )
            raise UserError(what, where=where, remedy=remedy)

    def _lowest_result(self, image: Image) -> float | None:
        """The lowest value of a result where the training had no negative ones, as of magnitudes (MR):
        0, or the input's own. None for pictures: what they cannot hold is counted later.
        """
        if image.affine is None or self.frame.values.get("target", {}).get("low", -1.0) < 0:
            return None
        return min(0.0, float(np.fmin.reduce(image.pixels, axis=None)))

    def _level_outside(self, level: np.ndarray, prepare: Prepare, channels: int) -> Tensor:
        """The target's native values of a region masked out of the input, (channels,)."""
        places = (1, -1, *[1] * self.frame.dims)
        seen = prepare.level(torch.from_numpy(level).double().view(places))
        return prepare.target.inverse(prepare.target_level(seen, channels)).flatten()


class _Passage:
    """One image on its way through a network and back; arguments as of `Pipeline.results`."""

    def __init__(
        self,
        pipeline: Pipeline,
        image: Image,
        network: Network,
        count: int,
        prepare: Prepare,
        pixels: Tensor | None,
    ):
        self.pipeline = pipeline
        self.image = image
        self.network = network
        self.count = count
        self.prepare = prepare
        self.grid = pipeline.grid_of(image)
        self.native = self.grid.to_grid_order(image.pixels) if pixels is None else pixels
        self.with_graph = pixels is not None
        self.dims = pipeline.frame.dims
        self.by_slice = self.dims < image.dims
        self.sides = list(self.grid.sides(image.pixels.shape[1:], image.spacing))
        expect_enlargement(tuple(self.sides[-self.dims :]), pipeline.frame)
        self.resamples = self.grid.resamples(image)
        # whether results get the detail of the input
        self.sharpens = prepare.guided and (
            self.resamples or prepare.sharpens(self.sides[-self.dims :])
        )

    def results(self) -> list[Tensor]:
        """The results on the grid of the image, (D, *spatial) in native intensities."""
        planes_of = self._maps_on_grid()
        if self.with_graph:
            return self._planes_of_results(planes_of, slice(0, self.native.shape[1]))
        shape = self.native.shape[1:]
        parts = [slice(0, shape[0])] if self.image.dims == 2 else slabs(shape)
        results: list[Tensor] = []
        for part in track(parts, "", "part"):
            planes = self._planes_of_results(planes_of, part)
            if not results:
                shape = (len(planes[0]), *self.image.pixels.shape[1:])
                results = [torch.from_numpy(np.empty(shape, np.float32)) for _ in planes]
            for result in results:
                self.grid.to_grid_order(result.numpy())[:, part] = planes.pop(0)
        return results

    def _planes_of_results(
        self, planes_of: Callable[[int, int], Tensor], part: slice
    ) -> list[Tensor]:
        """Some planes of each result, in native intensities: of the network's output or, with detail,
        of its lines applied to the image itself.
        """
        if self.resamples:
            voxels = self.grid.to_voxels(lambda *ends: planes_of(*ends).numpy(), self.image, part)
            maps = torch.from_numpy(voxels)
        else:
            maps = planes_of(part.start, part.stop)

        shown = _as_tensor(self.native[:, part])[None]
        planes = []
        for output in maps[None].chunk(self.count, 1):
            if self.sharpens:
                rest, slope = output.chunk(2, 1)
                output = rest + slope * self.prepare.detail(shown, rest.shape[1])
            planes.append(self.prepare.target.inverse(output)[0])
        return planes

    def _maps_on_grid(self) -> Callable[[int, int], Tensor]:
        """The function from (first, last) to these planes, on the sampling grid, of the results of
        the network, or of their lines where it sharpens: (K, planes, *spatial).
        """
        total, *sides = self.sides
        prepare = self.prepare
        if self.by_slice:
            planes = Planes(self._blocks(total))
            if self.sharpens:
                least = None  # slices of the file are alone, those of another grid are not
                if self.resamples:
                    span = np.ptp(self.pipeline.frame.range)
                    least = torch.tensor([MIN_VARIANCE_SHARE * span**2])
                planes = Planes(_lines(planes, total, self.image.channels, self.count, least))
            return lambda first, last: prepare.enlarge(
                planes(first, last).swapaxes(0, 1), sides
            ).swapaxes(0, 1)

        made = next(self._blocks(1))[:, 0]
        if self.sharpens:
            channels = self.image.channels
            least = least_variance(made[None, -channels:])
            lines = _lines(Planes(iter([made])), made.shape[1], channels, self.count, least)
            made = torch.cat([*lines], 1)
        return lambda first, last: prepare.enlarge(made[None], [total, *sides], first, last)[0]

    def _slices(self) -> Iterator[Tensor]:
        """What the network sees of the image one by one, (C, *spatial), as `Pipeline.stack_of`."""
        if not self.by_slice:
            yield _as_tensor(
                self.native if self.with_graph else self.grid.forward(self.image).pixels
            )
        elif not self.resamples:
            for number in range(self.native.shape[1]):
                yield _as_tensor(self.native[:, number])
        else:
            for part in slabs(tuple(self.sides)):
                yield from torch.from_numpy(self.grid.from_voxels(self.image, part)).unbind(1)

    def _blocks(self, total: int) -> Iterator[Tensor]:
        """Run the network on all slices; yields blocks (K, slices, *size) of its results and, where
        it sharpens, of what it saw. Blank slices skip the network.
        """
        frame = self.pipeline.frame
        size = SLICES_PER_POST_BATCH if self.pipeline.whole else frame.batch
        corner: Any = (..., *[slice(1)] * self.dims)
        rows = _with_neighbours(self._slices(), total, frame.neighbours)
        shown: list[Tensor] = []  # of the block's slices that are not blank
        corners: dict[int, Tensor] = {}  # a pixel of each blank slice, by its place in the block
        channels = 0  # of one result, once it is known
        for number, (native, row) in enumerate(rows, 1):
            if _is_blank(native):
                corners[len(shown) + len(corners)] = native[corner]
            else:
                shown.append(self.prepare(row[None]))
            if len(shown) < size and number < total:
                continue

            seen = torch.cat(shown or [self.prepare(row[None])])
            made = self._run(seen) if shown or not channels else []
            channels = made[0].shape[1] if made else channels
            blank, corners = corners, {}
            filled, shown = len(shown), []
            yield self._block(made if filled else [], seen, blank, channels)

    def _run(self, seen: Tensor) -> list[Tensor]:
        """The results of the network, (N, D, *size) each; and what it saw where it sharpens."""
        prepare = self.prepare
        made = [prepare.middle(each) for each in self.network(seen).chunk(self.count, 1)]
        if self.pipeline.post_steps:
            made = [self.pipeline.post_steps(each, seen) for each in made]
        return [*made, prepare.middle(seen)] if self.sharpens else made

    def _block(
        self, made: list[Tensor], seen: Tensor, blank: dict[int, Tensor], channels: int
    ) -> Tensor:
        """The maps of a block, (K, slices, *size): those that were `made`, if any, and at the places
        of `blank` slices, of each of which this is a pixel, their levels.
        """
        if not blank:
            # one result is not copied, but gets the strides of a plain array
            block = torch.cat(made, 1) if len(made) > 1 else made[0].flatten().view(made[0].shape)
            return block.swapaxes(0, 1)

        pixels = torch.stack([*blank.values()])
        levels = [self.prepare.blank_level(pixels, channels)] * self.count
        if self.sharpens:
            levels.append(self.prepare.detail(pixels, pixels.shape[1]))
        level = torch.cat(levels, 1)
        total = len(blank) + (len(made[0]) if made else 0)
        block = seen.new_empty(total, level.shape[1], *seen.shape[2:])
        block[[*blank]] = level
        if made:
            block[[place for place in range(total) if place not in blank]] = torch.cat(made, 1)
        return block.swapaxes(0, 1)


def _with_neighbours(
    slices: Iterator[Tensor], total: int, reach: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each slice (C, *spatial), and as a network sees it: with so many neighbours on each side as
    further channels.
    """
    known: dict[int, Tensor] = {}
    following = 0  # the slice that is read next
    for number in range(total):
        while following < min(total, number + reach + 1):
            known[following] = next(slices)
            following += 1
        (places,) = neighbour_places(torch.tensor([number]), reach, total).tolist()
        yield known[number], torch.cat([known[place] for place in places])
        known = {place: known[place] for place in known if place > number - reach}


class Planes:
    """The planes of a volume from an iterator of blocks of them, (C, planes, *spatial), each made once
    and dropped when it is not needed any more.
    """

    def __init__(self, blocks: Iterator[Tensor]):
        self._blocks = blocks
        self._end = 0  # of the planes that were made
        self._kept = torch.empty(0)

    def __call__(self, first: int, last: int) -> Tensor:
        """The planes from `first` to before `last`; no later call may ask for one before `first`."""
        blocks = []
        if self._end > first:
            blocks.append(self._kept[:, first - self._end :])
        del self._kept  # takes no memory while others are made
        while self._end < last:
            blocks.append(next(self._blocks))
            self._end += blocks[-1].shape[1]
        self._kept = torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]
        return self._kept[:, : last - first]


def _lines(
    outputs: Planes, total: int, channels: int, count: int, least: Tensor | None
) -> Iterator[Tensor]:
    """The lines by which `count` outputs follow from what the network saw, see `fit_lines`; yields
    blocks (K, planes, *size) of (rest, slope) of each output.

    `outputs`: of `total` planes, see `_Passage._blocks`; `channels`: of what the network saw.
    `least`: as of `fit_lines`, of the volume; None: each plane is an image of its own.
    """
    reach = 0 if least is None else LINES_REACH
    for part in slabs((total, *outputs(0, 1).shape[2:])):
        begin = max(0, part.start - reach)
        around = outputs(begin, min(total, part.stop + reach))
        images = around.swapaxes(0, 1) if least is None else around[None]
        made, seen = images.split([images.shape[1] - channels, channels], 1)
        fitted: list[Tensor] = []
        for output in made.chunk(count, 1):
            fitted += fit_lines(output, seen, least_variance(seen) if least is None else least)
        lines = torch.cat(fitted, 1)
        block = lines.swapaxes(0, 1) if least is None else lines[0]
        yield block[:, part.start - begin : part.stop - begin]


def _is_blank(image: Tensor) -> bool:
    """Whether all known values of an image are equal."""
    values = image.detach().numpy()
    return not np.nanmax(values) > np.nanmin(values)


def _as_tensor(pixels: Any) -> Tensor:
    """An array as a tensor, copied only if torch cannot use its memory."""
    if isinstance(pixels, Tensor):
        return pixels
    return torch.from_numpy(np.require(pixels, np.float32, ("C", "W")))


def expect_enlargement(native: tuple[int, ...], frame: Frame) -> None:
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
