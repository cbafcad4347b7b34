"""Reads readers' answers with the study's key, finds a run's study scores, and writes weights for a
next training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gantk import ReportSection
from gantk.catalog.tables import csv_text
from gantk.errors import UserError, count_noun, one_line
from gantk.files import expect_file, sha256_of, write_output
from gantk.runs.results import Amount, Score, Step, Table
from gantk.runs.schemas import read, read_needed

HERE = Path(__file__).parent
CHOICES = {"2afc": (0, 1), "yesno": (0, 1), "rating": (1, 2, 3, 4, 5)}
# weight of an input and its truth = 1 + BOOST x the share of readers who recognised the made image
BOOST = 2.0
Kind = Literal["2afc", "yesno", "rating"]


class Case(Table):
    """A pair of images of a study, by their names."""

    real: str
    made: str = ""  # of a translation its input; "" of an image from noise
    patient: str | None = None


class Key(Table):
    """The content of key.json: which images are real."""

    kind: Kind
    cases: list[Case]
    readers: dict[str, list[list[Step]]]  # each reader's questions, see `making.questions`
    format: int = 1
    seed: int = 0
    # of a run
    run: str | None = None
    step: Step | None = None
    split: str | None = None
    target: str | None = None  # the contrast of the images
    oriented: bool = False  # whether the images state, and show, left and right


class Answer(Table):
    """A reader's answer to a question, by its number."""

    question: Step
    answer: Step
    seconds: Amount


class Answers(Table):
    """The file that a reader saves."""

    study: str  # SHA-256 of key.json
    reader: str
    answers: list[Answer]


class ReaderScores(Table):
    """The scores of one reader."""

    accuracy: Score
    same_again: Score  # share of repeats that were answered as before
    seconds: float  # median
    of_real: Score | None = None
    of_made: Score | None = None
    auc: Score | None = None


class StudyScores(Table):
    """The content of scores.json."""

    kind: Kind
    readers: dict[str, ReaderScores]
    pooled: dict[str, Score]
    fooled: list[dict[str, int | str | None]]  # cases whose made image no reader recognised
    left_out: list[str] = []  # files of answers
    format: int = 1
    run: str | None = None
    step: Step | None = None
    target: str | None = None
    split: str | None = None


# columns: case, which, repeat, answer, seconds, right, label, item
Rows = dict[str, np.ndarray]


def load(
    study: str | Path, answers: Iterable[str | Path]
) -> tuple[Key, dict[str, Rows], list[str]]:
    """Read the key and each reader's answers; also returns a message for each file left out.
    UserError if all are.
    """
    file = Path(study) / "key.json"
    remedy = "name the folder that `gantk study new` wrote"
    key = read_needed(file.parent, file.name, Key, remedy)
    _check_questions(key, file)
    digest = sha256_of(file)
    accepted: dict[str, tuple[Rows, Path]] = {}
    problems = []
    for path in map(Path, answers):
        try:
            said = _read_answers(path, key, digest)
            rows = rows_of(key, said)
        except UserError as error:
            problems.append(f"'{path}' is left out: it is damaged ({one_line(error)})")
            continue
        except ValueError as error:
            problems.append(f"'{path}' is left out: {one_line(error)}")
            continue

        given = [(rows, path)]
        if said.reader in accepted:
            given.insert(0, accepted[said.reader])
            given.sort(key=lambda one: -len(one[0]["case"]))
            problems.append(
                f"'{given[1][1]}' is left out: it is also from {said.reader}, and '{given[0][1]}'"
                " has at least as many answers"
            )

        accepted[said.reader] = given[0]

    if not accepted:
        raise UserError(
            f"none of the answers can be scored: {'; '.join(problems)}", where="ANSWERS"
        )

    return key, {name: rows for name, (rows, _) in sorted(accepted.items())}, problems


def _check_questions(key: Key, file: Path) -> None:
    """UserError where a key has no questions, or one that is not about its images."""
    rows = [row for order in key.readers.values() for row in order]
    wrong = [row for row in rows if len(row) != 3 or row[0] >= len(key.cases) or row[1] > 1]
    if wrong or not rows:
        what = f"'{file}' is damaged: it has no questions"
        if wrong:
            what = f"'{file}' is damaged: its question {wrong[0]} is about none of its images"
        remedy = "restore the file, or make a new study with `gantk study new`"
        raise UserError(what, where="STUDY", remedy=remedy)


