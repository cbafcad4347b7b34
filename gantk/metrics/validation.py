"""What a training shows and scores of held-out images: sample pictures, and the scores that choose a
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import cycle, islice
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from gantk.data.masks import masked_out
from gantk.data.preparation import Pair, Record, patients_of
from gantk.data.spread import spread
from gantk.errors import count_noun
from gantk.method import OTHER, direction_to
from gantk.metrics.evaluate import SAMPLE_PASS, Scorer
from gantk.metrics.names import short_metric_name
from gantk.metrics.pair_scores import References, scores_of
from gantk.metrics.references import MAX_CURVE_IMAGES, windows
from gantk.metrics.samples import SampleBatch, Samples, difference
from gantk.metrics.sets import ImageGroup, Kid
from gantk.metrics.sets import set_scores as set_scores_of
from gantk.runs.results import ScoresByDirection, ScoresByMetric

MAX_VALIDATION_PAIRS = 16  # pairs scored while training
MIN_VALIDATION_IMAGES = 16  # of each domain, to be compared as sets while training
VALIDATION_METRICS = ("psnr", "ssim")
# by target domain, the images to translate, as network inputs too, and their references; None where no
# pairs are known
Validated = dict[str, tuple[list[Record], Tensor, References | None]]


class Validation:
    """Samples and scores of what a scorer's method currently makes."""

    def __init__(self, scorer: Scorer):
        self.scorer = scorer
        self.model = scorer.model
        self.data = scorer.data
        self.method = scorer.method
        self.reals = scorer.reals
        curves = [each for each in scorer.pairs.metrics if each.name in VALIDATION_METRICS]
        self.curves = scorer.pair_scorer(curves, regions=["whole"])
        self.kid = Kid(scorer.span, scorer.dims)  # where no pairs are known

    def sample_batch(self) -> SampleBatch:
        """The images to show while training: of validation pairs, else test pairs, else held-out or
        training images.
        """
        count = self.model.evaluate.samples
        # an unpaired method learns from translation there and back in both directions
        is_two_way = not self.method.paired and len(self.method.directions()) == len(OTHER)
        batch = SampleBatch(two_way=is_two_way)
        pairs = spread(self.data.pairs("validation") or self.data.pairs("test"), count)
        for to in self.method.directions():
            key = direction_to(to)
            records = [pair[OTHER[to]] for pair in pairs]
            records = records or spread(self.data.unpaired_records(OTHER[to]), count)
            batch.records[key] = records
            batch.seen[key] = self.reals.network_inputs(records)
            batch.inputs[key] = real = self.data.centre(batch.seen[key])
            if pairs:
                batch.truths[key] = real = self.reals.scored_images([pair[to] for pair in pairs])
            batch.differences[key] = difference(real)

        if self.method.samples and not self.method.directions():
            batch.noise = count
            if self.scorer.classes:  # `sample` makes them in turn
                classes = cycle(self.method.geometry.classes)
                batch.labels = [*islice(classes, count)]
            records = spread(self.reals.records("train", self.scorer.letter), 4 * SAMPLE_PASS)
            batch.differences["image"] = difference(self.reals.scored_images(records))
            held_out = self.reals.records("test", self.scorer.letter) or records
            batch.reals["image"] = self.reals.scored_images(spread(held_out, count))

        return batch

    def samples(self, batch: SampleBatch) -> Samples:
        """What the method currently makes of the batch, before any post-step."""
        if batch.noise:
            images = self.method.sample(batch.noise, seed=0).float().cpu()
            return Samples({"image": self.data.centre(images)}, {})
        outputs = {}
        reconstructions = {}
        for key, images in batch.seen.items():
            records = batch.records[key]
            made = self.scorer.translate(images, key[-1], records)
            outputs[key] = self.data.centre(made)
            if batch.two_way:
                back = self.scorer.translate(made, OTHER[key[-1]], records)
                reconstructions[key] = self.data.centre(back)
        return Samples(outputs, reconstructions)

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that are scored while training; none where no metric of pairs is."""
        if not self.curves.metrics:
            return []
        return spread(self.data.pairs("validation"), MAX_VALIDATION_PAIRS)

    @property
    def rule(self) -> str:
        """Which checkpoint has the best `checkpoint_score`, in words."""
        of_all = ", the mean of all directions" if len(self.method.directions()) > 1 else ""
        if self.pairs:
            name = short_metric_name(self.curves.metrics[0].name)
            pairs = count_noun(self.pairs, "validation pair")
            if patients := patients_of(pair["a"] for pair in self.pairs):
                pairs += f" of {count_noun(patients, 'patient')}"
            return f"highest {name} on {pairs}{of_all}"
        if not self.validates_sets:
            return "the newest, as too few images are held out for validation"
        if not self.method.directions():
            return "generated images that look most like real validation images (KID)"
        return (
            f"translations of validation images that look most like real ones (KID{of_all}), which does not"
            " tell whether they keep the anatomy"
        )

    @property
    def validates_sets(self) -> bool:
        """Whether enough validation images are held out to compare them as sets."""
        counts = [len(self.reals.records("validation", letter)) for letter in self.method.reads]
        return min(counts) >= MIN_VALIDATION_IMAGES

    def checkpoint_score(
        self, validation: Mapping[str, Mapping[str, float | None]]
    ) -> float | None:
        """The first validation score, mean over all directions; None where one has no value."""
        name = self.curves.metrics[0].name if self.pairs else self.kid.name
        keys = [direction_to(to) for to in self.method.directions()] or ["image"]
        values = [validation.get(key, {}).get(name) for key in keys]
        known = [value for value in values if value is not None]
        return round(fmean(known), 6) if len(known) == len(keys) else None

    def validate(self) -> dict[str, dict[str, float]]:
        """Quick scores while training, by direction: PSNR and SSIM of validation pairs; without
        pairs KID of translations, and of images from noise. None where too few images are held out.
        """
        scores: ScoresByDirection = {}
        for to, (records, sources, references) in self._validation.items():
            made = self.data.centre(self.scorer.translate(sources, to, records))
            if self.model.translate.masked:  # as in the images that are written and tested
                made = _masked_like(self.data.centre(sources), made, self.scorer.low)
            if references is None:
                scores[direction_to(to)] = self._validation_kid(to, self.reals.group(made))
            else:
                lines = self.curves(made, references)
                scores[direction_to(to)] = scores_of(lines, self.curves.about())

        if self.method.samples and not self.method.directions() and self.validates_sets:
            count = min(MAX_CURVE_IMAGES, self.model.evaluate.images)
            passes = [
                self.scorer.sample_pass(first, count) for first in range(0, count, SAMPLE_PASS)
            ]
            images = self.data.centre(torch.cat(passes))
            scores["image"] = self._validation_kid(
                self.scorer.letter, self.scorer.generated_group(images)
            )

        results = {}
        for key, own in scores.items():
            values = {name: score.value for name, score in own.items()}
            known = {name: round(value, 4) for name, value in values.items() if value is not None}
            if known:
                results[key] = known
        return results

    def _validation_kid(self, letter: str, fake: ImageGroup) -> ScoresByMetric:
        """KID of a few images of a domain, by its name."""
        train, held_out = (self.reals.curve_set(split, letter) for split in ("train", "validation"))
        return set_scores_of(self.kid, train, held_out, fake)

    @cached_property
    def _validation(self) -> Validated:
        """What is scored while training."""
        found: Validated = {}
        pairs = self.pairs
        for to in self.method.directions():
            if pairs:
                records = [pair[OTHER[to]] for pair in pairs]
                sources = self.reals.network_inputs(records)
                found[to] = records, sources, self.reals.references(pairs, to)
            elif self.validates_sets:
                records = self.reals.curve_records("validation", OTHER[to])
                sources = windows(self.reals.network_inputs(records), self.method.geometry.size)
                found[to] = records, sources, None
        return found


def _masked_like(sources: Tensor, made: Tensor, black: float) -> Tensor:
    """Generated images, black in the regions that are masked out of their sources."""
    outside = np.stack([*map(masked_out, sources.cpu().numpy())])
    return made.cpu().masked_fill(torch.from_numpy(outside)[:, None], black)
