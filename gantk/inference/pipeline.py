"""Translates one image, from the grid of its file and back.

sampling grid (plane, spacing) -> slices -> `Prepare` -> network -> its `restore` -> the file's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import (
    MAX_HISTOGRAM_VALUES,
    IntensityMapping,
    Linear,
    some_of,
)
from gantk.data.masks import Outside, outside_of
from gantk.errors import UserError, count_noun
from gantk.files import zeros_beside
from gantk.formats.image import Image, slabs
from gantk.inference.frame import Frame, MapKind, Progress
from gantk.machine.usage import free_memory
from gantk.prepare.grid import SamplingGrid
from gantk.prepare.module import (
    WINDOW_REACH,
    Prepare,
    Scale,
    as_batch_of_one,
    fit_lines,
    least_variance,
    neighbour_places,
)

MAX_OF_BYTE = 255  # the largest whole number of 8 bits
# An image of so many pixels may be made of any image, however small ...
FREE_PIXELS = 2**22
MAX_ENLARGEMENT = 256  # ... a larger one only of an image of at least a 256th of its pixels
SLICES_PER_POST_BATCH = 512  # slices per batch for post-steps that need whole volumes
CROP_MEMORY_VOLUMES = (
    5  # extra memory of a 3-D model with fit = "crop", in volumes: it runs at full resolution
)
Network = Callable[[Tensor], Tensor]  # (N, C, *size) to (N, maps x D, *size), on the CPU


class Map(NamedTuple):
    """One of the maps that a network makes, (N, D, *size): itself, or the lines of what the network
    saw that it is, see `fit_lines`.
    """

    kind: MapKind
    rest: Tensor
    slope: Tensor | None = None


class Pipeline:
    """One direction of a trained model, from native images of one domain to those of the other."""

    def __init__(
        self,
        frame: Frame,  # what the network sees
        source: IntensityMapping,  # the fitted intensity mappings of both domains
        target: IntensityMapping,
        *,
        whole: bool = False,  # whether post-steps need all slices of a volume at once
    ):
        self.frame = frame
        self.source = source
        self.target = target
        self.whole = whole

    def images(
        self,
        image: Image,
        network: Network,  # in network intensities
        maps: Collection[MapKind],
        progress: Progress | None = None,
    ) -> list[Image]:
        """Translate one file's image; returns an image on its own grid for each of `maps`, which
        are what the network makes.
        """
        self._expect_fitting(image)
        mapping, result_scale = self.scales(image)
        prepare = self.preparation(mapping, result_scale)
        outside = outside_of(image.pixels) if self.frame.masked else None
        grid, stack = self.stack_of(image)
        sides = list(stack.shape[2:])
        resamples = grid.resamples(image)
        sharpens = prepare.guided and (resamples or prepare.sharpens(sides))
        made, seen = self._run(stack, network, [*maps], prepare, sharpens, progress, image.spill)
        if sharpens:
            as_volume = resamples and self.frame.dims < image.dims
            made = [_as_lines(each, seen, image.spill, as_volume) for each in made]

        results = self._on_file(image, grid, sides, made, prepare)
        if outside:
            for result, one in zip(results, made, strict=True):
                level = np.zeros(len(result))
                if one.kind == "image":
                    level = self.level_outside(outside, prepare, len(result)).numpy()
                outside.fill(result, level)

        lowest = self._lowest_result(image)
        if lowest is not None:
            for pixels in results:
                np.maximum(pixels, lowest, out=pixels)

        own_scale = result_scale is not self.target
        return [replace(image, pixels=pixels, own_scale=own_scale) for pixels in results]

    def _lowest_result(self, image: Image) -> float | None:
        """The lowest value of a result where the training had no negative ones, as of magnitudes (MR):
        0, or the input's own. None for pictures: what they cannot hold is counted later.
        """
        if image.affine is None or self.frame.values.get("target", {}).get("low", -1.0) < 0:
            return None
        return min(0.0, float(np.fmin.reduce(image.pixels, axis=None)))

    def _expect_fitting(self, image: Image) -> None:
        """UserError where the image's axes do not fit the model, or the memory does not suffice."""
        frame = self.frame
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
        pixels = grid.forward(image).pixels
        by_slice = self.frame.dims < image.dims
        return grid, np.moveaxis(pixels, 1, 0) if by_slice else pixels[None]

    def _on_file(
        self,
        image: Image,
        grid: SamplingGrid,
        sides: list[int],
        maps: Sequence[Map],
        prepare: Prepare,
    ) -> list[np.ndarray]:
        """The maps (D, *spatial) on the grid of the image: their lines applied to the image itself,
        a few planes at a time. `sides`: of what the network was shown.
        """
        by_slice = self.frame.dims < image.dims
        native = grid.to_grid_order(image.pixels)
        shape = (maps[0].rest.shape[1], *image.pixels.shape[1:])
        results = [zeros_beside(image.spill, shape) for _ in maps]
        canvases = [grid.to_grid_order(result) for result in results]

        def planes_of(line: Tensor, first: int, last: int) -> np.ndarray:
            if by_slice:
                return prepare.enlarge(line[first:last], sides).movedim(0, 1).numpy()
            return prepare.enlarge(line, sides, first, last)[0].numpy()

        whole = [slice(0, native.shape[1])]
        for part in whole if image.dims == 2 else slabs(native.shape[1:]):

            def enlarge(line: Tensor, part: slice = part) -> Tensor:
                return as_images(grid.to_voxels(partial(planes_of, line), image, part), by_slice)

            shown = as_images(native[:, part], by_slice)
            for (kind, rest, slope), canvas in zip(maps, canvases, strict=True):
                values = enlarge(rest)
                if slope is not None:
                    values += enlarge(slope) * prepare.detail(shown, values.shape[1])
                if kind == "image":
                    middle = values
                    made = prepare.target.inverse(values)
                else:  # a deviation from the image before it
                    width = values.clamp(min=0)
                    upper = prepare.target.inverse(middle + width)
                    made = (upper - prepare.target.inverse(middle - width)).abs() / 2
                canvas[:, part] = made.movedim(0, 1) if by_slice else made[0]

        return results

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

    def _run(
        self,
        stack: np.ndarray,
        network: Network,
        kinds: Sequence[MapKind],
        prepare: Prepare,
        keep_seen: bool,
        progress: Progress | None,
        spill: Path | None,
    ) -> tuple[list[Map], Tensor]:
        """Run the network on native images (N, C, *spatial), in slice order; returns its maps, and
        what it saw, (N, C, *size), if `keep_seen`.

        Blank images skip the network. `spill`: the folder for large maps.
        """
        expect_enlargement(stack.shape[2:], self.frame)
        total = len(stack)
        filled = [n for n in range(total) if np.nanmax(stack[n]) > np.nanmin(stack[n])]
        kept: list[Tensor] = []
        size = SLICES_PER_POST_BATCH if self.whole else self.frame.batch
        for first in range(0, len(filled) or 1, size):
            # all blank: the first gives the channel count
            numbers = filled[first : first + size] or [0]
            places = neighbour_places(torch.tensor(numbers), self.frame.neighbours, total)
            rows = (_with_neighbours(stack, row) for row in places.tolist())
            seen = torch.cat([prepare(as_batch_of_one(native)) for native in rows])
            batch = [prepare.middle(each) for each in network(seen).chunk(len(kinds), 1)]
            if keep_seen:
                batch.append(prepare.middle(seen))
            if not kept:
                shapes = [(total, *each.shape[1:]) for each in batch]
                kept = [torch.from_numpy(zeros_beside(spill, shape)) for shape in shapes]
            for whole, part in zip(kept, batch, strict=True):
                whole[numbers] = part

            if progress:
                is_last = first + size >= len(filled)
                progress(total if is_last else numbers[-1] + 1, total)

        made = [Map(kind, output) for kind, output in zip(kinds, kept, strict=False)]
        blank = sorted(set(range(total)) - set(filled))
        if blank:
            first_pixels: Any = (blank, slice(None), *[slice(1)] * self.frame.dims)
            corners = torch.from_numpy(stack[first_pixels])
            for kind, output, _ in made:
                output[blank] = 0.0
                if kind == "image":
                    output[blank] = prepare.blank_level(corners, output.shape[1])
            if keep_seen:
                kept[-1][blank] = prepare.detail(corners, kept[-1].shape[1])

        return made, kept[-1]

    def scales(self, image: Image) -> tuple[Any, IntensityMapping]:
        """The intensity mappings of an image, see `own_scale`, and of its results, see
        `result_scale`.
        """
        mapping = self.own_scale(image.pixels)
        return mapping, self.result_scale(image, mapping)

    def own_scale(self, pixels: np.ndarray) -> Any:
        """The intensity mapping for a file: the training set's, or its own if the recipe or its
        values require that.

        MR has no units: another scanner's T1 may run to 4,000 where the training set's ran to 255.
        A mapping is fitted to a file whose 99.5th percentile, of any channel, is below half or
        above twice the training set's.
        """
        fitted = self.source
        if fitted.per != "set":
            return fitted.of(pixels)

        if self._has_usual_scale(pixels) or not np.nanmax(pixels) > np.nanmin(pixels):
            return fitted  # also for blank images, which have no scale

        own = deepcopy(fitted)
        for number, line in enumerate(own.lines):
            part = pixels[number :: len(own.lines)]
            if not np.isnan(part.min()):
                with suppress(UserError):  # nearly blank
                    line.fit([part])

        return own

    def _has_usual_scale(self, pixels: np.ndarray) -> bool:
        """Whether the 99.5th percentile of each channel is between half and twice the training
        set's white.
        """
        fitted = self.source
        white = np.full((len(pixels), *[1] * self.frame.dims), fitted.range[1])
        expected = np.asarray(fitted.inverse(white)).flatten()
        # nan if all are nan
        known = ~np.isnan([np.fmax.reduce(channel, axis=None) for channel in pixels])
        some = [some_of(pixels[n], MAX_HISTOGRAM_VALUES) for n in np.flatnonzero(known)]
        top = np.array([np.nanpercentile(values, 99.5) for values in some])
        ratio = top / np.where(expected[known] > 0, expected[known], np.nan)
        return bool(np.all((ratio >= 0.5) & (ratio <= 2.0)))

    def result_scale(self, image: Image, mapping: IntensityMapping) -> IntensityMapping:
        """The mapping of an image's results: the target's, in the units of the training scans; or
        for an image without units, such as a picture, that is not on the scale of the training
        images, the straight line from its own black to its own white. A recipe that fixes the
        scale, as a window of given values does, knows the units.

        `mapping`: the image's, as `own_scale` returns it. If the type of its file has a largest
        value, the line leaves room for the target's brightest tissue.
        """
        pixels = image.pixels
        nearest = self.target.nearest  # a label map, whose values are classes
        if image.has_units or nearest or self._is_training_scale(pixels, image.dtype):
            return self.target
        if self._fixes_scale(pixels):
            return self.target

        own = mapping.lines[0]
        ends = np.array(self.frame.range, dtype=np.float64)
        line = Linear(range=self.frame.range)
        line.fitted = np.asarray(own.inverse(ends), dtype=np.float64).tolist()
        largest = _largest_value(pixels, image.dtype)
        if largest is not None:
            black, white = line.fitted
            brightest = float(
                line.inverse(brightest_tissue(self.target, self.frame.values.get("target")))
            )
            room = (largest - black) / (brightest - black)
            line.fitted = [black, black + min(1.0, room) * (white - black)]

        return line

    def in_training_units(
        self, image: Image
    ) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        """Two functions, which convert values of an image and of its result to the units of the
        training images; UserError as `check_channels`.
        """
        self.check_channels(image)
        mapping, scale = self.scales(image)
        if scale is self.target:
            return np.asarray, np.asarray

        return (
            lambda given: np.asarray(self.source.inverse(mapping.forward(given))),
            lambda made: np.asarray(self.target.inverse(scale.forward(made))),
        )

    def _fixes_scale(self, pixels: np.ndarray) -> bool:
        """Whether the source's mapping is the same for every image, whatever its values."""
        line = self.source.lines[0]
        if line.per == "volume":
            return False

        own = deepcopy(line)
        with suppress(UserError):  # nearly blank, or not in the units of the scale
            own.fit([pixels])

        return bool(own.fitted == line.fitted)

    def _is_training_scale(self, pixels: np.ndarray, dtype: np.dtype | None) -> bool:
        """Whether an image has the scale of the training images. Whole numbers have it only where
        the training images were whole numbers too, and the target's fit into `dtype`.
        """
        blank = not np.nanmax(pixels) > np.nanmin(pixels)
        if not blank and not self._has_usual_scale(pixels):
            return False

        values = self.frame.values
        if dtype is None or not np.issubdtype(dtype, np.integer) or len(values) < 2:
            return True

        target = values["target"]
        whole = target["whole"] and values["source"]["whole"]
        return whole and target["low"] >= 0 and target["high"] <= np.iinfo(dtype).max

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

    def level_outside(self, outside: Outside, prepare: Prepare, channels: int) -> Tensor:
        """The target's native values of a region masked out of the input, (channels,)."""
        places = (1, -1, *[1] * self.frame.dims)
        level = torch.from_numpy(outside.level).double().view(places)
        seen = prepare.level(level.to(prepare.source.native.device))
        return prepare.target.inverse(prepare.target_level(seen, channels)).flatten()


