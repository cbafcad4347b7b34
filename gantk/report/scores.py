"""metrics.json and best.json for the page: scores beside their baselines, verdicts in words, the chosen checkpoint."""

from __future__ import annotations

import math
from typing import Any

from gantk.report.run_record import RunRecord
from gantk.report.words import (
    FITTED_ON_PAIRS,
    Scored,
    baseline_name,
    count,
    decimals,
    digits,
    interval,
    listed,
    metric_name,
    number,
    region_of,
    with_unit,
)

MOST_NAMED = 4  # metrics in one sentence; of more, the number is given
SURE = 0.95  # of the bootstrap's draws must favour the model before a page says that it beats a baseline
NEIGHBOURS = ("precision", "recall", "density", "coverage")  # four scores that share one card
SETS = ("fid", "kid", "prdc", "diversity", "two", *NEIGHBOURS)  # heads of the names of scores over sets of images
TASKS = ("classification", "segmentation", "accuracy", "dice")  # the same of scores by a use of the images
Baselines = dict[str, dict[str, Scored]]  # baseline -> metric -> its score
LEVELS = ("slice", "volume", "patient")


def cards(run: RunRecord) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Direction in words -> section -> its cards, in the order of metrics.json; uncertainty last."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for direction, by_metric in (run.metrics.get("metrics") or {}).items():
        sections = found.setdefault(run.label(direction), {})
        rivals = {baseline_name(name): scores for name, scores in _baselines(run, direction).items()}
        groups: dict[str, list[str]] = {}
        for name in by_metric:  # the scores of nearest neighbours in the same features share a card
            head, _, features = name.partition("_")
            groups.setdefault(f"neighbours in {features}" if head in NEIGHBOURS else name, []).append(name)
        for names in groups.values():
            several = len(names) > 1
            card = _wide_card(names, by_metric, rivals) if several else _card(names[0], by_metric[names[0]], rivals)
            sections.setdefault(_section(names[0]), []).append(card)
        judged = (run.metrics.get("uncertainty") or {}).get(direction) or {}
        unsure = [_card(name, row, {}) for name, row in judged.items() if isinstance(row, dict) and "value" in row]
        if unsure:
            sections["Uncertainty against error"] = unsure
    return found


def _section(metric: str) -> str:
    region, head = region_of(metric), metric.partition("_")[0]
    if region:
        return region.capitalize()
    return "Sets of images" if head in SETS else "Tasks" if head in TASKS else "Whole image"


def _baselines(run: RunRecord, direction: str) -> Baselines:
    """Baseline -> metric -> its score; after the post-steps, the baselines are those of the plain direction."""
    plain = direction.removesuffix("_post")
    found = run.metrics.get("baselines") or {}
    return {name: scores.get(direction) or scores.get(plain) or {} for name, scores in found.items()}


def _wide_card(names: list[str], scores: dict[str, Scored], rivals: Baselines) -> dict[str, Any]:
    """Several scores as columns, the model first and the baselines beneath."""

    def line(found: dict[str, Scored]) -> list[tuple[str, str]]:
        entries = [found.get(name) or {} for name in names]
        return [(digits(entry.get("value"), 3), interval(entry, 3)) for entry in entries]

    known = {name: found for name, found in rivals.items() if any(found.get(metric) for metric in names)}
    features = names[0].partition("_")[2].replace("_", " ")
    return {
        "metric": "Nearest neighbours" + (f", {features}" if features else ""),
        "columns": [metric_name(name.partition("_")[0]) for name in names],
        "rows": [("model", True, line(scores)), *((name, False, line(found)) for name, found in known.items())],
        "definition": str(scores[names[0]].get("definition") or ""),
        "n": count(scores[names[0]]),
    }


