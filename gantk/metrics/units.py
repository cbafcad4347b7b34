"""The intensities that images had in their files: what an error of 0.1 is in Hounsfield units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.intensity import PerChannel
from gantk.data.items import Record
from gantk.formats.files import is_image, is_volume

CT = re.compile(r"(^|[^a-z])(s|p|cb|ld|nd|nc|ce)?ct([^a-z]|$)")  # "CT", "sCT", "CBCT", "low-dose CT"
AIR = -200.0  # a scale whose black lies below this is one of Hounsfield units: fat ends at about -120


@dataclass(frozen=True)
class Units:
    """The intensities of one domain's files: `name` is "HU" or "native", `mappings` lead there, one for each image."""

    name: str
    mappings: Sequence[Any]

    def native(self, images: Tensor, first: int = 0) -> Tensor:
        """Images (N, C, *size) from network to native intensities; the first of them belongs to mapping `first`."""
        mappings = self.mappings[first : first + len(images)]
        if all(mapping is mappings[0] for mapping in mappings):
            return mappings[0].inverse(images)
        return torch.stack([one.inverse(image) for one, image in zip(mappings, images, strict=True)])


def units_of(data: Data, records: Sequence[Record], letter: str) -> Units | None:
    """The intensities of these records' files, each by the mapping that its own image was read with.

    None for a domain of several contrasts, which have no common scale.
    """
    intensity = data.intensity[letter]
    if isinstance(intensity, PerChannel) and len(intensity.names) > 1:
        return None
    mappings = [_mapping(data, record, intensity) for record in records]
    name = dict(zip(data.letters, data.table.domains, strict=True))[letter]
    return Units("HU" if _hounsfield(name, records, mappings) else "native", mappings)


def _mapping(data: Data, record: Record, intensity: Any) -> Any:
    if getattr(intensity, "per", "set") == "image":
        return intensity.own(intensity.measure(data.preparation.to_size(record)))
    return data.preparation.mapping(record, intensity)


def _hounsfield(domain: str, records: Sequence[Record], mappings: Sequence[Any]) -> bool:
    """A domain called CT whose window was chosen by hand, or whose black is air; pictures never hold such values."""
    pictures = any(is_image(r.path) and not is_volume(r.path) for r in records if r.path)
    if not CT.search(domain.lower()) or pictures:
        return False
    if all(getattr(mapping, "name", "") == "window" for mapping in mappings):
        return True
    blacks = [float(mapping.inverse(torch.tensor([[[mapping.range[0]]]]))) for mapping in mappings[:16]]
    return max(blacks, default=0.0) < AIR
