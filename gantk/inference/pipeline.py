"""One image through a network and back, in numpy alone: resampling, intensities, and the inverse of
each.

sampling grid (plane, spacing) -> slices -> size -> intensities -> network -> the same backwards,
onto the file's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gantk.data.intensity import PerChannel, some_of, to_network
from gantk.data.resample import Resize, SamplingGrid, slabs
from gantk.errors import UserError, counted
from gantk.files import zeros_beside
from gantk.formats.image import Image
from gantk.machine.usage import free_memory

OTHER = {"a": "b", "b": "a"}
PLANES = ("axial", "coronal", "sagittal")
WINDOW = 3  # side in pixels, at the networks' size, of the windows in which `line_of` fits lines
FLAT = 1e-10  # share of the squared range: windows with less variance than this get slope 0
WHOLE = 512  # slices per batch for post-steps that need whole volumes
CROPPED = 5  # extra memory of a 3-D model with fit = "crop", in volumes: it runs at full resolution
Progress = Callable[[int, int], None]  # (slices done, slices in all)


@dataclass(frozen=True)
class Look:
    """Options of one translation; the defaults give the method's own, deterministic result."""

    variants: int | None = None  # this many results, from styles drawn at random ...
    seed: int = 0  # ... with this seed
    example: Image | None = None  # or one result in the style of this image of the target domain
    # the slices of a volume for a 2-D network; "all": the median over the three planes
    planes: str | None = None
    uncertainty: str | None = None  # the kind of uncertainty returned as a second map
    tta: bool = False  # whether to average with the result for the mirrored image


PLAIN = Look()


@dataclass(frozen=True)
class Frame:
    """One direction of a trained model as plain values, as recipes and exported files hold them."""

    source: str  # the domains' human names
    target: str
    dims: int  # spatial axes of the network's input
    size: tuple[int, ...]  # of the network's input
    channels: int  # of one native image: contrasts, or 3 for colour
    range: tuple[float, float]  # network intensities of black and white
    fit: str = "pad"
    neighbours: int = 0  # slices on each side given as further channels
    plane: str = "axial"
    spacing: tuple[float, ...] | None = None  # mm
    missing: str = "refuse"  # what to do if a patient lacks a contrast
    batch: int = 16  # slices per pass
    detail: str = "guided"  # how results are enlarged
    masked: bool = False  # whether regions masked out of the input are masked in the result
    # by "source" and "target", see `contrasts.values_of`
    values: dict[str, dict] = field(default_factory=dict)
    pipelined: bool = True  # whether files are read and written while the network runs


