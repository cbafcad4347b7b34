"""What metrics.json says in words: whether the model beats the baselines, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gantk.report.folder import RunRecord
from gantk.report.naming import (
    FITTED_ON_PAIRS,
    REGIONS,
    baseline_name,
    decimals,
    interval,
    listed,
    metric_name,
    region_of,
    with_unit,
)

MOST_NAMED = 4  # metrics in one sentence; of more, the number is told
SURE = 0.95  # of the bootstrap's draws must favour the model before a page says that it beats a baseline


@dataclass(frozen=True)
class Finding:
    """One metric against its best baseline: `tone` is good, near (ahead, within chance), bad or "" (not judged).

    `without_pairs` and its tone are of the baselines that needed no pairs, where the best one did and is not beaten.
    """

    metric: str
    region: str
    score: str
    interval: str
    tone: str
    against: str
    without_pairs: str
    without_tone: str


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one direction; its tone is that of its worst finding."""

    direction: str
    sentence: str
    tone: str
    findings: tuple[Finding, ...]

    @property
    def parts(self) -> list[tuple[str, tuple[Finding, ...]]]:
        """(region, its findings): what is scored over whole images first."""
        found = [(region, tuple(f for f in self.findings if f.region == region)) for region in ("", *REGIONS)]
        return [(region, findings) for region, findings in found if findings]


def tone_of(judged: dict[str, Any]) -> str:
    """good, near (ahead, but within chance), bad, or "" where there was nothing to be judged against."""
    better, chance = judged.get("better"), judged.get("probability", 1.0)
    if better is None:
        return ""
    return "bad" if not better else "good" if chance is not None and chance >= SURE else "near"


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
        return f"The model does not beat the best baseline{where}{_but_unpaired(found)}.", "bad"
    if tones == {"near"}:
        return "The model is ahead of the best baseline, but within chance.", "near"
    if "near" in tones:
        return f"The model beats the best baseline, within chance on {_where(found, 'near', 'and')}.", "near"
    if tones:
        judged = [verdict.direction for verdict in found if verdict.tone]
        translations = all("→" in direction and "post-steps" not in direction for direction in judged)
        where = "in both directions" if len(judged) == 2 and translations else f"for {listed(judged)}"
        return f"The model beats the best baseline {where}.", "good"
    return ("Nothing to compare with: no baseline was measured." if found else ""), ""


def _but_unpaired(found: list[Verdict]) -> str:
    """The losses are all to baselines that were fitted on true pairs: said, since an unpaired method sees none."""
    lost = [finding for verdict in found for finding in verdict.findings if finding.tone == "bad"]
    if not all(finding.without_tone == "good" for finding in lost):
        return ""
    return "; it beats the best of those that needed no pairs"


def _where(found: list[Verdict], tone: str, conjunction: str) -> str:
    """`PSNR or MAE for T2 → T1`: the metrics of that tone, by direction."""
    parts = [(v.direction, _named(v.findings, tone, conjunction)) for v in found]
    return "; ".join(f"{names} for {direction}" for direction, names in parts if names)


def _named(findings: tuple[Finding, ...], tone: str, conjunction: str = "and") -> str:
    """The metrics of that tone by name or, where they are too many to read, by their number."""
    names = [f.metric for f in findings if f.tone == tone]
    if len(names) > MOST_NAMED:
        judged = sum(1 for f in findings if f.tone)
        most = "any of the" if tone == "bad" else "all"
        return f"{len(names)} of {judged} scores" if len(names) < judged else f"{most} {judged} scores"
    return listed(names, conjunction) if names else ""


def _sentence(findings: tuple[Finding, ...]) -> str:
    wins, near = (_named(findings, tone) for tone in ("good", "near"))
    losses = _named(findings, "bad", "or")
    parts = []
    if losses:
        parts.append(f"Does not beat the best baseline on {losses}")
    if wins:
        parts.append(f"{'beats it' if parts else 'Beats the best baseline'} on {wins}")
    if near:
        ahead = "ahead of it" if parts else "Ahead of the best baseline"
        parts.append(f"{ahead} on {near}, but within chance")
    return f"{'; '.join(parts)}." if parts else "Measured; no baseline to compare with."


def _finding(run: RunRecord, direction: str, metric: str, score: dict[str, Any], judged: dict[str, Any]) -> Finding:
    places, rivals = decimals(score), _rivals(run, direction, metric)
    unpaired = judged.get("without_pairs") or {}
    fitted, told = judged.get("best_baseline") in FITTED_ON_PAIRS, unpaired.get("best_baseline")
    tells = fitted and told and tone_of(judged) != "good"
    return Finding(
        metric=metric_name(metric),
        region=region_of(metric),
        score=with_unit(score, places),
        interval=interval(score, places),
        tone=tone_of(judged),
        against=_against(judged, rivals, places),
        without_pairs=f"without pairs: {_against(unpaired, rivals, places)}" if tells else "",
        without_tone=tone_of(unpaired) if tells else "",
    )


def _rivals(run: RunRecord, direction: str, metric: str) -> dict[str, dict[str, Any]]:
    found = run.metrics.get("baselines") or {}
    plain = direction.removesuffix("_post")
    return {
        name: (by_direction.get(direction) or by_direction.get(plain) or {}).get(metric)
        for name, by_direction in found.items()
    }


def _against(judged: dict[str, Any], rivals: dict[str, dict[str, Any] | None], places: int) -> str:
    """`better than 18.50 dB, identity`; how sure it is where it is not."""
    tone, best, chance = tone_of(judged), judged.get("best_baseline"), judged.get("probability", 1.0)
    if not best:
        return ""
    words = {"good": "better than", "near": "ahead of", "bad": "not better than", "": "beside"}[tone]
    value = f"{with_unit(rivals[best], places)}, " if rivals.get(best) else ""
    doubt = f" (in {chance:.0%} of the draws)" if chance is not None else " (one patient says little)"
    return f"{words} {value}{baseline_name(best)}{doubt if tone == 'near' else ''}"
