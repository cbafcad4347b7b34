"""Sends a run folder's content to a tracker, every entry once and in order, also over several
resumed trainings.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import RootModel

from gantk import Part, Run
from gantk.errors import one_line
from gantk.plugin.spec import bind
from gantk.runs.folder import flat
from gantk.runs.results import Results, Step, Table
from gantk.runs.schemas import (
    LogLine,
    SampleIndex,
    further_lines,
    is_inside,
    open_log,
    read,
    read_results,
)
from gantk.terminal import say

# in the run folder: the last step sent to each tracker, and the tracker's id of the run
FILE = "track.json"


class Sent(Table):
    """What a tracker was sent: the last step of each kind, and what the tracker keeps of the run."""

    brought: dict[str, Step] = {}
    killed: dict[str, Step] | None = None


class States(RootModel[dict[str, Sent]]):
    """The content of track.json, by tracker."""


_open: dict[Path, list[Follower]] = {}


def followers(run: Path, leaving: bool = False) -> list[Follower]:
    """The followers of a run, opened at the first call; `leaving` removes them from the cache."""
    if run not in _open:
        _open[run] = [
            Follower(run, bind("tracker", one)) for one in Run(run).recipe().tables.get("track", [])
        ]
    return _open.pop(run) if leaving else _open[run]


class Follower:
    """Sends one run to one tracker.

    A resumed training repeats the steps after its checkpoint, to the bit; entries that were sent
    before are not sent again. A tracker that fails is not called again, after a warning, and
    catches up at the next resume.
    """

    def __init__(self, run: Path, part: Part):
        self.run = Run(run)
        self.part = part
        self.last = -1
        self.log = open_log(run)  # stays open, as it grows
        states = read(run, FILE, States) or States({})
        self.state: dict[str, Any] = states.root.get(part.name, Sent()).dump()
        # The last step sent of each kind; after a kill, of the process before it, if the tracker
        # buffers in memory.
        self.brought = self.state["brought"] = self.state.pop(
            "killed", self.state.get("brought", {})
        )
        self.tracker = self.failed = None

    def bring(self, ending: bool) -> None:
        """Send everything new up to the last log point; `ending`: also the rest, the scores and the
        report.
        """
        try:
            if not self.failed:
                self._bring(ending)
        except (Exception, SystemExit) as error:  # no error of a tracker may stop a training
            self.failed = one_line(error)
            say(
                f"warning  {self.part.name} failed and no longer records this training (a resume"
                f" tries again): {self.failed}"
            )

    def _bring(self, ending: bool) -> None:
        self.tracker = self.tracker or self.part(
            self.run.path, self.run.recipe().tables, self.state
        )
        problems: list[str] = []
        for line in further_lines(self.log, problems):
            if line.step > self.last:  # now all pictures of the step before are written
                self._bring_samples()
            self.last = line.step
            for kind, values in _values(line).items():
                self._put(kind, self.last, values)
        for problem in problems:
            say(f"warning  {problem}")

        if not ending:
            return

        self._bring_samples()
        results = read_results(self.run.path)
        report = self.run.path / "report.html"
        finished = results.step is not None and report.is_file() and results.step <= self.last
        if finished:
            self._put("scores", self.last, dict(_values_of(results)))

        self.tracker.end(self.last, report if finished else None)
        self._remember()
        self.log.close()

    def _bring_samples(self) -> None:
        folder = self.run.path / "samples"
        index = read(self.run.path, "samples/index.json", SampleIndex)
        for step in index.steps if index else ():
            if step <= self.last:
                pictures = {f"samples/{p.stem}": p for p in folder.glob(f"step-{step:06d}/*.png")}
                # reconstructions of two-way methods
                pictures |= {
                    f"samples/{p.stem}/cycle": p
                    for p in folder.glob(f"step-{step:06d}/cycle/*.png")
                }
                # input, truth
                pictures |= {
                    f"samples/{p.stem}/{p.parent.name}": p for p in folder.glob("[it]*/*.png")
                }
                self._put(
                    "samples",
                    step,
                    {name: p for name, p in pictures.items() if is_inside(self.run.path, p)},
                )

    def _put(self, kind: str, step: int, values: dict[str, float | Path]) -> None:
        if values and step > self.brought.get(kind, -1):
            self.tracker.put(step, values)
            self.brought[kind] = step
            self._remember()

    def _remember(self) -> None:
        states = read(self.run.path, FILE, States) or States({})
        self.run.write_json(FILE, states.model_dump() | {self.part.name: self.state})


def _values(line: LogLine) -> dict[str, dict[str, float]]:
    """The numbers of a log line by kind: {"losses": {"losses/generators/cycle_a": 1.2}}."""
    numbers = {}
    for kind in ("losses", "validation"):
        named = flat({kind: getattr(line, kind)}, between="/")
        numbers[kind] = {name: value for name, value in named if value is not None}

    if line.losses:
        of_training = {"lr": line.lr, "images_per_s": line.images_per_s, "epoch": line.epoch}
        for key, value in of_training.items():
            if value is not None:
                numbers["losses"][f"training/{key}"] = value

    return numbers


def _values_of(results: Results) -> Iterator[tuple[str, float]]:
    """Yield the value of each score: ("scores/a_to_b/psnr", 24.3), ("baselines/identity/...", ...)."""
    systems = {"scores": results.metrics}
    systems |= {f"baselines/{name}": scores for name, scores in results.baselines.items()}
    for name, directions in systems.items():
        for key, scores in directions.items():
            for metric, score in scores.items():
                if score.value is not None:
                    yield f"{name}/{key}/{metric}", score.value
