"""Reads a run folder for the report. Damaged or incomplete files are listed in `problems` and do
not stop it.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pandas import DataFrame
from PIL import Image

from gantk.data.split_json import RecordedSets, RecordedSplit
from gantk.errors import UserError, note_in, one_line
from gantk.files import writer_of
from gantk.metrics.table import COLUMNS, read_lines
from gantk.plugin.loader import registry
from gantk.report.words import ARROW, direction_name
from gantk.runs.results import Choice, Results
from gantk.runs.schemas import (
    Content,
    Environment,
    LogLine,
    RecipeTables,
    SampleImages,
    SampleIndex,
    StoredImages,
    is_inside,
    read,
    read_log,
    text_of,
)

# step -> value; a step logged twice (a resumed run) keeps its last value
Points = dict[float, float]
Curves = dict[str, dict[str, Points]]


@dataclass
class Log:
    """The curves of log.jsonl: losses[group][name], validation[metric][direction]; and alarms,
    speed, stages.

    `cycle["cycle_error"][direction]` are the differences after translation there and back.
    """

    losses: Curves = field(default_factory=dict)
    validation: Curves = field(default_factory=dict)
    cycle: Curves = field(default_factory=dict)
    alarms: list[LogLine] = field(default_factory=list)
    images_per_s: Points = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)  # stage -> its first logged step
    seconds: float | None = None
    last_step: int | None = None

    def add(self, entry: LogLine) -> None:
        """Add the values of one line of the log to the curves."""
        step = entry.step
        self.last_step = max(step, self.last_step or 0)
        for full_name, loss in entry.losses.items():
            group, _, name = full_name.rpartition("/")
            add_point(self.losses, group or "losses", name, step, loss)
        for direction, scores in entry.validation.items():
            for metric, score in scores.items():
                add_point(self.validation, metric, direction, step, score)
        for direction, error in entry.cycle.items():
            add_point(self.cycle, "cycle_error", direction, step, error)

        if entry.alarm:
            self.alarms.append(entry)
        if entry.images_per_s is not None:
            self.images_per_s[step] = entry.images_per_s
        if entry.seconds is not None:
            self.seconds = entry.seconds
        if entry.stage:
            self.stages.setdefault(entry.stage, step)


def add_point(curves: Curves, group: str, name: str, step: int, value: float | None) -> None:
    """Add a value to a curve: nan for None."""
    curves.setdefault(group, {}).setdefault(name, {})[step] = math.nan if value is None else value


class Direction(SampleImages):
    """One direction of `samples/index.json`; `source` is None where images come from noise."""

    key: str

    @property
    def label(self) -> str:
        return f"{self.source}{ARROW}{self.to}" if self.source else f"{self.to} from noise"


@dataclass(frozen=True)
class Samples:
    """The pictures of `samples/`: existing directions and steps, and the path of each file."""

    folder: Path
    directions: tuple[Direction, ...]
    steps: tuple[int, ...]
    has_truth: bool
    problems: list[str]
    _found: dict[Path, Path | None] = field(default_factory=dict)

    def picture(self, group: str | int, direction: Direction, i: int) -> Path | None:
        """The path of picture `i`: of the group "input" or "truth", or of a step's outputs; None
        where it is no PNG.

        Links that lead out of the run folder are refused.
        """
        if isinstance(group, int):
            group = f"step-{group:06d}"

        path = self.folder / group / f"{direction.key}-{i}.png"
        if path not in self._found:
            wrong = self._wrong(path)
            self._found[path] = None if wrong else path
            if wrong and os.path.lexists(path):
                self.problems.append(f"samples/{group}/{path.name} is left out: {wrong}")

        return self._found[path]

    def _wrong(self, path: Path) -> str:
        """The reason why a file is no sample picture of this run; "" if it is."""
        if not is_inside(self.folder.parent, path):
            return "it is no file of this run"
        try:
            with Image.open(path, formats=["PNG"]) as image:
                image.verify()
        except Exception as error:  # damaged bytes can raise any exception
            return f"it is no PNG: {one_line(error)}"
        return ""


class RunRecord:
    """The content of a run folder; an absent file leaves its field empty, an unreadable one is
    named in `problems`.

    UserError where `run` is not a run folder.
    """

    def __init__(self, run: str | Path):
        path = Path(run)
        if not (path / "recipe.toml").is_file() and not (path / "log.jsonl").is_file():
            raise UserError(
                f"'{run}' is not a run folder: it holds neither recipe.toml nor log.jsonl",
                where="report",
                remedy="Give the folder that `gantk run` printed, such as runs/NAME-TIME. To compare a run"
                " with a packed model: gantk eval RUN MODEL --data SCANS",
            )

        self.path = path
        self.problems: list[str] = []
        recipe = self.read("recipe.toml", RecipeTables)
        self.recipe = recipe or RecipeTables()
        self.environment = self.read("environment.json", Environment) or Environment()
        self.split = self.read("split.json", RecordedSplit)
        self.results = self.read("metrics.json", Results) or Results()
        self.best = self.read("best.json", Choice) or Choice()
        if self.is_evaluated and not self.results.domains:  # of an earlier version
            self.results.domains = list(self.domains)
        stored = self.read("samples/test/index.json", StoredImages)
        self.stored = stored.root if stored else {}
        self.lines = DataFrame(columns=COLUMNS)  # of single images, see `gantk.metrics.table`
        with self._notes_problem():
            self.lines = read_lines(path)
        self.recipe_text = text_of(path / "recipe.toml", path) if recipe else ""
        index = self.read("samples/index.json", SampleIndex)
        self.samples = _samples(path / "samples", index, self.problems) if index else None
        self.directions = self.samples.directions if self.samples else ()
        self.log = Log()
        with self._notes_problem():
            for line in read_log(path, self.problems):
                self.log.add(line)

    def read(self, name: str, schema: type[Content]) -> Content | None:
        """The content of a JSON or TOML file of the run; None where it is absent, or unreadable."""
        with self._notes_problem():
            return read(self.path, name, schema)
        return None

    @contextmanager
    def _notes_problem(self) -> Iterator[None]:
        """Add the error of a file that cannot be read to `problems`."""
        try:
            yield
        except UserError as error:
            self.problems.append(error.what)

    @property
    def is_evaluated(self) -> bool:
        """Whether metrics.json has any content."""
        return bool(self.results.model_fields_set)

    @property
    def sets(self) -> RecordedSets | None:
        """The sets of split.json; None where they are unknown."""
        return self.split.splits if self.split else None

    @cached_property
    def test_files(self) -> dict[str, str]:
        """The hash of each test image's file, by its path; by its name that of an image without a file.
        Equal ones mean the same file in two runs.
        """
        return {
            image.path or image.key: image.sha256 or image.path or image.key
            for image in getattr(self.sets, "test", ())
        }

    @property
    def test_images(self) -> frozenset[tuple[str, str]]:
        """The files and names of the test images; equal ones mean the same images in two runs."""
        images = getattr(self.sets, "test", ())
        return frozenset((image.sha256 or image.path or image.key, image.key) for image in images)

    def images_of(self, name: str) -> tuple[Counter[str], set[str]]:
        """The number of images of a set by domain, and its known patients."""
        names = dict(zip("ab", self.domains, strict=False))
        images = getattr(self.sets, name, ())
        counts = Counter(names.get(image.domain, image.domain) for image in images)
        return counts, {image.subject for image in images if image.subject}

    @property
    def leak(self) -> str:
        """The leaks of the split that `--allow-leakage` accepted; "" without any."""
        return (self.split and self.split.leakage_allowed) or ""

    @property
    def consequences(self) -> list[str]:
        """Consequences of the split for the scores, in words."""
        return (self.sets and self.sets.consequences) or []

    @property
    def warnings(self) -> list[str]:
        """The warnings about the images and pairs at the start of the training."""
        lines = (self.split and self.split.warnings) or ()
        return [note_in(line) or "" for line in lines if line.startswith("warning")]

    @property
    def holds_out_nothing(self) -> bool:
        """Whether all images were trained on, so that samples show training images."""
        return self.sets is not None and not self.sets.validation and not self.sets.test

    @property
    def why_unscored(self) -> str:
        """Why there are no scores."""
        last = self.log.last_step
        total = self.recipe.train.steps
        if last is None:
            return "training has not reached its first log point"
        writer = writer_of(self.path)
        if writer and writer["pid"] != os.getpid():  # which is about to end the training
            return (
                f"the run goes on, at step {last:,} (process {writer['pid']} on {writer['host']})"
            )
        if total and last < total:
            return f"the run stopped at step {last:,} of {total:,}"
        if self.holds_out_nothing:
            return "nothing was held out: all images were trained on, so there are no test images"
        if self.is_evaluated:
            return "no held-out pairs are known, so there were no real images to compare with"
        return "metrics.json is absent, so the evaluation did not finish or was not asked for"

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of domains a and b, from the recipe or, failing that, from metrics.json."""
        return tuple(self.recipe.data.domains or self.results.domains)

    @property
    def data(self) -> str:
        """The data in words; of a run that did not record them the name of the source."""
        return self.environment.recipe.data or self.recipe.data.source.name

    @property
    def paper(self) -> str:
        """The paper of the method; "" where it is not known."""
        entry = registry().entries.get(("method", self.recipe.method.name))
        return entry.paper if entry else ""

    def summary(self, *, with_paths: bool = True) -> str:
        """What the run is: the recipe's summary, or its data where they are not the recipe's;
        `with_paths`: of folders and files; else folders are not named, and of a recipe only its file.
        """
        record = self.environment.recipe
        changed = {".".join(key.split(".")[:2]) for key in record.changed}
        if not changed & {"data.source", "data.domains"}:
            return self.recipe.summary

        source, _, what = self.data.partition(": ")
        trained_on = (what or source).removesuffix(".")
        settings = record.origin
        if not with_paths:
            settings = Path(settings).name
            if self.recipe.data.source.path:
                trained_on = f"the authors' data ({', '.join(self.domains)})"
        return f"Trained on {trained_on}, with the settings of {settings}."

    def label(self, direction: str) -> str:
        """A direction in words: `a_to_b` is `T1 → T2`."""
        return direction_name(direction, self.domains)


def _samples(folder: Path, index: SampleIndex, problems: list[str]) -> Samples | None:
    """The pictures that index.json lists and that still exist; None where there are none."""
    directions = [
        Direction.model_validate({**dict(entry), "key": key})
        for key, entry in index.directions.items()
    ]
    samples = Samples(folder, tuple(directions), (), index.has_truth, problems)
    steps = [
        step
        for step in sorted(set(index.steps))
        if any(samples.picture(step, direction, 0) for direction in directions)
    ]
    return replace(samples, steps=tuple(steps)) if steps else None