def as_images(pixels: np.ndarray, by_slice: bool) -> Tensor:
    """(C, *spatial) as what a network gets one by one: the slices of its first axis, or the whole;
    (N, C, *spatial).
    """
    return torch.from_numpy(np.array(np.moveaxis(pixels, 1, 0) if by_slice else pixels[None]))


def _with_neighbours(stack: np.ndarray, row: list[int]) -> np.ndarray:
    """Some images of a stack (N, C, *spatial) as the channels of one; a single one is not copied."""
    shown = [stack[number] for number in row]
    return np.concatenate(shown) if len(shown) > 1 else shown[0]


def _largest_value(pixels: np.ndarray, dtype: np.dtype | None) -> float | None:
    """White in the file of an image: the largest whole number of its type, 1 for values from -1 to
    1; None where there is none.
    """
    if dtype is not None and np.issubdtype(dtype, np.integer):
        return float(np.iinfo(dtype).max)
    return 1.0 if np.nanmax(np.abs(pixels)) <= 1 else None


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


def value_range(
    mapping: IntensityMapping, values: dict[str, Any] | None
) -> tuple[float, float, bool]:
    """The least and the largest value of a domain's training images, and whether these were whole
    numbers; `mapping` and `values` as of `picture_scale`.
    """
    if values:
        return values["low"], values["high"], values["whole"]

    ends = [float(line.inverse(np.array(end))) for line in mapping.lines for end in line.range]
    return min(ends), max(ends), True