class Pipeline:
    """Applies one direction of a trained model to native images."""

    def __init__(
        self,
        frame: Frame,  # what the network sees
        source: Any,  # the fitted intensity mappings of both domains
        target: Any,
        # network intensities (N, C, *size) -> (N, maps x D, *size)
        run: Callable[[np.ndarray], np.ndarray] | None,
        # in order; "spread": a deviation from the image
        maps: Sequence[Literal["image", "spread"]] = ("image",),
        tta: bool = False,  # whether to average over mirrored images
    ):
        self.frame = frame
        self.source = source
        self.target = target
        self.maps = tuple(maps)
        self.run = (lambda seen: mirrored_mean(run, seen)) if tta else run

    def images(
        self, image: Image, planes: str | None = None, progress: Progress | None = None
    ) -> list[Image]:
        """Translate one file's image; returns an image on its own grid for each of `maps`.

        `planes`: the slices of a volume that a 2-D network sees: one of PLANES, or "all", the
        median of the three, which removes differences between neighbouring slices; None: the plane
        of the training.
        """
        frame = self.frame
        if frame.dims > image.dims:
            raise UserError(
                f"'{image.path}' is a picture, and this model translates volumes", where="INPUT"
            )
        if planes and frame.dims == image.dims:
            if frame.dims == 3:
                what = "volumes go through this model whole"
            else:
                what = f"'{image.path}' is a picture"
            raise UserError(f"{what}, so there are no planes to choose", where="--planes")
        free = free_memory() if (frame.dims, frame.fit) == (3, "crop") else None
        if free is not None and (need := CROPPED * image.pixels.nbytes / 2**30) > free:
            what = (
                f"'{image.path}' needs {need:.1f} GiB of memory more, and {free:.1f} GiB are free"
            )
            raise UserError(
                what,
                where="INPUT",
                remedy='cut it into parts, or use a model with data.fit = "pad"',
            )
        mapping = self.own_scale(image.pixels)
        chosen = PLANES if planes == "all" else (planes or frame.plane,)
        outside = self.outside(image.pixels) if frame.masked else None
        made = []
        for k, plane in enumerate(chosen):
            share = progress and (
                lambda done, total, k=k: progress(k * total + done, len(chosen) * total)
            )
            made.append(
                self._along(image, plane, mapping, share, image.own and plane == chosen[-1])
            )
        results = made[-1]
        for axial, coronal, sagittal in zip(*made, strict=True) if len(made) > 1 else ():
            for part in slabs(sagittal.shape[1:]):  # the median of three, written into the last
                first = axial[:, part]
                second = coronal[:, part]
                middle = np.minimum(np.maximum(first, second), sagittal[:, part])
                np.maximum(np.minimum(first, second), middle, out=sagittal[:, part])
        self.mask(results, outside, mapping)
        return [replace(image, pixels=np.asarray(pixels, dtype=np.float32)) for pixels in results]

    def stack(
        self,
        images: np.ndarray,
        mapping: Any,
        progress: Progress | None = None,
        own=False,
        spill: Path | None = None,
    ) -> list[np.ndarray]:
        """Translate native images (N, C, *spatial), in slice order; returns an array (N, D,
        *spatial) for each map.

        Blank images skip the network. `own`: one map may overwrite the images. `spill`: the folder
        for large maps.
        """
        frame = self.frame
        sides = images.shape[2:]
        total = len(images)
        cropped = frame.fit == "crop"
        resize = Resize(sides, sides if cropped else frame.size, "pad" if cropped else frame.fit)
        filled = [i for i in range(total) if np.nanmax(images[i]) > np.nanmin(images[i])]
        canvases: list[np.ndarray] = []
        # results not yet written: their slices are neighbours of later ones
        waiting: list[tuple] = []
        for first in range(0, len(filled) or 1, frame.batch):
            # all blank: the first gives the channel count
            chosen = filled[first : first + frame.batch] or [0]
            natives = [self._with_neighbours(images, i) for i in chosen]
            seen = np.stack([to_network(native, mapping, resize) for native in natives])
            outputs = [
                self._middle(output, axis=1)
                for output in np.split(self.run(seen), len(self.maps), axis=1)
            ]
            if not canvases:  # memory order of volumes, planes second
                shape = (outputs[0].shape[1], total, *sides)
                if own and images.flags.writeable and shape[0] == images.shape[1]:
                    canvases = [images]
                else:
                    canvases = []
                canvases += [
                    np.moveaxis(zeros_beside(spill, shape), 1, 0) for _ in outputs[len(canvases) :]
                ]
            parts = zip(natives, seen, zip(*outputs, strict=True), strict=True)
            waiting += zip(chosen, parts, strict=True) if filled else ()
            (following,) = filled[first + frame.batch :][:1] or [total + frame.neighbours]
            while waiting and waiting[0][0] + frame.neighbours < following:
                i, part = waiting.pop(0)
                self._write_native(*part, mapping, resize, [canvas[i] for canvas in canvases])
            if progress:
                progress(total if first + frame.batch >= len(filled) else chosen[-1] + 1, total)
        for i in {*range(total)} - {*filled}:
            level = images[(i, slice(None), *[slice(1)] * len(sides))]
            air = np.where(mapping.forward(level).ravel() > mapping.tissue, np.nan, level.ravel())
            for canvas, kind in zip(canvases, self.maps, strict=True):
                if kind == "image":  # a value brighter than air has no known translation
                    canvas[i] = self._target_level(air, canvas.shape[1], mapping).reshape(
                        -1, *[1] * len(sides)
                    )
        return canvases

    def own_scale(self, pixels: np.ndarray) -> Any:
        """The intensity mapping for a file: the training set's, or its own if the recipe or its
        values require that.

        MR has no units: another scanner's T1 may run to 4,000 where the training set's ran to 255.
        A mapping is fitted to a file whose 99.5th percentile, of any channel, is below half or
        above twice the training set's.
        """
        fitted = self.source
        if getattr(fitted, "per", "set") != "set":
            return fitted.of(pixels)
        expected = np.asarray(
            fitted.inverse(np.full((len(pixels), *[1] * self.frame.dims), fitted.range[1]))
        ).flatten()
        # nan if all are nan
        known = ~np.isnan([np.fmax.reduce(channel, axis=None) for channel in pixels])
        top = np.array([np.nanpercentile(some_of(pixels[n]), 99.5) for n in np.flatnonzero(known)])
        ratio = top / np.where(expected[known] > 0, expected[known], np.nan)
        if np.all((ratio >= 0.5) & (ratio <= 2.0)) or not np.nanmax(pixels) > np.nanmin(pixels):
            return fitted  # also for blank images, which have no scale
        own = deepcopy(fitted)
        for line, part in (
            zip(own.lines, pixels, strict=True) if isinstance(own, PerChannel) else [(own, pixels)]
        ):
            if not np.isnan(part.min()):
                with suppress(UserError):  # nearly blank
                    line.fit([part])
        return own

    def check_channels(self, image: Image, where: str = "INPUT") -> None:
        """UserError if an image's channels are not those that the model was trained on."""
        channels = self.frame.channels
        names = self.frame.source.split("+")
        if image.channels != channels:
            remedy = "convert it, or train on images like it"
            if channels == len(names) > 1:
                remedy = f"name a folder that holds one file for each of {', '.join(names)}"
            what = (
                f"'{image.path}' has {counted(image.channels, 'channel')}, and this run was trained"
                f" on {channels}"
            )
            raise UserError(what, where=where, remedy=remedy)

    def _along(
        self, image: Image, plane: str, mapping: Any, progress: Progress | None, own: bool
    ) -> list[np.ndarray]:
        """The maps (D, *spatial) of an image, on its grid, by slices of one plane; if `own`, one
        may overwrite it.
        """
        grid = SamplingGrid(plane, self.frame.spacing)
        seen = grid.forward(image).pixels
        by_slice = self.frame.dims < image.dims
        unguided = (
            seen.size == image.pixels.size
            or self.frame.detail != "guided"
            or np.isnan(image.pixels.max())
        )
        is_view = np.may_share_memory(seen, image.pixels)  # the grid only turns the image
        stacked = np.moveaxis(seen, 1, 0) if by_slice else seen[None]
        maps = self.stack(stacked, mapping, progress, own if is_view else unguided, image.spill)
        maps = [np.moveaxis(stack, 0, 1) if by_slice else stack[0] for stack in maps]
        if is_view:
            return [grid.inverse(pixels, image) for pixels in maps]
        lines = [
            (pixels, None) if unguided or kind == "spread" else line_of(pixels, seen, image.spill)
            for pixels, kind in zip(maps, self.maps, strict=True)
        ]
        shape = (len(maps[0]), *image.pixels.shape[1:])
        if own and image.pixels.flags.writeable and shape == image.pixels.shape:
            results = [image.pixels]
        else:
            results = []
        results += [zeros_beside(image.spill, shape) for _ in maps[len(results) :]]
        native, *canvases = map(grid.turned, (image.pixels, *results))
        for part in slabs(native.shape[1:]) if image.dims == 3 else [slice(None)]:
            enlarge = partial(grid.enlarged, image=image, part=part)
            made = [
                (
                    enlarge(rest)
                    if slope is None
                    else with_detail(rest, slope, native[:, part], enlarge)
                )
                for rest, slope in lines
            ]
            for canvas, values in zip(canvases, made, strict=True):
                canvas[:, part] = values
        return results

    def outside(self, pixels: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]] | None:
        """The corners' common value per channel, and, as bit-packed planes, its region at the
        border; else None.
        """
        corners = pixels[(slice(None), *np.ix_(*[[0, -1]] * (pixels.ndim - 1)))].reshape(
            len(pixels), -1
        )
        if not np.isfinite(corners).all() or np.ptp(corners, axis=1).any():  # no mask
            return None
        planes = _planes(pixels)
        level = corners[:, 0].reshape(-1, 1, 1)
        alike = [np.packbits((plane == level).all(axis=0)) for plane in planes]
        return corners[:, 0], from_border(alike, (len(planes), *planes.shape[2:]))

    def mask(self, results: list[np.ndarray], outside: tuple | None, mapping: Any) -> None:
        """Fill, in place, what `outside` found masked out of the input with the target's value for
        it.
        """
        for result, kind in zip(results, self.maps, strict=True) if outside else ():
            if kind == "image":
                level = self._target_level(outside[0], len(result), mapping)
            else:
                level = np.zeros(len(result))
            for plane, bits in zip(_planes(result), outside[1], strict=True):
                plane[:, _unpacked(bits, plane.shape[1:])] = level[:, None]

    def _write_native(
        self, native, seen, outputs, mapping, resize: Resize, canvases: Sequence[np.ndarray]
    ) -> None:
        """Write the maps (D, *size) of one image to (D, *native), in native intensities, a few
        planes at a time.
        """
        guided = resize.content != resize.native and self.frame.detail == "guided"
        lines = [
            (0, 0) if kind == "spread" or not guided else line_of(output, self._middle(seen))
            for output, kind in zip(outputs, self.maps, strict=True)
        ]
        for planes in resize.slabs if getattr(mapping, "per", "set") == "set" else [slice(None)]:
            if guided:
                high = mapping.forward(self._middle(native)[:, planes])
                high = np.where(np.isnan(high), self.frame.range[0], high)
            for output, (rest, slope), kind, canvas in zip(
                outputs, lines, self.maps, canvases, strict=True
            ):
                if kind == "image":
                    enlarge = partial(resize.inverse, planes=planes)
                    image = with_detail(rest, slope, high, enlarge) if guided else enlarge(output)
                    canvas[:, planes] = self.target.inverse(image)
                else:
                    width = np.maximum(resize.inverse(output, planes), 0)
                    ends = [self.target.inverse(each) for each in (image + width, image - width)]
                    canvas[:, planes] = np.abs(ends[0] - ends[1]) / 2

    def _target_level(self, level: np.ndarray, channels: int, mapping: Any) -> np.ndarray:
        """The target's value per channel for the source value `level`; black if it cannot be
        mapped.
        """
        flat = np.full((channels, *[1] * self.frame.dims), self.frame.range[0], dtype=np.float32)
        if channels == len(level) and np.isfinite(level).all():
            flat = mapping.forward(level.reshape(flat.shape))
        return np.asarray(self.target.inverse(flat)).reshape(channels)

    def _middle(self, stacked: np.ndarray, axis: int = 0) -> np.ndarray:
        """The channels of the image itself, without those of its neighbouring slices."""
        return np.split(stacked, 2 * self.frame.neighbours + 1, axis)[self.frame.neighbours]

    def _with_neighbours(self, images: np.ndarray, index: int) -> np.ndarray:
        """The image at `index` with its neighbours as channels; at the ends the outermost slice is
        repeated.
        """
        reach = self.frame.neighbours
        places = np.clip(np.arange(index - reach, index + reach + 1), 0, len(images) - 1)
        # strided if sliced
        return np.concatenate(images[places]) if reach else np.ascontiguousarray(images[index])


