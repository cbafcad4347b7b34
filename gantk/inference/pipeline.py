"""What stands around a network when it translates a file: native images in, native images out, numpy alone.

view (plane, spacing) -> slices or windows -> fit -> intensities -> network -> and all of it back, onto the file's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from gantk.data.intensity import PerChannel, to_network
from gantk.data.resample import Resize, SamplingGrid
from gantk.errors import UserError
from gantk.formats.image import Image
from gantk.inference.detail import with_detail
from gantk.inference.stages import staged

PLANES = ("axial", "coronal", "sagittal")
Progress = Callable[[int, int], None]  # (slices done, slices in all)


@dataclass(frozen=True)
class Look:
    """Which of a multimodal method's translations is wanted; by default the method's own, deterministic one."""

    variants: int | None = None  # so many different ones, from styles drawn at random ...
    seed: int = 0  # ... with this seed
    example: Image | None = None  # or the one in the style of this image of the target domain
    planes: str | None = None  # which slices of a volume a 2-D network sees; "all": the median of the three planes
    uncertainty: str | None = None  # the kind of uncertainty that comes along as a second map


PLAIN = Look()


@dataclass(frozen=True)
class Frame:
    """One direction of a trained model in plain values, as a recipe says them and an exported file keeps them."""

    source: str  # the domains' human names
    target: str
    dims: int  # axes of what the network sees
    size: tuple[int, ...]  # its sides
    channels: int  # of one native image: contrasts, or 3 for colour
    range: tuple[float, float]  # network intensities of black and white
    fit: str = "pad"
    neighbours: int = 0  # slices on each side that come along as channels
    plane: str = "axial"
    spacing: tuple[float, ...] | None = None  # mm
    missing: str = "refuse"  # what happens where a patient lacks a contrast
    batch: int = 16  # slices per pass
    detail: str = "guided"  # how results are brought to a larger grid
    masked: bool = False  # whether what is masked out of an image is masked out of its translation
    pipelined: bool = True  # whether slices and files are got ready, and put away, while the network is at work

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Frame:
        """The frame that `state` described."""
        tuples = {key: tuple(state[key]) for key in ("size", "range", "spacing") if state.get(key) is not None}
        return cls(**state | tuples)


class Pipeline:
    """One direction of a model at work on native images.

    Args:
        frame: what the network sees.
        source, target: the fitted intensity mappings of both domains.
        run: the network, (N, C, *size) float32 in network intensities -> (N, maps x D, *size).
        maps: what `run` gives, side by side as channels: "image" in network intensities, or "spread", a deviation from
            the image before it in network intensities, at least 0.
    """

    def __init__(
        self,
        frame: Frame,
        source: Any,
        target: Any,
        run: Callable[[np.ndarray], np.ndarray],
        maps: Sequence[Literal["image", "spread"]] = ("image",),
    ):
        self.frame, self.source, self.target, self.run, self.maps = frame, source, target, run, tuple(maps)

    def images(self, image: Image, planes: str | None = None, progress: Progress | None = None) -> list[Image]:
        """One file's image translated, on its own grid: an image for each of `maps`.

        `planes` says which slices of a volume a 2-D network sees: one of PLANES, or "all", the median of the three,
        which takes away what differs from slice to slice; None: the plane that it was trained on.
        """
        frame = self.frame
        if frame.dims > image.dims:
            raise UserError(f"'{image.path}' is a picture, and this model translates volumes", where="INPUT")
        if planes and frame.dims == image.dims:
            what = "volumes go through this model whole" if frame.dims == 3 else f"'{image.path}' is a picture"
            raise UserError(f"{what}, so there are no planes to choose", where="--planes")
        mapping = self.own_scale(image.pixels)
        chosen = PLANES if planes == "all" else (planes or frame.plane,)
        done = [self._along(image, plane, mapping, _part(progress, k, len(chosen))) for k, plane in enumerate(chosen)]
        together = zip(*done, strict=True)  # map by map
        results = [parts[0] if len(parts) == 1 else np.median(np.stack(parts), axis=0) for parts in together]
        if frame.masked:
            self._mask(results, image.pixels, mapping)
        return [replace(image, pixels=np.asarray(pixels, dtype=np.float32)) for pixels in results]

    def stack(self, images: np.ndarray, mapping: Any, progress: Progress | None = None) -> list[np.ndarray]:
        """Native images (N, C, *spatial), consecutive slices where neighbours count, to (N, D, *spatial) a map."""
        frame = self.frame
        native = tuple(images.shape[2:])
        whole = frame.fit == "crop"
        fit = Resize(native, native if whole else frame.size, "pad" if whole else frame.fit)
        done: list[np.ndarray] = []
        filled = [i for i in range(len(images)) if np.nanmax(images[i]) > np.nanmin(images[i])]
        batches = [filled[first : first + frame.batch] for first in range(0, len(filled), frame.batch)]

        def ready(chosen: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
            natives = [self._with_neighbours(images, i) for i in chosen]
            return natives, np.stack([to_network(each, mapping, fit) for each in natives])

        def work(chosen: list[int], got: tuple[list[np.ndarray], np.ndarray]) -> tuple[list[np.ndarray], ...]:
            natives, seen = got
            outputs = np.split(self.run(seen), len(self.maps), axis=1)
            outputs = [np.split(each, 2 * frame.neighbours + 1, axis=1)[frame.neighbours] for each in outputs]
            if not done:
                empty = sorted({*range(len(images))} - {*filled})
                for each, kind in zip(outputs, self.maps, strict=True):
                    done.append(self._blank(images, empty, mapping, each.shape[1], kind))
            return natives, seen, outputs

        def away(chosen: list[int], made: tuple[list[np.ndarray], ...]) -> None:
            natives, seen, outputs = made
            for n, i in enumerate(chosen):
                for k, result in enumerate(self._native(natives[n], seen[n], [o[n] for o in outputs], mapping, fit)):
                    done[k][i] = result

        if not filled:  # the first tells how many channels come out
            work([0], ready([0]))
        for chosen, _ in staged(batches, ready, work, away, ahead=int(frame.pipelined and len(batches) > 1)):
            if progress and chosen is not batches[-1]:
                progress(chosen[-1] + 1, len(images))
        if progress:
            progress(len(images), len(images))
        return done

    def own_scale(self, pixels: np.ndarray) -> Any:
        """The mapping for a file: its own where the recipe says so, else the training set's where the file's values are
        on that scale, else its own all the same.

        MR has no units: another scanner's T1 may run to 4,000 where the training set's ran to 255. A file whose 99.5th
        percentile, of any channel, is below half or above twice the training set's is such a file.
        """
        fitted = self.source
        if getattr(fitted, "per", "set") != "set":
            return fitted.of(pixels)
        ends = np.full((len(pixels), *[1] * self.frame.dims), fitted.range[1], dtype=np.float32)
        expected = np.asarray(fitted.inverse(ends)).flatten()
        known = ~np.isnan(pixels.reshape(len(pixels), -1)).all(axis=1)
        top = np.array([np.nanpercentile(channel, 99.5) for channel in pixels[known]])
        ratio = top / np.where(expected[known] > 0, expected[known], np.nan)
        if np.all((ratio >= 0.5) & (ratio <= 2.0)):
            return fitted
        own = deepcopy(fitted)
        for line, part in zip(own.lines, pixels, strict=True) if isinstance(own, PerChannel) else [(own, pixels)]:
            if not np.isnan(part).any():
                line.fit([part])
        return own

    def check_channels(self, image: Image, where: str = "INPUT") -> None:
        """UserError where an image has other channels than those that the model was trained on."""
        if image.channels == self.frame.channels:
            return
        names = self.frame.source.split("+")
        remedy = "convert it, or train on images like it"
        if self.frame.channels == len(names) > 1:
            remedy = f"name a folder that holds one file for each of {', '.join(names)}"
        what = f"'{image.path}' has {image.channels} channels, and this run was trained on {self.frame.channels}"
        raise UserError(what, where=where, remedy=remedy)

    def _along(self, image: Image, plane: str, mapping: Any, progress: Progress | None) -> list[np.ndarray]:
        """(D, *spatial) on the image's grid for each map, a volume's slices taken along one plane."""
        view = SamplingGrid(plane, self.frame.spacing)
        seen = view.forward(image).pixels
        by_slice = self.frame.dims < image.dims
        done = self.stack(np.moveaxis(seen, 1, 0) if by_slice else seen[None], mapping, progress)
        done = [np.moveaxis(each, 0, 1) if by_slice else each[0] for each in done]
        if seen.size == image.pixels.size or self.frame.detail != "guided" or np.isnan(seen).any():
            return [view.inverse(each, image) for each in done]

        def enlarge(pixels: np.ndarray) -> np.ndarray:
            return view.inverse(pixels, image)

        return [
            with_detail(each, seen, image.pixels, enlarge) if kind == "image" else enlarge(each)
            for each, kind in zip(done, self.maps, strict=True)
        ]

    def _mask(self, results: list[np.ndarray], pixels: np.ndarray, mapping: Any) -> None:
        """Give results, in place, the target's value of what is exactly the same in all corners of the input."""
        corners = pixels[(slice(None), *np.ix_(*[[0, -1]] * (pixels.ndim - 1)))].reshape(len(pixels), -1)
        if not np.isfinite(corners).all() or np.ptp(corners, axis=1).any():
            return  # nothing was masked out
        level = corners[:, :1].reshape(-1, *[1] * (pixels.ndim - 1))
        outside = (pixels == level).all(axis=0)
        seen = mapping.forward(level.reshape(-1, *[1] * self.frame.dims))
        black = float(np.asarray(seen, dtype=np.float32).mean())
        for result, kind in zip(results, self.maps, strict=True):
            flat = np.full((len(result), *[1] * self.frame.dims), black, dtype=np.float32)
            values = np.asarray(self.target.inverse(flat)).ravel() if kind == "image" else np.zeros(len(result))
            for channel, value in zip(result, values, strict=True):
                channel[outside] = value

    def _native(self, native, seen, outputs, mapping, fit: Resize) -> list[np.ndarray]:
        """The maps (D, *size) of one image as (D, *native) in native intensities."""
        frame, results = self.frame, []
        reach, shown = frame.neighbours, None
        if fit.content != fit.native and frame.detail == "guided":
            low = np.split(seen, 2 * reach + 1)[reach]
            high = mapping.forward(np.split(native, 2 * reach + 1)[reach])
            shown = (low, np.where(np.isnan(high), frame.range[0], high))
        for output, kind in zip(outputs, self.maps, strict=True):
            larger = fit.inverse(output)
            if kind == "spread":
                middle, width = results[-1][1], np.maximum(larger, 0)
                ends = self.target.inverse(middle + width), self.target.inverse(middle - width)
                results.append((np.abs(ends[0] - ends[1]) / 2, larger))
                continue
            larger = with_detail(output, *shown, fit.inverse) if shown else larger
            results.append((self.target.inverse(larger), larger))
        return [np.asarray(result, dtype=np.float32) for result, _ in results]

    def _blank(self, images: np.ndarray, empty: list[int], mapping: Any, channels: int, kind: str) -> np.ndarray:
        """What images without any content (one value throughout) become, (N, D, *spatial), the others to be filled
        in: what the target has where the source has their value, black where that cannot be said."""
        native, frame = images.shape[2:], self.frame
        canvas = np.zeros((channels, len(images), *native), dtype=np.float32)  # as volumes are kept, planes second
        if kind == "image":
            black = np.full((channels, *[1] * frame.dims), frame.range[0], dtype=np.float32)
            same = channels == images.shape[1]
            for i in empty:
                level = images[i].reshape(channels, -1)[:, :1].reshape(black.shape) if same else black
                level = mapping.forward(level) if same and np.isfinite(level).all() else black
                canvas[:, i] = np.asarray(self.target.inverse(level)).reshape(channels, *[1] * len(native))
        return np.moveaxis(canvas, 1, 0)

    def _with_neighbours(self, images: np.ndarray, index: int) -> np.ndarray:
        """The image at `index` with its neighbours as channels, the outermost ones repeated."""
        reach = self.frame.neighbours
        if not reach:
            return images[index]
        places = np.clip(np.arange(index - reach, index + reach + 1), 0, len(images) - 1)
        return np.concatenate([images[place] for place in places])


def _part(progress: Progress | None, k: int, parts: int) -> Progress | None:
    """The progress of one of several passes over the same slices."""
    return progress and (lambda done, total: progress(k * total + done, parts * total))
