"""The real images that generated ones are compared with: sets, registered references, masks, native
intensities.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.catalog.contrasts import usual_contrast, words_of
from gantk.data.dataset import Data
from gantk.data.intensity import IntensityMapping
from gantk.data.preparation import Pair, Record
from gantk.data.spread import spread
from gantk.formats.files import is_image, is_volume
from gantk.method import OTHER
from gantk.metrics.pair_scores import References, foreground
from gantk.metrics.sets import FEW_IMAGES, ImageGroup
from gantk.progress import track

MAX_SET_IMAGES = 1024  # of more images, an evenly spaced choice
MAX_SET_BYTES = 2**30  # so that a set has fewer volumes than images
MAX_CURVE_IMAGES = 64  # images per set, for scores while training
MAX_CURVE_BYTES = 2**28
# synthetic and planning CT, in lower case: as names of domains only, as a patient may have a CT too
KINDS_OF_CT = {"sct", "pct"}
HOUNSFIELD_BLACK = (
    -200.0
)  # a scale with black below this is in Hounsfield units: fat ends at about -120


def image_with_mask(pair: Pair, to: str) -> Record:
    """The image of a pair whose lesion mask counts: the truth in domain `to` if it has one, else the
    source.
    """
    truth = pair.get(to)
    return truth if truth and truth.mask else pair[OTHER[to]]


class RealImages:
    """The real images of a run: as network inputs, as they are scored, and as sets, with
    intensities from 0 (black).

    If images are larger than what the method makes (patches), each adds one window at a seeded
    position to a set.
    """

    masks = False  # whether sets include lesion masks, which are read only if a metric needs them

    def __init__(self, data: Data, device: Any):
        self.data = data
        self.device = device
        self._sets: dict[Any, ImageGroup] = {}

    def records(self, split: str, letter: str) -> list[Record]:
        """The records of a split and domain, without generated images."""
        return real_records(self.data.splits[split], letter)

    def training(self, letter: str) -> list[Record]:
        """The training records of a domain; in unpaired training without one side of each pair."""
        return [record for record in self.data.training if record.domain == letter]

    def test_images(self, letter: str) -> Tensor:
        """Test images as they are scored, an evenly spaced choice of many; training images where
        none are held out.
        """
        records = self.records("test", letter) or self.records("train", letter)
        count = number_that_fits(MAX_SET_IMAGES, MAX_SET_BYTES, self.data.table.size)
        return self.scored_images(spread(records, count))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes of real images; batch labels index those of the data, the first."""
        records = chain.from_iterable(self.data.splits.values())
        labels = {record.label for record in records if record.label is not None}
        return (*self.data.classes, *sorted(labels - {*self.data.classes}))

    def network_inputs(self, records: Sequence[Record]) -> Tensor:
        """Images as network inputs, with neighbouring slices: (N, C, *size)."""
        return torch.stack([self.data.image(record) for record in track(records, "reading")])

    def scored_images(self, records: Sequence[Record]) -> Tensor:
        """Images as they are shown and scored, without neighbouring slices: (N, C, *size)."""
        return torch.stack(
            [
                self.data.centre(self.data.image(record)[None])[0]  # neighbours of one at a time
                for record in track(records, "reading")
            ]
        )

    def noise(self, letter: str, count: int) -> Tensor:
        """Noise images: each pixel is drawn independently, with its mean and deviation over the
        training images.
        """
        images = self.scored_images(spread(self.records("train", letter), MAX_SET_IMAGES // 4))
        mean = images.mean(0)
        deviation = images.std(0, correction=0)
        drawn = torch.randn(count, *mean.shape, generator=torch.Generator().manual_seed(0))
        return windows((mean + deviation * drawn).clamp(*self.data.range), self.data.table.patch)

    def record_with_mask(self, record: Record) -> Record | None:
        """The record itself if it has a lesion mask, else a registered record with one; None if
        there is none.
        """
        if record.mask is not None:
            return record
        return self._masked_pairs.get(record.pair) if record.pair else None

    @cached_property
    def _masked_pairs(self) -> dict[str, Record]:
        return {
            r.pair: r
            for records in self.data.splits.values()
            for r in records
            if r.pair and r.mask is not None
        }

    def masks_of(self, records: Sequence[Record]) -> Tensor | None:
        """Lesion masks (N, 1, *size) of 0 and 1, nan for images without a mask; None if no mask
        shows a lesion.
        """
        masks = []
        for record in records:
            masked = self.record_with_mask(record)
            if masked is None:
                masks.append(torch.full((1, *self.data.table.size), torch.nan))
            else:
                masks.append(self._mask(masked))

        return torch.stack(masks) if any((mask > 0).any() for mask in masks) else None

    def _mask(self, record: Record) -> Tensor:
        """The mask (1, *size): 1 where most of a pixel is lesion; all 0 without a mask."""
        mask = self.data.preparation.mask(record)
        if mask is None:
            return torch.zeros(1, *self.data.table.size)
        return (torch.from_numpy(mask) > 0.5).float()

    def references(
        self, pairs: Sequence[dict[str, Record]], to: str, sources: Tensor | None = None
    ) -> References:
        """References in domain `to` of pairs; with `sources` (N, C, *size) also masks and
        units.
        """
        records = [pair[to] for pair in pairs]
        images = self.scored_images(records)
        patients = [record.subject for record in records]
        names = [pair[OTHER[to]].key for pair in pairs]
        if sources is None:
            return References(images, patients, names=names)

        tissue = self.data.intensity[to].tissue
        tissue_of_sources = self.data.intensity[OTHER[to]].tissue
        masks = torch.stack([self._mask(image_with_mask(pair, to)) for pair in pairs])
        return References(
            images,
            patients,
            masks=masks if masks.any() else None,
            foreground=foreground((sources, tissue_of_sources), (images, tissue)),
            units=units_of(self.data, records, to),
            above=self._shares([*tissue, *tissue_of_sources]),
            names=names,
        )

    def _shares(self, levels: Sequence[float]) -> str:
        """Network intensities as shares of the range, such as `5%`, for a definition."""
        low, high = self.data.range
        return "-and-".join(sorted({f"{(level - low) / (high - low):.0%}" for level in levels}))

    def group(
        self, images: Tensor, records: Sequence[Record] = (), labels: Tensor | None = None
    ) -> ImageGroup:
        """Images in network intensities as a set: those of `records`, or else each of a patient of
        its own.
        """
        masks = None
        drawn = [f"drawn {number}" for number in range(len(images))]
        patients = [record.subject for record in records] or drawn
        if records and self.classes:
            names = [record.label for record in records]
            # -1 where the class is unknown
            places = [-1 if name is None else self.classes.index(name) for name in names]
            labels = torch.tensor(places)
        if records and self.masks:
            masks = self.masks_of(records)
        if masks is not None:
            masks = windows(masks, images.shape[2:])  # cut out as the images were

        return ImageGroup((images - self.data.range[0]).to(self.device), patients, labels, masks)

    def sets(self, letter: str, size: tuple[int, ...]) -> tuple[ImageGroup, ImageGroup, str]:
        """Sets of training and of held-out images, and a note for the scores' definitions; one set
        twice where none are held out, or all images are in both.
        """
        known = self.records("train", letter)
        held_out = self.records("test", letter)
        train = self._set(known, ("train", letter), size)
        if _places(known) == _places(held_out):
            return train, train, "/training-and-test-images-are-the-same"

        test = None
        if held_out:
            test = self._set(held_out, ("test", letter), size)
        if test is None or len(test) < 2:
            return train, train, "/against-training-images-as-none-are-held-out"

        note = f"/only-{len(test)}-held-out" if len(test) < FEW_IMAGES else ""
        return train, test, note

    def curve_records(self, split: str, letter: str) -> list[Record]:
        """A few records of a set, to score while training; generated ones where none is real."""
        records = self.records(split, letter) or self.training(letter)
        size = self.data.table.size
        return spread(records, number_that_fits(MAX_CURVE_IMAGES, MAX_CURVE_BYTES, size, least=8))

    def curve_set(self, split: str, letter: str) -> ImageGroup:
        """A small set of images, to score while training."""
        size = tuple(self.data.table.patch or self.data.table.size)
        return self._set(self.curve_records(split, letter), ("curve", split, letter), size)

    def _set(self, records: list[Record], name: tuple, size: tuple[int, ...]) -> ImageGroup:
        """The set of some records, read once; `name` says which records they are."""
        key = (*name, tuple(size))
        if key not in self._sets:
            records = spread(
                records, number_that_fits(MAX_SET_IMAGES, MAX_SET_BYTES, self.data.table.size)
            )
            self._sets[key] = self.group(windows(self.scored_images(records), size), records)
        return self._sets[key]


def _places(records: Sequence[Record]) -> set[tuple[Any, str]]:
    """Where each record's image is read from."""
    return {(record.path, record.key) for record in records}


def windows(images: Tensor, size: Sequence[int] | None) -> Tensor:
    """One window (N, C, *size) of each image, at seeded positions; images of that size are returned
    unchanged.
    """
    if size is None or tuple(images.shape[2:]) == tuple(size):
        return images

    rng = np.random.default_rng(0)
    cut = []
    for image in images:
        for axis, side in enumerate(size, 1):
            first = int(rng.integers(image.shape[axis] - side + 1))
            image = image.narrow(axis, first, side)
        cut.append(image)

    return torch.stack(cut)


def real_records(records: Sequence[Record], letter: str) -> list[Record]:
    """The records of a domain, without generated images."""
    return [record for record in records if record.domain == letter and record.for_scores]


def number_that_fits(most: int, memory: int, size: Sequence[int], least: int = 2) -> int:
    """The number of float32 images for a set: `most`, or as many as fit into `memory` bytes; at
    least `least`.
    """
    return max(least, min(most, memory // (4 * math.prod(size))))


@dataclass(frozen=True)
class Units:
    """The intensity unit of a domain's files, "HU" or "native", with each image's mapping to it."""

    name: str
    mappings: Sequence[Any]

    def native(self, images: Tensor, first: int = 0) -> Tensor:
        """Convert images (N, C, *size) from network to native intensities; the first one has
        mapping number `first`.
        """
        mappings = self.mappings[first : first + len(images)]
        return torch.stack(
            [one.inverse(image) for one, image in zip(mappings, images, strict=True)]
        )


def units_of(
    data: Data,
    records: Sequence[Record],
    letter: str,
    intensity: IntensityMapping | None = None,
) -> Units | None:
    """The units of these records' files; None for a domain of several contrasts, which have no
    common scale. `intensity`: the mapping, if it is not that of the domain.
    """
    intensity = intensity or data.intensity[letter]
    preparation = data.preparation
    if len(intensity.lines) > 1:
        return None

    mappings = [preparation.mapping(record, intensity) for record in records]
    domain = data.table.domains[data.letters.index(letter)]
    return Units("HU" if in_hounsfield(domain, records, mappings) else "native", mappings)


def in_hounsfield(domain: str, records: Sequence[Record], mappings: Sequence[Any]) -> bool:
    """Whether files hold Hounsfield units: of a domain named CT whose intensity window was set in the
    recipe, or whose black is air.
    """
    words = {word.lower() for word in words_of(domain)}
    is_ct = usual_contrast(domain) in ("ct", "cbct") or words & KINDS_OF_CT
    if not is_ct or any(is_image(r.path) and not is_volume(r.path) for r in records if r.path):
        return False
    if all(each.name == "window" for each in mappings):
        return True
    blacks = [float(each.inverse(torch.tensor([[[each.range[0]]]]))) for each in mappings[:16]]
    return max(blacks) < HOUNSFIELD_BLACK


def of_all_scans(mapping: IntensityMapping) -> IntensityMapping:
    """The mapping of the training set, by which results are mapped back, also where each scan is
    mapped by its own figures.
    """
    own = copy.deepcopy(mapping)
    for each in (own, *own.lines):
        each.per = "set"
    return own
