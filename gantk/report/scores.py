"""Prepares metrics.json and best.json for the page: scores and baselines, verdict sentences, the
chosen checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gantk.report import words
from gantk.report.run_record import RunRecord
from gantk.runs.folder import flat

MOST_NAMED = 4  # metrics named in one sentence; more are only counted
# share of bootstrap draws that must favour the model before the page says that it beats a baseline
SURE = 0.95
NEIGHBOURS = ("precision", "recall", "density", "coverage")  # four scores that share one card
# first word of name
SETS = ("fid", "kid", "prdc", "diversity", "two", "copied", "distance", "membership", *NEIGHBOURS)
# first words of downstream tasks' scores
TASKS = ("classification", "segmentation", "inventory", "accuracy", "dice")
FIELDS = ("value", "ci95", "unit", "definition", "higher_is_better", "corrected", "per", "in_units")
Baselines = dict[str, dict[str, words.Scored]]  # baseline -> metric -> its score


# ---- cards: every score beside its baselines


def cards(run: RunRecord) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Direction's label -> section -> its cards, in the order of metrics.json; uncertainty last."""
    sections_of: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for direction, scores in (run.metrics.get("metrics") or {}).items():
        sections = sections_of.setdefault(run.label(direction), {})
        rivals = {
            words.baseline_name(name): own for name, own in _baselines(run, direction).items()
        }
        for names in _names_of_cards(scores):
            card = _card(names, {"model": scores} | rivals)
            sections.setdefault(_section(names[0]), []).append(card)
        uncertainty = (run.metrics.get("uncertainty") or {}).get(direction) or {}
        rows = {}
        for name, row in uncertainty.items():
            if isinstance(row, dict) and "value" in row:
                rows[name] = row
        if rows:
            own_cards = [_card([name], {"model": rows}) for name in rows]
            sections["Uncertainty against error"] = own_cards
    return sections_of


def _names_of_cards(scores: Iterable[str]) -> list[list[str]]:
    """The scores of each card: those of nearest neighbours in the same features share one."""
    groups: dict[str, list[str]] = {}
    for name in scores:
        head, _, features = name.partition("_")
        key = f"neighbours in {features}" if head in NEIGHBOURS else name
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _section(name: str) -> str:
    """The section of a score's card."""
    region = words.region_of(name).capitalize()
    head = name.partition("_")[0]
    if region:
        return region
    if head in SETS:
        return "Sets of images"
    return "Tasks" if head in TASKS else "Whole image"


def _baselines(run: RunRecord, direction: str) -> Baselines:
    """Baseline -> metric -> its score; after the post-steps, the baselines are those of the plain
    direction.
    """
    plain = direction.removesuffix("_post")
    baselines = run.metrics.get("baselines") or {}
    return {
        name: scores.get(direction) or scores.get(plain) or {} for name, scores in baselines.items()
    }


def _card(names: list[str], scores: Baselines) -> dict[str, Any]:
    """A card: the model's scores `names`, side by side, and beneath them those of the baselines
    that have any.

    `whiskers[name]`: positions in percent of the first score and its interval's ends, on one axis
    for all rows.
    """
    blank = dict.fromkeys(FIELDS)
    rows = {}
    ends = {}
    for name, own in scores.items():
        if any(own.get(metric) for metric in names):
            rows[name] = [blank | (own.get(metric) or {}) for metric in names]
            first = rows[name][0]
            ends[name] = (*(first["ci95"] or (None, None)), first["value"])
    finite = [end for row in ends.values() for end in row if _is_finite(end)] or [0.0]
    low = min(finite)
    high = max(finite)

    def percent(value: float | None) -> float | None:
        if not _is_finite(value):
            return None
        return 4 + 92 * (value - low) / (high - low) if high > low else 50.0

    whiskers = {name: [percent(end) for end in row] for name, row in ends.items()}
    return {"names": names, "score": rows["model"][0], "rows": rows, "whiskers": whiskers}


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


# ---- verdicts: sentences that compare the model with its best baseline


def tone_of(judged: dict[str, Any]) -> str:
    """Returns "good", "near" (ahead, but within chance) or "bad"; "" where there was no baseline to
    compare with.
    """
    better = judged.get("better")
    chance = judged.get("probability", 1.0)
    if better is None:
        return ""
    if not better:
        return "bad"
    if chance is not None and chance >= SURE:
        return "good"
    return "near"


def verdicts(run: RunRecord) -> list[dict[str, Any]]:
    """One verdict per direction, with the tone of its worst finding; empty where nothing was
    measured.
    """
    results = []
    for direction, scores in (run.metrics.get("metrics") or {}).items():
        judged = (run.metrics.get("verdict") or {}).get(direction) or {}
        rivals = _baselines(run, direction)
        findings = [
            _finding(metric, score, judged.get(metric) or {}, rivals)
            for metric, score in scores.items()
        ]
        tones = [finding["tone"] for finding in findings]
        tone = next((tone for tone in ("bad", "near", "good") if tone in tones), "")
        sentence = _sentence(findings)
        parts = {region: [f for f in findings if f["region"] == region] for region in words.REGIONS}
        regions = {region: (_sentence(own), own) for region, own in parts.items() if own}
        whole = [finding for finding in findings if not finding["region"]]
        verdict = {
            "direction": run.label(direction),
            "sentence": sentence,
            "tone": tone,
            "findings": findings,
        }
        results.append(verdict | {"whole": whole, "regions": regions})
    return results


