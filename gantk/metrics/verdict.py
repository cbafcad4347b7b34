"""Verdicts: is the model better than the best baseline, and how surely; results as lines for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    for name, values in model.of("raw").items():
        higher, broken = senses[name], model.trouble(name)
        sound = {key: each.of("raw")[name] for key, each in baselines.items() if _is_sound(each, name)}
        means = {key: estimate(scores, patients, draws=1).value for key, scores in sound.items()}
        mean = estimate(values, patients, draws=1).value

        def probability(best: str, model=values, all=sound, higher=higher, broken=broken) -> float | None:
            return 0.0 if broken else probability_better(model, all[best], patients, higher_is_better=higher)

        if broken:
            mean = -np.inf if higher else np.inf
        if higher is not None and mean is not None:
            verdict[name] = _against_both(mean, means, higher, probability)
    return {name: found for name, found in verdict.items() if found}


def set_verdict(model: dict[str, Any], baselines: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """As for pairs, from rows alone: how probable it is follows from the intervals, as if both erred independently."""
    verdict = {}
    for name, row in model.items():
        rows = {key: each[name] for key, each in baselines.items() if name in each}
        values, higher = {key: each["value"] for key, each in rows.items()}, row["higher_is_better"]

        def probability(best: str, row=row, rows=rows) -> float | None:
            if row["ci95"] is None or rows[best]["ci95"] is None:
                return None
            gain = (row["value"] - rows[best]["value"]) * (1 if row["higher_is_better"] else -1)
            error = float(np.hypot(*((each["ci95"][1] - each["ci95"][0]) / (2 * 1.96) for each in (row, rows[best]))))
            return NormalDist().cdf(gain / error) if error > 0 else (1 + float(np.sign(gain))) / 2

        if row["value"] is not None and higher is not None:
            verdict[name] = _against_both(row["value"], values, higher, probability)
    return {name: found for name, found in verdict.items() if found}


def _is_sound(scores: Scores, name: str) -> bool:
    return ("raw", name) in scores.values and not scores.trouble(name)


def _against_both(
    value: float, baselines: Mapping[str, float | None], higher: bool, probability: Callable[[str], float | None]
) -> dict[str, Any] | None:
    """The verdict over all baselines, and within it that over those that needed no pairs."""

    def against(known: Mapping[str, float]) -> dict[str, Any] | None:
        if not known:
            return None
        best = (max if higher else min)(known, key=known.get)
        better = value > known[best] if higher else value < known[best]
        return {"better": bool(better), "best_baseline": best, "probability": probability(best)}

    known = {name: mean for name, mean in baselines.items() if mean is not None and name != CEILING}
    found = against(known)
    if found is None:
        return None
    return found | {"without_pairs": against({n: mean for n, mean in known.items() if n not in WITH_PAIRS})}


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
