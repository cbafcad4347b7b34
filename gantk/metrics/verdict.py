"""Verdicts: whether the model beats the best baseline, with a probability; and results as lines for
a terminal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from gantk.metrics.intervals import estimate, patient_gains, probability_better
from gantk.metrics.pair_scores import FOREGROUND, Scores

WITH_PAIRS = ("intensity_map", "regression")  # baselines fitted on registered pairs
CEILING = "real_split"  # real images scored as generated: the best possible score, no baseline
CELLS = 3  # scores on a line
# scores of an uncertainty
OF_UNCERTAINTY = ("auroc", "auroc_10", "auroc_10_whole", "ause", "spearman", "coverage")
MOST_FOREGROUND = 0.9  # plausible share of foreground in images of heads


def pair_verdict(
    model: Scores, baselines: Mapping[str, Scores], senses: Mapping[str, bool | None]
) -> dict[str, Any]:
    """For each row: whether the model's mean beats the best baseline's, and in which share of
    resamples of patients.

    `senses`: row -> whether higher is better; None: no verdict. A model with outputs that are not
    finite never wins.
    """
    verdicts = {}
    patients = model.patients
    for kind, name in [
        key for key in model.values if key[0] == "raw" and senses[key[1]] is not None
    ]:
        values = model.values[kind, name]
        higher = senses[name]
        broken = model.trouble(name)
        rivals = {}
        for rival, scores in baselines.items():
            if (kind, name) in scores.values and not scores.trouble(name):
                others = scores.values[kind, name]
                details = {"probability": 0.0}
                if not broken:  # per-patient gains are for statistical tests
                    details["probability"] = probability_better(
                        values, others, patients, higher_is_better=higher
                    )
                    details["gains"] = patient_gains(
                        values, others, patients, higher_is_better=higher
                    ).tolist()
                rivals[rival] = estimate(others, patients, draws=1).value, details
        worst = -np.inf if higher else np.inf
        verdicts[name] = _verdict(
            worst if broken else estimate(values, patients, draws=1).value, rivals, higher
        )
    return {name: verdict for name, verdict in verdicts.items() if verdict}


def set_verdict(model: dict[str, Any], baselines: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The same from rows alone: the probability follows from both intervals, assuming independent
    normal errors.
    """
    verdicts = {}
    for name, row in model.items():
        higher = row["higher_is_better"]
        rivals = {}
        for rival, other in ((key, rows[name]) for key, rows in baselines.items() if name in rows):
            probability = None
            if row["ci95"] and other["ci95"] and higher is not None:
                gain = (row["value"] - other["value"]) * (1 if higher else -1)
                errors = [
                    (interval[1] - interval[0]) / (2 * 1.96)
                    for interval in (row["ci95"], other["ci95"])
                ]
                error = float(np.hypot(*errors))
                if error > 0:
                    probability = NormalDist().cdf(gain / error)
                else:
                    probability = (1 + float(np.sign(gain))) / 2
            rivals[rival] = other["value"], {"probability": probability}
        verdicts[name] = None if higher is None else _verdict(row["value"], rivals, higher)
    return {name: verdict for name, verdict in verdicts.items() if verdict}


def _verdict(
    value: float | None, rivals: Mapping[str, tuple[float | None, dict[str, Any]]], higher: bool
) -> dict[str, Any] | None:
    """The verdict against the best baseline, (value, details); under `without_pairs` that against
    those without.
    """
    verdicts = []
    for left_out in ((CEILING,), (CEILING, *WITH_PAIRS)):
        known = {
            name: mean
            for name, (mean, _) in rivals.items()
            if mean is not None and name not in left_out
        }
        best = (max if higher else min)(known, key=known.get, default=None)
        if best is None or value is None:
            verdicts.append(None)
            continue
        better = bool(value > known[best] if higher else value < known[best])
        verdicts.append({"better": better, "best_baseline": best} | rivals[best][1])
    return verdicts[0] and verdicts[0] | {"without_pairs": verdicts[1]}