def _finding(
    metric: str, score: words.Scored, judged: dict[str, Any], rivals: Baselines
) -> dict[str, str]:
    """Compare one metric with its best baseline and, if that was fitted on pairs and wins, with the
    best other one.
    """
    places = words.decimals(score)
    tone = tone_of(judged)
    also = {}
    if tone != "good" and judged.get("best_baseline") in words.FITTED_ON_PAIRS:
        also = judged.get("without_pairs") or {}
    apart = _against(metric, also, rivals, places)
    return {
        "metric": words.metric_name(metric),
        "region": words.region_of(metric),
        "score": words.with_unit(score, places),
        "interval": words.interval(score, places),
        "tone": tone,
        "doubt": "of one patient alone"
        if judged.get("probability", 1.0) is None
        else "within chance",
        "against": _against(metric, judged, rivals, places),
        "without_pairs": f"without pairs: {apart}" if apart else "",
        "without_tone": tone_of(also) if apart else "",
    }


def _against(metric: str, judged: dict[str, Any], rivals: Baselines, places: int) -> str:
    """`better than 18.50 dB, identity`, with the probability where it is within chance; "" without
    a baseline.
    """
    best = judged.get("best_baseline")
    tone = tone_of(judged)
    probability = judged.get("probability", 1.0)
    if not best:
        return ""
    comparison = {
        "good": "better than",
        "near": "ahead of",
        "bad": "not better than",
        "": "beside",
    }[tone]
    entry = rivals.get(best, {}).get(metric)
    value = f"{words.with_unit(entry, places)}, " if entry else ""
    if probability is not None:
        doubt = f" (in {probability:.0%} of the draws)"
    else:
        doubt = " (one patient: no probability)"
    return f"{comparison} {value}{words.baseline_name(best)}{doubt if tone == 'near' else ''}"


def headline(all_verdicts: list[dict[str, Any]]) -> tuple[str, str]:
    """The verdict of the whole run in one sentence, and its tone."""
    findings = [finding for verdict in all_verdicts for finding in verdict["findings"]]
    tones = {finding["tone"] for finding in findings} - {""}
    if not tones:
        none = "Nothing to compare with: no baseline was measured."
        return none if all_verdicts else "", ""
    if "bad" in tones:
        place = f" on {_where(all_verdicts, 'bad')}" if len(tones) > 1 else ""
        behind = [finding for finding in findings if finding["tone"] == "bad"]
        fair = all(finding["without_tone"] == "good" for finding in behind)
        unpaired = "; it beats the best of those that needed no pairs" if fair else ""
        return f"The model does not beat the best baseline{place}{unpaired}.", "bad"
    if tones == {"near"}:
        return f"The model is ahead of the best baseline, but {_doubt(findings)}.", "near"
    if "near" in tones:
        place = _where(all_verdicts, "near")
        return f"The model beats the best baseline, {_doubt(findings)} on {place}.", "near"
    judged = [verdict["direction"] for verdict in all_verdicts if verdict["tone"]]
    both = len(judged) == 2 and all("→" in name and "post-steps" not in name for name in judged)
    place = "in both directions" if both else f"for {words.listed(judged)}"
    return f"The model beats the best baseline {place}.", "good"


def _where(all_verdicts: list[dict[str, Any]], tone: str) -> str:
    """`PSNR or MAE for T2 → T1`: the metrics of that tone, by direction."""
    parts = []
    for verdict in all_verdicts:
        names = _named(verdict["findings"], tone)
        if names:
            parts.append(f"{names} for {verdict['direction']}")
    return "; ".join(parts)


def _sentence(findings: list[dict[str, str]]) -> str:
    """The verdict of one direction."""
    parts = []
    for tone, first, later, end in (
        ("bad", "Does not beat the best baseline", "", ""),
        ("good", "Beats the best baseline", "beats it", ""),
        ("near", "Ahead of the best baseline", "ahead of it", f", but {_doubt(findings)}"),
    ):
        if names := _named(findings, tone):
            parts.append(f"{later if parts else first} on {names}{end}")
    return f"{'; '.join(parts)}." if parts else "Measured; no baseline to compare with."


def _doubt(findings: list[dict[str, str]]) -> str:
    """The reason why metrics that are ahead may not be better."""
    return next((finding["doubt"] for finding in findings if finding["tone"] == "near"), "")


def _named(findings: list[dict[str, str]], tone: str) -> str:
    """The names of the metrics with that tone, or their number where there are more than
    MOST_NAMED.
    """
    names = [f["metric"] for f in findings if f["tone"] == tone]
    if len(names) <= MOST_NAMED:
        return words.listed(names, "or" if tone == "bad" else "and") if names else ""
    judged = sum(1 for f in findings if f["tone"])
    most = "any of the" if tone == "bad" else "all"
    return f"{len(names)} of {judged} scores" if len(names) < judged else f"{most} {judged} scores"


# ---- the chosen checkpoint


def chosen(run: RunRecord) -> dict[str, Any]:
    """best.json for the page: the chosen step, the rule, and the table of candidates; {} where none
    was chosen.
    """
    step = run.best.get("step")
    if step is None:
        return {}
    rows = [dict(flat(row)) for row in run.best.get("table") or ()]
    named = dict.fromkeys(name for row in rows for name in row)
    columns = sorted(named, key=lambda name: {"step": -2, "score": -1, "barred": 1}.get(name, 0))
    parts = [name.rpartition(".") for name in columns]  # a_to_b.kid_random
    titles = [
        (direction and run.label(direction), words.metric_name(name))
        for direction, _, name in parts
    ]
    return {
        "step": step,
        "rule": run.best.get("rule") or "",
        "barred": next(
            (str(row["barred"]) for row in rows if row.get("step") == step and row.get("barred")),
            "",
        ),
        "columns": [" ".join(filter(None, title)) for title in titles],
        "rows": [
            (row.get("step") == step, [_cell(row.get(name)) for name in columns]) for row in rows
        ],
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return words.number(value)
    if value is None:
        return "–"
    if type(value) is int:
        return f"{value:,}"
    return str(value)
