"""Bench rows as a table reads them: the seeds of an experiment together, a line for each direction."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from gantk.report.scores import tone_of
from gantk.report.words import FITTED_ON_PAIRS, baseline_name, decimals, direction_name, metric_name, region_of

Row = dict[str, Any]
FIRST = ("psnr", "ssim")  # what a translation is known by
UNTAUGHT = ("identity", "noise")  # what a training that taught anything beats: the input itself, pixels drawn by chance
NO_RIVAL = ("real_split",)  # real images as if they were made: a ceiling, not a baseline
SEED = re.compile(r"\s*\bseed=\S+")


@dataclass(frozen=True)
class Figure:
    """One number of each seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


@dataclass(frozen=True)
class Judgement:
    """The model against the best baseline: words, tone (good, near, bad, ""), probability, what it falls short in."""

    words: str
    tone: str
    probability: float | None
    short_in: tuple[str, ...] = ()
    failed: bool = False  # whether the training taught nothing

    @property
    def rank(self) -> float | None:
        """For sorting: surely better first, surely not better and then failed last; None where nothing was judged."""
        if self.failed:
            return -0.5
        if not self.tone:
            return None
        return {"good": 2.0, "near": 1.0, "bad": 0.0}[self.tone] + (self.probability or 0.0) / 2


@dataclass(frozen=True)
class System:
    """The rows of one experiment, which differ in their seed alone."""

    name: str
    rows: tuple[Row, ...]

    @property
    def scored(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if mapping(row.get("metrics")))

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.get("status") != "ok")

    @property
    def status(self) -> str:
        """`ok`, or what befell the first row that is not."""
        return next((str(row.get("status") or "unknown") for row in self.failed), "ok")

    @property
    def error(self) -> str:
        return next((str(row["error"]) for row in self.failed if row.get("error")), "")

    def first(self, key: str) -> Any:
        """What the first row that knows the key says."""
        return next((row[key] for row in self.rows if row.get(key) not in (None, "", [], {})), None)

    @property
    def domains(self) -> list[str]:
        found = self.first("domains")
        return [str(name) for name in found] if isinstance(found, list | tuple) else []

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """One a direction; a single one without a direction where nothing was scored."""
        directions = dict.fromkeys(key for row in self.scored for key in row["metrics"]) or {"": None}
        return tuple(Line(self, direction) for direction in directions)

    @property
    def apart(self) -> tuple[System, ...]:
        """A system for each seed."""
        return tuple(System(f"seed {row.get('seed')}", (row,)) for row in self.rows)