def _card(metric: str, score: Scored, rivals: Baselines) -> dict[str, Any]:
    """One score, the model above its baselines, each with its interval along a common axis (in percent)."""
    entries = {"model": score} | {name: found[metric] for name, found in rivals.items() if found.get(metric)}
    ends = {name: [*(e.get("ci95") or (None, None)), e.get("value")] for name, e in entries.items()}
    known = [end for of_row in ends.values() for end in of_row if end is not None and math.isfinite(end)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)

    def percent(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return 4 + 92 * (value - low) / (high - low) if high > low else 50.0

    rows, places = [], decimals(score)
    for name, entry in entries.items():
        left, right, dot = map(percent, ends[name])
        width = max(right - left, 0) if left is not None and right is not None else None
        corrected = digits(entry["corrected"], places) if entry.get("corrected") is not None else ""
        rows.append(_figure(name, entry, places) | {"corrected": corrected, "dot": dot, "left": left, "width": width})
    higher = score.get("higher_is_better")
    return {
        "metric": metric_name(metric),
        "unit": str(score.get("unit") or ""),
        "sense": "" if higher is None else "higher is better" if higher else "lower is better",
        "definition": str(score.get("definition") or ""),
        "n": count(score),
        "rows": rows,
        "asides": _asides(score),
    }


def _asides(score: Scored) -> list[dict[str, str]]:
    """The same score a slice, a volume or a patient at a time, and in the intensities that the images came in."""
    per, physical, found = score.get("per") or {}, score.get("in_units"), []
    for level in sorted(per, key=lambda level: LEVELS.index(level) if level in LEVELS else len(LEVELS)):
        entry = per[level] | {"unit": score.get("unit")}
        how = str(entry.get("how") or "").replace("-", " ")
        found.append(_figure(f"per {level}", entry, decimals(entry)) | {"definition": how})
    if physical:
        unit = str(physical.get("unit") or "native")  # "native": of images whose intensities have no unit
        name = "in image intensities" if unit == "native" else f"in {unit}"
        definition = str(physical.get("definition") or "")
        found.append(_figure(name, physical, decimals(physical)) | {"definition": definition})
    return found


def _figure(name: str, entry: Scored, places: int) -> dict[str, str]:
    value = digits(entry.get("value"), places)
    return {"name": name, "value": value, "interval": interval(entry, places), "n": count(entry)}


def tone_of(judged: dict[str, Any]) -> str:
    """good, near (ahead, but within chance), bad, or "" where there was nothing to be judged against."""
    better, chance = judged.get("better"), judged.get("probability", 1.0)
    if better is None:
        return ""
    return "bad" if not better else "good" if chance is not None and chance >= SURE else "near"


def verdicts(run: RunRecord) -> list[dict[str, Any]]:
    """One verdict a direction, its tone that of its worst finding; empty where nothing was measured."""
    found = []
    for direction, by_metric in (run.metrics.get("metrics") or {}).items():
        judged, rivals = (run.metrics.get("verdict") or {}).get(direction) or {}, _baselines(run, direction)
        findings = [_finding(metric, score, judged.get(metric) or {}, rivals) for metric, score in by_metric.items()]
        tones = [finding["tone"] for finding in findings]
        tone = next((tone for tone in ("bad", "near", "good") if tone in tones), "")
        sentence = _sentence(findings)
        found.append({"direction": run.label(direction), "sentence": sentence, "tone": tone, "findings": findings})
    return found


def _finding(metric: str, score: Scored, judged: dict[str, Any], rivals: Baselines) -> dict[str, str]:
    """One metric against its best baseline and, where that one was fitted on pairs and wins, the best of the others."""
    places, unpaired = decimals(score), judged.get("without_pairs") or {}

    def against(judged: dict[str, Any]) -> str:
        """`better than 18.50 dB, identity`; how sure it is where it is not."""
        tone, best, chance = tone_of(judged), judged.get("best_baseline"), judged.get("probability", 1.0)
        if not best:
            return ""
        words = {"good": "better than", "near": "ahead of", "bad": "not better than", "": "beside"}[tone]
        entry = rivals.get(best, {}).get(metric)
        value = f"{with_unit(entry, places)}, " if entry else ""
        doubt = f" (in {chance:.0%} of the draws)" if chance is not None else " (one patient says little)"
        return f"{words} {value}{baseline_name(best)}{doubt if tone == 'near' else ''}"

    tone, fitted = tone_of(judged), judged.get("best_baseline") in FITTED_ON_PAIRS
    also = fitted and tone != "good" and unpaired.get("best_baseline")
    return {
        "metric": metric_name(metric),
        "region": region_of(metric),
        "score": with_unit(score, places),
        "interval": interval(score, places),
        "tone": tone,
        "against": against(judged),
        "without_pairs": f"without pairs: {against(unpaired)}" if also else "",
        "without_tone": tone_of(unpaired) if also else "",
    }


def headline(found: list[dict[str, Any]]) -> tuple[str, str]:
    """The verdict of the whole run in one sentence, and its tone."""

    def where(tone: str, conjunction: str) -> str:
        """`PSNR or MAE for T2 → T1`: the metrics of that tone, by direction."""
        parts = [(_named(v["findings"], tone, conjunction), v["direction"]) for v in found]
        return "; ".join(f"{names} for {direction}" for names, direction in parts if names)

    findings = [finding for verdict in found for finding in verdict["findings"]]
    tones = {finding["tone"] for finding in findings} - {""}
    if "bad" in tones:
        place = f" on {where('bad', 'or')}" if len(tones) > 1 else ""
        fair = all(finding["without_tone"] == "good" for finding in findings if finding["tone"] == "bad")
        unpaired = "; it beats the best of those that needed no pairs" if fair else ""
        return f"The model does not beat the best baseline{place}{unpaired}.", "bad"
    if tones == {"near"}:
        return "The model is ahead of the best baseline, but within chance.", "near"
    if "near" in tones:
        return f"The model beats the best baseline, within chance on {where('near', 'and')}.", "near"
    if tones:
        judged = [verdict["direction"] for verdict in found if verdict["tone"]]
        translations = all("→" in direction and "post-steps" not in direction for direction in judged)
        place = "in both directions" if len(judged) == 2 and translations else f"for {listed(judged)}"
        return f"The model beats the best baseline {place}.", "good"
    return ("Nothing to compare with: no baseline was measured." if found else ""), ""


def _named(findings: list[dict[str, str]], tone: str, conjunction: str = "and") -> str:
    """The metrics of that tone by name or, where they are too many to read, by their number."""
    names = [f["metric"] for f in findings if f["tone"] == tone]
    if len(names) <= MOST_NAMED:
        return listed(names, conjunction) if names else ""
    judged = sum(1 for f in findings if f["tone"])
    most = "any of the" if tone == "bad" else "all"
    return f"{len(names)} of {judged} scores" if len(names) < judged else f"{most} {judged} scores"


def _sentence(findings: list[dict[str, str]]) -> str:
    losses, wins, near = _named(findings, "bad", "or"), _named(findings, "good"), _named(findings, "near")
    parts = [f"Does not beat the best baseline on {losses}"] if losses else []
    if wins:
        parts.append(f"{'beats it' if parts else 'Beats the best baseline'} on {wins}")
    if near:
        parts.append(f"{'ahead of it' if parts else 'Ahead of the best baseline'} on {near}, but within chance")
    return f"{'; '.join(parts)}." if parts else "Measured; no baseline to compare with."


def chosen(run: RunRecord) -> dict[str, Any]:
    """best.json: the step that was chosen, by which rule, and a table of what it was chosen from; {} where none was."""
    step = run.best.get("step")
    if not isinstance(step, int):
        return {}
    rows = [_flat(row) for row in run.best.get("table") or () if isinstance(row, dict)]
    named = list(dict.fromkeys(name for row in rows for name in row))
    columns = sorted(named, key=lambda name: {"step": -2, "score": -1, "barred": 1}.get(name, 0))
    return {
        "step": step,
        "rule": str(run.best.get("rule") or ""),
        "barred": next((str(row["barred"]) for row in rows if row.get("step") == step and row.get("barred")), ""),
        "columns": [_column_name(run, name) for name in columns],
        "rows": [(row.get("step") == step, [_cell(row.get(name)) for name in columns]) for row in rows],
    }


def _column_name(run: RunRecord, name: str) -> str:
    """`a_to_b/kid_random` is `T1 → T2 KID random`."""
    direction, _, metric = name.rpartition("/")
    return f"{run.label(direction)} {metric_name(metric)}" if direction else metric_name(metric)


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else number(value)
