"""The held-out images that are drawn again and again while training, and the alarms that look at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gantk.data.dataset import Data

ALIKE = 0.15  # outputs that differ from each other by less than this share of what real images do have collapsed


@dataclass
class SampleBatch:
    """Held-out images by direction, such as "a_to_b": (k, C, *size), as they are shown."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    truths: dict[str, Tensor] = field(default_factory=dict)
    noise: int = 0  # how many images to sample, for methods that start from noise
    seen: dict[str, Tensor] = field(default_factory=dict)  # the inputs as the networks see them, neighbours included
    differences: dict[str, float] = field(default_factory=dict)  # between real images, in the mean, by direction

    def index(self, data: Data) -> dict[str, Any]:
        """What samples/index.json says of them."""
        names = dict(zip(data.letters, data.table.domains, strict=False))
        directions = {
            key: {"from": names[key[0]], "to": names[key[-1]], "count": len(images)}
            for key, images in self.inputs.items()
        }
        if self.noise:
            directions["image"] = {"from": None, "to": names.get("image", data.table.domains[0]), "count": self.noise}
        return {"directions": directions, "has_truth": bool(self.truths)}


def difference(images: Tensor) -> float:
    """Mean absolute difference between two of the images (N, C, *size), over all pairs; 0 for a single one."""
    rows = images.detach().float().cpu().flatten(1)
    return float(torch.pdist(rows, p=1).mean()) / rows.shape[1] if len(rows) > 1 else 0.0


def alarms(outputs: dict[str, Tensor], batch: SampleBatch) -> Iterator[tuple[str, str]]:
    """What should worry a user while training: outputs that are no numbers, no change, all alike."""
    for key, images in outputs.items():
        images = images.float().cpu()
        broken = len(images) - int(images.isfinite().flatten(1).all(1).sum())
        if broken:
            yield "not-finite", f"{key}: {broken} of {len(images)} outputs hold NaN or infinite values"
            continue
        inputs = batch.inputs.get(key)
        if inputs is not None and inputs.shape == images.shape and float((images - inputs).abs().mean()) < 0.01:
            yield "no-change", f"{key}: the output is the input, nearly unchanged"
        found, real = difference(images), batch.differences.get(key, 0.0)
        if len(images) > 1 and found < max(0.002, ALIKE * real):
            share = f", differing by {found / real:.0%} of what real images do" if real else ""
            yield "collapse", f"{key}: the outputs are all alike{share}"
