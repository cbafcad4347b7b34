"""Scores of outputs against references: by metric and region, before and after a linear correction;
and what follows from their lines: means over patients and verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gantk.data.masks import MAX_LESION_SHARE
from gantk.errors import UserError
from gantk.metrics.intervals import estimate
from gantk.metrics.judging import pair_verdict
from gantk.metrics.names import FOREGROUND, LESION, SUFFIXES
from gantk.metrics.pairs import LesionContrast, PairMetric
from gantk.metrics.table import COLUMNS, MODEL, lines_of, trouble
from gantk.progress import track
from gantk.runs.results import Results, Score, ScoresByMetric

MAX_FOREGROUND = 0.9  # largest plausible share of foreground in images of heads
MASKS_OF_TISSUE = (
    "the lesion masks cover most of the foreground, as maps of tissue do: scores in the lesion say"
    " nothing of lesions. Name the masks of lesions: data.source.mask"
)
TISSUE = "foreground-above-{}-of-range-in-truth-or-source"


@dataclass(frozen=True)
class References:
    """The true images (N, C, *size) for outputs, their patients, and, if known, masks and units."""

    images: Tensor
    patients: list[str]
    masks: Tensor | None = None  # of lesions (N, 1, *size)
    foreground: Tensor | None = None  # not air (N, 1, *size)
    units: Any = None  # the intensities of the files, see gantk.metrics.references.Units
    above: str = ""  # the share(s) of the range above which pixels are `foreground`
    names: Sequence[str] = ()  # of the inputs; numbers where they have none


class PairScorer:
    """Scores outputs against their references by every pair metric, in every region that is known
    and selected.

    Computes on `device` and returns a table on the CPU. UserError if a metric has no region to be
    scored in.
    """

    def __init__(
        self,
        metrics: Sequence[PairMetric],
        low: float,
        data_range: float,
        dims: int,
        batch: int,
        device: Any,
        regions: Sequence[str] = tuple(SUFFIXES),
    ):
        self.metrics = metrics
        self.low = low
        self.batch = batch
        self.device = device
        self.suffixes = [suffix for region, suffix in SUFFIXES.items() if region in regions]
        of_regions = [metric for metric in metrics if metric.in_mask]
        lost = [each.name for each in metrics if not (self.suffixes and each in of_regions)]
        if "" not in self.suffixes and (lost or not self.suffixes):
            raise UserError(
                f"evaluate.regions leaves no region to score {', '.join(lost)} in",
                where="evaluate.regions",
                allowed=[*SUFFIXES],
                remedy='add "whole"',
            )
        self.rows_of: dict[str, tuple[PairMetric, str]] = {}  # row -> its metric and region
        for suffix in self.suffixes:
            for metric in of_regions if suffix else metrics:
                self.rows_of[metric.name + suffix] = metric, suffix
        self.contrast = LesionContrast(data_range, dims)
        if LESION in self.suffixes and of_regions:
            self.rows_of[self.contrast.name] = self.contrast, LESION

    def about(self, above: str = "") -> ScoresByMetric:
        """What is known of each score before it has a value: unit, definition, and which way is
        better. `above`: of the references.
        """
        found = {}
        for name, (metric, suffix) in self.rows_of.items():
            definition = (metric.in_mask if suffix else "") or metric.definition
            if suffix == FOREGROUND:
                definition = f"{definition.removesuffix('/mask')}/{TISSUE.format(above)}"
            higher = metric.higher_is_better
            found[name] = Score(unit=metric.unit, definition=definition, higher_is_better=higher)
        return found

    def __call__(
        self, output: Tensor, references: References, direction: str = "", system: str = MODEL
    ) -> pd.DataFrame:
        """The table of outputs (N, C, *size) in network intensities, see `gantk.metrics.table`."""
        names = references.names or range(len(output))
        about = {
            "direction": direction,
            "system": system,
            "image": [*map(str, names)],
            "patient": references.patients,
            "finite": output.isfinite().flatten(1).all(1).cpu().numpy(),
        }
        found: dict[str, list[Tensor]] = {row: [] for row in self.rows_of}
        for first in track(range(0, len(output), self.batch), system, "batch"):
            part = slice(first, first + self.batch)
            made = output[part].to(self.device)
            for row, *values in self._scores_of_batch(made, references, part):
                found[row].append(torch.stack(values).cpu().double())
        parts = []
        for row, of_batches in found.items():
            if of_batches:
                value, corrected = torch.cat(of_batches, 1).numpy()
                parts.append(lines_of([row] * len(value), value, **about, corrected=corrected))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)

    def _scores_of_batch(
        self, made: Tensor, references: References, part: slice
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield rows with their scores (n,) of some images, before and after the linear correction; NaN
        where that has no score.
        """
        masks = self._masks_of(references, part)
        real = references.images[part].to(self.device)
        images = {}  # by unit: outputs and references
        units = references.units
        if units is not None and any(metric.of_unit == units.name for metric in self.metrics):
            images[units.name] = units.native(made, part.start), units.native(real, part.start)

        # Metrics count from black: SSIM's luminance term means nothing where intensities change
        # sign.
        made = made - self.low
        real = real - self.low
        images[""] = made, real
        # a line that also had to fit the head would lift the air, of which SSIM then sees nothing
        # but the offset
        inside = references.foreground
        if inside is None:
            corrected = linearly_corrected(made, real)
        else:
            inside = inside[part].to(self.device)
            corrected = torch.where(inside, linearly_corrected(made, real, inside), made)

        for metric in self.metrics:
            regions = masks if metric.in_mask else {"": None}
            if metric.of_unit not in images:
                continue
            values = _in_regions(metric, *images[metric.of_unit], regions)
            after: dict[str, Tensor] = {}
            if not metric.of_unit:
                of_tissue = {suffix: mask for suffix, mask in regions.items() if suffix != LESION}
                after = _in_regions(metric, corrected, real, of_tissue)
            for suffix, value in values.items():
                yield metric.name + suffix, value, after.get(suffix, value * torch.nan)

        if self.contrast.name in self.rows_of and LESION in masks:
            (kept,) = self.contrast.in_regions(made, real, [masks[LESION], inside])
            yield self.contrast.name, kept, kept * torch.nan

    def _masks_of(self, references: References, part: slice) -> dict[str, Tensor | None]:
        """The mask of each region that is known and selected; None for the whole image."""
        known = {"": None, FOREGROUND: references.foreground, LESION: references.masks}
        return {
            suffix: mask if mask is None else mask[part].to(self.device)
            for suffix, mask in known.items()
            if suffix in self.suffixes and (mask is not None or not suffix)
        }


