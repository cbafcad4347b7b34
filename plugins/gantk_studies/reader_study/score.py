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
        generated images that no reader recognised.

    Raises:
        UserError: a file is damaged, or belongs to another study.
    """
    key, table = _read_answers(study, answers)
    if weights is not None:
        expect_file(weights, "--weights", overwrite=overwrite)
        found = key.assign(weight=(1 + BOOST * table.mean().fillna(0)).round(4))
        names = found.melt("weight", NAMES, value_name="key")
        lines = names.drop_duplicates("key", keep="last")[["key", "weight"]]
        write_output(Path(weights), lines.to_csv(index=False, lineterminator="\n").encode())
        say(f"written  {weights}")

    readers = {name: estimate_share(row.dropna().to_numpy()) for name, row in table.iterrows()}
    overall = Score(
        value=float(table.mean(axis=1).mean()), ci95=_interval_over_both(table.to_numpy())
    )
    fooled = key.made[table.max() == 0].tolist()
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


def _read_answers(
    study: str | Path, answers: Iterable[str | Path]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The key, a line for each question; and for each reader (rows) and question (columns) 1 where the
    generated image was recognised, 0 where not, NaN without an answer. UserError for a file that is
    damaged or of another study.
    """
    file = Path(study) / KEY_FILE
    kinds = dict.fromkeys(NAMES, str) | {"real_side": int}
    remedy = "name the folder that `gantk study new` wrote, or make a new study"
    with reading_file(file, "the key of a study", where="STUDY", remedy=remedy):
        key = pd.read_csv(file, usecols=[*kinds], dtype=kinds, keep_default_na=False)

    digest = sha256_of(file)
    kinds = {"study": str, "reader": str, "question": int, "answer": int}
    remedy = "leave the file out, or ask its reader for it again"
    tables = []
    for path in map(Path, answers):
        with reading_file(path, "answers of a reader", remedy=remedy):
            table = pd.read_csv(path, usecols=[*kinds], dtype=kinds, keep_default_na=False)
        fits = (table.study == digest) & table.question.isin(key.index) & table.answer.isin([0, 1])
        if not fits.all():
            raise UserError(
                f"'{path}' belongs to another study, or it or the key was changed",
                where="ANSWERS",
                remedy=remedy,
            )
        tables.append(table.assign(reader=table.reader.replace("", path.stem)))

    given = pd.concat(tables)
    given["right"] = (given.answer == given.question.map(key.real_side)).astype(float)
    table = given.pivot_table("right", "reader", "question", aggfunc="last")
    return key, table.reindex(columns=key.index)


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
