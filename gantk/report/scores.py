"""metrics.json in words and rows: the verdict against the trivial baselines, and one card a metric and direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gantk.report.figures import number
from gantk.report.folder import RunRecord

METRIC_NAMES = {name: name.upper() for name in ("psnr", "ssim", "mae", "nrmse", "lpips", "fid", "kid")}
METRIC_NAMES["uncertainty"] = "Uncertainty:"
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "precision": True, "recall": True} | dict.fromkeys(
    ("mae", "nrmse", "lpips", "fid", "kid"), False
)
SURE = 0.95  # of the bootstrap's draws must favour the model before the page says that it beats a baseline
BASELINE_NAMES = {
    "identity": "identity",
    "histogram": "histogram matching",
    "intensity_map": "intensity-only map",
    "real_split": "real images",
    "noise": "pixel noise",
}


@dataclass(frozen=True)
class Row:
    """One line of a card: the model or a baseline; places are percent along the card's common axis."""

    name: str
    is_model: bool
    value: str
    interval: str
    corrected: str
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
    """One metric against its best baseline: `tone` is good, near (ahead, within chance), bad or "" (not judged)."""

    metric: str
    score: str
    interval: str
    tone: str
    against: str


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one direction; its tone is that of its worst finding."""

    direction: str
    sentence: str
    tone: str
    findings: tuple[Finding, ...]


def metric_name(name: str) -> str:
    """`psnr` is PSNR, `psnr_foreground` is PSNR foreground; a name not known stays as it is."""
    head, _, rest = name.partition("_")
    return f"{METRIC_NAMES[head]} {rest}".strip().replace("_", " ") if head in METRIC_NAMES else name


def baseline_name(name: str) -> str:
    return BASELINE_NAMES.get(name, name.replace("_", " "))


def cards(run: RunRecord) -> dict[str, list[Card]]:
    """Direction in words -> its cards, in the order of metrics.json; how well an uncertainty predicts errors last."""
    found = {}
    for direction, by_metric in (run.metrics.get("metrics") or {}).items():
        judged = (run.metrics.get("uncertainty") or {}).get(direction) or {}
        scores = {name: row for name, row in judged.items() if isinstance(row, dict) and "value" in row}
        unsure = {f"uncertainty_{name}": row for name, row in scores.items()}
        found[run.label(direction)] = [_card(run, direction, *item) for item in (by_metric | unsure).items()]
    return found


def verdicts(run: RunRecord) -> list[Verdict]:
    """One verdict a direction; empty where nothing was measured."""
    found = []
    for direction, by_metric in (run.metrics.get("metrics") or {}).items():
        judged = (run.metrics.get("verdict") or {}).get(direction) or {}
        findings = tuple(
            _finding(run, direction, metric, score, judged.get(metric) or {}) for metric, score in by_metric.items()
        )
        tones = [finding.tone for finding in findings]
        tone = next((tone for tone in ("bad", "near", "good") if tone in tones), "")
        found.append(Verdict(run.label(direction), _sentence(findings), tone, findings))
    return found


def headline(found: list[Verdict]) -> tuple[str, str]:
    """The verdict of the whole run in one sentence, and its tone."""
    tones = {finding.tone for verdict in found for finding in verdict.findings} - {""}
    if "bad" in tones:
        where = f" on {_where(found, 'bad', 'or')}" if len(tones) > 1 else ""
        return f"The model does not beat the best trivial baseline{where}.", "bad"
    if tones == {"near"}:
        return "The model is ahead of the best trivial baseline, but within chance.", "near"
    if "near" in tones:
        return f"The model beats the best trivial baseline, within chance on {_where(found, 'near', 'and')}.", "near"
    if tones:
        judged = [verdict.direction for verdict in found if verdict.tone]
        translations = all("→" in direction and "post-steps" not in direction for direction in judged)
        where = "in both directions" if len(judged) == 2 and translations else f"for {_listed(judged)}"
        return f"The model beats the best trivial baseline {where}.", "good"
    return ("Nothing to compare with: no trivial baseline was measured." if found else ""), ""


def _where(found: list[Verdict], tone: str, conjunction: str) -> str:
    """`PSNR or MAE for T2 → T1`: the metrics of that tone, by direction."""
    metrics = {v.direction: [f.metric for f in v.findings if f.tone == tone] for v in found}
    return "; ".join(f"{_listed(names, conjunction)} for {direction}" for direction, names in metrics.items() if names)


def _sentence(findings: tuple[Finding, ...]) -> str:
    wins, near, losses = ([f.metric for f in findings if f.tone == tone] for tone in ("good", "near", "bad"))
    parts = []
    if losses:
        parts.append(f"Does not beat the best trivial baseline on {_listed(losses, 'or')}")
    if wins:
        parts.append(f"{'beats it' if parts else 'Beats the best trivial baseline'} on {_listed(wins)}")
    if near:
        ahead = "ahead of it" if parts else "Ahead of the best trivial baseline"
        parts.append(f"{ahead} on {_listed(near)}, but within chance")
    return f"{'; '.join(parts)}." if parts else "Measured; no trivial baseline to compare with."


def _finding(run: RunRecord, direction: str, metric: str, score: dict[str, Any], judged: dict[str, Any]) -> Finding:
    best, better, chance = judged.get("best_baseline"), judged.get("better"), judged.get("probability", 1.0)
    sure = chance is not None and chance >= SURE
    tone = "" if better is None else "bad" if not better else "good" if sure else "near"
    rival = ((run.metrics.get("baselines") or {}).get(best) or {}).get(direction, {}).get(metric)
    decimals = _decimals(score)
    words = {"good": "better than", "near": "ahead of", "bad": "not better than", "": "beside"}[tone]
    value = f"{_with_unit(rival, decimals)}, " if rival else ""
    against = f"{words} {value}{baseline_name(best)}" if best else ""
    if tone == "near":
        against += f" (in {chance:.0%} of the draws)" if chance is not None else " (one patient says little)"
    return Finding(metric_name(metric), _with_unit(score, decimals), _interval(score, decimals), tone, against)


def _card(run: RunRecord, direction: str, metric: str, score: dict[str, Any]) -> Card:
    entries = {"model": score}
    for name, by_direction in (run.metrics.get("baselines") or {}).items():
        rival = (by_direction.get(direction) or {}).get(metric)
        if rival:
            entries[baseline_name(name)] = rival
    ends = [end for entry in entries.values() for end in _ends(entry) if end is not None and math.isfinite(end)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    higher = score.get("higher_is_better", HIGHER_IS_BETTER.get(metric.partition("_")[0]))
    return Card(
        metric=metric_name(metric),
        unit=str(score.get("unit") or ""),
        sense="" if higher is None else "higher is better" if higher else "lower is better",
        definition=str(score.get("definition") or ""),
        n=_count(score),
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
        dot=dot,
        left=left,
        width=max(right - left, 0) if left is not None and right is not None else None,
    )


def _count(entry: dict[str, Any]) -> str:
    """How many stand behind a score: patients, and their images where that is another number."""
    n, images = entry.get("n"), entry.get("images")
    return "" if n is None else f"n = {n} ({images} images)" if images and images != n else f"n = {n}"


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
    if entry.get("unit") == "dB":
        return 2
    return 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 4


def _digits(value: float | None, decimals: int) -> str:
    if value is None or not math.isfinite(value) or 0 < abs(value) < 1e-4:
        return number(value, 3)
    return f"{value:.{decimals}f}".replace("-", "−")


def _listed(items: list[str], conjunction: str = "and") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {conjunction} {items[-1]}"
