"""Scores as one table: a line for each image and score of a system. Means over patients, intervals,
tests and verdicts are group-bys of it.

| column | meaning |
|---|---|
| direction | `a_to_b`, `b_to_a`, `image`; `a_to_b_post` after the post-steps |
| system | `model`, or the name of a baseline |
| metric | as in metrics.json: `psnr`, `psnr_foreground` |
| region | `whole`, `foreground` or `lesion` |
| image | name of the input, as `key` in split.json; "" for a score of all images together |
| patient | "" if unknown |
| value | the score; NaN where the image cannot be scored |
| corrected | the score after the best linear correction of intensities; NaN where there is none |
| finite | whether the output holds no NaN and no infinite values |
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gantk.errors import reading_file
from gantk.files import read_file, write_file
from gantk.metrics.names import region_of
from gantk.runs.folder import RunFolder
from gantk.runs.results import Results, ScoresByDirection

MODEL = "model"
FILE = "scores.csv"  # in the run folder
MAX_FILE_BYTES = 2**28
TEXTS = ["direction", "system", "metric", "region", "image", "patient"]
NUMBERS = ["value", "corrected"]
COLUMNS = [*TEXTS, *NUMBERS, "finite"]
PLACE = TEXTS[:3]  # of a score


def lines_of(metrics: Sequence[str], values: Any, **about: Any) -> pd.DataFrame:
    """The lines of scores: the metric of each, `values`, and what is known besides, one for all or one
    each.
    """
    known = {"image": "", "patient": "", "corrected": np.nan, "finite": True} | about
    regions = [region_of(metric) or "whole" for metric in metrics]
    return pd.DataFrame(known | {"metric": metrics, "region": regions, "value": values})[COLUMNS]


def table_of(results: Results) -> pd.DataFrame:
    """The table of all scores: the lines of single images, and one for each score of sets of images."""
    parts = [*results.lines]
    known = {place for part in parts for place in part.groupby(PLACE).groups}
    systems: Mapping[str, ScoresByDirection] = {MODEL: results.metrics, **results.baselines}
    values = {
        (direction, system, metric): score.value
        for system, directions in systems.items()
        for direction, scores in directions.items()
        for metric, score in scores.items()
        if (direction, system, metric) not in known
    }
    if values:
        directions, names, metrics = zip(*values, strict=True)
        parts.append(lines_of(metrics, [*values.values()], direction=directions, system=names))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def trouble(lines: pd.DataFrame) -> str:
    """Why a score has no value although its images could be scored; "" if it has one."""
    count = len(lines)
    broken = count - np.count_nonzero(lines["finite"].to_numpy(bool))
    infinite = np.count_nonzero(np.isinf(lines["value"].to_numpy(float)))
    if broken:
        return f"{broken} of {count} outputs contain NaN or infinite values"
    return f"{infinite} of {count} images have an infinite score" if infinite else ""


def write_results(run: Path, results: Results) -> None:
    """Write metrics.json and scores.csv of a run folder."""
    RunFolder(run).write_json("metrics.json", results.dump())
    table = table_of(results).to_csv(index=False, lineterminator="\n")
    write_file(run / FILE, table.encode(), private=True)


def read_lines(run: Path) -> pd.DataFrame:
    """The lines that a run folder stores, none where it has none; UserError for a damaged file."""
    path = run / FILE
    if not os.path.lexists(path):
        return pd.DataFrame(columns=COLUMNS)
    with reading_file(path.name, where=str(path), remedy="write it again: gantk eval RUN"):
        content = read_file(path, run, MAX_FILE_BYTES)
        table = pd.read_csv(io.BytesIO(content), usecols=COLUMNS, dtype=str, keep_default_na=False)
        numbers = table[NUMBERS].replace("", "nan").astype(float)
        return table.assign(**numbers, finite=table.finite == "True")[COLUMNS]


def owners(lines: pd.DataFrame) -> pd.Series:
    """The patient of each line, or its image where the patient is unknown."""
    return lines.patient.where(lines.patient != "", lines.image)