@dataclass(frozen=True)
class Line:
    """One direction of a system."""

    system: System
    direction: str

    @property
    def label(self) -> str:
        return direction_name(self.direction, self.system.domains) if self.direction else ""

    @property
    def metrics(self) -> list[str]:
        """What was scored, as the rows have it."""
        found = (name for row in self.system.scored for name in mapping(row["metrics"].get(self.direction)))
        return list(dict.fromkeys(found))

    @property
    def main(self) -> list[str]:
        """The one or two metrics that stand for all of a line."""
        scored = self.metrics
        return [name for name in FIRST if name in scored] or scored[:1]

    def entry(self, metric: str) -> Row:
        """The first seed's score with its interval, unit and definition."""
        rows = (dig(row, "metrics", self.direction, metric) for row in self.system.scored)
        return next((row for row in rows if isinstance(row, dict)), {})

    def places(self, metric: str) -> int:
        """Digits behind the point, the same in every line for what most lines have."""
        return {"psnr": 2, "ssim": 3}.get(metric) or decimals(self.entry(metric))

    def figure(self, metric: str) -> Figure | None:
        return self._over(lambda row: value_of(dig(row, "metrics", self.direction, metric)))

    def rival(self, baseline: str, metric: str) -> Figure | None:
        """A baseline's score; post-steps are held against what the plain direction is held against."""
        plain = self.direction.removesuffix("_post")

        def of(row: Row) -> float | None:
            found = (dig(row, "baselines", baseline, key, metric) for key in (self.direction, plain))
            return next((value for value in map(value_of, found) if value is not None), None)

        return self._over(of)

    @property
    def curves(self) -> dict[str, dict[float, float]]:
        """metric -> seconds of training -> validation score, averaged over seeds that were scored at the same step."""
        gathered: dict[str, dict[Any, list[tuple[float, float]]]] = {}
        for row in self.system.rows:
            for entry in map(mapping, row.get("curve") or ()):
                seconds = value_of(entry.get("seconds"))
                for metric, value in mapping(dig(entry, "scores", self.direction)).items():
                    score = value_of(value)
                    if seconds is not None and score is not None and math.isfinite(score):
                        gathered.setdefault(metric, {}).setdefault(entry.get("step"), []).append((seconds, score))
        found: dict[str, dict[float, float]] = {metric: {} for metric in gathered}
        for metric, by_step in gathered.items():
            for pairs in by_step.values():
                seconds, score = (fmean(each) for each in zip(*pairs, strict=True))
                found[metric][round(seconds, 2)] = score
        return found

    @property
    def baselines(self) -> list[str]:
        """Those that have a score in this direction."""
        names = dict.fromkeys(name for row in self.system.scored for name in mapping(row.get("baselines")))
        return [name for name in names if any(self.rival(name, metric) for metric in self.metrics)]

    def best(self, metric: str) -> str | None:
        """The best baseline's name, as it was judged or, failing that, as its score says."""
        for row in self.system.scored:
            judged = dig(row, "verdict", self.direction, metric, "best_baseline")
            if judged:
                return str(judged)
        sign = self._sign(metric)
        rivals = {name: self.rival(name, metric) for name in self.baselines if name not in NO_RIVAL}
        known = {name: figure.mean for name, figure in rivals.items() if figure}
        return max(known, key=lambda name: sign * known[name]) if sign and known else None

    @property
    def published(self) -> dict[str, float]:
        """Published figures by metric: those of this direction, or those that name no direction."""
        found = mapping(self.system.first("published"))
        flat = {name: value for name, value in found.items() if not isinstance(value, dict)}
        entries = mapping(found.get(self.direction.removesuffix("_post"))) or flat
        return {name: value_of(value) for name, value in entries.items() if value_of(value) is not None}

    def speed(self, name: str) -> Figure | None:
        return self._over(lambda row: value_of(dig(row, "speed", name)), self.system.rows)

    @property
    def step_seconds(self) -> Figure | None:
        """Mean seconds per step of every log interval of every seed."""
        found = [dig(row, "speed", "step_seconds") for row in self.system.rows]
        values = tuple(v for each in found if isinstance(each, list) for v in map(value_of, each) if v is not None)
        return Figure(values) if values else None

    @cached_property
    def judgement(self) -> Judgement:
        for name in UNTAUGHT:  # worse in all that a line is known by, as a mean over seeds
            pairs = [(self.figure(metric), self.rival(name, metric), self._sign(metric)) for metric in self.main]
            if pairs and all(own and other and own.mean * sign < other.mean * sign for own, other, sign in pairs):
                return Judgement(f"training failed: worse than {baseline_name(name)}", "bad", None, failed=True)
        return self._judged(lambda entry: entry)

    @cached_property
    def without_pairs(self) -> Judgement | None:
        """Against the baselines that needed no pairs, where the best one of all was fitted on pairs and not beaten."""
        best = [self.best(metric) for metric in self.main]
        if self.judgement.tone == "good" or self.judgement.failed or not any(name in FITTED_ON_PAIRS for name in best):
            return None
        judged = self._judged(lambda entry: mapping(entry.get("without_pairs")))
        return judged if judged.tone else None

    def _sign(self, metric: str) -> int:
        """1 where higher is better, -1 where lower is, 0 where neither."""
        higher = self.entry(metric).get("higher_is_better", True if metric in FIRST else None)
        return 0 if higher is None else 1 if higher else -1

    def _over(self, of: Callable[[Row], float | None], rows: Iterable[Row] | None = None) -> Figure | None:
        values = tuple(v for v in map(of, self.system.scored if rows is None else rows) if v is not None)
        return Figure(values) if values else None

    def _judged(self, part: Callable[[Row], Row]) -> Judgement:
        entries = [mapping(dig(row, "verdict", self.direction)) for row in self.system.scored]
        seeds = [_of_seed({m: part(mapping(e)) for m, e in found.items()}) for found in entries]
        seeds = [seed for seed in seeds if seed.tone]
        if not seeds:
            return Judgement("", "", None)
        wins = [seed for seed in seeds if seed.tone == "good"]
        chances = [seed.probability for seed in seeds if seed.probability is not None]
        chance = min(chances) if chances else None
        if 0 < len(wins) < len(seeds):
            short = tuple(dict.fromkeys(name for seed in seeds for name in seed.short_in))
            return Judgement(f"better with {len(wins)} of {len(seeds)} seeds", "near", chance, short)
        worst = min(seeds, key=lambda seed: seed.rank or 0.0)
        return Judgement(worst.words, worst.tone, chance, worst.short_in)


def _of_seed(judged: dict[str, Row]) -> Judgement:
    """All that was scored over the whole image; the probability is that of the metric that is least sure of it."""
    tones = {name: tone_of(entry) for name, entry in judged.items() if not region_of(name) and tone_of(entry)}
    if not tones:
        return Judgement("", "", None)
    chances = [value for name in tones if (value := value_of(judged[name].get("probability"))) is not None]
    losses = [name for name, tone in tones.items() if tone == "bad"]
    if len(losses) == len(tones):
        return Judgement("not better", "bad", max(chances, default=None))
    if losses:
        return Judgement("partly better", "near", None, tuple(metric_name(name) for name in losses))
    # Where nothing varies, such as a precision of 0, there is no interval and no chance to speak of: the others decide.
    known = [t for name, t in tones.items() if not chances or value_of(judged[name].get("probability")) is not None]
    words, tone = ("better, within chance", "near") if "near" in known else ("better", "good")
    words = words if chances else "better, one patient: no probability"
    return Judgement(words, tone, min(chances, default=None))


def systems(rows: Iterable[Row]) -> list[System]:
    """Rows that differ in their seed alone, together and in the order of the first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        settings = [s for s in row.get("settings") or () if not str(s).startswith("train.seed=")]
        grid = {key: value for key, value in mapping(row.get("grid")).items() if key != "train.seed"}
        same = [row.get("suite"), row.get("recipe"), row.get("peer"), row.get("profile"), settings, grid, name_of(row)]
        groups.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(row)
    return [System(name_of(group[0]), tuple(group)) for group in groups.values()]


def name_of(row: Row) -> str:
    """The row's label without its seed."""
    label = str(row.get("label") or row.get("recipe") or "unnamed")
    name = SEED.sub("", label).strip() or label
    return f"{name} ({row['peer']})" if row.get("peer") and str(row["peer"]) not in name else name


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def dig(row: Any, *keys: str) -> Any:
    """What lies under the keys, one in the other; None where one of them is absent."""
    for key in keys:
        row = mapping(row).get(key)
    return row


def value_of(entry: Any) -> float | None:
    """A score's value, or a bare number; None for what is no number."""
    value = entry.get("value") if isinstance(entry, dict) else entry
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)
