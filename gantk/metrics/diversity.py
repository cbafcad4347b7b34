"""How diverse a set of made images is, beside real ones."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import torch

from gantk.metrics.bootstrap import left_out_interval
from gantk.metrics.pairs import MSSSIM
from gantk.metrics.sets import ImageGroup, Score, enough

PAIRS = 512  # pairs of images that are looked at


class Diversity:
    """How different the fakes are from each other, in units of how different real images are: 1 is as diverse, 0 alike.

    Mean of 1 - MS-SSIM, or of the absolute difference, over up to 512 seeded pairs of fakes, divided by the same of
    held-out real images of different patients. Above 1 is not better: noise is diverse.
    """

    sets = True
    name, unit, higher_is_better = "diversity", "", None

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        distance: Literal["ms_ssim", "l1"] = "ms_ssim",  # 1 - MS-SSIM, from 11 pixels a side on; or mean difference
    ):
        self.distance, self.similarity = distance, MSSSIM(data_range, dims)

    @property
    def definition(self) -> str:
        return f"diversity/{'1-ms_ssim' if self.distance == 'ms_ssim' else 'l1'}/relative-to-real-images"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        enough(self.name, test, fake)
        reals, fakes = self._pairs(test), self._pairs(fake)
        if not len(reals[0]) or not reals[1].any():
            return Score(None, None, len(fake), f"{self.definition}/n={len(fake)},real={len(test)}/real-images-alike")

        def ratio(kept_real: np.ndarray, kept_fake: np.ndarray) -> float:
            return _mean_of(fakes, kept_fake) / max(_mean_of(reals, kept_real), 1e-12)

        value = ratio(np.arange(len(test)), np.arange(len(fake)))
        ci95 = left_out_interval(ratio, test.patients, fake.patients)
        how = f"n={len(fake)},real={len(test)}/pairs={len(fakes[0])},{len(reals[0])}"
        return Score(value, ci95, len(fake), f"{self.definition}/{how}")

    def _pairs(self, group: ImageGroup) -> tuple[np.ndarray, np.ndarray]:
        """((P, 2) indices, (P,) distances) of pairs of different patients; of any, where all are one patient's."""
        pairs = different_pairs(group.patients)
        values = []
        for part in np.array_split(pairs, max(1, -(-len(pairs) // 32))):
            x, y = (group.images[torch.as_tensor(part[:, side])].float() for side in (0, 1))
            alike = self.similarity(x, y) if self.distance == "ms_ssim" else 1 - (x - y).abs().flatten(1).mean(1)
            values.append((1 - alike).double().cpu().numpy())
        return pairs, np.concatenate(values)


def different_pairs(patients: list[str]) -> np.ndarray:
    """Up to 512 seeded pairs of indices, (P, 2), of images of different patients."""
    count = len(patients)
    if count * (count - 1) // 2 <= 16 * PAIRS:
        pairs = np.array(list(itertools.combinations(range(count), 2)))
    else:
        pairs = np.random.default_rng(0).integers(0, count, (16 * PAIRS, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    apart = np.array([not patients[i] or patients[i] != patients[j] for i, j in pairs])
    pairs = pairs[apart] if apart.any() else pairs
    return np.random.default_rng(1).permutation(pairs)[:PAIRS]


def _mean_of(pairs: tuple[np.ndarray, np.ndarray], kept: np.ndarray) -> float:
    inside = np.isin(pairs[0], kept).all(1)
    return float(pairs[1][inside].mean()) if inside.any() else float(pairs[1].mean())