def scores_of(lines: pd.DataFrame, about: Mapping[str, Score]) -> ScoresByMetric:
    """The scores of a system over all images, by name. `about`: as of `PairScorer.about`."""
    of_metrics = lines.groupby("metric", sort=False)
    return {name: _score(own, about[name]) for name, own in of_metrics}


def _score(lines: pd.DataFrame, about: Score) -> Score:
    problem = trouble(lines)
    if problem:
        nothing = {"value": None, "ci95": None, "n": 0, "images": 0, "corrected": None}
        definition = f"{about.definition}/not-computed: {problem}"
        return about.model_copy(update=nothing | {"definition": definition})

    patients = [*lines.patient]
    facts = about.dump() | {"corrected": estimate(lines.corrected, patients).value}
    return estimate(lines.value, patients, images=int(lines.value.count()), **facts)


def add_scores(results: Results, lines: pd.DataFrame, about: Mapping[str, Score]) -> None:
    """Add the scores of the model, before and after its post-steps, and of its baselines to results,
    and the verdicts. `lines`: of one direction, each system on the same images in the same order.
    """
    for (direction, system), own in lines.groupby(["direction", "system"], sort=False):
        scores = results.metrics if system == MODEL else results.baselines.setdefault(system, {})
        scores.setdefault(direction, {}).update(scores_of(own, about))
    higher = {name: score.higher_is_better for name, score in about.items()}
    of_model = lines.system == MODEL
    rivals = lines[~of_model]
    for direction, own in lines[of_model].groupby("direction", sort=False):
        results.verdict[direction] = {**pair_verdict(pd.concat([own, rivals]), higher)}


