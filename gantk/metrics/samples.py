"""The held-out images that a training shows, and the alarms that they raise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.preparation import Record
from gantk.metrics.names import title_of
from gantk.runs.schemas import SampleImages, SampleIndex

ImagesByDirection = dict[str, Tensor]  # by direction, such as "a_to_b": (N, C, *size)
# Outputs have collapsed below this share of the difference between real images.
MIN_SHARE_OF_DIFFERENCE = 0.15
# Outputs have inverted contrast below this correlation with the truth in tissue.
MIN_CORRELATION = -0.3


@dataclass
class SampleBatch:
    """Held-out images by direction, such as "a_to_b": (k, C, *size), as they are shown."""

    inputs: ImagesByDirection = field(default_factory=dict)
    truths: ImagesByDirection = field(default_factory=dict)
    two_way: bool = False  # whether the images are also translated back
    noise: int = 0  # how many images to sample, for methods that start from noise
    labels: list[str] = field(default_factory=list)  # classes of these images; none: not known
    seen: ImagesByDirection = field(default_factory=dict)  # the networks' inputs, with neighbours
    # real images to show beside those from noise
    reals: ImagesByDirection = field(default_factory=dict)
    records: dict[str, list[Record]] = field(default_factory=dict)  # records of the inputs
    # mean difference of real images, by direction
    differences: dict[str, float] = field(default_factory=dict)

    def index(self, data: Data, steps: list[int]) -> SampleIndex:
        """The content of samples/index.json, with pictures of these steps."""
        names = dict(zip(data.letters, data.table.domains, strict=False))
        directions = {}
        for key, images in self.inputs.items():
            known: list[dict[str, str | None]] = [
                {"patient": one.subject, "image": str(one.path or one.key)}
                for one in self.records[key]
            ]
            directions[key] = SampleImages(
                source=names[key[0]],
                to=names[key[-1]],
                count=len(images),
                images=known,
                cycle=self.two_way,
            )

        if self.noise:
            to = names.get("image", data.table.domains[0])
            classes: list[dict[str, str | None]] = [{"class": label} for label in self.labels]
            directions["image"] = SampleImages(to=to, count=self.noise, images=classes)

        return SampleIndex(directions=directions, steps=steps, has_truth=bool(self.truths))


@dataclass(frozen=True)
class Samples:
    """What a method makes of a `SampleBatch`, by direction: (N, C, *size) each."""

    outputs: ImagesByDirection  # translations, or "image": images from noise
    reconstructions: ImagesByDirection  # the translations, translated back; {} if not two-way


def difference(images: Tensor) -> float:
    """Mean absolute difference between two of the images (N, C, *size), over all pairs; 0 for a
    single one.
    """
    if len(images) < 2:
        return 0.0
    rows = images.detach().float().cpu().flatten(1)
    return float(torch.pdist(rows, p=1).mean()) / rows.shape[1]


def alarms(
    outputs: ImagesByDirection, batch: SampleBatch, domains: Sequence[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield warnings (name, message) while training: outputs not finite, unchanged, inverted, or
    all alike.

    `domains`: their names, for the titles of directions in messages.
    """
    for key, images in outputs.items():
        title = title_of(key, domains)
        images = images.float().cpu()
        not_finite = len(images) - int(images.isfinite().flatten(1).all(1).sum())
        if not_finite:
            counts = f"{not_finite} of {len(images)}"
            yield "not-finite", f"{title}: {counts} outputs contain NaN or infinite values"
            continue

        inputs = batch.inputs.get(key)
        truths = batch.truths.get(key)
        if _nearly_equal(images, inputs):
            yield "no-change", f"{title}: the output is nearly identical to the input"
        elif (
            truths is not None
            and truths.shape == images.shape
            and (what := alarm_of_contrast(images, truths))
        ):
            yield "inverted", f"{title}: {what}"

        variation = difference(images)
        real_variation = batch.differences.get(key, 0.0)
        smallest = max(0.002, MIN_SHARE_OF_DIFFERENCE * real_variation)
        if len(images) > 1 and variation < smallest:
            message = f"{title}: all outputs are nearly the same"
            if real_variation:
                share = variation / real_variation
                message += f"; they differ by {share:.0%} of the difference between real images"
            yield "collapse", message


def _nearly_equal(images: Tensor, inputs: Tensor | None) -> bool:
    if inputs is None or inputs.shape != images.shape:
        return False
    return float((images - inputs).abs().mean()) < 0.01


def alarm_of_contrast(images: Tensor, truths: Tensor) -> str:
    """A warning if images (N, C, *size) have the contrast of their truths inverted in tissue; else ""."""
    tissue = truths > truths.min() + 0.1 * (truths.max() - truths.min())
    correlation = float(torch.corrcoef(torch.stack([images[tissue], truths[tissue]]))[0, 1])
    what = f"bright and dark are swapped (correlation with the truth {correlation:.2f})"
    return what if correlation < MIN_CORRELATION else ""