def summary_lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the result as lines for a terminal: model, baselines, verdict; scores of the foreground
    are left out.
    """
    for consequence in result.get("split", {}).get("consequences", ()):
        yield f"note     {consequence}"
    if not result["metrics"]:
        yield "score    no held-out pairs are known, so nothing was scored against a truth"
    for key, metrics in result["metrics"].items():
        title = title_of(key, result.get("domains", []))
        shown = {name: row for name, row in metrics.items() if not name.endswith(FOREGROUND)}
        yield from _score_lines(title, "model", metrics)
        for name, rows in result["baselines"].items():
            if key in rows:
                yield from _score_lines(title, name, rows[key])
        yield from _warning_lines(title, shown)
        if key in result.get("alarms", {}):
            yield f"warning  {title}: {result['alarms'][key]}"
        unsure = result.get("uncertainty", {}).get(key)
        if unsure:
            names = [name for name in OF_UNCERTAINTY if name in unsure]
            cells = "   ".join(f"{name} {_cell(unsure[name])}" for name in names)
            yield f"unsure   {title:<10} {unsure['kind']:<14} {cells}"
        yield from _verdict_lines(title, shown, result["verdict"].get(key, {}))
    yield from result.get("lines", ())


def _score_lines(title: str, name: str, rows: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """The scores of the model or of a baseline, `CELLS` to a line."""
    cells = [
        f"{metric} {_cell(row)}" for metric, row in rows.items() if not metric.endswith(FOREGROUND)
    ]
    for first in range(0, len(cells), CELLS):
        yield f"score    {title:<10} {name:<14} {'   '.join(cells[first : first + CELLS])}"
        title = name = ""


def _warning_lines(title: str, rows: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """What was not computed and why, and scores' own warnings, one line for equal ones."""
    warnings = defaultdict(list)
    for metric, row in rows.items():
        if row["value"] is None and "not-computed" in row["definition"]:
            reason = row["definition"].partition("/not-computed: ")[2]
            yield f"warning  {title}: {metric} {reason}"
        warning = row.get("details", {}).get("warning")
        if warning:
            warnings[warning].append(metric)
    for warning, metrics in warnings.items():
        yield f"warning  {title}: {', '.join(metrics)}: {warning}"


def _verdict_lines(
    title: str, rows: Mapping[str, dict[str, Any]], verdicts: Mapping[str, dict[str, Any]]
) -> Iterator[str]:
    """In which scores the model is better for one patient alone, and in which it is not better."""
    of_one_patient = []
    for metric, verdict in verdicts.items():
        better_somehow = verdict["better"] and verdict["probability"] is None
        if better_somehow and metric in rows and rows[metric]["n"] == 1:
            of_one_patient.append(metric)
    if of_one_patient:
        names = ", ".join(of_one_patient)
        yield f"note     {title}: better in {names}, of one patient: no probability"
    for metric, verdict in verdicts.items():
        if metric in rows and not verdict["better"]:
            best = verdict["best_baseline"]
            yield f"warning  {title}: the model does not beat {best} in {metric}"


def alarm_of_foreground(rows: Mapping[str, dict[str, Any]], share: float) -> str | None:
    """A warning if the foreground, `share` of all pixels, is larger than a head in air can be; else
    None.
    """
    same = [
        name
        for name, row in rows.items()
        if row["value"] == rows.get(name + FOREGROUND, {}).get("value", -1)
    ]
    # perfect scores are equal
    same = [name for name in same if rows[name]["value"] not in (None, 0.0, 1.0, 100.0)]
    if share <= MOST_FOREGROUND and not same:
        return None
    what = f"{share:.0%} of all pixels count as foreground, as if there were no air"
    what += f", so that {', '.join(same)} are the same over both" * bool(same)
    return (
        f'{what}: look at data.intensity, or score the whole alone (evaluate.regions = ["whole"])'
    )


def title_of(key: str, domains: Sequence[str]) -> str:
    """Title of a direction: `T1 -> T2`, `T1 from noise`; the key itself if the domains are not
    known.
    """
    if key.endswith("_post") and domains:
        return f"{title_of(key.removesuffix('_post'), domains)}, after the post-steps"
    if key == "image" and domains:
        return f"{domains[0]} from noise"
    names, (source, _, target) = dict(zip("ab", domains, strict=False)), key.partition("_to_")
    if names and target:
        return f"{names.get(source, source)} -> {names.get(target, target)}"
    return key


def _cell(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "-"
    digits = 2 if score["unit"] == "dB" else 3
    if score["ci95"]:
        interval = f" [{score['ci95'][0]:.{digits}f}, {score['ci95'][1]:.{digits}f}]"
    else:
        interval = ""
    images = f", {score['images']} images" if score.get("images", score["n"]) != score["n"] else ""
    units = score.get("in_units") or {}
    if units.get("unit") == "HU" and units.get("value") is not None:
        own = f" = {units['value']:.4g} HU"
    else:
        own = ""
    unit = f" {score['unit']}" if score["unit"] else ""
    return f"{score['value']:.{digits}f}{unit}{interval}{own} (n={score['n']}{images})"
