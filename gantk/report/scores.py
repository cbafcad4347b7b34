"""Prepares metrics.json and best.json for the page: scores and baselines, verdict sentences, the
chosen checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gantk.metrics.verdict import WITH_PAIRS
from gantk.metrics.words import tone_of
from gantk.report import words
from gantk.report.run_record import RunRecord
from gantk.runs.folder import flat

MAX_NAMED_METRICS = 4  # in one sentence; more are only counted
# by tone
COMPARISONS = {"good": "better than", "near": "ahead of", "bad": "not better than", "": "beside"}
NEIGHBOURS = ("precision", "recall", "density", "coverage")  # four scores that share one card
# first words of the names of scores of sets
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
        systems = {"model": scores}
        for name, own in _baselines(run, direction).items():
            systems[words.baseline_name(name)] = own

        for names in _names_of_cards(scores):
            sections.setdefault(_section(names[0]), []).append(_card(names, systems))

        uncertainty = _uncertainty_cards(run, direction)
        if uncertainty:
            sections["Uncertainty against error"] = uncertainty

    return sections_of


def _uncertainty_cards(run: RunRecord, direction: str) -> list[dict[str, Any]]:
    entry = (run.metrics.get("uncertainty") or {}).get(direction) or {}
    found = []
    for name, row in entry.items():
        if isinstance(row, dict) and "value" in row:
            found.append(_card([name], {"model": {name: row}}))
    return found


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
            low, high = first["ci95"] or (None, None)
            ends[name] = [low, high, first["value"]]

    finite = []
    for row in ends.values():
        finite += [end for end in row if end is not None and math.isfinite(end)]

    low = min(finite, default=0.0)
    high = max(finite, default=0.0)
    whiskers = {name: [_percent(end, low, high) for end in row] for name, row in ends.items()}
    return {"names": names, "score": rows["model"][0], "rows": rows, "whiskers": whiskers}


def _percent(value: float | None, low: float, high: float) -> float | None:
    """The position of a value on a card's axis, which leaves a margin at both ends."""
    if value is None or not math.isfinite(value):
        return None
    if high <= low:
        return 50.0
    return 4 + 92 * (value - low) / (high - low)


# ---- verdicts: sentences that compare the model with its best baseline


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
        regions = {}
        for region in words.REGIONS:
            own = [finding for finding in findings if finding["region"] == region]
            if own:
                regions[region] = (_sentence(own), own)

        results.append(
            {
                "direction": run.label(direction),
                "sentence": _sentence(findings),
                "tone": next((tone for tone in ("bad", "near", "good") if tone in tones), ""),
                "findings": findings,
                "whole": [finding for finding in findings if not finding["region"]],
                "regions": regions,
            }
        )

    return results


def _finding(
    metric: str, score: words.Scored, judged: dict[str, Any], rivals: Baselines
) -> dict[str, str]:
    """Compare one metric with its best baseline and, if that was fitted on pairs and wins, with the
    best other one.
    """
    places = words.decimals(score)
    tone = tone_of(judged)
    also: dict[str, Any] = {}
    if tone != "good" and judged.get("best_baseline") in WITH_PAIRS:
        also = judged.get("without_pairs") or {}

    without_pairs = _against(metric, also, rivals, places)
    one_patient = judged.get("probability", 1.0) is None
    return {
        "metric": words.metric_name(metric),
        "region": words.region_of(metric),
        "score": words.with_unit(score, places),
        "interval": words.interval(score, places),
        "tone": tone,
        "doubt": "of one patient alone" if one_patient else "within chance",
        "against": _against(metric, judged, rivals, places),
        "without_pairs": f"without pairs: {without_pairs}" if without_pairs else "",
        "without_tone": tone_of(also) if without_pairs else "",
    }


def _against(metric: str, judged: dict[str, Any], rivals: Baselines, places: int) -> str:
    """`better than 18.50 dB, identity`, with the probability where it is within chance; "" without
    a baseline.
    """
    best = judged.get("best_baseline")
    if not best:
        return ""

    tone = tone_of(judged)
    text = COMPARISONS[tone]
    entry = rivals.get(best, {}).get(metric)
    if entry:
        text += f" {words.with_unit(entry, places)},"

    text += f" {words.baseline_name(best)}"
    if tone == "near":
        probability = judged.get("probability", 1.0)
        if probability is None:
            text += " (one patient: no probability)"
        else:
            text += f" (in {probability:.0%} of the draws)"

    return text


