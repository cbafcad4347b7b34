"""Translates one image, from the grid of its file and back.

sampling grid (plane, spacing) -> slices -> `Prepare` -> network -> its `restore` -> the file's grid.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import IntensityMapping
from gantk.data.masks import outside_of
from gantk.errors import UserError, count_noun
from gantk.files import zeros_beside
from gantk.formats.image import Image, slabs
from gantk.inference.frame import Frame
from gantk.inference.scales import Scales
from gantk.machine.usage import free_memory
from gantk.prepare.grid import SamplingGrid
from gantk.prepare.module import (
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
CROP_MEMORY_VOLUMES = (
    5  # extra memory of a 3-D model with fit = "crop", in volumes: it runs at full resolution
)
Network = Callable[[Tensor], Tensor]  # (N, C, *size) to (N, results x D, *size)
PostSteps = Callable[[Tensor, Tensor], Tensor]  # (results, what the network saw) to results
Lines = tuple[Any, Tensor | None]  # a result as (rest, slope) of the input, see `fit_lines`


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
        self._expect_fitting(image)
        if pixels is not None and self.post_steps:
            what = "gradients do not pass the post-steps of this run"
            raise UserError(
                what, where="images", remedy="train with post = [], or .detach() the tensor"
            )
        mapping, result_scale = self.scales(image)
        prepare = self.preparation(mapping, result_scale)
        # before there are results: finding it takes as much memory as one
        outside = outside_of(image.pixels) if self.frame.masked else None
        results = self._translate(image, network, count, prepare, pixels)

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

    def stack_of(self, image: Image) -> tuple[SamplingGrid, np.ndarray]:
        """The sampling grid of an image, and what the network sees of it one by one: the slices of
        the plane of the training, or the whole image; (N, C, *spatial).
        """
        grid = self.grid_of(image)
        return grid, self._as_stack(grid.forward(image).pixels, image.dims)

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

    def _expect_fitting(self, image: Image) -> None:
        """UserError where the image's axes or channels do not fit the model, or the memory does not
        suffice.
        """
        frame = self.frame
        self.check_channels(image)
        if frame.dims > image.dims:
            what = f"'{image.path}' is a picture, but this model translates volumes"
            raise UserError(what, where="INPUT")

        if frame.dims == 3 and frame.fit == "crop":
            free = free_memory()
            need = CROP_MEMORY_VOLUMES * image.pixels.nbytes / 2**30
            if free is not None and need > free:
                what = (
                    f"'{image.path}' needs {need:.1f} GiB more memory, but only {free:.1f}"
                    " GiB are free"
                )
                remedy = 'cut it into parts, or use a model with data.fit = "pad"'
                raise UserError(what, where="INPUT", remedy=remedy)

    def _as_stack(self, pixels: Any, dims: int) -> Any:
        """(C, *spatial) as what the network sees one by one, (N, C, *spatial); a view."""
        return pixels.swapaxes(0, 1) if self.frame.dims < dims else pixels[None]

    def _translate(
        self,
        image: Image,
        network: Network,
        count: int,
        prepare: Prepare,
        pixels: Tensor | None,
    ) -> list[Tensor]:
        """The results of the network on the grid of the image; arguments as of `results`."""
        grid, stack = self.stack_of(image)
        sides = list(stack.shape[2:])
        expect_enlargement(stack.shape[2:], self.frame)
        resamples = grid.resamples(image)
        sharpens = prepare.guided and (resamples or prepare.sharpens(sides))
        results: list[Tensor] = []

        def array_for(shape: tuple[int, ...]) -> Any:
            """An array (N, D, *size) for an output of the network or, after these, what it saw. An
            output shares the memory of its result where each pixel is made of one of the output.
            """
            if len(results) < count:
                result = zeros_beside(image.spill, (shape[1], *image.pixels.shape[1:]))
                results.append(torch.from_numpy(result))
                stacked = self._as_stack(grid.to_grid_order(result), image.dims)
                if stacked.shape == shape and pixels is None and not (resamples or sharpens):
                    return stacked
            return torch.from_numpy(zeros_beside(image.spill, shape))

        shown = stack if pixels is None else self._as_stack(pixels, image.dims)
        outputs, seen = self._run(shown, stack, network, count, prepare, sharpens, array_for)
        del stack, shown
        lines: list[Lines] = [(output, None) for output in outputs]
        if sharpens:
            as_volume = resamples and self.frame.dims < image.dims
            lines = [_as_lines(output, seen, image.spill, as_volume) for output in outputs]
        del outputs, seen
        self._to_file_grid(image, sides, lines, prepare, pixels, results)
        return results

    def _run(
        self,
        shown: np.ndarray | Tensor,
        stack: np.ndarray,
        network: Network,
        count: int,
        prepare: Prepare,
        keep_seen: bool,
        array_for: Callable[[tuple[int, ...]], Any],
    ) -> tuple[list[Any], Any]:
        """Run the network on native images (N, C, *spatial), in slice order; returns its results,
        (N, D, *size), and what it saw, if `keep_seen`, in arrays that `array_for` gives.

        `stack`: the values of `shown`. Blank images skip the network.
        """
        total = len(stack)
        filled = [n for n in range(total) if np.nanmax(stack[n]) > np.nanmin(stack[n])]
        kept: list[Any] = []
        size = SLICES_PER_POST_BATCH if self.whole else self.frame.batch
        for first in track(range(0, len(filled) or 1, size), "", "batch of slices"):
            # all blank: the first gives the channel count
            numbers = filled[first : first + size] or [0]
            places = neighbour_places(torch.tensor(numbers), self.frame.neighbours, total)
            rows = (_with_neighbours(shown, row) for row in places.tolist())
            seen = torch.cat([prepare(native[None]) for native in rows])
            batch = [prepare.middle(each) for each in network(seen).chunk(count, 1)]
            if self.post_steps:
                batch = [self.post_steps(each, seen) for each in batch]
            if keep_seen:
                batch.append(prepare.middle(seen))
            if not kept:
                kept = [array_for((total, *each.shape[1:])) for each in batch]
            for whole, part in zip(kept, batch, strict=True):
                whole[numbers] = part

        results = kept[:count]
        blank = sorted(set(range(total)) - set(filled))
        if blank:
            first_pixels: Any = (blank, slice(None), *[slice(1)] * self.frame.dims)
            corners = _as_tensor(stack[first_pixels])  # constants of a graph
            for result in results:
                result[blank] = prepare.blank_level(corners, result.shape[1])
            if keep_seen:
                kept[-1][blank] = prepare.detail(corners, kept[-1].shape[1])

        return results, kept[-1]

    def _to_file_grid(
        self,
        image: Image,
        sides: list[int],
        lines: list[Lines],
        prepare: Prepare,
        pixels: Tensor | None,
        results: list[Tensor],
    ) -> None:
        """Fill the results (D, *spatial) on the grid of the image: their lines applied to the image
        itself, a few planes at a time. `sides`: of what the network was shown; `pixels`: of the
        image, if gradients are to reach them; then other tensors take the place of the results.
        """
        by_slice = self.frame.dims < image.dims
        grid = self.grid_of(image)
        resamples = grid.resamples(image)
        native = grid.to_grid_order(image.pixels) if pixels is None else pixels
        canvases = [grid.to_grid_order(result.numpy()) for result in results]

        def planes_of(line: Any, first: int, last: int) -> Tensor:
            if by_slice:
                return prepare.enlarge(_as_tensor(line[first:last]), sides).swapaxes(0, 1)
            if list(line.shape[2:]) == sides:
                return _as_tensor(line[:, :, first:last])[0]
            return prepare.enlarge(line, sides, first, last)[0]

        def enlarge(line: Any, part: slice) -> Tensor:
            if not resamples:
                return self._as_stack(planes_of(line, part.start, part.stop), image.dims)
            planes = grid.to_voxels(lambda *ends: planes_of(line, *ends).numpy(), image, part)
            return _as_tensor(self._as_stack(planes, image.dims))

        whole = [slice(0, native.shape[1])]
        for part in whole if image.dims == 2 or pixels is not None else slabs(native.shape[1:]):
            shown = _as_tensor(self._as_stack(native[:, part], image.dims))
            for number, (rest, slope) in enumerate(lines):
                values = enlarge(rest, part)
                if slope is not None:
                    values = values + enlarge(slope, part) * prepare.detail(shown, values.shape[1])
                made = prepare.target.inverse(values)
                made = made.swapaxes(0, 1) if by_slice else made[0]
                if pixels is None:
                    canvases[number][:, part] = made
                else:
                    results[number] = made

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


def _as_tensor(pixels: Any) -> Tensor:
    """An array as a tensor, copied only if torch cannot use its memory."""
    if isinstance(pixels, Tensor):
        return pixels
    return torch.from_numpy(np.require(pixels, np.float32, ("C", "W")))


def _with_neighbours(shown: Any, row: list[int]) -> Tensor:
    """Some images of (N, C, *spatial) as the channels of one; a single one is not copied."""
    images = [_as_tensor(shown[number]) for number in row]
    return torch.cat(images) if len(images) > 1 else images[0]


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


def _as_lines(output: Tensor, seen: Tensor, spill: Path | None, as_volume: bool) -> Lines:
    """A result as lines of what the network saw, (N, C, *size); `as_volume`: the slices are matched
    in windows of several slices.
    """
    if not as_volume:
        return fit_in_slabs(output, seen, spill)
    volume = output.swapaxes(0, 1)[None]
    rest, slope = fit_in_slabs(volume, seen.swapaxes(0, 1)[None], spill)
    return rest[0].swapaxes(0, 1), slope[0].swapaxes(0, 1)


def fit_in_slabs(output: Tensor, seen: Tensor, spill: Path | None) -> tuple[Tensor, Tensor]:
    """`gantk.prepare.module.fit_lines` of (N, D, *size) and the network's input (N, C, *size), a few
    planes of a volume at a time; `spill` is the folder for large results.
    """
    rest, slope = (torch.from_numpy(zeros_beside(spill, output.shape)) for _ in range(2))
    reach = 2 * WINDOW_REACH  # of two means
    for number in range(len(output)):
        image = slice(number, number + 1)
        least = least_variance(seen[image])
        for part in slabs(tuple(output.shape[2:])):
            begin = max(0, part.start - reach)
            around = slice(begin, part.stop + reach)
            inner = slice(part.start - begin, part.stop - begin)
            fitted = fit_lines(output[image, :, around], seen[image, :, around], least)
            rest[image, :, part], slope[image, :, part] = (each[:, :, inner] for each in fitted)

    return rest, slope
