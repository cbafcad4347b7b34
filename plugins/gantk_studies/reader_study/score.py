"""`gantk study score` and `weights`: what the answers of readers say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gantk.catalog.tables import csv_text, read_rows
from gantk.errors import UserError, count_noun, one_line
from gantk.files import expect_file, sha256_of, write_output
from gantk.metrics.intervals import BOOTSTRAP_DRAWS, estimate_share
from gantk.runs.results import Score
from gantk_studies.reader_study.new import KEY_FILE, Case

# weight of an input and its truth = 1 + BOOST x the share of readers who recognised the made image
BOOST = 2.0
COLUMNS = ("study", "reader", "question", "answer", "seconds")  # of a file of answers

Recognised = dict[str, np.ndarray]  # reader -> (questions,): 1 recognised, 0 not, nan not answered


def score_study(
    study: str | Path, answers: Iterable[str | Path], *, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Score the answers of a reader study.

    The accuracy of a reader has Wilson's 95 % interval. That of the mean over readers is from a
    bootstrap over readers and pairs, both of which are samples (Owen 2007).

    Args:
        study: the folder of the study.
        answers: the files that the readers returned.
        say: called with each line of output, also with the names of files that were left out.

    Returns:
        `readers`, the accuracy of each; `all`, that of their mean; and `fooled`, the names of
        generated images that no reader recognised, of two readers or more.

    Raises:
        UserError: not one file could be scored.
    """
    cases, recognised = read_answers(study, answers, say)
    readers = {name: estimate_share(row[~np.isnan(row)]) for name, row in recognised.items()}
    table = np.array([*recognised.values()])
    overall = Score(value=float(np.nanmean(table, axis=1).mean()), ci95=_interval_over_both(table))
    fooled = []
    if len(readers) > 1:
        hidden = np.nansum(table, axis=0) + np.isnan(table).all(axis=0) == 0
        fooled = [case.made for case, none in zip(cases, hidden, strict=True) if none]

    for name, score in readers.items():
        say(f"reader   {name}: {_percent(score)} of {count_noun(score.n or 0, 'answer')}")
    of = f"mean of {count_noun(readers, 'reader')} over {count_noun(cases, 'pair')}"
    say(f"accuracy {_percent(overall)}, {of}; chance is 50 %")
    if fooled:
        say(f"fooled   every reader took these for real: {', '.join(fooled)}")
    return {
        "readers": {name: score.dump() for name, score in readers.items()},
        "all": overall.dump(),
        "fooled": fooled,
    }


def write_weights(
    study: str | Path,
    answers: Iterable[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Write a CSV of `key` and `weight` for `data.weights`; UserError for images that are no run's
    training images.
    """
    expect_file(out, "--out", overwrite=overwrite)
    cases, recognised = read_answers(study, answers, say)
    if {case.split for case in cases} != {"train"}:
        what = "the study does not show translations of training images, so it gives no weights"
        remedy = "make the study with `gantk study new RUN --split train`"
        raise UserError(what, where="STUDY", remedy=remedy)

    table = np.ma.masked_invalid([*recognised.values()])
    shares = table.mean(axis=0).filled(0)  # of the readers, for each case
    weights = {}
    for case, share in zip(cases, shares, strict=True):
        weights[case.real] = weights[case.made] = round(1 + BOOST * float(share), 4)

    write_output(Path(out), csv_text(("key", "weight"), weights.items()).encode())
    say(f"written  {out}: {count_noun(weights, 'image')}")
    return Path(out)


def read_answers(
    study: str | Path, answers: Iterable[str | Path], say: Callable[[str], None]
) -> tuple[list[Case], Recognised]:
    """The key, and for each reader which generated images were recognised; says which files are
    left out. UserError if all are.
    """
    file = Path(study) / KEY_FILE
    if not file.is_file():
        what = f"'{study}' is no study: it has no {KEY_FILE}"
        raise UserError(what, where="STUDY", remedy="name the folder that `gantk study new` wrote")

    cases = [_case(row, file) for _, row in read_rows(file)[1]]
    digest = sha256_of(file)
    found: dict[str, np.ndarray] = {}
    problems = []
    for path in map(Path, answers):
        try:
            reader, row = _read_answers_of(path, cases, digest)
        except (UserError, OSError, ValueError) as error:
            problems.append(f"'{path}' is left out: {one_line(error)}")
            continue

        earlier = found.get(reader)
        if earlier is not None and np.isnan(earlier).sum() <= np.isnan(row).sum():
            problems.append(f"'{path}' is left out: another file of {reader} has as many answers")
            continue
        found[reader] = row

    if not found or not cases:
        why = "; ".join(problems) or "the key has no questions"
        raise UserError(f"none of the answers can be scored: {why}", where="ANSWERS")
    for problem in problems:
        say(f"warning  {problem}")
    return cases, dict(sorted(found.items()))


def _case(row: Mapping[str, str], file: Path) -> Case:
    """A line of the key; UserError where it is damaged."""
    try:
        question, side, *names = (row.get(name, "") for name in Case._fields)
        return Case(int(question), int(side), *names)
    except ValueError:
        what = f"'{file}' is damaged: it has a line that is no question"
        raise UserError(
            what, where="STUDY", remedy="restore the file, or make a new study"
        ) from None


def _read_answers_of(path: Path, cases: list[Case], digest: str) -> tuple[str, np.ndarray]:
    """The reader of a file of answers, and which generated images were recognised; UserError or
    ValueError where it is not of this study.
    """
    columns, rows = read_rows(path)
    if missing := {*COLUMNS} - {*columns}:
        raise ValueError(f"it has no column '{min(missing)}'")

    row = np.full(len(cases), np.nan)
    readers = set()
    for line, cells in rows:
        if cells.get("study") != digest:
            raise ValueError("it belongs to another study, or the key was changed")
        question = int(cells["question"])
        answer = int(cells["answer"])
        if not 0 <= question < len(cases) or answer not in (0, 1):
            raise ValueError(f"line {line} answers no question of the study")
        row[question] = answer == cases[question].real_side
        readers.add(cells.get("reader", ""))

    if len(readers) != 1:
        raise ValueError(f"it has answers of {len(readers)} readers")
    return readers.pop() or path.stem, row


def _interval_over_both(table: np.ndarray) -> list[float]:
    """The 95 % interval of the mean over readers (rows) of their accuracy over pairs (columns; nan:
    not answered), by bootstrap over readers and pairs.
    """
    readers, pairs = table.shape
    rng = np.random.default_rng(0)
    weights = rng.multinomial(pairs, [1 / pairs] * pairs, BOOTSTRAP_DRAWS)
    answered = weights @ ~np.isnan(table).T
    accuracies = (weights @ np.nan_to_num(table).T) / np.maximum(answered, 1)  # (draws, readers)
    drawn = rng.integers(readers, size=(BOOTSTRAP_DRAWS, readers))
    means = np.take_along_axis(accuracies, drawn, axis=1).mean(axis=1)
    return np.percentile(means, (2.5, 97.5)).tolist()


def _percent(score: Score) -> str:
    low, high = score.ci95 or (np.nan, np.nan)
    return f"{100 * (score.value or 0):.0f} % ({100 * low:.0f} to {100 * high:.0f})"
