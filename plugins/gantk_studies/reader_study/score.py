"""`gantk study score`: what the answers of readers say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gantk.errors import UserError, count_noun, reading_file
from gantk.files import expect_file, sha256_of, write_output
from gantk.metrics.intervals import BOOTSTRAP_DRAWS, estimate_share
from gantk.runs.results import Score
from gantk.terminal import Say
from gantk_studies.reader_study.new import KEY_FILE, NAMES

# weight of an input and its truth = 1 + BOOST x the share of readers who recognised the made image
BOOST = 2.0


def score_study(
    study: str | Path,
    answers: Iterable[str | Path],
    *,
    weights: str | Path | None = None,
    overwrite: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Score the answers of a reader study.

    The accuracy of a reader has Wilson's 95 % interval. That of the mean over readers is from a
    bootstrap over readers and pairs, both of which are samples (Owen 2007).

    Args:
        study: the folder of the study.
        answers: the files that the readers returned. Of two answers of a reader to one question the
            later file's counts.
        weights: a CSV file of `key` and `weight` to write, for `data.weights` of the next training: 3
            for an image whose translation every reader recognised, 1 where no reader did.
        overwrite: whether to replace a file of weights that gantk did not write, or that was changed.
        say: called with each line of output.

    Returns:
        `readers`, the accuracy of each; `all`, that of their mean; and `fooled`, the names of
        generated images that no reader recognised, of two readers or more.

    Raises:
        UserError: a file is damaged, or belongs to another study.
    """
    key, table = read_answers(study, answers)
    if weights is not None:
        _write_weights(Path(weights), key, table, overwrite)
        say(f"written  {weights}")

    readers = {name: estimate_share(row.dropna().to_numpy()) for name, row in table.iterrows()}
    overall = Score(
        value=float(table.mean(axis=1).mean()), ci95=_interval_over_both(table.to_numpy())
    )
    hidden = (table.sum() == 0) & table.notna().any()
    fooled = key.made[hidden].tolist() if len(readers) > 1 else []
    for name, score in readers.items():
        say(f"reader   {name}: {_percent(score)} of {count_noun(score.n or 0, 'answer')}")
    of = f"mean of {count_noun(readers, 'reader')} over {count_noun(key, 'pair')}"
    say(f"accuracy {_percent(overall)}, {of}; chance is 50 %")
    if fooled:
        say(f"fooled   every reader took these for real: {', '.join(fooled)}")
    return {
        "readers": {name: score.dump() for name, score in readers.items()},
        "all": overall.dump(),
        "fooled": fooled,
    }


def _write_weights(out: Path, key: pd.DataFrame, table: pd.DataFrame, overwrite: bool) -> None:
    """Write the weights of images; UserError for images that are no run's training images."""
    expect_file(out, "--weights", overwrite=overwrite)
    if {*key.split} != {"train"}:
        what = "the study does not show translations of training images, so it gives no weights"
        remedy = "make the study with `gantk study new RUN --split train`"
        raise UserError(what, where="STUDY", remedy=remedy)
    found = key.assign(weight=(1 + BOOST * table.mean().fillna(0)).round(4))
    names = found.melt("weight", ["real", "made"], value_name="key")
    lines = names.drop_duplicates("key", keep="last")[["key", "weight"]]
    write_output(out, lines.to_csv(index=False, lineterminator="\n").encode())


def read_answers(
    study: str | Path, answers: Iterable[str | Path]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The key, a line for each question; and for each reader (rows) and question (columns) 1 where the
    generated image was recognised, 0 where not, NaN without an answer. UserError for a file that is
    damaged or of another study.
    """
    file = Path(study) / KEY_FILE
    if not file.is_file():
        what = f"'{study}' is no study: it has no {KEY_FILE}"
        raise UserError(what, where="STUDY", remedy="name the folder that `gantk study new` wrote")
    kinds = dict.fromkeys(NAMES, str) | {"question": int, "real_side": int}
    with reading_file(file, "the key of a study", remedy="restore the file, or make a new study"):
        key = pd.read_csv(file, usecols=[*kinds], dtype=kinds, keep_default_na=False)

    tables = [_read_answers_of(Path(path), len(key), sha256_of(file)) for path in answers]
    if not tables or key.empty:
        raise UserError("there are no answers to score", where="ANSWERS")
    given = pd.concat(tables).drop_duplicates(["reader", "question"], keep="last")
    right = (given.answer == key.real_side.to_numpy()[given.question]).astype(float)
    table = given.assign(right=right).pivot(index="reader", columns="question", values="right")
    return key, table.reindex(columns=key.question)


def _read_answers_of(path: Path, questions: int, digest: str) -> pd.DataFrame:
    """The answers of one file; UserError where it is not of this study."""
    kinds = {"study": str, "reader": str, "question": int, "answer": int}
    remedy = "leave the file out, or ask its reader for it again"
    with reading_file(path, "answers of a reader", remedy=remedy):
        table = pd.read_csv(path, usecols=[*kinds], dtype=kinds, keep_default_na=False)

    problem = ""
    if not (table.study == digest).all():
        problem = "belongs to another study, or the key was changed"
    elif not (table.question.between(0, questions - 1) & table.answer.isin([0, 1])).all():
        problem = "has answers to no question of the study"
    elif table.reader.nunique() != 1:
        problem = f"has answers of {table.reader.nunique()} readers"
    if problem:
        raise UserError(f"'{path}' {problem}", where="ANSWERS", remedy=remedy)
    return table.assign(reader=table.reader.replace("", path.stem))


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
