"""Trackers: write a training's numbers to TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from gantk import Part, Run
from gantk.errors import importing, one_line
from gantk.plugin.spec import bind
from gantk.runs.folder import flat
from gantk.runs.results import Table
from gantk.runs.schemas import further_lines, open_log, read, read_results
from gantk.terminal import say
from gantk_cluster import TRACKERS


class Sent(Table):
    """What a tracker was sent: the content of track-NAME.json in the run folder."""

    step: int = -1  # the last one that it has
    id: str | None = None  # the tracker's name of the run


_open: dict[Path, list[Follower]] = {}


def expect_installed(parts) -> None:
    """UserError for a tracker of the recipe whose library is not installed."""
    for part in parts:
        if part.name in TRACKERS:
            with importing(f"the tracker '{part.name}'", "track"):
                importlib.import_module(part.name)


def bring_up_to_date(run: Path, ending: bool) -> None:
    """Send what is new in a run folder to its trackers; `ending`: the rest too, and close them."""
    if run not in _open:
        parts = Run(run).recipe().tables.get("track", [])
        _open[run] = [Follower(run, bind("tracker", part)) for part in parts]
    for follower in _open.pop(run) if ending else _open[run]:
        follower.follow(ending)


class Follower:
    """Sends the log and the scores of one run to one tracker.

    Steps that an earlier sitting sent are not sent again. A tracker that fails is not called again,
    after a warning, and catches up at the next resume.
    """

    def __init__(self, run: Path, part: Part):
        self.run = Run(run)
        self.part = part
        self.log = open_log(run)  # stays open, as it grows
        self.file = f"track-{part.name}.json"
        self.sent = read(run, self.file, Sent) or Sent()
        self.sent_before = self.sent.step
        self.tracker: Any = None
        self.failed = False

    def follow(self, ending: bool) -> None:
        """Send what is new; `ending`: also the scores."""
        if self.failed:
            return
        try:
            self._follow(ending)
        except (Exception, SystemExit) as error:  # no error of a tracker may stop a training
            self.failed = True
            say(
                f"warning  {self.part.name} failed and no longer records this training (a resume"
                f" tries again): {one_line(error)}"
            )

    def _follow(self, ending: bool) -> None:
        if self.tracker is None:
            self.tracker = self.part(self.run.path, self.run.recipe().tables, self.sent)
        for line in further_lines(self.log, []):  # the report counts the damaged ones
            if line.step > self.sent_before:
                tables = {"losses": line.losses, "validation": line.validation}
                if line.losses:
                    names = ("lr", "images_per_s", "epoch")
                    tables["training"] = {name: getattr(line, name) for name in names}
                self._put(line.step, tables)
        if ending:
            results = read_results(self.run.path)
            finished = bool(results.metrics) and self.sent.step >= (results.step or 0)
            if finished:
                scores = {
                    key: {metric: score.value for metric, score in found.items()}
                    for key, found in results.metrics.items()
                }
                self._put(self.sent.step, {"scores": scores})
            self.tracker.end(self.sent.step, finished)
            self.log.close()
        self.run.write_json(self.file, self.sent.dump())

    def _put(self, step: int, tables: dict[str, Any]) -> None:
        """Send what tables hold: ("losses/generators/cycle_a", 1.2), ..."""
        values = {name: x for name, x in flat(tables, between="/") if x is not None}
        if values:
            self.tracker.put(step, values)
            self.sent.step = max(self.sent.step, step)