def picture_scale(
    mapping: IntensityMapping, values: dict[str, Any] | None, white: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The function from native intensities to a picture, in which 0 is their black and `white` their
    brightest tissue.

    `mapping`: of the training images; `values`: their statistics (`gantk.data.look.values_of`), None
    for models of earlier versions.
    """
    first = mapping.lines[0]
    black = float(first.inverse(np.array(first.range[0])))
    brightest = float(first.inverse(brightest_tissue(mapping, values)))
    line = Linear(range=(0.0, white))
    line.fitted = [black, brightest]
    return line.forward


def brightest_tissue(mapping: IntensityMapping, values: dict[str, Any] | None) -> np.ndarray:
    """The network intensity of 99 % of the tissue of the training images; white where this is not
    known.
    """
    first = mapping.lines[0]
    if not values:
        return np.array(first.range[1])
    return np.asarray(first.forward(np.array(values["quantiles"][-1])))


def _as_lines(one: Map, seen: Tensor, spill: Path | None, as_volume: bool) -> Map:
    """A map as lines of what the network saw, (N, C, *size); `as_volume`: the slices are matched in
    windows of several slices.
    """
    if one.kind == "spread":
        return one
    if not as_volume:
        return Map(one.kind, *fit_in_slabs(one.rest, seen, spill))
    volume = one.rest.movedim(0, 1)[None]
    lines = fit_in_slabs(volume, seen.movedim(0, 1)[None], spill)
    return Map(one.kind, *(each[0].movedim(0, 1) for each in lines))


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
