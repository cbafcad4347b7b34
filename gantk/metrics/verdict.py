"""Verdicts: is the model better than the best baseline, and how surely; results as lines for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from gantk.metrics.intervals import estimate, probability_better
from gantk.metrics.pair_scores import FOREGROUND, Scores

WITH_PAIRS = ("intensity_map", "regression")  # baselines that were fitted on registered pairs
CEILING = "real_split"  # real images, as if made: what a perfect generator would get, and no baseline
CELLS = 3  # scores on a line
DIRECTIONS = {"a_to_b": (0, 1), "b_to_a": (1, 0)}  # which of the domains, from and to


def pair_verdict(model: Scores, baselines: Mapping[str, Scores], senses: Mapping[str, bool | None]) -> dict[str, Any]:
    """Per row: whether the model's mean beats the best baseline's, and in how many draws of patients it does.

    `senses`: row -> whether higher is better; None has no verdict. A model whose outputs are no numbers is not better.
    """
    verdict, patients = {}, model.patients
    for name in (name for kind, name in model.values if kind == "raw" and senses[name] is not None):
        key, higher, broken = ("raw", name), senses[name], model.trouble(name)
        rivals = {
            each: scores.values[key]
            for each, scores in baselines.items()
            if key in scores.values and not scores.trouble(name)
        }
        means = {each: estimate(values, patients, draws=1).value for each, values in rivals.items()}
        mean = estimate(model.values[key], patients, draws=1).value
        chances = {
            each: 0.0 if broken else probability_better(model.values[key], rival, patients, higher_is_better=higher)
            for each, rival in rivals.items()
        }
        if broken:
            mean = -np.inf if higher else np.inf
        if mean is not None:
            verdict[name] = _against_both(mean, means, higher, chances)
    return {name: found for name, found in verdict.items() if found}


def set_verdict(model: dict[str, Any], baselines: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """As for pairs, from rows alone: how probable it is follows from the intervals, as if both erred independently."""
    verdict = {}
    for name, row in model.items():
        higher, chances = row["higher_is_better"], {}
        if row["value"] is None or higher is None:
            continue
        rivals = {
            key: each[name] for key, each in baselines.items() if name in each and each[name]["value"] is not None
        }
        for key, rival in rivals.items():
            chances[key] = None
            if row["ci95"] and rival["ci95"]:
                gain = (row["value"] - rival["value"]) * (1 if higher else -1)
                error = float(np.hypot(*((each["ci95"][1] - each["ci95"][0]) / (2 * 1.96) for each in (row, rival))))
                chances[key] = NormalDist().cdf(gain / error) if error > 0 else (1 + float(np.sign(gain))) / 2
        values = {key: rival["value"] for key, rival in rivals.items()}
        verdict[name] = _against_both(row["value"], values, higher, chances)
    return {name: found for name, found in verdict.items() if found}


def _against_both(
    value: float, means: Mapping[str, float | None], higher: bool, chances: Mapping[str, float | None]
) -> dict[str, Any] | None:
    """The verdict over all baselines, and within it that over those that needed no pairs."""
    found = []
    for left_out in ((CEILING,), (CEILING, *WITH_PAIRS)):
        known = {name: mean for name, mean in means.items() if mean is not None and name not in left_out}
        best = (max if higher else min)(known, key=known.get, default=None)
        better = best is not None and bool(value > known[best] if higher else value < known[best])
        found.append(best and {"better": better, "best_baseline": best, "probability": chances[best]})
    return found[0] and found[0] | {"without_pairs": found[1]}


def speed_of(log: list[dict[str, Any]], used: dict[str, Any] | None = None) -> dict[str, Any]:
    """How fast a training was, of log.jsonl and usage.json.

    images_per_s: median over log points; seconds of training, validation and saving apart; steps; step_seconds: mean
    seconds per step of each log interval; first_step_s: from the start of the process to the end of its first step;
    peak_memory_gib; energy_j of the GPU (NVML), or of all CPU packages (RAPL). None where it is not known. `predicted`
    are the first two of what `gantk doctor` would have said, where that was asked: step_s and peak_memory_gib.
    """
    lines = [line for line in log if "images_per_s" in line]
    if not lines:
        return {}
    ends = [(0, 0.0), *((line["step"], line["seconds"]) for line in lines)]
    spans = [(step - first, later - began) for (first, began), (step, later) in itertools.pairwise(ends)]
    used = used or {}
    return {
        "images_per_s": round(float(np.median([line["images_per_s"] for line in lines])), 2),
        "seconds": lines[-1]["seconds"],
        "steps": lines[-1]["step"],
        "step_seconds": [round(seconds / steps, 6) for steps, seconds in spans if steps > 0],
        **{name: used.get(name) for name in ("first_step_s", "peak_memory_gib", "energy_j")},
        **({"predicted": used["predicted"]} if used.get("predicted") else {}),
    }


def summary_lines(result: dict[str, Any]) -> Iterator[str]:
    """The result in lines for a terminal: model, baselines, verdict; the foreground's scores are left to the report."""
    if not result["metrics"]:
        yield "score    no held-out pairs are known, so nothing was scored against a truth"
    for key, metrics in result["metrics"].items():
        title = title_of(key, result.get("domains", []))
        rows = {"model": metrics} | {name: rows[key] for name, rows in result["baselines"].items() if key in rows}
        for name, row in rows.items():
            cells = [f"{metric} {_cell(score)}" for metric, score in row.items() if not metric.endswith(FOREGROUND)]
            for first in range(0, len(cells), CELLS):
                head = (title, name) if first == 0 else ("", "")
                yield f"score    {head[0]:<10} {head[1]:<14} {'   '.join(cells[first : first + CELLS])}"
        warnings = {}  # the same for several scores is said once
        for metric, score in metrics.items():
            if score["value"] is None and "not-computed" in score["definition"] and not metric.endswith(FOREGROUND):
                yield f"warning  {title}: {metric} {score['definition'].partition('/not-computed: ')[2]}"
            if score.get("details", {}).get("warning"):
                warnings.setdefault(score["details"]["warning"], []).append(metric)
        for warning, names in warnings.items():
            yield f"warning  {title}: {', '.join(names)}: {warning}"
        unsure = result.get("uncertainty", {}).get(key)
        if unsure:
            cells = "   ".join(f"{name} {_cell(unsure[name])}" for name in ("auroc", "ause", "spearman"))
            yield f"unsure   {title:<10} {unsure['kind']:<14} {cells}"
        for metric, verdict in result["verdict"].get(key, {}).items():
            if not verdict["better"] and not metric.endswith(FOREGROUND):
                yield f"warning  {title}: the model does not beat {verdict['best_baseline']} in {metric}"


def title_of(key: str, domains: Sequence[str]) -> str:
    """`T1 -> T2`, `T1 from noise`; the key itself where the domains are not known."""
    plain, _, post = key.partition("_post")
    title = key
    if plain in DIRECTIONS and len(domains) > 1:
        title = " -> ".join(domains[i] for i in DIRECTIONS[plain])
    elif plain == "image" and domains:
        title = f"{domains[0]} from noise"
    return f"{title}, post-steps" if key.endswith("_post") and title != key else title


def _cell(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "-"
    digits = 2 if score["unit"] == "dB" else 3
    interval = f" [{score['ci95'][0]:.{digits}f}, {score['ci95'][1]:.{digits}f}]" if score["ci95"] else ""
    units = score.get("in_units") or {}
    own = f" = {units['value']:.4g} HU" if units.get("unit") == "HU" and units.get("value") is not None else ""
    return f"{score['value']:.{digits}f}{' ' + score['unit'] if score['unit'] else ''}{interval}{own} (n={score['n']})"
