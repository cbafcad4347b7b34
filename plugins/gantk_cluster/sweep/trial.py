"""One trial of a sweep: a training in a Ray worker that reports each checkpoint and resumes exactly
from one.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gantk import __version__, resume, run
from gantk.errors import GantkError, UserError, one_line
from gantk.files import append_to_file, lock_folder, make_folder, write_file
from gantk.machine.runtime import ALONE
from gantk.runs.folder import RunFolder
from gantk.runs.results import Choice, Table
from gantk.runs.schemas import read_needed
from gantk_cluster import REPORTING

LOSS_WITHOUT_SCORE = 1e30  # the loss of a trial without a score
SWEEP_FILE = "sweep.json"  # in the sweep's folder: what all trials share
TRIAL_FILE = "trial.json"  # in a trial's run folder: its settings, and why it failed
LOG_FILE = "output.txt"  # in a trial's run folder: what its training says


class Trial(Table):
    """The content of trial.json."""

    values: dict[str, Any]
    error: str | None = None


def train(config: dict[str, Any], asked: dict[str, Any]) -> None:
    """Train one trial; called by Ray Tune with `config`, the settings drawn for it, and `asked`,
    those of the sweep.

    A trial whose worker died resumes from its newest checkpoint. A failed trial reports the reason.
    """
    from ray import tune

    expect_same_node(Path(asked["folder"]), asked["gantk"])
    os.chdir(asked["here"])
    os.environ |= ALONE
    trial = Path(asked["folder"]) / "trials" / trial_name(tune.get_context().get_trial_id())
    log = trial / LOG_FILE
    options = {
        "device": asked["device"],
        "say": lambda line: append_to_file(log, f"{line}\n".encode()),
    }
    # up to a minute, until an earlier worker of this trial has released its run folder
    for _ in range(600):
        with suppress(UserError), lock_folder(trial):
            break
        time.sleep(0.1)

    report = REPORTING[trial] = Reporter(trial)
    note(trial, config)
    try:
        if RunFolder(trial).steps:
            resume(trial, **options)
        else:
            run(asked["recipe"], set=config, out=trial, **options)

        report(done=True)
    except Exception as error:
        note(trial, config, str(error) if isinstance(error, GantkError) else one_line(error))
        if not isinstance(error, GantkError):
            raise  # Ray retries it three times
        tune.report(
            {"loss": LOSS_WITHOUT_SCORE, "score": None, "step": asked["steps"], "done": True}
        )
    finally:
        del REPORTING[trial]


def expect_same_node(folder: Path, version: str) -> None:
    """GantkError where this node does not see the sweep's folder, or has another gantk."""
    name = f"the node {os.uname().nodename}"
    if not (folder / SWEEP_FILE).is_file():
        raise GantkError(f"{name} does not see '{folder}': name a folder that all nodes see")
    if version != __version__:
        raise GantkError(f"{name} has gantk {__version__}, the sweep has {version}")


def trial_name(trial_id: str) -> str:
    """The name of the run folder of Ray Tune's trial."""
    return f"trial-{trial_id.rpartition('_')[2]}"


def note(trial: Path, config: dict[str, Any], error: str | None = None) -> None:
    """Write trial.json: the settings of a trial, and why it failed."""
    make_folder(trial)
    write_file(trial / TRIAL_FILE, json.dumps({"values": config, "error": error}).encode())


class Reporter:
    """Reports a trial's newest checkpoint with its score to Ray Tune, once; called at each log
    point and at the end.
    """

    def __init__(self, run: Path):
        self.run = run
        self.reported = 0

    def __call__(self, done: bool = False) -> None:
        from ray import tune

        saved = RunFolder(self.run).steps
        if not done and max(saved, default=0) <= self.reported:
            return

        self.reported = step = saved[-1]
        chosen = choice_of(self.run)
        score = chosen.scores.get(step)
        loss = LOSS_WITHOUT_SCORE
        if score is not None:
            loss = -score if chosen.higher_is_better else score
        tune.report({"loss": loss, "score": score, "step": step, "done": done})


def choice_of(run: Path) -> Choice:
    """The scores by which a run chooses its checkpoint."""
    return read_needed(run, "best.json", Choice, "resume the sweep")