def mirrored_mean(run: Callable[[np.ndarray], np.ndarray], seen: np.ndarray) -> np.ndarray:
    """The mean of a network's results for images and for their mirror images, mirrored back (Wang
    et al. 2019).
    """
    # columns
    made = run(seen)
    mirrored = run(np.ascontiguousarray(np.flip(seen, -1)))
    return (made + np.flip(mirrored, -1)) / 2


def _planes(pixels: np.ndarray) -> np.ndarray:
    """A view of an image (C, *spatial) as planes (planes, C, H, W); a picture has one plane."""
    return np.moveaxis(pixels if pixels.ndim == 4 else pixels[:, None], 1, 0)


def _unpacked(bits: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=sides[0] * sides[1]).view(bool).reshape(sides)


def from_border(alike: list[np.ndarray], sides: tuple[int, int, int]) -> list[np.ndarray]:
    """The part of `alike`, bit-packed planes (H, W), that is connected to the border through faces
    of voxels.

    Holes inside a head are left out; one with an opening of one voxel, or cut by the border, is
    included. Planes are filled one by one, up and down until nothing changes, so that only bits of
    a volume are in memory.
    """
    from scipy.ndimage import label  # slow import, needed for masks only

    edge = np.zeros(sides[1:], bool)
    for axis in (0, 1):
        np.moveaxis(edge, axis, 0)[[0, -1]] |= sides[axis + 1] > 1
    border = np.packbits(edge)
    filled = [np.zeros_like(bits) for bits in alike]
    changed = True
    while changed:
        changed = False
        for k in [*range(sides[0]), *reversed(range(sides[0]))]:
            seeds = border if 0 < k < sides[0] - 1 or sides[0] == 1 else alike[k]
            for other in filled[max(0, k - 1) : k + 2 : 2] if k else filled[1:2]:
                seeds = seeds | other
            if (starts := alike[k] & seeds & ~filled[k]).any():
                regions, count = label(_unpacked(alike[k], sides[1:]))
                reached = np.zeros(count + 1, bool)
                reached[regions[_unpacked(starts, sides[1:])]] = changed = True
                filled[k] |= np.packbits(reached[regions])
    return filled


