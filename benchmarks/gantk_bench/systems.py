"""Groups bench rows for tables: a System holds the seeds of one experiment, a Line one direction of
a System.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean
from typing import Any

from gantk.metrics.names import baseline_words, needs_pairs, split_region
from gantk.metrics.verdict import TONES, Tone, tone_of, verdict_words
from gantk.report.words import (
    digits,
    direction_name,
)
from gantk.runs.results import Score, Verdict
from gantk_bench.rows import Row

Values = tuple[float, ...]  # of one quantity, by seed; empty where it was not measured
FIRST = ("psnr", "ssim")  # main metrics of a translation
# baselines that any successful training beats: the unchanged input, random pixels
TRIVIAL = ("identity", "noise")
MAX_LINES_OF_A_SYSTEM = 4  # both directions, before and after the post-steps
SEED = re.compile(r"\s*\bseed=\S+")


@dataclass(frozen=True)
class Judgement:
    """The worst verdict on a model, in words, and its tone: good, near, bad, or "" without any."""

    words: str = ""
    tone: Tone = ""
    failed: bool = False  # whether the model is worse than the unchanged input or random pixels


@dataclass(frozen=True)
class System:
    """The rows of one experiment, which differ only in their seed."""

    name: str
    rows: tuple[Row, ...]

    @property
    def scored(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.metrics)

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status != "ok")

    @property
    def status(self) -> str:
        """`ok`, or the status of the first row that is not ok."""
        return next((row.status for row in self.failed), "ok")

    @property
    def errors(self) -> list[str]:
        """The different errors of its rows."""
        return list(dict.fromkeys(row.error for row in self.failed if row.error))

    def first(self, key: str) -> Any:
        """The first row's value that is not empty for this key, else the last row's."""
        values = [getattr(row, key) for row in self.rows]
        return next(filter(None, values), values[-1])

    @cached_property
    def lines(self) -> tuple["Line", ...]:
        """One Line for each direction; if nothing was scored, one Line with direction ""."""
        directions = dict.fromkeys(key for row in self.scored for key in row.metrics)
        return tuple(Line(self, direction) for direction in directions or [""])

    @property
    def main_lines(self) -> tuple["Line", ...]:
        """The lines that a table has room for: of a network of many contrasts the first two."""
        return self.lines if len(self.lines) <= MAX_LINES_OF_A_SYSTEM else self.lines[:2]

    @property
    def more(self) -> str:
        """`27 more in rows.jsonl`: the directions that a table has no room for; "" if none."""
        left = len(self.lines) - len(self.main_lines)
        return f"{left} more in rows.jsonl" if left else ""


@dataclass(frozen=True)
class Line:
    """One direction of a system."""

    system: System
    direction: str

    @property
    def label(self) -> str:
        return (
            direction_name(self.direction, self.system.first("domains")) if self.direction else ""
        )

    @property
    def metrics(self) -> list[str]:
        """The metrics of this direction, in the order of the rows."""
        scored = (row.metrics.get(self.direction, {}) for row in self.system.scored)
        return list(dict.fromkeys(chain.from_iterable(scored)))

    @property
    def main(self) -> list[str]:
        """The main metrics: PSNR and SSIM where scored, else the first metric."""
        scored = self.metrics
        return [name for name in FIRST if name in scored] or scored[:1]

    def places(self, metric: str) -> int:
        """Digits after the decimal point; the same in every line for PSNR and SSIM."""
        return {"psnr": 2, "ssim": 3}.get(metric) or self.score(metric).decimals

    def score(self, metric: str) -> Score:
        """The first seed's score; an empty one if there is none."""
        return next(self._all_scores(metric), Score())

    def _all_scores(self, metric: str) -> Iterator[Score]:
        """The score of each seed that has one."""
        for row in self.system.scored:
            if metric in row.metrics.get(self.direction, {}):
                yield row.metrics[self.direction][metric]

    def text(self, metric: str, values: Values) -> str:
        """The mean of values in the decimal places of this metric; a dash if there are none."""
        return digits(fmean(values) if values else None, self.places(metric))

    def scores(self, metric: str) -> Values:
        return numbers(score.value for score in self._all_scores(metric))

    def baseline(self, name: str, metric: str) -> Values:
        """A baseline's scores; for a direction with post-steps (`_post`) also the baselines of the
        plain direction.
        """
        scored = (row.baseline(name, self.direction) for row in self.system.scored)
        return numbers(scores[metric].value for scores in scored if metric in scores)

    def best(self, metric: str) -> str | None:
        """Name of the best baseline, by the first verdict that is recorded."""
        verdicts = (row.verdict_of(self.direction, metric) for row in self.system.scored)
        return next((each.best_baseline for each in verdicts if each.best_baseline), None)

    @property
    def published(self) -> dict[str, float]:
        """Published figures by metric: those of this direction, else those given without a
        direction.
        """
        figures = self.system.first("published")
        entries = figures.get(self.direction.removesuffix("_post"), figures)
        return {name: value for name, value in entries.items() if isinstance(value, int | float)}

    def speed(self, name: str) -> Values:
        return numbers(getattr(row.speed, name) for row in self.system.rows)

    @property
    def step_seconds(self) -> Values:
        """Mean seconds per step of every log interval of every seed."""
        samples = (row.speed.step_seconds or () for row in self.system.rows)
        return tuple(chain.from_iterable(samples))

    @cached_property
    def judgement(self) -> Judgement:
        """The worst verdict over all seeds and scores of the whole image."""
        for name in TRIVIAL:
            if self.main and all(self._is_worse_than(name, metric) for metric in self.main):
                return Judgement(f"training failed: worse than {baseline_words(name)}", "bad", True)
        return _worst(self._verdicts)

    @property
    def _verdicts(self) -> list[Verdict]:
        return [
            verdict
            for row in self.system.scored
            for metric, verdict in row.verdicts(self.direction).items()
            if not split_region(metric)[1]
        ]

    def _is_worse_than(self, baseline: str, metric: str) -> bool:
        """Whether the mean over seeds is worse than that of a baseline that was scored."""
        own = self.scores(metric)
        other = self.baseline(baseline, metric)
        higher = self.score(metric).higher_is_better
        if not own or not other or higher is None:
            return False
        return fmean(own) < fmean(other) if higher else fmean(own) > fmean(other)

    @cached_property
    def without_pairs(self) -> Judgement:
        """Judgement against baselines that need no pairs, if one that needs them was not beaten."""
        lost = [each for each in self._verdicts if tone_of(each) in ("bad", "near")]
        fair = [each.without_pairs for each in lost if needs_pairs(each.best_baseline)]
        return Judgement() if self.judgement.failed else _worst(filter(None, fair))


def _worst(verdicts: Iterable[Verdict]) -> Judgement:
    judged = [each for each in verdicts if tone_of(each)]
    if not judged:
        return Judgement()
    worst = min(judged, key=lambda each: TONES.index(tone_of(each)))
    return Judgement(verdict_words(worst, "the best baseline"), tone_of(worst))


def systems(rows: Iterable[Row]) -> list[System]:
    """Groups of rows that differ only in their seed, in the order of their first rows."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        settings = [setting for setting in row.settings if not setting.startswith("train.seed=")]
        same = [row.suite, row.recipe, row.profile, settings, name_of(row)]
        groups[json.dumps(same)].append(row)
    return [System(name_of(group[0]), tuple(group)) for group in groups.values()]


def name_of(row: Row) -> str:
    """The row's label without its seed."""
    return SEED.sub("", row.label).strip() or row.label


def numbers(values: Iterable[float | None]) -> Values:
    """The values that are known."""
    return tuple(value for value in values if value is not None)
