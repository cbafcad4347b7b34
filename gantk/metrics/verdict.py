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
CELLS_PER_LINE = 3
# the scores of an uncertainty that a terminal shows
OF_UNCERTAINTY = ("auroc", "auroc_10", "auroc_10_whole", "ause", "spearman", "coverage")
MAX_FOREGROUND = 0.9  # largest plausible share of foreground in images of heads

# a baseline's mean, and the details of the verdict against it
Rival = tuple[float | None, dict[str, Any]]


def pair_verdict(
    model: Scores, baselines: Mapping[str, Scores], senses: Mapping[str, bool | None]
) -> dict[str, Any]:
    """For each row: whether the model's mean beats the best baseline's, and in which share of
    resamples of patients.

    `senses`: row -> whether higher is better; None: no verdict. A model with outputs that are not
    finite never wins.
    """
    verdicts = {}
    for kind, name in model.values:
        higher = senses[name] if kind == "raw" else None
        if higher is None:
            continue

        rivals = {
            rival: _rival(model, scores, name, higher)
            for rival, scores in baselines.items()
            if ("raw", name) in scores.values and not scores.trouble(name)
        }
        value: float | None
        if model.trouble(name):
            value = -np.inf if higher else np.inf
        else:
            value = estimate(model.values["raw", name], model.patients, draws=1).value

        verdict = _verdict(value, rivals, higher)
        if verdict:
            verdicts[name] = verdict

    return verdicts


def _rival(model: Scores, baseline: Scores, name: str, higher: bool) -> Rival:
    """A baseline's mean, the probability that the model is better, and each patient's gain."""
    values = baseline.values["raw", name]
    details: dict[str, Any] = {"probability": 0.0}
    if not model.trouble(name):  # the gains are for statistical tests
        both = (model.values["raw", name], values, model.patients)
        details["probability"] = probability_better(*both, higher_is_better=higher)
        details["gains"] = patient_gains(*both, higher_is_better=higher).tolist()
    return estimate(values, model.patients, draws=1).value, details


def set_verdict(model: dict[str, Any], baselines: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The same from rows alone: the probability follows from both intervals, assuming independent
    normal errors.
    """
    verdicts = {}
    for name, row in model.items():
        higher = row["higher_is_better"]
        if higher is None:
            continue

        rivals = {}
        for rival, rows in baselines.items():
            if name in rows:
                details = {"probability": _probability_of_rows(row, rows[name], higher)}
                rivals[rival] = rows[name]["value"], details

        verdict = _verdict(row["value"], rivals, higher)
        if verdict:
            verdicts[name] = verdict

    return verdicts


def _probability_of_rows(row: dict[str, Any], other: dict[str, Any], higher: bool) -> float | None:
    """The probability that a row is better than another; None where one has no interval."""
    if not row["ci95"] or not other["ci95"]:
        return None

    gain = row["value"] - other["value"]
    if not higher:
        gain = -gain

    errors = [(high - low) / (2 * 1.96) for low, high in (row["ci95"], other["ci95"])]
    error = float(np.hypot(*errors))
    if error > 0:
        return NormalDist().cdf(gain / error)

    return (1 + float(np.sign(gain))) / 2


def _verdict(
    value: float | None, rivals: Mapping[str, Rival], higher: bool
) -> dict[str, Any] | None:
    """The verdict against the best baseline; under `without_pairs` that against those without."""
    verdict = _against_best(value, rivals, higher, (CEILING,))
    if verdict is None:
        return None
    without_pairs = _against_best(value, rivals, higher, (CEILING, *WITH_PAIRS))
    return verdict | {"without_pairs": without_pairs}


def _against_best(
    value: float | None, rivals: Mapping[str, Rival], higher: bool, left_out: Sequence[str]
) -> dict[str, Any] | None:
    """The verdict against the best baseline that is not left out; None where nothing is scored."""
    means = {
        name: mean
        for name, (mean, _) in rivals.items()
        if mean is not None and name not in left_out
    }
    if value is None or not means:
        return None

    best = (max if higher else min)(means, key=means.__getitem__)
    better = bool(value > means[best] if higher else value < means[best])
    return {"better": better, "best_baseline": best} | rivals[best][1]


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
        of_whole = {name: row for name, row in metrics.items() if not name.endswith(FOREGROUND)}
        yield from _score_lines(title, "model", metrics)
        for name, rows in result["baselines"].items():
            if key in rows:
                yield from _score_lines(title, name, rows[key])

        yield from _warning_lines(title, of_whole)
        if key in result.get("alarms", {}):
            yield f"warning  {title}: {result['alarms'][key]}"

        unsure = result.get("uncertainty", {}).get(key)
        if unsure:
            cells = [f"{name} {_cell(unsure[name])}" for name in OF_UNCERTAINTY if name in unsure]
            yield f"unsure   {title:<10} {unsure['kind']:<14} {'   '.join(cells)}"

        yield from _verdict_lines(title, of_whole, result["verdict"].get(key, {}))

    yield from result.get("lines", ())


def _score_lines(title: str, name: str, rows: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """The scores of the model or of a baseline, `CELLS_PER_LINE` to a line."""
    cells = [
        f"{metric} {_cell(row)}" for metric, row in rows.items() if not metric.endswith(FOREGROUND)
    ]
    for first in range(0, len(cells), CELLS_PER_LINE):
        yield f"score    {title:<10} {name:<14} {'   '.join(cells[first : first + CELLS_PER_LINE])}"
        title = ""  # the next lines continue this one
        name = ""


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
    same = []
    for name, row in rows.items():
        inside = rows.get(name + FOREGROUND, {}).get("value", -1)
        perfect = row["value"] in (None, 0.0, 1.0, 100.0)  # perfect scores are equal
        if row["value"] == inside and not perfect:
            same.append(name)

    if share <= MAX_FOREGROUND and not same:
        return None

    what = f"{share:.0%} of all pixels count as foreground, as if there were no air"
    if same:
        what += f", so that {', '.join(same)} are the same over both"

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

    names = dict(zip("ab", domains, strict=False))
    source, _, target = key.partition("_to_")
    if names and target:
        return f"{names.get(source, source)} -> {names.get(target, target)}"

    return key


def _cell(score: dict[str, Any]) -> str:
    """A score such as `24.51 dB [23.10, 25.92] (n=8, 240 images)`; "-" without a value."""
    if score["value"] is None:
        return "-"

    digits = 2 if score["unit"] == "dB" else 3
    text = f"{score['value']:.{digits}f}"
    if score["unit"]:
        text += f" {score['unit']}"
    if score["ci95"]:
        low, high = score["ci95"]
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"

    units = score.get("in_units") or {}
    if units.get("unit") == "HU" and units.get("value") is not None:
        text += f" = {units['value']:.4g} HU"

    count = f"n={score['n']}"
    if score.get("images", score["n"]) != score["n"]:
        count += f", {score['images']} images"

    return f"{text} ({count})"