def line_of(
    output: np.ndarray, seen: np.ndarray, spill: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit an output as slope x input + remainder; returns (remainder, slope), (D, *size), for
    `with_detail`.

    The slope is by least squares in every small window. `with_detail` enlarges remainder and slope
    instead of the output and applies the slope to the input at full resolution: the fast guided
    filter (He & Sun 2015) without regularisation, and with the remainder kept, so that an output
    equal to its input stays equal.

    `output`: (D, *size); `seen`: the network's input, (C, *size), matched by channel if C = D, else
    averaged. Volumes are processed a few planes at a time; `spill` is the folder for large results.
    """
    from scipy.ndimage import uniform_filter  # slow import, not needed at the networks' size

    if len(seen) != len(output):
        seen = seen.mean(axis=0, keepdims=True).repeat(len(output), axis=0)
    flat = FLAT * (float(seen.max()) - float(seen.min())) ** 2
    rest = zeros_beside(spill, output.shape)
    slopes = zeros_beside(spill, output.shape)

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, size=(1, *[WINDOW] * (values.ndim - 1)), mode="nearest")

    for part in slabs(output.shape[1:]):
        begin = max(0, part.start - 2 * (WINDOW // 2))  # reach of two means
        x, y = (
            each[:, begin : part.stop + 2 * (WINDOW // 2)].astype(np.float64)
            for each in (seen, output)
        )
        mean_x = mean(x)
        variance = mean(mean(x * x) - mean_x * mean_x)
        covariance = mean(mean(x * y) - mean_x * mean(y))
        slope = np.divide(covariance, variance, out=np.zeros_like(x), where=variance > flat)
        inner = slice(part.start - begin, part.stop - begin)
        rest[:, part] = (y - slope * x)[:, inner]
        slopes[:, part] = slope[:, inner]
    return rest, slopes


def with_detail(
    rest: np.ndarray, slope: np.ndarray, native: np.ndarray, enlarge: Callable
) -> np.ndarray:
    """Enlarge remainder and slope (D, *size) and apply them to the native input; returns (D,
    *native).
    """
    done = enlarge(slope) * (
        native if len(native) == len(slope) else native.mean(axis=0, keepdims=True)
    )
    done += enlarge(rest)
    return done


class TrainedModel:
    """What a run's model and an exported file have in common. They define `domain(name)`, the
    letter of a domain, and `pipeline(letter, look)`, the Pipeline from native images of the other
    domain to this one.
    """

    domain: Callable[[str | None], str]
    pipeline: Callable[..., Pipeline]
    contrasts: Callable[[str], list[str]]  # of a domain, one channel each
    # (n, seed, label) of a run that makes images from noise: (n, C, *size)
    sample: Callable[..., np.ndarray]

    def part(self, letter: str, to: str | None) -> slice:
        """The channels of a domain that `to` names: that of one contrast, or all if it is not one
        of several.
        """
        names = [name.lower() for name in self.contrasts(letter)]
        place = names.index(to.lower()) if to and len(names) > 1 and to.lower() in names else None
        return slice(place, None if place is None else place + 1)

    def spread_scale(self, letter: str, kind: str) -> tuple[float | None, int]:
        """The factor fitted for a kind of uncertainty, and the number of validation patients;
        (None, 0) if none.
        """
        return None, 0

    def translate(
        self,
        images: Any,
        to: str | None = None,
        look: Look = PLAIN,
        progress: Progress | None = None,
        *,
        grad: bool = False,
    ) -> Any:
        """Images in, images of the same kind and grid out, in the target domain's intensities,
        never clipped.

            t2 = gantk.load("runs/NAME").translate(t1)      # arrays give arrays, tensors tensors,
            nibabel nibabel

        Args:
            images: in the intensities of the files that were trained on, one of

                * arrays and tensors. To a 2-D model (H, W) is an image, (D, H, W) a stack of slices
                  of one scan,
                  (N, C, H, W) a batch; to a 3-D model (D, H, W) is a volume, (N, D, H, W) several,
                  (N, C, D, H, W) a
                  batch. To a model of several channels (C, H, W), or (C, D, H, W), is one image.
                  Floats keep their
                  type, whole numbers become float32; tensors stay on their device.
                * images of nibabel and SimpleITK: float32 on the same grid, affine or origin and
                  direction kept.
                * a path (a file, or a folder of one DICOM series) or an `Image` of
                  gantk.formats.image: an `Image`,
                  which `gantk.formats.files.write(path, image)` writes.
                * a list of these: a list of results.
            to: the domain to make, by its name, or one of its contrasts; None: the recipe's second
              domain.
            look: options of the result; several results are stacked on a new first axis, or are a
              list of images.
            grad: for tensors: let gradients reach the input, which needs the memory of a training
              step.

        An array whose values are off the training set's scale gets a scale of its own, as files do.
        NaN throughout a channel is a contrast that is missing. UserError where shape, channels,
        type or values do not fit.
        """
        from gantk.inference.arrays import translated

        return translated(self, images, to, look, progress, grad)

    def images(
        self,
        image: Image,
        to: str | None = None,
        look: Look = PLAIN,
        progress: Progress | None = None,
    ) -> list[Image]:
        """Translate one file's image; returns one image, or one for each variant, or the image and
        its uncertainty.
        """
        pipeline = self.pipeline(letter := self.domain(to), look)
        part = self.part(letter, to)
        pipeline.check_channels(image)
        return [
            replace(each, pixels=each.pixels[part])
            for each in pipeline.images(image, look.planes, progress)
        ]
