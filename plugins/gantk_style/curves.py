"""The losses of a style transfer over its optimisation steps."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor


class LossCurves:
    """Mean losses of all images that were optimised, by name, before each step and after the last.

    `watch` is the callback of `gantk_style.transfer.transfer`; batches may follow each other.
    """

    def __init__(self):
        self.images = 0
        self._sums: dict[str, list[Tensor]] = defaultdict(list)  # by loss, for each step

    def watch(self, step: int, losses: dict[str, Tensor]) -> None:
        """Add the losses (N,) of a batch by name, after `step` steps."""
        for name, each in losses.items():
            sums = self._sums[name]
            if step == len(sums):
                sums.append(torch.zeros((), device=each.device))
            sums[step] += each.sum()
        if step == 0:
            self.images += len(each)

    def means(self) -> dict[str, list[float]]:
        """Loss -> its mean over the images, for step 0, 1, ..."""
        return {
            name: [float(f"{float(total) / self.images:.6g}") for total in sums]
            for name, sums in self._sums.items()
        }

    def record(self) -> dict[str, Any]:
        """What metrics.json and other files keep: number of images, and the means."""
        return {"name": "style", "images": self.images, "curves": self.means()}
