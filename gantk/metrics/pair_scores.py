"""Scores of outputs against their truth: per metric, per region, per level, raw and corrected, in two units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.aggregation import Values, per_level
from gantk.metrics.baselines import linearly_corrected
from gantk.metrics.bootstrap import estimate
from gantk.metrics.lesions import LesionContrast
from gantk.metrics.regions import FOREGROUND, LESION, SUFFIXES, definition_in, maskable
from gantk.metrics.scoring import report
from gantk.metrics.units import Units


@dataclass(frozen=True)
class Truth:
    """What outputs should be: images (N, C, *size), their patients, and where known what else is to be looked at."""

    images: Tensor
    patients: list[str]
    masks: Tensor | None = None  # of lesions (N, 1, *size)
    foreground: Tensor | None = None  # what is not air (N, 1, *size)
    volumes: list[str] = field(default_factory=list)  # which volume each image is a slice of, "" where unknown
    units: Units | None = None  # the intensities of the files


@dataclass(frozen=True)
class Scores:
    """One candidate's values: row -> one number per image, raw, after the best linear correction, in native units."""

    raw: dict[str, Values]
    corrected: dict[str, np.ndarray]
    native: dict[str, np.ndarray]
    truth: Truth
    finite: np.ndarray  # (N,) whether all values of an output are numbers

    def trouble(self, name: str) -> str | None:
        """Why a row has no value although its images could be scored; None where it has."""
        count, broken = len(self.finite), int((~self.finite).sum())
        infinite = int(np.isinf(self.raw[name].scores).sum())
        if broken:
            return f"{broken} of {count} outputs hold NaN or infinite values"
        return f"{infinite} of {count} images score infinitely" if infinite else None


