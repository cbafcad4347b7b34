"""Checkpoint choice: selects a save of a run by a score that uses no test image.

Methods of pairs use the PSNR of validation pairs, images from noise their kid, other translations
sqrt(kid) + structure^4 + cycle^4: kid to real images of other patients over that of the input; 1 -
squared local correlation with the input, over other patients'; difference from the input after
translation there and back, over that of two images. On phantoms it lost 0.24 dB to the best save,
the last save 0.29 dB: the last is the default.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.data.preparation import Record
from gantk.data.spread import spread
from gantk.metrics.evaluate import Scorer, difference
from gantk.metrics.pair_scores import identity
from gantk.metrics.references import OTHER, direction_to, number_that_fits, windows
from gantk.metrics.sets import ImageGroup, Kid
from gantk.metrics.verdict import short_metric_name
from gantk.runs.results import CheckpointScores

MAX_SOURCES = 32  # images translated at a save
MIN_SOURCES = 8  # validation images; with fewer, training images are translated
MAX_REALS = 64  # real images to compare with
MAX_SET_BYTES = 2**28  # so that a set has fewer volumes than images
# kid (standardised features) of sets of a few dozen real images of different patients
KID_OF_REALS = 0.1
OF_TRANSLATIONS = (
    "translations that look most like real images (KID), keep the input's edges, and lead back to the"
    " input"
)


class Criterion:
    """Scores the weights at a save: returns the score (None if it cannot be computed) and the
    criteria by direction.
    """

    def __init__(self, scorer: Scorer):
        self.scorer = scorer
        self.data = scorer.data
        self.method = scorer.method
        self.reals = scorer.reals
        self.kid = Kid(scorer.span, scorer.dims)
        directions = self.method.directions()
        curves = [metric.name for metric in scorer.curves.metrics]
        self.rule = "generated images that look most like real ones (KID)"
        self.higher = False
        self._criteria = scorer.validate
        if self.method.paired and curves and self.data.pairs("validation"):
            self.rule = f"highest {short_metric_name(curves[0])} on validation pairs"
            self.higher = True
        elif directions:
            self.rule = OF_TRANSLATIONS
            self._criteria = lambda: dict(map(self._direction_criteria, directions))

    @property
    def image_kind(self) -> str:
        """The kind of images that scores are computed on, in words."""
        directions = self.method.directions()
        if not directions:
            return "images from noise"
        if self.higher:
            return "validation pairs"

        for to in directions:
            if len(self.reals.records("validation", OTHER[to])) < MIN_SOURCES:
                return f"training images (fewer than {MIN_SOURCES} validation images)"

        return "validation images"

    def __call__(self) -> CheckpointScores:
        criteria: dict[str, Any] = self._criteria()
        scores = [
            row.pop("score") if "score" in row else next(iter(row.values()))
            for row in criteria.values()
        ]
        score = sum(scores) / len(scores) if scores else math.nan
        return criteria | {"score": round(score, 6) if math.isfinite(score) else None}

    def _direction_criteria(self, to: str) -> tuple[str, dict[str, float]]:
        """The criteria of one direction, with the score computed from them."""
        records, sources, real = self._images[to]
        made = self.scorer.translate(sources, to, records)
        targets = real.images.cpu()
        inputs = self.data.centre(sources)
        outputs = self.data.centre(made)
        kid = self._kid(real, outputs)
        kid_of_inputs = self._kid(real, identity(inputs, targets.shape[1]))
        unrelated = targets[torch.arange(len(inputs)) % len(targets)] + self.scorer.low
        structure = self._structure(outputs, inputs)
        structure_of_unrelated = self._structure(unrelated, inputs)
        score = math.sqrt(max(kid, 0.0) / max(kid_of_inputs, KID_OF_REALS))
        score += (structure / max(structure_of_unrelated, 1e-6)) ** 4
        criteria = {self.kid.name: round(kid, 6), "structure": round(structure, 6)}
        if OTHER[to] in self.method.directions():
            # every second image, to save time
            back = self.data.centre(self.scorer.translate(made[::2], OTHER[to], records[::2]))
            cycle = float((back - inputs[::2]).abs().mean())
            criteria["cycle"] = round(cycle, 6)
            score += (cycle / max(difference(inputs), 1e-6)) ** 4

        return direction_to(to), criteria | {"score": score}

    def _kid(self, real: ImageGroup, images: Tensor) -> float:
        value = self.kid(real, real, self.reals.group(images)).value
        return math.nan if value is None else value

    def _structure(self, output: Tensor, source: Tensor) -> float:
        """1 - squared local correlation at half the resolution."""
        from gantk.losses.structure import local_ncc_and_flat_region

        device = self.scorer.runtime.device
        output, source = (
            F.interpolate(images.to(device), scale_factor=0.5, mode="area")
            for images in (output, source)
        )
        unlike, _ = local_ncc_and_flat_region(
            output,
            source,
            window=min(5, *output.shape[2:]),
            threshold=0.03,
            data_range=self.scorer.span,
            black=self.scorer.low,
        )
        return float(unlike)

    @cached_property
    def _images(self) -> dict[str, tuple[list[Record], Tensor, ImageGroup]]:
        """By target domain: the images to translate, with their records, and real images of that
        domain from other patients.
        """
        images = {}
        size = self.method.geometry.size
        max_reals = number_that_fits(MAX_REALS, MAX_SET_BYTES, size, MIN_SOURCES)
        max_sources = number_that_fits(MAX_SOURCES, MAX_SET_BYTES, size, MIN_SOURCES)
        for to in self.method.directions():
            sources = self.reals.records("validation", OTHER[to])
            if len(sources) < MIN_SOURCES:
                sources = self.reals.training(OTHER[to])

            training = self.reals.training(to)
            if len(of_other_patients(training, sources)) < 2:
                # All patients have both domains: the sources are those of half of them.
                sources = sources[: -(-len(sources) // 2)]

            real = spread(of_other_patients(training, sources) or training, max_reals)
            records = spread(sources, max_sources)
            inputs = self.reals.network_inputs(records)
            group = self.reals.group(windows(self.reals.scored_images(real), size))
            images[to] = (records, windows(inputs, size), group)

        return images


def of_other_patients(records: list[Record], patients_of: list[Record]) -> list[Record]:
    """The `records` of patients who are not among `patients_of`."""
    patients = {r.subject or r.pair for r in patients_of} - {None, ""}
    return [r for r in records if (r.subject or r.pair) not in patients]