def headline(all_verdicts: list[dict[str, Any]]) -> tuple[str, str]:
    """The verdict of the whole run in one sentence, and its tone."""
    if not all_verdicts:
        return "", ""

    findings = [finding for verdict in all_verdicts for finding in verdict["findings"]]
    tones = {finding["tone"] for finding in findings} - {""}
    if not tones:
        return "Nothing to compare with: no baseline was measured.", ""
    if "bad" in tones:
        return _headline_of_bad(all_verdicts, findings, mixed=len(tones) > 1), "bad"
    if tones == {"near"}:
        return f"The model is ahead of the best baseline, but {_doubt(findings)}.", "near"
    if "near" in tones:
        place = _where(all_verdicts, "near")
        return f"The model beats the best baseline, {_doubt(findings)} on {place}.", "near"

    judged = [verdict["direction"] for verdict in all_verdicts if verdict["tone"]]
    place = f"for {words.join_words(judged)}"
    if len(judged) == 2 and all("→" in name and "post-steps" not in name for name in judged):
        place = "in both directions"

    return f"The model beats the best baseline {place}.", "good"


def _headline_of_bad(
    all_verdicts: list[dict[str, Any]], findings: list[dict[str, str]], *, mixed: bool
) -> str:
    """The sentence where the model does not win; it names the metrics if it does win in others."""
    sentence = "The model does not beat the best baseline"
    if mixed:
        sentence += f" on {_where(all_verdicts, 'bad')}"

    behind = [finding for finding in findings if finding["tone"] == "bad"]
    if all(finding["without_tone"] == "good" for finding in behind):
        sentence += "; it beats the best of those that needed no pairs"
    return f"{sentence}."


def _where(all_verdicts: list[dict[str, Any]], tone: str) -> str:
    """`PSNR or MAE for T2 → T1`: the metrics of that tone, by direction."""
    parts = []
    for verdict in all_verdicts:
        names = _metric_names(verdict["findings"], tone)
        if names:
            parts.append(f"{names} for {verdict['direction']}")
    return "; ".join(parts)


def _sentence(findings: list[dict[str, str]]) -> str:
    """The verdict of one direction."""
    parts: list[str] = []
    for tone, first, later in (
        ("bad", "Does not beat the best baseline", ""),
        ("good", "Beats the best baseline", "beats it"),
        ("near", "Ahead of the best baseline", "ahead of it"),
    ):
        names = _metric_names(findings, tone)
        if names:
            doubt = f", but {_doubt(findings)}" if tone == "near" else ""
            parts.append(f"{later if parts else first} on {names}{doubt}")

    return f"{'; '.join(parts)}." if parts else "Measured; no baseline to compare with."


def _doubt(findings: list[dict[str, str]]) -> str:
    """The reason why metrics that are ahead may not be better."""
    return next((finding["doubt"] for finding in findings if finding["tone"] == "near"), "")


def _metric_names(findings: list[dict[str, str]], tone: str) -> str:
    """The names of the metrics with that tone, or their number where there are more than
    MAX_NAMED_METRICS.
    """
    names = [finding["metric"] for finding in findings if finding["tone"] == tone]
    if not names:
        return ""
    if len(names) <= MAX_NAMED_METRICS:
        return words.join_words(names, "or" if tone == "bad" else "and")

    judged = sum(1 for finding in findings if finding["tone"])
    if len(names) < judged:
        return f"{len(names)} of {judged} scores"

    return f"any of the {judged} scores" if tone == "bad" else f"all {judged} scores"


# ---- the chosen checkpoint


def best_checkpoint(run: RunRecord) -> dict[str, Any]:
    """best.json for the page: the chosen step, the rule, and the table of candidates; {} where none
    was chosen.
    """
    step = run.best.get("step")
    if step is None:
        return {}

    rows = [dict(flat(row)) for row in run.best.get("table") or ()]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = sorted(names, key=lambda name: {"step": -2, "score": -1, "barred": 1}.get(name, 0))
    barred = ""
    cells = []
    for row in rows:
        is_best = row.get("step") == step
        if is_best and not barred:
            barred = str(row.get("barred") or "")
        cells.append((is_best, [_cell(row.get(name)) for name in columns]))

    return {
        "step": step,
        "rule": run.best.get("rule") or "",
        "barred": barred,
        "columns": [_column_title(run, name) for name in columns],
        "rows": cells,
    }


def _column_title(run: RunRecord, column: str) -> str:
    """The title of a column such as `a_to_b.kid_random`."""
    direction, _, metric = column.rpartition(".")
    title = words.metric_name(metric)
    return f"{run.label(direction)} {title}" if direction else title


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return words.number(value)
    if value is None:
        return "–"
    if type(value) is int:
        return f"{value:,}"
    return str(value)
