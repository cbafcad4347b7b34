"""`gantk sweep`: a hyperparameter search over a recipe's settings with Ray Tune, and a table that
compares trials.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from gantk import __version__, checked_recipe
from gantk.catalog.tables import csv_text
from gantk.errors import GantkError, Interrupted, UserError, argument, count_noun
from gantk.files import lock_folder, make_folder, read_file, write_file
from gantk.recipe.load import Settings, parse_setting
from gantk.runs.folder import new_folder
from gantk.runs.results import Table
from gantk.runs.schemas import read, read_needed
from gantk.terminal import Say, stop_on_ctrl_c
from gantk_cluster.cluster import connect_cluster
from gantk_cluster.sweep.trial import SWEEP_FILE, TRIAL_FILE, Trial, choice_of, train, trial_name

EXAMPLES = "KEY=0.5..5, KEY=1e-4..4e-4:log (above 0), KEY=2..8 (whole numbers), KEY=ls,bce"
NUMBER = r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
RANGE = re.compile(rf"{NUMBER}\.\.{NUMBER}(:log)?")
RUNGS = 9  # checkpoints of a trial, unless its recipe saves more often
COLUMNS = ("trial", "score", "step", "error")  # of the table, before the settings


class Sweep(Table):
    """The content of sweep.json: what all trials share."""

    name: str
    recipe: dict[str, Any]
    space: list[str]
    steps: int
    trials: int
    device: str | None = None


def sweep(
    recipe: Any = None,
    space: Iterable[str] = (),
    *,
    trials: int = 20,
    address: str | None = None,
    resume: str | Path | None = None,
    out: str | Path | None = None,
    data: str | Path | None = None,
    set: Settings = (),
    profile: str | None = None,
    device: str | None = None,
    say: Say = print,
) -> Path:
    """Train a recipe many times with settings drawn from a search space, and write the best recipe.

    `gantk sweep --help` says what the options are; `space` is as in `axes_of`, `address` as in
    `connect_cluster`. The scheduler is ASHA (Li et al. 2018). Returns the folder: trials/*, each a run; best.toml, sweep.csv.
    """
    folder = Path(resume or out) if resume or out else None
    if (recipe is None) == (resume is None) or (resume is not None and space):
        raise UserError(
            "a sweep either begins with a recipe and a space, or is resumed with its own",
            where="RECIPE, --resume",
            remedy="write gantk sweep RECIPE --space KEY=LOW..HIGH, or gantk sweep --resume DIR",
        )

    if resume is not None:
        asked = _saved_settings(folder)
    else:
        loaded, model = checked_recipe(recipe, data, set, profile)
        asked = _shared_settings(loaded, model, list(space))
        asked |= {"trials": trials, "device": device}
        # of a sweep that was killed before it wrote its settings there are hidden files
        if folder and any(folder.glob("[!.]*")):
            raise UserError(
                f"the folder '{folder}' is not empty",
                where="--out",
                remedy=f"name a new folder, or resume with: gantk sweep --resume {argument(folder)}",
            )

    with connect_cluster(address, asked["device"]) as use_gpu:
        if folder is None:
            name = f"{asked['name']}-sweep-{datetime.now():%Y%m%d-%H%M%S}"
            folder = new_folder(Path("runs") / name)
        make_folder(folder)
        with lock_folder(folder):
            write_file(folder / SWEEP_FILE, (json.dumps(asked, indent=1) + "\n").encode())
            where = {"folder": str(folder.absolute()), "here": os.getcwd(), "gantk": __version__}
            ended = _fit(use_gpu, asked | where, say)
            rows, rule = write_table(folder)

    if not ended:
        saved = [row for row in rows if row["step"]]
        what = f"stopped; checkpoints of {count_noun(saved, 'trial')} are kept"
        raise Interrupted(f"{what}. Resume with: gantk sweep --resume {argument(folder)}")

    best = next(iter(rows), {})
    if best.get("score") is None:
        raise GantkError(
            f"No trial has a score. See {folder / 'sweep.csv'}. Without pairs a score takes 16"
            " validation images of each domain: raise data.split.validation"
        )

    say(f"score    {rule}")
    say(f"best     {_in_words(best)}")
    say(f"recipe   {folder / 'best.toml'}")
    say(f"table    {folder / 'sweep.csv'}")
    return folder


def _saved_settings(folder: Path) -> dict[str, Any]:
    """What all trials of a begun sweep share; UserError where the folder is no sweep's."""
    remedy = "name the folder that `gantk sweep` wrote, or start a new sweep"
    return read_needed(folder, SWEEP_FILE, Sweep, remedy).dump()


def _shared_settings(loaded: Any, model: Any, space: list[str]) -> dict[str, Any]:
    """Returns what all trials share; raises UserError where the recipe does not accept an end of an
    axis.
    """
    for axis in axes_of(space):
        for value in axis.ends:
            checked_recipe(loaded.tables, None, {axis.key: value}, None)

    steps = model.train.steps
    if steps is None:
        raise UserError(
            "a sweep needs train.steps, but the recipe sets train.epochs",
            where="train.epochs",
            remedy="add --set train.steps=N",
        )

    every = min(model.train.save_every, max(steps // RUNGS, 1))
    log_every = min(model.train.log_every, max(every // 5, 1))
    compared = {"train.save_every": every, "train.log_every": log_every}
    return {
        "name": loaded.name,
        "recipe": loaded.override(compared).tables,
        "space": space,
        "steps": steps,
    }


def _fit(use_gpu: bool, asked: dict[str, Any], say: Say) -> bool:
    """Train all trials; returns False where the sweep was interrupted."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import BasicVariantGenerator

    steps = asked["steps"]
    asha = ASHAScheduler("step", max_t=steps, grace_period=max(steps // 9, 1), reduction_factor=3)

    class Lines(tune.Callback):
        """Prints a line for each trial that ended and for each lost worker; stops Tune after Ctrl-C."""

        def on_trial_complete(self, iteration, trials, trial, **info):
            name = trial_name(trial.trial_id)
            rows, _ = write_table(Path(asked["folder"]))
            row = next((row for row in rows if row["trial"] == name), None)
            # a node that does not see the folder writes nothing into it
            say(f"trial    {_in_words(row) if row else f'{name}: {trial.get_error()}'}")

        on_trial_error = on_trial_complete

        def on_trial_recover(self, iteration, trials, trial, **info):
            name = trial_name(trial.trial_id)
            say(f"lost     {name}: its worker; it resumes from its last checkpoint")

        def on_step_end(self, **info):
            if stopped:
                signal.raise_signal(signal.SIGUSR1)  # Tune saves its state and stops

    trials = count_noun(asked["trials"], "trial")
    say(
        f"sweep    {asked['name']}: {trials} of {steps} steps, {'a GPU' if use_gpu else 'a core'} each"
    )
    say(f"folder   {asked['folder']}")
    axes = axes_of(asked["space"])
    seed = asked["recipe"].get("train", {}).get("seed", 0)
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # `Lines` reports lost workers
    with stop_on_ctrl_c() as stopped:
        tune.run(
            partial(train, asked=asked),
            name="ray",
            storage_path=asked["folder"],
            resume="AUTO+ERRORED",  # where it was stopped, trials that failed too
            config={axis.key: axis.domain(tune) for axis in axes},
            metric="loss",
            mode="min",
            num_samples=asked["trials"],
            scheduler=asha,
            search_alg=BasicVariantGenerator(random_state=seed),
            resources_per_trial={"cpu": 1, "gpu": int(use_gpu)},
            reuse_actors=True,
            max_failures=3,
            raise_on_failed_trial=False,
            callbacks=[Lines()],
            verbose=0,
        )

    return not stopped


def write_table(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Write best.toml and sweep.csv; returns the trials, best first, and what is scored."""
    rows = []
    rule = ""
    sign = 1  # -1 where higher scores are better
    for run in sorted(file.parent for file in (folder / "trials").glob(f"trial-*/{TRIAL_FILE}")):
        known = read(run, TRIAL_FILE, Trial)
        row = {"trial": run.name, "score": None, "step": None, "error": known.error}
        if (run / "best.json").is_file():
            chosen = choice_of(run)
            rule = chosen.rule
            sign = -1 if chosen.higher_is_better else 1
            if chosen.scores:
                row["step"] = chosen.step
                row["score"] = chosen.scores.get(chosen.step)
        rows.append(row | known.values)

    rows.sort(key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0)))
    names = [*COLUMNS, *(axis.key for axis in axes_of(_saved_settings(folder)["space"]))]
    cells = [[row.get(name) for name in names] for row in rows]
    write_file(folder / "sweep.csv", csv_text(names, cells).encode())
    if rows and rows[0]["score"] is not None:
        best_run = folder / "trials" / rows[0]["trial"]
        write_file(folder / "best.toml", read_file(best_run / "recipe.toml", best_run))
    return rows, rule


