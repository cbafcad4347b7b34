"""Scores a reader study; the intervals take both readers and cases as random samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from gantk.files import write_file
from gantk.metrics.intervals import BOOTSTRAP_DRAWS, drawn_interval
from gantk.report.build import render
from gantk_studies.reader_study.answers import HERE, Rows, items, load

ENDS = (2.5, 97.5)  # percentiles between which 95 % of the draws are


def score_study(
    study: str | Path, answers: Iterable[str | Path], *, say: Callable = print
) -> dict[str, Any]:
    """Score a study; writes scores.json and scores.md into it and names the files left out. Returns
    the scores.

    A reader's accuracy has Wilson's 95 % interval, the mean over readers that of a bootstrap over
    readers and cases (Owen 2007). Ratings have an area under the ROC curve too, by bootstrap.
    UserError if no file is scored.
    """
    key, rows, problems = load(study, answers)
    kind = key["kind"]
    count = len(key["cases"])
    readers = {name: reader_row(kind, one) for name, one in rows.items()}
    pooled = {"accuracy": over_both(accuracy, rows.values(), count)[0]}
    if kind == "rating":
        pooled["auc"], areas = over_both(auc, rows.values(), count)
        readers = {
            name: row | {"auc": area}
            for (name, row), area in zip(readers.items(), areas, strict=True)
        }

    made = items(rows.values(), count, "right")[:, 1::2]
    fooled = [
        {"case": n, **case}
        for n, case in enumerate(key["cases"])
        if len(rows) > 1 and not made[:, n].any()
    ]
    result = {"format": 1} | {
        name: key.get(name) for name in ("kind", "run", "step", "target", "split")
    }
    result |= {"readers": readers, "pooled": pooled, "learning": trend(list(rows.values()))}
    result |= {"agreement": agreement(kind, rows, count), "fooled": fooled, "left_out": problems}
    text = render("scores.md.j2", result, folders=[HERE], styles=(), scripts=())
    write_file(Path(study) / "scores.json", (json.dumps(result, indent=1) + "\n").encode())
    write_file(Path(study) / "scores.md", text.encode())
    for line in [
        *(f"warning  {problem}" for problem in problems),
        *filter(None, text.splitlines()),
    ]:
        say(line)

    return result


def over_both(
    measure: Callable, rows: Iterable[Rows], cases: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The mean of a measure over readers, by bootstrap over readers and cases; and each reader's,
    over cases only.
    """
    weights = np.random.default_rng(0).multinomial(cases, [1 / cases] * cases, BOOTSTRAP_DRAWS)
    values, drawn = (
        np.stack([measure(one, each) for one in rows], 1) for each in (np.ones((1, cases)), weights)
    )
    ends = np.percentile(drawn, ENDS, axis=0).T.tolist()
    own = [
        {"value": float(value), "ci95": ci95} for value, ci95 in zip(values[0], ends, strict=True)
    ]
    readers = np.random.default_rng(1).integers(len(own), size=(BOOTSTRAP_DRAWS, len(own)))
    ci95 = np.percentile(np.take_along_axis(drawn, readers, 1).mean(1), ENDS).tolist()
    return {"value": float(values.mean()), "ci95": ci95, "readers": len(own), "cases": cases}, own


def accuracy(rows: Rows, weights: np.ndarray) -> np.ndarray:
    """Share of right first answers, (B,), for each of B rows of case weights."""
    first = ~rows["repeat"]
    own = weights[:, rows["case"][first]]
    return own @ rows["right"][first] / np.maximum(own.sum(1), 1)


def auc(rows: Rows, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, (B,), by case weights: share of (real, made) pairs with the real
    one rated higher.
    """
    real, made = ((rows["which"] == which) & ~rows["repeat"] for which in (0, 1))
    wins = (np.sign(rows["answer"][real][:, None] - rows["answer"][made]) + 1) / 2
    one, other = (weights[:, rows["case"][mine]] for mine in (real, made))
    return ((one @ wins) * other).sum(1) / np.maximum(one.sum(1) * other.sum(1), 1)


def share(right: np.ndarray) -> dict[str, Any]:
    """A share of right answers with the 95 % interval of Wilson (1927)."""
    if not len(right):
        return {"value": None, "ci95": None, "n": 0}
    ends = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {"value": float(right.mean()), "ci95": [float(end) for end in ends], "n": len(right)}


def trend(several: list[Rows]) -> dict[str, Any]:
    """The change of accuracy from first to last question: a line's slope within readers, with
    Student's interval.
    """
    x, y = (
        np.concatenate([each[name] - each[name].mean() for each in several])
        for name in ("place", "right")
    )
    free = len(x) - len(several) - 1
    if free < 1 or not x.any() or not y.any():
        return {"value": None, "ci95": None}

    slope = float(x @ y / (x @ x))
    reach = float(stdtrit(free, 0.975) * (((y - slope * x) ** 2).sum() / free / (x @ x)) ** 0.5)
    return {"value": slope, "ci95": [slope - reach, slope + reach]}


def reader_row(kind: str, rows: Rows) -> dict[str, Any]:
    """One reader's scores, with the share of repeats that were answered as before."""
    first, again = (
        {name: values[mask] for name, values in rows.items()}
        for mask in (~rows["repeat"], rows["repeat"])
    )
    _, one, other = np.intersect1d(first["item"], again["item"], return_indices=True)
    same = first["label"][one] == again["label"][other]
    row = {"accuracy": share(first["right"]), "same_again": share(same), "learning": trend([first])}
    row["seconds"] = float(np.median(rows["seconds"]))
    for which, name in enumerate(("real", "made") if kind != "2afc" else ()):
        row[f"of_{name}"] = share(first["right"][first["which"] == which])

    return row


def agreement(kind: str, rows: dict[str, Rows], cases: int) -> dict[str, Any] | None:
    """Fleiss' kappa over items that all readers answered, by bootstrap over items; Cohen's of each
    two readers.
    """
    labels = items(rows.values(), cases, "label")
    labels = labels[:, ~np.isnan(labels).any(0)].astype(int)
    if len(rows) < 2 or labels.shape[1] < 2:
        return None

    value = fleiss(labels)
    count = labels.shape[1]
    ci95 = drawn_interval(
        lambda drawn: fleiss(labels[:, drawn]), [*map(str, range(count))], BOOTSTRAP_DRAWS
    )
    fleiss_row = {"value": None if np.isnan(value) else value, "ci95": ci95, "n": count}
    weights = "quadratic" if kind == "rating" else None
    cohen = {}
    for (one, a), (other, b) in combinations(zip(rows, labels, strict=True), 2):
        if len({*a, *b}) > 1:
            cohen[f"{one}, {other}"] = float(cohen_kappa_score(a, b, weights=weights))
        else:
            cohen[f"{one}, {other}"] = None

    return {"fleiss": fleiss_row, "cohen": cohen, "cohen_weights": weights}


def fleiss(labels: np.ndarray) -> float:
    """Fleiss' kappa (1971) of (readers, items) categories; nan where all are equal."""
    counts = np.stack([(labels == each).sum(0) for each in np.unique(labels)], 1)
    n = len(labels)
    expected = ((counts.sum(0) / counts.sum()) ** 2).sum()
    observed = ((counts**2).sum(1) - n).mean() / (n * (n - 1))
    return float((observed - expected) / (1 - expected)) if expected < 1 else np.nan
