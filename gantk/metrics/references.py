"""What the held-out images of a run should become: images, patients, volumes, lesions, foreground, native units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.items import Record
from gantk.metrics.pair_scores import Truth
from gantk.metrics.reals import lesion_mask
from gantk.metrics.uncertainty import foreground
from gantk.metrics.units import units_of

OTHER = {"a": "b", "b": "a"}


class Truths:
    """The truth of pairs of a run's records; `load` gives a record as it is scored, (C, *size)."""

    def __init__(self, data: Data, load: Callable[[Record], Tensor]):
        self.data, self.load = data, load
        self.low, self.span = data.range[0], data.range[1] - data.range[0]

    def images(self, pairs: Sequence[dict[str, Record]], to: str) -> Truth:
        """Domain `to` of these pairs: images and patients alone."""
        images = torch.stack([self.load(pair[to]) for pair in pairs])
        return Truth(images, [pair[to].subject for pair in pairs])

    def whole(self, pairs: Sequence[dict[str, Record]], to: str, sources: Tensor) -> Truth:
        """Domain `to` of these pairs, with all that is known of them; `sources` (N, C, *size) as they are shown."""
        plain, records = self.images(pairs, to), [pair[to] for pair in pairs]
        masks = self._masks([pair[to] if pair[to].mask else pair[OTHER[to]] for pair in pairs])
        inside = foreground(sources, plain.images, low=self.low, data_range=self.span)
        volumes = [volume_of(record) for record in records]
        units = units_of(self.data, records, to)
        return Truth(plain.images, plain.patients, masks, inside, volumes, units)

    def _masks(self, records: Sequence[Record]) -> Tensor | None:
        """(N, 1, *size), 1 where the larger part of a pixel is lesion; None where no image shows one."""
        masks = [lesion_mask(self.data, record) for record in records]
        return torch.stack(masks) if any(mask.any() for mask in masks) else None


def volume_of(record: Record) -> str:
    """The scan that a record is a slice of: by its key, else its patient's only one; "" where neither is known."""
    return f"{record.subject}/{record.scan_key}" if record.scan_key else record.subject
