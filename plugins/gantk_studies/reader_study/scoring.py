"""Scores a reader study; the intervals take both readers and cases as random samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gantk.files import write_file
from gantk.metrics.intervals import BOOTSTRAP_DRAWS, estimate_share
from gantk.report.build import render
from gantk.runs.results import Score
from gantk_studies.reader_study.answers import (
    HERE,
    Case,
    ReaderScores,
    Rows,
    StudyScores,
    items,
    load,
)

ENDS = (2.5, 97.5)  # percentiles between which 95 % of the draws are


def score_study(
    study: str | Path, answers: Iterable[str | Path], *, say: Callable = print
) -> dict[str, Any]:
    """Score a reader study; writes scores.json and scores.md into its folder.

    The accuracy of a reader has Wilson's 95 % interval. The interval of the mean over readers is
    from a bootstrap over readers and cases (Owen 2007). Ratings also have an area under the ROC
    curve, by bootstrap.

    Args:
        study: the folder of the study.
        answers: the files that the readers returned.
        say: called with each line of output, also with the names of files that were left out.

    Returns:
        The scores.

    Raises:
        UserError: not one file could be scored.
    """
    key, rows, problems = load(study, answers)
    kind = key.kind
    count = len(key.cases)
    readers = {name: reader_row(kind, one) for name, one in rows.items()}
    pooled = {"accuracy": over_both(accuracy, rows.values(), count)[0]}
    if kind == "rating":
        pooled["auc"], areas = over_both(auc, rows.values(), count)
        for row, area in zip(readers.values(), areas, strict=True):
            row.auc = area

    result = StudyScores(
        kind=kind,
        run=key.run,
        step=key.step,
        target=key.target,
        split=key.split,
        readers=readers,
        pooled=pooled,
        fooled=_cases_that_fooled_all(key.cases, rows),
        left_out=problems,
    )
    text = render("scores.md.j2", folders=[HERE], styles=(), scripts=(), **dict(result))
    stored = result.dump()
    write_file(Path(study) / "scores.json", f"{json.dumps(stored, indent=1)}\n".encode())
    write_file(Path(study) / "scores.md", text.encode())
    for problem in problems:
        say(f"warning  {problem}")

    for line in text.splitlines():
        if line:
            say(line)

    return stored


def _cases_that_fooled_all(
    cases: list[Case], rows: dict[str, Rows]
) -> list[dict[str, int | str | None]]:
    """The cases of which no reader recognised the made image; none where there is one reader."""
    if len(rows) < 2:
        return []
    recognised = items(rows.values(), len(cases), "right")[:, 1::2].any(axis=0)
    return [{"case": int(n), **cases[n].dump()} for n in np.flatnonzero(~recognised)]


def over_both(measure: Callable, rows: Iterable[Rows], cases: int) -> tuple[Score, list[Score]]:
    """The mean of a measure over readers, by bootstrap over readers and cases; and each reader's,
    over cases only.
    """
    weights = np.random.default_rng(0).multinomial(cases, [1 / cases] * cases, BOOTSTRAP_DRAWS)
    values = np.concatenate([measure(one, np.ones((1, cases))) for one in rows])
    drawn = np.stack([measure(one, weights) for one in rows], axis=1)
    intervals = np.percentile(drawn, ENDS, axis=0).T.tolist()
    own = [
        Score(value=value, ci95=ci95)
        for value, ci95 in zip(values.tolist(), intervals, strict=True)
    ]
    readers = np.random.default_rng(1).integers(len(own), size=(BOOTSTRAP_DRAWS, len(own)))
    means = np.take_along_axis(drawn, readers, axis=1).mean(axis=1)
    ci95 = np.percentile(means, ENDS).tolist()
    about = {"readers": len(own), "cases": cases}
    return Score(value=float(values.mean()), ci95=ci95, **about), own


def accuracy(rows: Rows, weights: np.ndarray) -> np.ndarray:
    """Share of right first answers, (B,), for each of B rows of case weights."""
    first = ~rows["repeat"]
    own = weights[:, rows["case"][first]]
    return own @ rows["right"][first] / np.maximum(own.sum(1), 1)


def auc(rows: Rows, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, (B,), by case weights: share of (real, made) pairs with the real
    one rated higher.
    """
    first = ~rows["repeat"]
    real = first & (rows["which"] == 0)
    made = first & (rows["which"] == 1)
    wins = (np.sign(rows["answer"][real][:, None] - rows["answer"][made]) + 1) / 2
    real_weights = weights[:, rows["case"][real]]
    made_weights = weights[:, rows["case"][made]]
    weighted_wins = ((real_weights @ wins) * made_weights).sum(1)
    return weighted_wins / np.maximum(real_weights.sum(1) * made_weights.sum(1), 1)


def reader_row(kind: str, rows: Rows) -> ReaderScores:
    """One reader's scores, with the share of repeats that were answered as before."""
    repeat = rows["repeat"]
    first = {name: values[~repeat] for name, values in rows.items()}
    again = {name: values[repeat] for name, values in rows.items()}
    _, one, other = np.intersect1d(first["item"], again["item"], return_indices=True)
    row = ReaderScores(
        accuracy=estimate_share(first["right"]),
        same_again=estimate_share(first["label"][one] == again["label"][other]),
        seconds=float(np.median(rows["seconds"])),
    )
    if kind != "2afc":
        row.of_real = estimate_share(first["right"][first["which"] == 0])
        row.of_made = estimate_share(first["right"][first["which"] == 1])

    return row