class PairScorer:
    """Scores of outputs against their truth by every pair metric, in every region that is known and wanted.

    All is computed on `device`; single numbers come back. UserError where a metric has no region to be scored in.
    """

    def __init__(
        self,
        metrics: Sequence[Any],
        low: float,
        data_range: float,
        dims: int,
        batch: int,
        device: Any,
        regions: Sequence[str] = tuple(SUFFIXES),
    ):
        self.low, self.dims, self.batch, self.device = low, dims, batch, device
        self.metrics = list(metrics)
        self.wanted = [suffix for region, suffix in SUFFIXES.items() if region in regions]
        if not self.wanted:
            what = "no region is named, so nothing would be scored"
            raise UserError(what, where="evaluate.regions", allowed=list(SUFFIXES))
        self.rows_of = {metric.name + suffix: (metric, suffix) for suffix in self.wanted for metric in self._in(suffix)}
        for metric in self.metrics if "" not in self.wanted else ():
            if not maskable(metric):
                what = f"the metric '{metric.name}' cannot be limited to a region, and the whole image is not wanted"
                raise UserError(what, where="evaluate.regions", remedy='add "whole", or leave the metric out')
        self.contrast = LesionContrast(data_range, dims) if LESION in self.wanted and self._in(LESION) else None
        if self.contrast:
            self.rows_of[self.contrast.name] = (self.contrast, LESION)

    def __call__(self, output: Tensor, truth: Truth) -> Scores:
        """All scores of outputs (N, C, *size) in network intensities."""
        found: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
        for first in range(0, len(output), self.batch):
            part = slice(first, first + self.batch)
            made, real = (images[part].to(self.device) for images in (output, truth.images))
            regions = self._regions(truth, part)
            found["finite", ""].append(made.isfinite().flatten(1).all(1))
            if truth.units is not None:
                self._native(found, *(truth.units.native(images, first) for images in (made, real)), regions)
            # Metrics count from black: SSIM's luminance term means nothing where intensities change sign.
            made, real = made - self.low, real - self.low
            self._raw(found, made, real, regions)
            for suffix, mask in regions.items():
                if suffix != LESION:
                    self._each(found, "corrected", linearly_corrected(made, real, mask), real, {suffix: mask})
        joined = {key: torch.cat(parts).cpu().double().numpy() for key, parts in found.items()}
        of = lambda kind: {name: values for (which, name), values in joined.items() if which == kind}  # noqa: E731
        means, weights = of("mean"), of("weight")
        raw = {name: Values(scores, means.get(name), weights.get(name)) for name, scores in of("raw").items()}
        return Scores(raw, of("corrected"), of("native"), truth, joined["finite", ""] > 0)

    def means(self, output: Tensor, truth: Truth, names: Sequence[str]) -> dict[str, float | None]:
        """Mean over patients of these metrics, of whole images alone; None where an output is not finite."""
        found = defaultdict(list)
        for first in range(0, len(output), self.batch):
            part = slice(first, first + self.batch)
            made, real = (images[part].to(self.device) - self.low for images in (output, truth.images))
            for metric in self.metrics:
                if metric.name in names:
                    found[metric.name].append(metric(made, real))
        values = {name: torch.cat(parts).cpu().double().numpy() for name, parts in found.items()}
        return {
            name: estimate(scores, truth.patients, draws=1).value if np.isfinite(scores).all() else None
            for name, scores in values.items()
        }

    def rows(self, scores: Scores) -> dict[str, Any]:
        """Row of metrics.json by its name."""
        return {name: self._row(name, scores) for name in self.rows_of if name in scores.raw}

    def _row(self, name: str, scores: Scores) -> dict[str, Any]:
        metric, suffix = self.rows_of[name]
        values, truth, definition = scores.raw[name], scores.truth, definition_in(metric, suffix)
        trouble = scores.trouble(name)
        if trouble:
            nothing = np.full(len(values.scores), np.nan)
            return report(metric, nothing, truth.patients, None, f"{definition}/not-computed: {trouble}")
        row = report(metric, values.scores, truth.patients, scores.corrected.get(name), definition)
        volumes = truth.volumes or [""] * len(truth.patients)
        row["per"] = per_level(values, truth.patients, volumes, self.dims, getattr(metric, "of_mean", None))
        if name in scores.native:
            row["in_units"] = _in_units(metric, scores.native[name], truth, definition)
        return row

    def _in(self, suffix: str) -> list[Any]:
        return [metric for metric in self.metrics if not suffix or maskable(metric)]

    def _regions(self, truth: Truth, part: slice) -> dict[str, Tensor | None]:
        """suffix -> mask, of the regions that are wanted and known."""
        masks = {FOREGROUND: truth.foreground, LESION: truth.masks}
        known = [suffix for suffix in self.wanted if not suffix or masks[suffix] is not None]
        return {suffix: masks[suffix][part].to(self.device) if suffix else None for suffix in known}

    def _raw(self, found: dict, made: Tensor, real: Tensor, regions: dict[str, Tensor | None]) -> None:
        self._each(found, "raw", made, real, regions)
        if self.contrast and LESION in regions:
            found["raw", self.contrast.name].append(self.contrast(made, real, regions[LESION]))

    def _each(self, found: dict, kind: str, made: Tensor, real: Tensor, regions: dict[str, Tensor | None]) -> None:
        """Add every metric's scores of these images; a metric of a map draws it once for all regions."""
        for metric in self.metrics:
            masks = {suffix: mask for suffix, mask in regions.items() if not suffix or maskable(metric)}
            if hasattr(metric, "means"):
                for suffix, (mean, weight) in zip(masks, metric.means(made, real, [*masks.values()]), strict=True):
                    name = metric.name + suffix
                    found[kind, name].append(metric.of_mean(mean))
                    if kind == "raw":
                        found["mean", name].append(mean)
                        found["weight", name].append(weight)
                continue
            for suffix, mask in masks.items():
                found[kind, metric.name + suffix].append(metric(made, real, *(() if mask is None else (mask,))))

    def _native(self, found: dict, made: Tensor, real: Tensor, regions: dict[str, Tensor | None]) -> None:
        for metric in self.metrics:
            in_units: Callable[[Tensor], Tensor] | None = getattr(metric, "in_units", None)
            if in_units is not None:
                for suffix, (mean, _) in zip(regions, metric.means(made, real, [*regions.values()]), strict=True):
                    found["native", metric.name + suffix].append(in_units(mean))


def _in_units(metric: Any, values: np.ndarray, truth: Truth, definition: str) -> dict[str, Any]:
    found, where = estimate(values, truth.patients), definition.rpartition("/")[2]
    return {
        "value": found.value,
        "ci95": list(found.ci95) if found.ci95 else None,
        "unit": truth.units.name,
        "definition": f"{metric.native}/{'hounsfield' if truth.units.name == 'HU' else 'native'}-intensities/{where}",
    }


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of several calls as if they had been one; what only `Truth.patients` tells of the truths is kept."""
    names = list(parts[0].raw)
    row = lambda kind, name: np.concatenate([getattr(part, kind)[name] for part in parts])  # noqa: E731
    raw = {name: Values(np.concatenate([part.raw[name].scores for part in parts])) for name in names}
    corrected = {name: row("corrected", name) for name in parts[0].corrected}
    native = {name: row("native", name) for name in parts[0].native}
    patients = [patient for part in parts for patient in part.truth.patients]
    truth = Truth(parts[0].truth.images, patients)
    return Scores(raw, corrected, native, truth, np.concatenate([part.finite for part in parts]))
