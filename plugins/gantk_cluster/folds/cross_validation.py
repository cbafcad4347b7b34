"""k-fold cross-validation: trains one run per fold of the patients, and averages the scores of all
patients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import RootModel

from gantk import resume, run
from gantk.data.recipe_data import checked_recipe
from gantk.errors import UserError, argument
from gantk.files import write_file
from gantk.metrics.intervals import estimate
from gantk.metrics.verdict import title_of
from gantk.recipe.load import Settings, resolved
from gantk.recipe.tables import Model
from gantk.runs.checkpoint import steps_saved
from gantk.runs.folder import RunFolder, new_folder
from gantk.runs.schemas import read, table
from gantk.training.checks import check_training

SUMMARY = "folds.json"
ROW = table("patient", "scores", patient=str, scores=dict[str, float | None])
PATIENTS_OF_DIRECTION = table("patients", patients=list[ROW])  # one direction of patients.json


def cross_validate(
    recipe: Any,
    folds: int,
    *,
    data: str | Path | None = None,
    set: Settings = (),
    profile: str | None = None,
    out: str | Path | None = None,
    precision: str | None = None,
    seed: int | None = None,
    track: Iterable[str] = (),
    say: Callable[[str], None] = print,
    **options: Any,
) -> Path:
    """Train a recipe once per fold, and score each patient with the run that was not trained on
    that patient.

    The runs are OUT/fold-0, OUT/fold-1 and so on. OUT is also a model, the mean of its runs: `gantk
    translate OUT IN RESULT`. A repeated call skips finished folds and resumes an interrupted one.

    Args:
        recipe: as in `gantk.run`, like all arguments that are not listed here.
        folds: number of parts that the patients are divided into, 2 or more; the key
            data.split.folds.
        out: the folder of the runs. Default: runs/NAME-folds-TIME.

    Returns:
        The folder, with folds.json: for each direction and score the mean over all patients, its 95
        % interval and n.

    Raises:
        UserError: OUT holds runs of another recipe.
    """
    if folds < 2:
        problem = f"{folds} is not a valid number of folds"
        raise UserError(problem, where="--folds", allowed="2 up to the number of patients")

    track = list(track)
    overrides = {"train.precision": precision, "train.seed": seed, "track": track or None}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    settings = [_settings_of_fold(set, folds, k) for k in range(folds)]
    loaded, model = checked_recipe(recipe, data, settings[0], profile, overrides)
    if model.data.split.file:
        what = "data.split.file and --folds both choose the test patients"
        raise UserError(what, where="--folds", remedy="leave one of them out")

    if out:
        folder = Path(out)
    else:
        folder = new_folder(Path("runs") / f"{loaded.name}-folds-{datetime.now():%Y%m%d-%H%M%S}")

    if (folder / "recipe.toml").exists():
        problem = f"'{folder}' is the folder of one run; it cannot hold the folds"
        raise UserError(problem, where="--out", remedy="name a new folder for all folds")

    places = [folder / f"fold-{k}" for k in range(folds)]
    for place, own in zip(places, settings, strict=True):
        _require_same(place, checked_recipe(recipe, data, own, profile, overrides)[1])

    _require_no_others(folder, places)
    options |= {"data": data, "profile": profile, "precision": precision, "seed": seed}
    for k, place in enumerate(places):
        if (place / "report.html").exists() and (place / "metrics.json").exists():
            say(f"fold     {k + 1} of {folds}: already finished, {place}")
            continue
        say(f"fold     {k + 1} of {folds}: {place}")
        if steps_saved(place / "checkpoints"):
            resume(place, device=options.get("device"), say=say)
        else:
            run(recipe, set=settings[k], out=place, track=track, say=say, **options)

    scores = summary(places)
    text = json.dumps({"folds": folds, "scores": scores}, indent=1) + "\n"
    write_file(folder / SUMMARY, text.encode())
    for line in lines(scores, list(model.data.domains)):
        say(line)

    command = f"gantk translate {argument(folder)} IN OUT"
    say(f"folds    {folder / SUMMARY}; translate with the mean of all folds: {command}")
    return folder


def _settings_of_fold(settings: Settings, folds: int, k: int) -> Settings:
    """The settings of the run of fold `k`."""
    part = {"data.split.folds": folds, "data.split.fold": k}
    if isinstance(settings, Mapping):
        return {**settings, **part}
    return [*settings, *(f"{key}={n}" for key, n in part.items())]


def _require_no_others(folder: Path, places: list[Path]) -> None:
    """UserError where a folder holds folds beside `places`."""
    others = sorted(each.name for each in folder.glob("fold-*") if each not in places)
    if others:
        what = f"'{folder}' contains {others[0]}, which does not belong to {len(places)} folds"
        remedy = "name another folder, or set the same number of folds as before"
        raise UserError(what, where="--out", remedy=remedy)


def _require_same(place: Path, model: Model) -> None:
    """UserError where the folder holds a run of another recipe."""
    if not (place / "recipe.toml").exists():
        return

    # as `run` does: plugins add to a recipe, such as weights' hashes
    check_training(model)
    if resolved(RunFolder.open(place).recipe().check()) != resolved(model):
        what = f"'{place}' contains a run of another recipe or with other settings"
        remedy = "name another folder, or repeat the command with the same recipe and settings"
        raise UserError(what, where="--out", remedy=remedy)


def summary(runs: Iterable[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """Direction -> score -> mean over the test patients of all runs, its 95 % interval and their
    number.
    """
    values_of: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for place in runs:
        schema = RootModel[dict[str, PATIENTS_OF_DIRECTION]]
        remedy = f"write it again: gantk eval {argument(place)}"
        for direction, kept in read(place, "patients.json", schema, remedy).items():
            for row in kept["patients"]:
                for metric, value in row["scores"].items():
                    values = values_of.setdefault(direction, {}).setdefault(metric, [])
                    values.append((float("nan") if value is None else value, row["patient"]))

    return {
        direction: {
            metric: estimate(*zip(*values, strict=True)).row() for metric, values in scores.items()
        }
        for direction, scores in values_of.items()
    }


def lines(
    scores_by_direction: dict[str, dict[str, dict[str, Any]]], domains: list[str]
) -> Iterator[str]:
    """Yield the scores of all patients as lines for a terminal."""
    for direction, scores in scores_by_direction.items():
        title = title_of(direction, domains)
        for metric, row in scores.items():
            value = "-" if row["value"] is None else f"{row['value']:.4g}"
            if row["ci95"]:
                value += " [{:.4g}, {:.4g}]".format(*row["ci95"])
            yield f"all      {title}: {metric} {value}, {row['n']} patients"