def _read_answers(path: Path, key: Key, digest: str) -> Answers:
    """The answers in one file; UserError or ValueError where they are not of this study."""
    path = Path(os.path.realpath(path))  # a link to itself stays one
    said = read(path.parent, path.name, Answers, "ask the reader to save the answers again")
    if said is None:
        raise ValueError("it does not exist")
    if said.study != digest:
        raise ValueError("it belongs to another study, or key.json was changed")
    if said.reader not in key.readers:
        raise ValueError(f"it is from '{said.reader}', who is not a reader of this study")
    return said


def rows_of(key: Key, said: Answers) -> Rows:
    """A reader's answers with their questions; ValueError for impossible answers. A rating of 3 is
    half right.
    """
    asked = np.array(key.readers[said.reader])
    kind = key.kind
    places = np.array([one.question for one in said.answers])
    answer = np.array([one.answer for one in said.answers])
    seconds = np.array([one.seconds for one in said.answers])
    if not len(places) or len(np.unique(places)) < len(places) or places.max() >= len(asked):
        raise ValueError(
            "it has no answers, two answers to one question, or an answer to an unknown question"
        )

    wrong = {*answer.tolist()} - {*CHOICES[kind]}
    if wrong:
        raise ValueError(f"{min(wrong)} is not a valid answer")

    case, which, repeat = asked[places].T
    if kind == "2afc":
        right = 1.0 * (answer == which)
        label = right
        item = 2 * case + 1
    else:
        real = (np.sign(answer - 3) + 1) / 2 if kind == "rating" else answer  # 0 made to 1 real
        right = np.where(which, 1.0 - real, real)
        label = answer
        item = 2 * case + which

    return {
        "case": case,
        "which": which,
        "repeat": repeat > 0,
        "answer": answer,
        "seconds": seconds,
        "right": right,
        "label": label,
        "item": item,
    }


def items(rows: Collection[Rows], cases: int, name: str) -> np.ndarray:
    """First answers by image, (readers, 2 * cases), nan where there is none; a pair's answer is at
    its made image.
    """
    labels = np.full((len(rows), 2 * cases), np.nan)
    for row, one in zip(labels, rows, strict=True):
        row[one["item"][~one["repeat"]]] = one[name][~one["repeat"]]
    return labels


def readers_of(run: Path, problems: list[str]) -> dict[str, StudyScores]:
    """The scores of a run's studies by name, from RUN/study/NAME/scores.json; unreadable files go
    to `problems`.
    """
    scores = {}
    run = Path(run)
    for path in sorted(run.glob("study/*/scores.json")):
        name = path.relative_to(run).as_posix()
        try:
            study = read(run, name, StudyScores, "score the study again")
            if study is not None:
                scores[path.parent.name] = study
        except UserError as error:
            problems.append(error.what)

    return scores


def write_weights(
    study: str | Path,
    answers: Iterable[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    say: Callable = print,
) -> Path:
    """Write a CSV of `key` and `weight` for `data.weights`; UserError for images that are no run's
    training pairs.
    """
    expect_file(out, "--out", overwrite=overwrite)
    key, rows, problems = load(study, answers)
    if key.split != "train" or not key.cases[0].made:
        what = "the study does not show translations of training images, so it gives no weights"
        remedy = "make the study with `gantk study new RUN --split train`, for a translation run"
        raise UserError(what, where="STUDY", remedy=remedy)

    right = np.ma.masked_invalid(items(rows.values(), len(key.cases), "right")[:, 1::2])
    recognised = right.mean(0).filled(0)  # share of the readers, of each case
    weights = {}
    for case, weight in zip(key.cases, np.round(1 + BOOST * recognised, 4), strict=True):
        weights[case.real] = float(weight)
        weights[case.made] = float(weight)

    write_output(Path(out), csv_text(("key", "weight"), weights.items()).encode())
    for problem in problems:
        say(f"warning  {problem}")

    say(f"written  {out}: {count_noun(weights, 'image')}")
    return Path(out)


@dataclass(frozen=True, kw_only=True)
class ReadersSection(ReportSection):
    """The section `Readers`."""

    studies: dict[str, StudyScores]


def section(record) -> ReadersSection | None:
    """The section of the report, if studies of the run were scored."""
    studies = readers_of(record.path, record.problems)
    if not studies:
        return None
    return ReadersSection(folder=HERE, template="section.html.j2", studies=studies)
