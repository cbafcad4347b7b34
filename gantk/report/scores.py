"""metrics.json in words and rows: the verdict against the trivial baselines, and one card a metric and direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gantk.report.figures import number
from gantk.report.folder import RunRecord

METRIC_NAMES = {name: name.upper() for name in ("psnr", "ssim", "mae", "nrmse", "lpips", "fid", "kid")}
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "precision": True, "recall": True} | dict.fromkeys(
    ("mae", "nrmse", "lpips", "fid", "kid"), False
)
BASELINE_NAMES = {
    "identity": "identity",
    "histogram": "histogram matching",
    "intensity_map": "intensity-only map",
}


@dataclass(frozen=True)
class Row:
    """One line of a card: the model or a baseline; places are percent along the card's common axis."""

    name: str
    is_model: bool
    value: str
    interval: str
    corrected: str
    n: str
    dot: float | None
    left: float | None
    width: float | None


@dataclass(frozen=True)
class Card:
    """One metric in one direction, the model first and the baselines beneath."""

    metric: str
    unit: str
    sense: str
    definition: str
    n: str
    rows: tuple[Row, ...]

    @property
    def has_corrected(self) -> bool:
        return any(row.corrected for row in self.rows)


@dataclass(frozen=True)
class Finding:
    """One metric's comparison: `better` is None where metrics.json does not say."""

    metric: str
    score: str
    interval: str
    better: bool | None
    against: str


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one direction."""

    direction: str
    sentence: str
    good: bool | None
    findings: tuple[Finding, ...]


def metric_name(name: str) -> str:
    """`psnr` is PSNR, `psnr_foreground` is PSNR foreground; a name not known stays as it is."""
    head, _, rest = name.partition("_")
    return f"{METRIC_NAMES[head]} {rest}".strip().replace("_", " ") if head in METRIC_NAMES else name


def baseline_name(name: str) -> str:
    return BASELINE_NAMES.get(name, name.replace("_", " "))


def cards(run: RunRecord) -> dict[str, list[Card]]:
    """Direction in words -> its cards, in the order of metrics.json."""
    scores = run.metrics.get("metrics") or {}
    return {
        run.label(direction): [_card(run, direction, metric, score) for metric, score in by_metric.items()]
        for direction, by_metric in scores.items()
    }


def verdicts(run: RunRecord) -> list[Verdict]:
    """One verdict a direction; empty where nothing was measured."""
    found = []
    for direction, by_metric in (run.metrics.get("metrics") or {}).items():
        judged = (run.metrics.get("verdict") or {}).get(direction) or {}
        findings = tuple(
            _finding(run, direction, metric, score, judged.get(metric) or {}) for metric, score in by_metric.items()
        )
        sentence, good = _sentence(findings)
        found.append(Verdict(run.label(direction), sentence, good, findings))
    return found


def headline(found: list[Verdict]) -> tuple[str, bool | None]:
    """The verdict of the whole run in one sentence, and whether it is good news (None: neither)."""
    judged = [verdict for verdict in found if verdict.good is not None]
    if not found:
        return "", None
    if not judged:
        return "Nothing to compare with: no trivial baseline was measured.", None
    failing = [verdict.direction for verdict in judged if not verdict.good]
    if not failing:
        everywhere = "in both directions" if len(judged) == 2 else f"for {_listed([v.direction for v in judged])}"
        return f"The model beats the best trivial baseline {everywhere}.", True
    return f"The model does not beat the best trivial baseline on every metric: see {_listed(failing)}.", False


def _sentence(findings: tuple[Finding, ...]) -> tuple[str, bool | None]:
    wins = [f.metric for f in findings if f.better is True]
    losses = [f.metric for f in findings if f.better is False]
    if not wins and not losses:
        return "Measured; no trivial baseline to compare with.", None
    if not losses:
        return f"Beats the best trivial baseline on {_listed(wins)}.", True
    if not wins:
        return f"Does not beat the best trivial baseline on {_listed(losses, 'or')}.", False
    return f"Does not beat the best trivial baseline on {_listed(losses, 'or')}; beats it on {_listed(wins)}.", False


def _finding(run: RunRecord, direction: str, metric: str, score: Any, judged: dict[str, Any]) -> Finding:
    best = judged.get("best_baseline")
    rival = ((run.metrics.get("baselines") or {}).get(best) or {}).get(direction, {}).get(metric) if best else None
    decimals = _decimals(score)
    against = f"{_with_unit(rival, decimals)}, {baseline_name(best)}" if rival else baseline_name(best) if best else ""
    return Finding(
        metric_name(metric), _with_unit(score, decimals), _interval(score, decimals), judged.get("better"), against
    )


def _card(run: RunRecord, direction: str, metric: str, score: dict[str, Any]) -> Card:
    entries = {"model": score}
    for name, by_direction in (run.metrics.get("baselines") or {}).items():
        rival = (by_direction.get(direction) or {}).get(metric)
        if rival:
            entries[baseline_name(name)] = rival
    ends = [end for entry in entries.values() for end in _ends(entry) if end is not None and math.isfinite(end)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    higher = HIGHER_IS_BETTER.get(metric.partition("_")[0])
    return Card(
        metric=metric_name(metric),
        unit=str(score.get("unit") or ""),
        sense="" if higher is None else "higher is better" if higher else "lower is better",
        definition=str(score.get("definition") or ""),
        n=str(score.get("n") if score.get("n") is not None else ""),
        rows=tuple(_row(name, entry, low, high, _decimals(score)) for name, entry in entries.items()),
    )


def _row(name: str, entry: dict[str, Any], low: float, high: float, decimals: int) -> Row:
    def percent(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return 4 + 92 * (value - low) / (high - low) if high > low else 50.0

    left, dot, right = (percent(end) for end in _ends(entry))
    corrected = entry.get("corrected")
    return Row(
        name=name,
        is_model=name == "model",
        value=_digits(entry.get("value"), decimals),
        interval=_interval(entry, decimals),
        corrected=_digits(corrected, decimals) if corrected is not None else "",
        n=str(entry.get("n", "")),
        dot=dot,
        left=left,
        width=max(right - left, 0) if left is not None and right is not None else None,
    )


def _ends(entry: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    interval = entry.get("ci95") or (None, None)
    return interval[0], entry.get("value"), interval[1]


def _interval(entry: dict[str, Any], decimals: int) -> str:
    low, _, high = _ends(entry)
    return f"{_digits(low, decimals)} to {_digits(high, decimals)}" if low is not None and high is not None else ""


def _with_unit(entry: dict[str, Any], decimals: int) -> str:
    return f"{_digits(entry.get('value'), decimals)} {entry.get('unit') or ''}".strip()


def _decimals(entry: dict[str, Any]) -> int:
    """Decibels to a hundredth, scores near one to three places: set by the model's value, so that a card lines up."""
    size = abs(entry.get("value") or 0.0)
    return 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 4


def _digits(value: float | None, decimals: int) -> str:
    if value is None or not math.isfinite(value) or 0 < abs(value) < 1e-4:
        return number(value, 3)
    return f"{value:.{decimals}f}".replace("-", "−")


def _listed(items: list[str], conjunction: str = "and") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {conjunction} {items[-1]}"
