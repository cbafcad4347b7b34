"""What became of a lesion: whether it still stands out from its surroundings as it should."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.pairs import PairMetric, region_mean

RING = 5  # pixels around a lesion that it is compared with
FAINT = 0.02  # of the data range: a lesion that differs by less in the truth has no contrast to be kept


class LesionContrast(PairMetric):
    """Lesion minus surroundings, in the output, as a share of the same in the truth: 1 is kept, 0 gone, -1 inverted.

    Surroundings are the 5 pixels around the mask. Of several channels it is the factor that brings the truth's
    differences closest to the output's in mean square. An image without a lesion, or whose lesion is invisible in the
    truth (less than 2 % of the range), scores nan.
    """

    name, unit, higher_is_better = "lesion_contrast", "", None

    @property
    def in_mask(self) -> str:
        return f"lesion_contrast/ring-of-{RING}-pixels/output-over-truth/seen-above-{FAINT:g}-of-range"

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            raise UserError("lesion_contrast needs lesion masks", where="evaluate.metrics")
        grown = F.max_pool2d if self.dims == 2 else F.max_pool3d
        inside = mask[:, :1].float()
        ring = (grown(inside, 2 * RING + 1, 1, RING) - inside) > 0
        made, real = (self._contrast(image, inside > 0, ring) for image in (output, truth))
        factor = (made * real).sum(1) / real.square().sum(1)
        return torch.where(real.abs().amax(1) < FAINT * self.data_range, torch.nan, factor)

    @staticmethod
    def _contrast(image: Tensor, inside: Tensor, ring: Tensor) -> Tensor:
        """(N, C)"""
        channels = image.split(1, 1)
        return torch.stack([region_mean(c, inside) - region_mean(c, ring) for c in channels], 1)
