"""Scores of outputs against references: by metric and region, before and after a linear correction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.intervals import estimate, mean_score, metric_score
from gantk.metrics.names import FOREGROUND, LESION, SUFFIXES, split_region
from gantk.metrics.pairs import LesionContrast, PairMetric
from gantk.metrics.table import COLUMNS, MODEL, trouble
from gantk.progress import track
from gantk.runs.results import Score

NOTHING = Score(value=None, ci95=None, n=0)
MAX_FOREGROUND = 0.9  # largest plausible share of foreground in images of heads
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
    names: Sequence[str] | None = None  # of the inputs; numbers where they have none


def _without_value(metric: PairMetric, sizes: Collection[tuple[int, ...]]) -> Score | None:
    """The score of a metric that cannot score images of all sizes: SSIM needs 11 pixels on each side.
    Its definition states the reason.
    """
    try:
        for size in sorted(sizes):
            metric.expect_size(size)
    except UserError as error:
        reason = f"{error.what}, which needs {metric.smallest} pixels on each side"
        definition = f"{metric.definition}/not-computed: {reason}"
        return metric_score(metric, NOTHING, 0, definition)
    return None


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
        sizes: Collection[tuple[int, ...]] = (),
    ):
        """`sizes`: of all images, where some may be too small for a metric."""
        too_small = {metric.name: _without_value(metric, sizes) for metric in metrics}
        self.left_out = {name: score for name, score in too_small.items() if score}
        self.metrics = [metric for metric in metrics if metric.name not in self.left_out]
        self.low = low
        self.batch = batch
        self.device = device
        self.suffixes = [suffix for region, suffix in SUFFIXES.items() if region in regions]
        self._expect_regions()
        of_regions = [metric for metric in self.metrics if metric.in_mask]
        self.rows_of: dict[str, tuple[PairMetric, str]] = {}  # row -> its metric and region
        for suffix in self.suffixes:
            for metric in of_regions if suffix else self.metrics:
                self.rows_of[metric.name + suffix] = metric, suffix
        self.contrast = LesionContrast(data_range, dims)
        if LESION in self.suffixes and of_regions:
            self.rows_of[self.contrast.name] = self.contrast, LESION
        self.higher_is_better = {
            name: metric.higher_is_better for name, (metric, _) in self.rows_of.items()
        }

    def _expect_regions(self) -> None:
        """UserError where a metric has no region to be scored in."""
        if "" in self.suffixes:
            return
        names = [each.name for each in self.metrics if not (self.suffixes and each.in_mask)]
        if names or not self.suffixes:
            what = f"evaluate.regions leaves no region to score {', '.join(names)} in"
            allowed = [*SUFFIXES]
            raise UserError(what, where="evaluate.regions", allowed=allowed, remedy='add "whole"')

    def __call__(
        self, output: Tensor, references: References, direction: str = "", system: str = MODEL
    ) -> pd.DataFrame:
        """The table of outputs (N, C, *size) in network intensities, see `gantk.metrics.table`."""
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        finite = []
        for first in track(range(0, len(output), self.batch), system, "batch"):
            part = slice(first, first + self.batch)
            made = output[part].to(self.device)
            finite.append(made.isfinite().flatten(1).all(1).cpu().numpy())
            for row, value, corrected in self._scores_of_batch(made, references, part):
                unknown = torch.full_like(value, torch.nan)
                after = unknown if corrected is None else corrected
                found[row].append((_numbers(value), _numbers(after)))
        if not found:
            return pd.DataFrame(columns=COLUMNS)

        names = range(len(output)) if references.names is None else references.names
        images = {"image": [*map(str, names)], "patient": references.patients}
        about = pd.DataFrame(images).assign(finite=np.concatenate(finite))
        parts = []
        for row in (row for row in self.rows_of if row in found):
            values, linear = (np.concatenate(each) for each in zip(*found[row], strict=True))
            region = split_region(row)[1] or "whole"
            own = about.assign(metric=row, region=region, value=values, corrected=linear)
            parts.append(own)
        table = pd.concat(parts, ignore_index=True)
        return table.assign(direction=direction, system=system)[COLUMNS]

    def _scores_of_batch(
        self, made: Tensor, references: References, part: slice
    ) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Yield rows with their scores (n,) of some images, before and after the linear correction."""
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
                yield metric.name + suffix, value, after.get(suffix)

        if self.contrast.name in self.rows_of and LESION in masks:
            yield self.contrast.name, self.contrast(made, real, masks[LESION]), None

    def _masks_of(self, references: References, part: slice) -> dict[str, Tensor | None]:
        """The mask of each region that is known and selected; None for the whole image."""
        known = {"": None, FOREGROUND: references.foreground, LESION: references.masks}
        return {
            suffix: mask if mask is None else mask[part].to(self.device)
            for suffix, mask in known.items()
            if suffix in self.suffixes and (mask is not None or not suffix)
        }

    def scores(self, lines: pd.DataFrame, above: str = "") -> dict[str, Score]:
        """The scores of a system over all images, by name. `above`: of the references."""
        of_metrics = lines.groupby("metric", sort=False)
        scores = {name: self._score(name, own, above) for name, own in of_metrics}
        return scores | self.left_out

    def _score(self, name: str, lines: pd.DataFrame, above: str) -> Score:
        metric, suffix = self.rows_of[name]
        definition = (metric.in_mask if suffix else "") or metric.definition
        if suffix == FOREGROUND:
            definition = f"{definition.removesuffix('/mask')}/{TISSUE.format(above)}"

        problem = trouble(lines)
        if problem:
            return metric_score(metric, NOTHING, 0, f"{definition}/not-computed: {problem}")

        patients = [*lines.patient]
        corrected = mean_score(lines.corrected, patients)
        found = estimate(lines.value, patients)
        return metric_score(metric, found, int(lines.value.count()), definition, corrected)


def _numbers(scores: Tensor) -> np.ndarray:
    return scores.cpu().double().numpy()


def _in_regions(
    metric: PairMetric, made: Tensor, real: Tensor, regions: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """The scores (n,) of images by a metric in each region; UserError where it returns something
    else.
    """
    found = dict(zip(regions, metric.in_regions(made, real, [*regions.values()]), strict=True))
    for scores in found.values():
        if scores.shape != (len(made),):
            what = (
                f"the metric '{metric.name}' returns {tuple(scores.shape)} for {len(made)} images"
            )
            allowed = "one number per image: (N,)"
            raise UserError(what, where="evaluate.metrics", allowed=allowed)
    return found


def alarm_of_foreground(foreground: Tensor | None) -> str | None:
    """A warning if the foreground, a mask of the images, is larger than a head in air can be; else
    None.
    """
    share = 0.0 if foreground is None else float(foreground.float().mean())
    if share <= MAX_FOREGROUND:
        return None
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