def _in_words(row: dict[str, Any]) -> str:
    """A trial's settings and best score, or why it has none."""
    values = (
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in row.items()
        if key not in COLUMNS
    )
    score = "no score"
    if row["score"] is not None:
        score = f"{row['score']:.4g} at step {row['step']}"
    return f"{row['trial']} ({', '.join(values)}): {row['error'] or score}"


@dataclass(frozen=True)
class Axis:
    """One setting of the search space: one of several choices, or a number between two ends, both
    included.
    """

    key: str
    # the choices, or the lowest and the highest number; the recipe must accept all of them
    ends: tuple[Any, ...]
    sampler: str = "choice"  # of Ray Tune: choice, uniform, loguniform, randint or lograndint

    def domain(self, tune: Any) -> Any:
        """The Ray Tune sampler of this axis."""
        if self.sampler == "choice":
            return tune.choice(self.ends)
        low, high = self.ends
        return getattr(tune, self.sampler)(low, high + isinstance(high, int))


def axes_of(space: Iterable[str]) -> list[Axis]:
    """Parses `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log` and `KEY=V1,V2` into axes; raises UserError for
    any other text.
    """
    axes = {}
    for text in space:
        axis = _axis(text)
        if axes.setdefault(axis.key, axis) is not axis:
            raise UserError(
                f"the key '{axis.key}' appears twice", where="--space", remedy="write each key once"
            )

    if not axes:
        raise UserError("the sweep varies no setting", where="--space", allowed=EXAMPLES)

    return [*axes.values()]


