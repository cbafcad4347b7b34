"""The run folder as read by the report: a file that is missing or half written is named in `problems`, never fatal."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gantk.errors import UserError, told
from gantk.report.words import arrow, direction_name

Points = dict[float, float]  # step -> value; a step logged twice (a resumed run) keeps its last value
Curves = dict[str, dict[str, Points]]


@dataclass
class Log:
    """`log.jsonl`, sorted: losses[group][name], validation[metric][direction], alarms, speed, stages.

    `selection[criterion][direction]` is what the checkpoint was chosen by; its criterion "score" has no direction ("").
    """

    losses: Curves = field(default_factory=dict)
    validation: Curves = field(default_factory=dict)
    selection: Curves = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    images_per_s: Points = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)  # the first logged step of each
    stopped: str | None = None  # why the training ended before its last step
    seconds: float | None = None
    last_step: int | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Sorts one line in; raises where it is not one that a run writes."""
        step = int(entry["step"])
        self.last_step = max(step, self.last_step or 0)

        def note(curves: Curves, group: str, name: str, value: Any) -> None:
            if not isinstance(value, str):  # a save that was barred says why
                curves.setdefault(group, {}).setdefault(name, {})[step] = math.nan if value is None else float(value)

        for full_name, value in mapping(entry.get("losses")).items():
            group, _, name = full_name.rpartition("/")
            note(self.losses, group or "losses", name, value)
        for direction, scores in mapping(entry.get("validation")).items():
            for metric, value in mapping(scores).items():
                note(self.validation, metric, direction, value)
        for direction, criteria in mapping(entry.get("selection")).items():
            several = isinstance(criteria, dict)
            for name, value in criteria.items() if several else [(direction, criteria)]:
                note(self.selection, name, direction if several else "", value)
        if "alarm" in entry:
            self.alarms.append(entry)
        self.stopped = entry.get("stopped", self.stopped)
        if entry.get("images_per_s") is not None:
            self.images_per_s[step] = float(entry["images_per_s"])
        if entry.get("seconds") is not None:
            self.seconds = float(entry["seconds"])
        if entry.get("stage") is not None:
            self.stages.setdefault(str(entry["stage"]), step)


@dataclass(frozen=True)
class Direction:
    """One direction of `samples/index.json`; `source` is None where images come from noise."""

    key: str
    source: str | None
    target: str
    count: int
    images: tuple[dict[str, Any], ...] = ()  # whose each is: "patient", "image"; empty in older runs

    @property
    def label(self) -> str:
        return arrow(self.source, self.target) if self.source else f"{self.target} from noise"


@dataclass(frozen=True)
class Samples:
    """The pictures of `samples/`: which directions and steps exist, and where each file lies."""

    folder: Path
    directions: tuple[Direction, ...]
    steps: tuple[int, ...]
    has_truth: bool

    def picture(self, group: str | int, direction: Direction, i: int) -> Path:
        """One file of the group "input" or "truth", or of the outputs of a step."""
        group = f"step-{group:06d}" if isinstance(group, int) else group
        return self.folder / group / f"{direction.key}-{i}.png"


class RunRecord:
    """All that the report knows of a run; an empty field is an absent file, `problems` names the unreadable ones.

    UserError where `path` is no run folder.
    """

    def __init__(self, path: Path):
        if not (path / "recipe.toml").is_file() and not (path / "log.jsonl").is_file():
            what = f"'{path}' is not a run folder: it holds neither recipe.toml nor log.jsonl"
            remedy = "Give the folder that `gantk run` printed, such as runs/NAME-TIME"
            raise UserError(what, where="report", remedy=remedy)
        self.path = path
        self.problems: list[str] = []
        self.recipe_text, log = (_text(path / name) for name in ("recipe.toml", "log.jsonl"))
        self.recipe = self._load("recipe.toml", tomllib.loads)
        self.environment, self.split = self._load("environment.json"), self._load("split.json")
        self.metrics, self.best = self._load("metrics.json"), self._load("best.json")
        self.samples = _samples(path / "samples", self._load("samples/index.json"), self.problems)
        self.directions = self.samples.directions if self.samples else ()
        self.log = Log()
        for line in log.splitlines():
            try:
                self.log.add(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # a killed run leaves its last line half written

    def _load(self, name: str, parse: Callable[[str], Any] = json.loads) -> dict[str, Any]:
        try:
            return dict(parse((self.path / name).read_text("utf-8")))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, OSError) as error:
            self.problems.append(f"{name} could not be read: {told(error)}")
            return {}

    @property
    def domains(self) -> tuple[str, ...]:
        """The human names of domains a and b, from the recipe or, failing that, from metrics.json."""
        named = mapping(self.recipe.get("data")).get("domains") or self.metrics.get("domains")
        return tuple(map(str, named)) if isinstance(named, list) else ()

    def label(self, direction: str) -> str:
        """A direction in words: `a_to_b` is `T1 → T2`."""
        return direction_name(direction, self.domains, {known.key: known.label for known in self.directions})


def _samples(folder: Path, index: dict[str, Any], problems: list[str]) -> Samples | None:
    """What index.json lists, without the steps whose pictures are gone; None where nothing is left."""
    if not index:
        return None
    try:
        directions = tuple(
            Direction(
                key, e.get("from"), str(e.get("to") or key), int(e["count"]), tuple(map(dict, e.get("images", ())))
            )
            for key, e in index["directions"].items()
        )
        steps = sorted({int(step) for step in index["steps"]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(f"samples/index.json could not be understood: {told(error)}")
        return None
    samples = Samples(folder, directions, (), bool(index.get("has_truth")))
    kept = tuple(step for step in steps if any(samples.picture(step, d, 0).is_file() for d in directions))
    return replace(samples, steps=kept) if kept else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}