def score_pairs(
    results: Results,
    key: str,
    scorer: PairScorer,
    made: Mapping[str, Tensor],
    baselines: Mapping[str, Tensor],
    references: References,
) -> pd.DataFrame:
    """Score images (`made`, `baselines`, by name) against their truth; adds lines, scores and verdicts
    to results, those of baselines under the direction `key`. Returns the lines of that direction.
    """
    parts = [scorer(images, references, direction=name) for name, images in made.items()]
    parts += [
        scorer(images, references, direction=key, system=name) for name, images in baselines.items()
    ]
    lines = pd.concat(parts)
    add_scores(results, lines, scorer.about(references.above))
    results.lines.append(lines)
    return lines[lines.direction == key]


def _in_regions(
    metric: PairMetric, made: Tensor, real: Tensor, regions: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """The scores (n,) of images by a metric in each region."""
    return dict(zip(regions, metric.in_regions(made, real, [*regions.values()]), strict=True))


def alarm_of_regions(references: References) -> str:
    """A warning if the foreground is larger than a head in air can be, or the lesions most of it; else
    "".
    """
    if references.foreground is None:
        return ""
    inside = references.foreground.float()
    if references.masks is not None and (
        float(references.masks.sum()) > MAX_LESION_SHARE * float(inside.sum())
    ):
        return MASKS_OF_TISSUE
    share = float(inside.mean())
    if share <= MAX_FOREGROUND:
        return ""
    return (
        f"{share:.0%} of all pixels count as foreground. Scans of heads have air around them: check"
        " data.intensity. Of pictures without a dark background score the whole image only:"
        ' evaluate.regions = ["whole"]'
    )


def foreground(*images: tuple[Tensor, Sequence[float]]) -> Tensor:
    """Mask (N, 1, *size) of pixels where any of the images (N, C, *size) is above air: each may
    show some tissue black.

    Each image comes with its `tissue` level, the intensity above which it is not air: one for all
    channels or one each.
    """
    inside = []
    for image, tissue in images:
        levels = torch.tensor(tissue, dtype=image.dtype, device=image.device)
        levels = levels.reshape(-1, *[1] * (image.ndim - 2))
        inside.append((image > levels).any(1, keepdim=True))

    return torch.stack(inside).any(0)


def linearly_corrected(output: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """a * output + b with the a and b, per image and channel, that minimise the mean square error
    to the reference.

    It uses the reference, so its score is no result: the gap to the uncorrected score is the share
    of the error that is only brightness and contrast (`a` may be negative). A constant output
    becomes the reference's mean.
    """
    axes = tuple(range(2, output.ndim))
    exact = torch.float32 if output.device.type == "mps" else torch.float64  # MPS has no float64
    x = output.detach().to(exact)
    y = reference.detach().to(exact)
    weight = torch.ones_like(x) if mask is None else (mask > 0).expand_as(x).to(exact)
    total = weight.sum(axes, keepdim=True).clamp_min(1)
    mean_x, mean_y = ((weight * v).sum(axes, keepdim=True) / total for v in (x, y))
    spread = (weight * (x - mean_x).square()).sum(axes, keepdim=True)
    joint = (weight * (x - mean_x) * (y - mean_y)).sum(axes, keepdim=True)
    slope = torch.where(spread > 1e-12 * total, joint / spread.clamp_min(1e-30), 0.0)
    return (mean_y + slope * (x - mean_x)).float()