def _axis(text: str) -> Axis:
    """The axis that one `--space KEY=VALUES` describes: a range, of whole numbers where both ends
    are written as such, or a list of values.
    """
    key, _, values = (part.strip() for part in text.partition("="))
    if not values:
        raise _no_space(text)

    key = parse_setting(f"{key}=0")[0]  # raises UserError where it is no key
    found = RANGE.fullmatch(values)
    if found:
        *ends, log = found.groups()
        whole = not {*"eE."} & {*"".join(ends)}
        low, high = (int(end) if whole else float(end) for end in ends)
        if not (0 if log else -math.inf) < low < high < math.inf:
            raise _no_space(text)
        draw = "randint" if whole else "uniform"
        return Axis(key, (low, high), f"log{draw}" if log else draw)

    listed = parse_setting(f"{key}=[{values}]")[1]  # a string where it is no TOML list
    if isinstance(listed, list):
        choices = listed
    else:
        choices = [each.strip() for each in values.split(",")]

    if len(choices) < 2 or "" in choices or any(choices.count(each) > 1 for each in choices):
        raise _no_space(text)

    return Axis(key, tuple(choices))


def _no_space(text: str) -> UserError:
    return UserError(f"'{text}' is not a valid range", where="--space", allowed=EXAMPLES)
