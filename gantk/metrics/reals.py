"""Sets of real images that made ones are compared with: training images, held-out ones, and noise like them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.items import Record
from gantk.metrics.sets import ImageGroup

MOST = 1024  # images of a set; more are thinned evenly
BYTES = 2**30  # of a set, which for volumes is fewer
CURVE = 64  # real images of a set for scores while training
FEW = 32  # held-out images, below which a definition says so


class RealImages:
    """The real images of a run as set metrics take them: counted from black, at the fakes' size, with their classes.

    Where images are larger than what is made (a method of patches), each gives one window at a seeded place. `masks`
    says whether the sets come with their lesion masks, which costs reading them: where a metric needs them.
    """

    masks = False

    def __init__(self, data: Data, load: Callable[[Record], Tensor], device: Any):
        self.data, self.load, self.device = data, load, device
        self._known: dict[Any, ImageGroup] = {}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes of real images, those that were left out of training included."""
        known = [record for splits in (self.data.splits, self.others) for each in splits.values() for record in each]
        return self.data.classes or tuple(sorted({record.label for record in known if record.label is not None}))

    @cached_property
    def others(self) -> dict[str, list[Record]]:
        """By split, the records of classes that the source was told to leave out (`only`).

        A patient stays in the split that the training of the generator put it in; new ones are shared out alike.
        """
        part, table = self.data.table.source, self.data.table
        default = getattr(inspect.signature(part.target).parameters.get("only"), "default", None)
        if table.neighbours or part.options.get("only", default) == default:
            return {}
        whole = replace(part, options=part.options | {"only": default})(table.domains, table.dims, table.size).records()
        own = {(record.domain, record.key) for records in self.data.splits.values() for record in records}
        left = [record for record in whole if (record.domain, record.key) not in own]
        place = {r.subject: name for name, records in self.data.splits.items() for r in records if r.subject}
        units = sorted({record.subject or record.key for record in left} - place.keys())
        order = np.random.default_rng(table.split.seed).permutation(len(units))
        test = round(table.split.test * len(units))
        validation = test + round(table.split.validation * len(units))
        for rank, unit in enumerate(order):
            place[units[unit]] = "test" if rank < test else "validation" if rank < validation else "train"
        return {name: [r for r in left if place[r.subject or r.key] == name] for name in self.data.splits}

    def records(self, split: str, letter: str) -> list[Record]:
        """The records of a split and domain."""
        return [record for record in self.data.splits[split] if record.domain == letter]

    def labelled(self, split: str, letter: str) -> list[Record]:
        """Records of a split whose class is known, of all classes."""
        records = [*self.records(split, letter), *(r for r in self.others.get(split, ()) if r.domain == letter)]
        return [record for record in records if record.label is not None]

    def sets(self, letter: str, size: tuple[int, ...], all_classes: bool = False) -> tuple[ImageGroup, ImageGroup, str]:
        """Training images, held-out images, and what their definition must say: against what, and how few.

        `all_classes`: those alone whose class is known, and of classes that training left out too.
        """
        find = self.labelled if all_classes else self.records
        train, test = (self._of(find(split, letter), (split, letter, all_classes), size) for split in ("train", "test"))
        if test is None or len(test) < 2:
            return train, train, "/against-training-images-as-none-are-held-out"
        return train, test, f"/only-{len(test)}-held-out" if len(test) < FEW else ""

    def for_curves(self, letter: str) -> tuple[ImageGroup, ImageGroup]:
        """A few training images, and validation images to compare with; training images where those are too few."""
        size = tuple(self.data.table.patch or self.data.table.size)
        validation = spread(self.records("validation", letter), CURVE)
        train = self._of(spread(self.records("train", letter), CURVE), ("curve", letter), size)
        enough = len(validation) >= FEW // 2
        return train, self._of(validation, ("validation", letter), size) if enough else train

    def group(
        self, images: Tensor, patients: list[str], labels: Tensor | None = None, masks: Tensor | None = None
    ) -> ImageGroup:
        """Images in network intensities as a set."""
        return ImageGroup((images - self.data.range[0]).to(self.device), patients, labels, masks)

    def noise(self, letter: str, count: int) -> Tensor:
        """Every pixel drawn by itself, with its own mean and deviation over the training images."""
        images = self._images(spread(self.records("train", letter), MOST // 4))
        mean, deviation = images.mean(0), images.std(0, correction=0)
        drawn = torch.randn(count, *mean.shape, generator=torch.Generator().manual_seed(0))
        return windows((mean + deviation * drawn).clamp(*self.data.range), self.data.table.patch)

    def labels_of(self, records: Sequence[Record]) -> Tensor | None:
        """(N,) indices into the classes, -1 where unknown; None where there are no classes."""
        if not self.classes:
            return None
        return torch.tensor([self.classes.index(r.label) if r.label is not None else -1 for r in records])

    def masked(self, record: Record) -> Record | None:
        """The record itself where it has a lesion mask, else one registered with it that has; None where none has."""
        return record if record.mask is not None else self._mask_of_pair.get(record.pair)

    def masks_of(self, records: Sequence[Record]) -> Tensor | None:
        """(N, 1, *size) of 0 and 1, nan for an image of which nobody drew a mask; None where none shows a lesion."""
        unknown = torch.full((1, *self.data.table.size), torch.nan)
        drawn = [self.masked(record) for record in records]
        masks = [None if record is None else lesion_mask(self.data, record) for record in drawn]
        if not any(mask is not None and mask.any() for mask in masks):
            return None
        return torch.stack([unknown if mask is None else mask for mask in masks])

    @cached_property
    def _mask_of_pair(self) -> dict[str, Record]:
        known = (record for records in self.data.splits.values() for record in records)
        return {record.pair: record for record in known if record.pair is not None and record.mask is not None}

    def only_label(self, letter: str, count: int) -> Tensor | None:
        """The class of images made by a method that was trained on one class alone; None where it was not."""
        labels = {record.label for record in self.data.training if record.domain == letter}
        alone = labels.pop() if len(labels) == 1 else None
        return None if alone is None else torch.full((count,), self.classes.index(alone))

    def _of(self, records: list[Record], name: tuple, size: tuple[int, ...]) -> ImageGroup | None:
        key = (*name, tuple(size))
        if key not in self._known and records:
            chosen = spread(records, min(MOST, max(2, BYTES // (4 * int(np.prod(self.data.table.size))))))
            images, masks = windows(self._images(chosen), size), self.masks_of(chosen) if self.masks else None
            masks = None if masks is None else windows(masks, size)  # at the images' places: as many, as large
            self._known[key] = self.group(images, [r.subject for r in chosen], self.labels_of(chosen), masks)
        return self._known.get(key)

    def _images(self, records: Sequence[Record]) -> Tensor:
        return torch.stack([self.load(record) for record in records])


def lesion_mask(data: Data, record: Record) -> Tensor:
    """(1, *size), 1 where the larger part of a pixel is lesion; all 0 where the record has no mask."""
    mask = data.preparation.mask(record)
    return torch.zeros(1, *data.table.size) if mask is None else (torch.from_numpy(mask) > 0.5).float()


def windows(images: Tensor, size: tuple[int, ...] | None) -> Tensor:
    """One window (N, C, *size) of each image, at seeded places; the images themselves where they have that size."""
    if size is None or tuple(images.shape[2:]) == tuple(size):
        return images
    rng, cut = np.random.default_rng(0), []
    for image in images:
        starts = [rng.integers(side - shown + 1) for side, shown in zip(image.shape[1:], size, strict=True)]
        box = tuple(slice(int(at), int(at) + shown) for at, shown in zip(starts, size, strict=True))
        cut.append(image[(slice(None), *box)])
    return torch.stack(cut)


def spread(items: Sequence, count: int) -> list:
    """At most `count` items, evenly spread over the list."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
