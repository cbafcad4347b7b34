"""Measures how different generated images are from each other, relative to real images."""

from __future__ import annotations

import numpy as np
import torch

from gantk.errors import UserError
from gantk.metrics.intervals import left_out_interval, patient_numbers
from gantk.metrics.sets import ImageGroup, SetMetric, require_images
from gantk.runs.results import Score
from gantk_scores.sets.ms_ssim import MSSSIM

MAX_PAIRS = 512  # most pairs of images that are compared


class Diversity(SetMetric):
    """Diversity of the generated images relative to real images: 1 is equally diverse, 0 is no
    diversity.

    It is the mean of 1 - MS-SSIM (sides of 11 pixels or more) over up to 512 seeded pairs of
    generated images, divided by the same mean of held-out real images of different patients. Above
    1 is not better: noise is also diverse.
    """

    name = "diversity"
    unit = ""
    higher_is_better = None
    definition = "diversity/1-ms_ssim/relative-to-real-images"

    def __init__(self, data_range: float, dims: int):
        self.similarity = MSSSIM(data_range, dims)

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        require_images(self.name, test, fake)
        pairs, apart = self._pairs(test)
        fakes, differ = self._pairs(fake)
        how = f"{self.definition}/n={len(fake)},real={len(test)}"
        if not len(pairs) or not apart.any():
            raise UserError("the real images are all alike")

        def mean(pairs: np.ndarray, distances: np.ndarray, kept: np.ndarray) -> float:
            inside = kept[pairs].all(1)
            return float(distances[inside].mean() if inside.any() else distances.mean())

        def ratio(kept_real: np.ndarray, kept_fake: np.ndarray) -> float:
            return mean(fakes, differ, kept_fake) / max(mean(pairs, apart, kept_real), 1e-12)

        value, ci95 = left_out_interval(ratio, test.patients, fake.patients)
        return Score(
            value=value,
            ci95=ci95,
            definition=f"{how}/pairs={len(fakes)},{len(pairs)}",
        )

    def _pairs(self, group: ImageGroup) -> tuple[np.ndarray, np.ndarray]:
        """((P, 2) indices, (P,) distances) of pairs of different patients; of any pairs if there is
        one patient.
        """
        pairs = different_pairs(group.patients)
        values = []
        for part in np.array_split(pairs, max(1, -(-len(pairs) // 32))):
            x, y = (group.images[torch.as_tensor(part[:, side])].float() for side in (0, 1))
            values.append((1 - self.similarity(x, y)).double().cpu().numpy())

        return pairs, np.concatenate(values)


def different_pairs(patients: list[str]) -> np.ndarray:
    """Up to 512 seeded pairs of indices, (P, 2), of different patients' images; any pairs if there
    is one patient.
    """
    pairs = np.stack(np.triu_indices(len(patients), 1), 1)
    numbers = patient_numbers(patients)
    apart = numbers[pairs[:, 0]] != numbers[pairs[:, 1]]
    return np.random.default_rng(1).permutation(pairs[apart] if apart.any() else pairs)[:MAX_PAIRS]
