"""The losses of a style transfer over its optimisation steps."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor


class LossCurves:
    """Mean losses of all images that were optimised, by name, before each step and after the last.

    `watch` is the callback of `gantk_style.transfer.transfer`; batches may follow each other.
    """

    def __init__(self):
        self._images: dict[int, int] = defaultdict(int)  # by step
        self._sums: dict[str, dict[int, Tensor]] = {}  # by loss and step

    def watch(self, step: int, losses: dict[str, Tensor]) -> None:
        """Add the losses (N,) of a batch by name, after `step` steps."""
        self._images[step] += len(next(iter(losses.values())))
        for name, each in losses.items():
            sums = self._sums.setdefault(name, {})
            sums[step] = sums.get(step, 0.0) + each.sum()

    def means(self) -> dict[str, list[float]]:
        """Loss -> its mean over the images, for step 0, 1, ..."""
        return {
            name: [
                float(f"{float(total) / self._images[step]:.6g}")
                for step, total in sorted(sums.items())
            ]
            for name, sums in self._sums.items()
        }

    def record(self) -> dict[str, Any]:
        """What metrics.json and other files keep: number of images, and the means."""
        return {"name": "style", "images": self._images[0], "curves": self.means()}
