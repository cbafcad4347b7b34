"""Scores of outputs against references: by metric and region, before and after a linear correction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.intervals import estimate, mean_score, metric_score
from gantk.metrics.names import FOREGROUND, LESION, SUFFIXES, split_region
from gantk.metrics.pairs import LesionContrast, MapMetric, PairMetric
from gantk.metrics.table import COLUMNS, MODEL, trouble
from gantk.progress import track
from gantk.runs.results import Score

NOTHING = Score(value=None, ci95=None, n=0)
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

    Computes on `device` and returns numbers on the CPU. UserError if a metric has no region to be
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
        self.dims = dims
        self.batch = batch
        self.device = device
        self.suffixes = [suffix for region, suffix in SUFFIXES.items() if region in regions]
        whole_only = [metric.name for metric in self.metrics if not metric.in_mask]
        self._expect_regions(whole_only)
        self.rows_of: dict[str, tuple[PairMetric, str]] = {}  # row -> its metric and region
        for suffix in self.suffixes:
            for metric in self.metrics:
                if not suffix or metric.name not in whole_only:
                    self.rows_of[metric.name + suffix] = (metric, suffix)

        self.contrast = LesionContrast(data_range, dims)
        if LESION in self.suffixes and len(whole_only) < len(self.metrics):
            self.rows_of[self.contrast.name] = (self.contrast, LESION)

        self.higher_is_better = {
            name: metric.higher_is_better for name, (metric, _) in self.rows_of.items()
        }

    def _expect_regions(self, whole_only: Sequence[str]) -> None:
        """UserError where no region is selected, or not the whole image that these metrics score."""
        what = "evaluate.regions names no region"
        if whole_only:
            what = f"the metric '{whole_only[0]}' cannot be limited to a region"
        if not self.suffixes or (whole_only and "" not in self.suffixes):
            allowed = list(SUFFIXES)
            raise UserError(what, where="evaluate.regions", allowed=allowed, remedy='add "whole"')

    def __call__(
        self, output: Tensor, references: References, direction: str = "", system: str = MODEL
    ) -> pd.DataFrame:
        """The table of outputs (N, C, *size) in network intensities, see `gantk.metrics.table`."""
        found: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
        finite = []
        for first in track(range(0, len(output), self.batch), system, "batch"):
            part = slice(first, first + self.batch)
            made = output[part].to(self.device)
            finite.append(made.isfinite().flatten(1).all(1))
            for key, scores in self._scores_of_batch(made, references, part):
                found[key].append(scores)

        rows = [name for name in self.rows_of if ("value", name) in found]
        if not rows:
            return pd.DataFrame(columns=COLUMNS)

        def column(kind: str) -> np.ndarray:
            """The scores of all images by the first metric, then by the next one."""
            unknown = [torch.full((len(output),), torch.nan)]
            parts = [torch.cat(found.get((kind, name), unknown)).cpu() for name in rows]
            return torch.cat(parts).double().numpy()

        names = range(len(output)) if references.names is None else references.names
        lines = {
            "direction": direction,
            "system": system,
            "metric": np.repeat(rows, len(output)),
            "region": np.repeat([split_region(name)[1] or "whole" for name in rows], len(output)),
            "image": [*map(str, names)] * len(rows),
            "patient": [*references.patients] * len(rows),
            "value": column("value"),
            "corrected": column("corrected"),
            "finite": np.tile(torch.cat(finite).cpu().numpy(), len(rows)),
        }
        return pd.DataFrame(lines)

    def _scores_of_batch(
        self, made: Tensor, references: References, part: slice
    ) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """Yield the scores (n,) of some images by their kind and row."""
        real = references.images[part].to(self.device)
        masks: dict[str, Tensor | None] = {}
        known = {"": None, FOREGROUND: references.foreground, LESION: references.masks}
        for suffix in self.suffixes:
            mask = known[suffix]
            if mask is not None:
                masks[suffix] = mask[part].to(self.device)
            elif not suffix:
                masks[suffix] = None

        units = references.units
        if units is not None and any(metric.of_unit == units.name for metric in self.metrics):
            native_made = units.native(made, part.start)
            native_real = units.native(real, part.start)
            yield from self._scores("value", native_made, native_real, masks, units.name)

        # Metrics count from black: SSIM's luminance term means nothing where intensities change
        # sign.
        made = made - self.low
        real = real - self.low
        yield from self._scores("value", made, real, masks)
        if self.contrast.name in self.rows_of and LESION in masks:
            yield ("value", self.contrast.name), self.contrast(made, real, masks[LESION])

        # a line that also had to fit the head would lift the air, of which SSIM then sees nothing
        # but the offset
        inside = references.foreground
        if inside is None:
            corrected = linearly_corrected(made, real)
        else:
            inside = inside[part].to(self.device)
            corrected = torch.where(inside, linearly_corrected(made, real, inside), made)
        masks.pop(LESION, None)
        yield from self._scores("corrected", corrected, real, masks)

    def _scores(
        self,
        kind: str,
        made: Tensor,
        real: Tensor,
        masks: dict[str, Tensor | None],
        unit: str = "",
    ) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """Yield the scores by every metric of this unit and in every region."""
        for metric in self.metrics:
            if metric.of_unit != unit:
                continue

            regions = {
                suffix: mask for suffix, mask in masks.items() if not suffix or metric.in_mask
            }
            if isinstance(metric, MapMetric):  # one map serves all regions
                means = metric.means(made, real, [*regions.values()])
                for suffix, mean in zip(regions, means, strict=True):
                    yield (kind, metric.name + suffix), metric.of_mean(mean)
            else:
                for suffix, mask in regions.items():
                    yield (kind, metric.name + suffix), _one_per_image(metric, made, real, mask)

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

        patients = lines["patient"].to_list()
        values = lines["value"].to_numpy()
        gap = mean_score(lines["corrected"].to_numpy(), patients)
        count = int(np.count_nonzero(~np.isnan(values)))
        return metric_score(metric, estimate(values, patients), count, definition, gap)


def _one_per_image(metric: PairMetric, made: Tensor, real: Tensor, mask: Tensor | None) -> Tensor:
    """The scores (n,) of images by a metric; UserError where it returns something else."""
    scores = metric(made, real) if mask is None else metric(made, real, mask)
    if scores.shape != (len(made),):
        raise UserError(
            f"the metric '{metric.name}' returns {tuple(scores.shape)} for {len(made)} images",
            where="evaluate.metrics",
            allowed="one number per image: (N,)",
        )
    return scores


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
