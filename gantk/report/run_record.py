"""The run folder as read by the report: a file that is missing or half written is named in `problems`, never fatal."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gantk.errors import UserError
from gantk.report.words import arrow, direction_name

Points = dict[float, float]  # step -> value; a step logged twice (a resumed run) keeps its last value


@dataclass
class Log:
    """`log.jsonl`, sorted: losses[group][name], validation[metric][direction], alarms, speed, stages.

    `selection[criterion][direction]` is what the checkpoint was chosen by; its criterion "score" has no direction ("").
    """

    losses: dict[str, dict[str, Points]] = field(default_factory=dict)
    validation: dict[str, dict[str, Points]] = field(default_factory=dict)
    selection: dict[str, dict[str, Points]] = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    images_per_s: Points = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)  # the first logged step of each
    seconds: float | None = None
    last_step: int | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Sorts one line in; raises where it is not one that a run writes."""
        step = int(entry["step"])
        self.last_step = max(step, self.last_step or 0)

        def note(table: dict[str, dict[str, Points]], group: str, name: str, value: Any) -> None:
            table.setdefault(group, {}).setdefault(name, {})[step] = _number(value)

        for full_name, value in mapping(entry.get("losses")).items():
            group, _, name = full_name.rpartition("/")
            note(self.losses, group or "losses", name, value)
        for direction, scores in mapping(entry.get("validation")).items():
            for metric, value in mapping(scores).items():
                note(self.validation, metric, direction, value)
        for direction, criteria in mapping(entry.get("selection")).items():
            several = isinstance(criteria, dict)
            for name, value in criteria.items() if several else [(direction, criteria)]:
                if not isinstance(value, str):  # a save that was barred says why
                    note(self.selection, name, direction if several else "", value)
        if "alarm" in entry:
            self.alarms.append(entry)
        if entry.get("images_per_s") is not None:
            self.images_per_s[step] = _number(entry["images_per_s"])
        if entry.get("seconds") is not None:
            self.seconds = _number(entry["seconds"])
        if entry.get("stage") is not None:
            self.stages.setdefault(str(entry["stage"]), step)


@dataclass(frozen=True)
class Direction:
    """One direction of `samples/index.json`; `source` is None where images come from noise."""

    key: str
    source: str | None
    target: str
    count: int

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

    def input(self, direction: Direction, i: int) -> Path:
        return self.folder / "input" / f"{direction.key}-{i}.png"

    def truth(self, direction: Direction, i: int) -> Path:
        return self.folder / "truth" / f"{direction.key}-{i}.png"

    def output(self, direction: Direction, i: int, step: int) -> Path:
        return self.folder / f"step-{step:06d}" / f"{direction.key}-{i}.png"


@dataclass(frozen=True)
class RunRecord:
    """All that the report knows of a run; an empty field is an absent file, `problems` names the unreadable ones."""

    path: Path
    recipe_text: str
    recipe: dict[str, Any]
    environment: dict[str, Any]
    split: dict[str, Any]
    metrics: dict[str, Any]
    log: Log
    best: dict[str, Any]
    samples: Samples | None
    problems: tuple[str, ...]

    @property
    def domains(self) -> tuple[str, ...]:
        """The human names of domains a and b, from the recipe or, failing that, from metrics.json."""
        named = mapping(self.recipe.get("data")).get("domains") or self.metrics.get("domains") or ()
        return tuple(str(name) for name in named) if isinstance(named, list | tuple) else ()

    @property
    def directions(self) -> tuple[Direction, ...]:
        return self.samples.directions if self.samples else ()

    def label(self, direction: str) -> str:
        """A direction in words: `a_to_b` is `T1 → T2`."""
        return direction_name(direction, self.domains, {known.key: known.label for known in self.directions})


def read_run(path: Path) -> RunRecord:
    """Reads a run folder; raises UserError where `path` is not one."""
    path = Path(path)
    if not (path / "recipe.toml").is_file() and not (path / "log.jsonl").is_file():
        raise UserError(
            f"'{path}' is not a run folder: it holds neither recipe.toml nor log.jsonl",
            where="report",
            remedy="Give the folder that `gantk run` printed, such as runs/NAME-TIME",
        )
    problems: list[str] = []

    def load(name: str, parse: Callable[[str], Any] = json.loads) -> dict[str, Any]:
        try:
            return dict(parse((path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, OSError) as error:
            problems.append(f"{name} could not be read: {error}")
            return {}

    log = Log()
    for line in _text(path / "log.jsonl").splitlines():
        try:
            log.add(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # a killed run leaves its last line half written
    return RunRecord(
        path=path,
        recipe_text=_text(path / "recipe.toml"),
        recipe=load("recipe.toml", tomllib.loads),
        environment=load("environment.json"),
        split=load("split.json"),
        metrics=load("metrics.json"),
        best=load("best.json"),
        log=log,
        samples=_samples(path / "samples", load("samples/index.json"), problems),
        problems=tuple(problems),
    )


def _samples(folder: Path, index: dict[str, Any], problems: list[str]) -> Samples | None:
    """What index.json lists, without the steps whose pictures are gone; None where nothing is left."""
    if not index:
        return None
    try:
        directions = tuple(
            Direction(key, entry.get("from"), str(entry.get("to") or key), int(entry["count"]))
            for key, entry in index["directions"].items()
        )
        steps = tuple(sorted({int(step) for step in index["steps"]}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(f"samples/index.json could not be understood: {error!r}")
        return None
    samples = Samples(folder, directions, steps, bool(index.get("has_truth")))
    on_disk = tuple(s for s in steps if any(samples.output(d, 0, s).is_file() for d in directions))
    return replace(samples, steps=on_disk) if on_disk else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
