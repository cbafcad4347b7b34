"""What scores of an output against its truth share: one number an image, over the whole of it or over a region.

The data range is the recipe's, the same for every image and every run: a score that divides by an image's own maximum
can be raised by an outlier, and cannot be compared between papers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gantk.errors import UserError


class PairMetric:
    """A score of images (N, C, *size) against their truth: (N,), float32, on the images' device.

    `mask` (N, 1, *size) or (N, C, *size), above 0 inside, limits the score to a region; an image whose mask is empty
    scores nan. Nothing is clipped. UserError where shapes differ.
    """

    name: str
    unit: str
    higher_is_better: bool | None

    def __init__(self, data_range: float, dims: int):
        if data_range <= 0:
            raise UserError(f"a data range of {data_range:g} cannot be", where="data_range", allowed="above 0")
        self.data_range, self.dims = float(data_range), dims

    @property
    def definition(self) -> str:
        """How the number was made, as it stands beside it; `in_mask` is the same over a mask."""
        return f"{self._method()}/whole-image"

    @property
    def in_mask(self) -> str | None:
        """None for a score that cannot be limited to a mask."""
        return f"{self._method()}/mask"

    def __call__(self, output: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
        self._expect_alike(output, truth)
        if mask is not None and self.in_mask is None:
            raise UserError(f"{self.name} cannot be limited to a mask", where="evaluate.regions")
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            return self._score(output.float(), truth.float(), expanded(mask, output))

    def expect_size(self, size: Sequence[int]) -> None:
        """UserError where images of this size cannot be judged."""

    def _expect_alike(self, output: Tensor, truth: Tensor) -> None:
        if output.shape != truth.shape or output.ndim != self.dims + 2:
            shapes = f"{tuple(output.shape)} with {tuple(truth.shape)}"
            raise UserError(f"{self.name} cannot compare {shapes}", allowed=f"two {self.dims}-D (N, C, ...)")
        self.expect_size(output.shape[2:])

    def _method(self) -> str:
        return f"{self.name}/fixed-range-{self.data_range:g}"

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError


class MapMetric(PairMetric):
    """A score that follows from the mean of a map: one map serves all regions, and slices pool to their volume."""

    def means(self, output: Tensor, truth: Tensor, masks: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        """For each mask (None: the whole image) the map's mean over it, and of how many values that is: (N,) each."""
        self._expect_alike(output, truth)
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            found = self._map(output.float(), truth.float())
            insides = [self._seen(expanded(mask, output)) for mask in masks]
            return [(region_mean(found, inside), region_count(found, inside)) for inside in insides]

    def of_mean(self, mean: Tensor) -> Tensor:
        """The score of a map's mean."""
        return mean

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        return self.of_mean(region_mean(self._map(output, truth), self._seen(mask)))

    def _map(self, output: Tensor, truth: Tensor) -> Tensor:
        raise NotImplementedError

    def _seen(self, mask: Tensor | None) -> Tensor | None:
        """The mask on the places of the map."""
        return mask


def expanded(mask: Tensor | None, images: Tensor) -> Tensor | None:
    """A mask as bools, one for each value of the images."""
    return None if mask is None else (mask > 0).expand_as(images)


def region_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each image over all its channels and positions, or those inside the mask: (N,)."""
    if mask is None:
        return values.flatten(1).mean(1)
    return torch.where(mask, values, 0).flatten(1).sum(1) / region_count(values, mask)


def region_count(values: Tensor, mask: Tensor | None) -> Tensor:
    """Over how many values `region_mean` is a mean: (N,)."""
    if mask is None:
        return torch.full((len(values),), float(values[0].numel()), device=values.device)
    return mask.flatten(1).sum(1).float()
