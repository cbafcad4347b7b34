"""The run folder: names, reads and writes every file of a run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from gantk import __version__
from gantk.data.split_json import RecordedSplit
from gantk.errors import UserError, argument, writing_file
from gantk.files import (
    LOCK,
    append_to_file,
    expect_inside,
    expect_permission,
    expect_replaceable,
    lock_folder,
    make_folder,
    place_in,
    remove,
    write_file,
)
from gantk.formats.pictures import picture_of
from gantk.guest import Say
from gantk.plugin.loader import installed_version, load
from gantk.recipe.load import LACKING, Recipe, Settings, load_recipe, mapping, read_toml
from gantk.runs import checkpoint
from gantk.runs.results import Choice, Speed
from gantk.runs.schemas import (
    LOG,
    Environment,
    LogLine,
    Meta,
    PluginsRecord,
    is_inside,
    read,
    read_log,
    read_needed,
    read_results,
)
from gantk.terminal import warn

if TYPE_CHECKING:
    from torch import Tensor

# files that neither name nor show patients
SHARED = (
    "recipe.toml",
    "environment.json",
    "metrics.json",
    "best.json",
    "usage.json",
)
# what a run writes, beside recipe.toml
RUN_FILES = (
    "environment.json",
    "split.json",
    LOG,
    "checkpoints",
    "samples",
    "baselines",
    "usage.json",
    "best.json",
    "metrics.json",
    "scores.csv",
    "report.html",
)
FOLD = "data.split.fold"
PACKAGES = (
    "torch",
    "numpy",
    "kornia",
    "timm",
    "nibabel",
    "pillow",
    "safetensors",
    "pydantic",
    "pluggy",
)


@dataclass(frozen=True, repr=False)
class RunFolder:
    """A run folder, `runs/NAME-TIME`: recipe, environment, split, log, checkpoints, samples,
    metrics, report.
    """

    path: Path

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))

    def __fspath__(self) -> str:
        # gantk.load(run), gantk.resume(run) and all others accept a Run as a path
        return str(self.path)

    def __repr__(self) -> str:
        steps = self.steps
        saved = f"step {steps[-1]}" if steps else "no checkpoint yet"
        return f"Run('{self.path}': {saved})"

    @property
    def metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Scores on the test split: `metrics["a_to_b"]["psnr"]` has value, ci95, n, unit; {} before
        it is scored.
        """
        return read_results(self.path).dump().get("metrics", {})

    @property
    def notes(self) -> list[str]:
        """The notes and warnings about the recipe and its data, as they were printed."""
        split = read(self.path, "split.json", RecordedSplit)
        return list(split and split.notes or ())

    @property
    def report(self) -> Path:
        """The path of report.html, which opens offline."""
        return self.path / "report.html"

    @property
    def log(self) -> list[dict[str, Any]]:
        """One dict per logged step, ready for pandas.DataFrame: step, seconds, lr,
        losses.PHASE/NAME, validation.DIRECTION.METRIC, and whatever else was logged at that step.
        """
        rows: dict[int, dict[str, Any]] = {}
        for line in self.read_log():
            rows.setdefault(line.step, {}).update(flat(line.dump()))
        return [row for _, row in sorted(rows.items())]

    @property
    def samples(self) -> dict[int, list[Path]]:
        """The model's sample pictures of held-out images: step -> paths of DIRECTION-NUMBER.png,
        steps ascending.
        """
        return {
            int(folder.name[5:]): [
                path for path in sorted(folder.glob("*.png")) if is_inside(self.path, path)
            ]
            for folder in sorted((self.path / "samples").glob("step-*"))
            if folder.name[5:].isdecimal()
        }

    @classmethod
    def create(
        cls,
        out: str | Path | None,
        name: str,
        locks: ExitStack,
        again: bool = False,
        overwrite: bool = False,
    ) -> RunFolder:
        """Create and lock a new run folder, or with `again` lock one whose run is started again;
        returns it.

        `locks` releases the lock. UserError where the folder holds a run already or another process
        has the lock, and where the run would replace other files (unless `overwrite`).
        """
        path = Path(out) if out else None
        with writing_file(path or "runs", where="--out"):
            if path and not (again or (path / "recipe.toml").exists()):
                written = [path / file for file in RUN_FILES]
                # where links lead is checked below
                written = [file for file in written if not file.is_symlink()]
                expect_replaceable(written, overwrite, "--out")
            # refuse names that are not UTF-8: some programs could not read the folder
            str(path).encode()
            path = path or new_folder(Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
            make_folder(path)
            make_folder(expect_inside(path, path / "checkpoints"))
            locks.enter_context(lock_folder(path))

        if (path / "recipe.toml").exists() and not again:
            raise cls(path).occupied_error()

        return cls(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open an existing run; UserError where the folder is not a run."""
        path = Path(path)
        if not path.exists():
            raise UserError(
                f"there is no folder '{path}'",
                remedy="name the folder that `gantk run` printed: runs/NAME-TIME",
            )

        if not (path / "recipe.toml").is_file():
            raise UserError(
                f"'{path}' is not a run folder: it has no recipe.toml",
                remedy="name a folder that `gantk run` created",
            )

        return cls(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return checkpoint.steps_saved(self.checkpoints)

    def checkpoint_of(self, step: int) -> Path:
        """The path of a step's checkpoint, whether it exists or not."""
        return checkpoint.path_of(self.checkpoints, step)

    def save_checkpoint(
        self, step: int, weights: dict[str, Tensor], state: dict | None, meta: dict
    ) -> Path:
        """Write a step's checkpoint, see `checkpoint.save`, and return its path."""
        return checkpoint.save(self.checkpoints, step, weights, state, meta)

    def meta(self, saved: Path) -> Meta:
        """The content of a checkpoint's meta.json; UserError where it is damaged or too new."""
        return checkpoint.load_meta(saved)

    @property
    def leaks(self) -> str:
        """The leaks of the split that `--allow-leakage` accepted; "" without any."""
        split = read(self.path, "split.json", RecordedSplit)
        return (split and split.leakage_allowed) or ""

    @property
    def environment(self) -> Environment:
        """The software and the machine of the run; empty where they are unknown."""
        return read(self.path, "environment.json", Environment) or Environment()

    def recipe(self, leaves_out: tuple[str, ...] = LACKING) -> Recipe:
        """The run's recipe with all defaults filled in; its `check` leaves out what this version of
        gantk does not have.
        """
        path = self.path / "recipe.toml"
        others = "`gantk recipes`, or restore the file from a backup"
        text, tables = read_toml(path, str(path), "recipe", others, folder=self.path)
        source = mapping(mapping(tables.get("data")).get("source"))
        stored = self.path / "data" / "table.csv"
        path_of_data = Path(str(source.get("path", "/")))
        if path_of_data.parts[-2:] == stored.parts[-2:] and stored.is_file():
            # images inside the run folder, which may have been moved
            source["path"] = str(stored.absolute())
        elif not path_of_data.exists():  # relative to the folder in which the run began
            original = Path(self.environment.folder) / path_of_data
            source |= {"path": str(original)} if original.exists() else {}

        return Recipe(
            tables,
            self.path.name,
            str(path),
            text,
            leaves_out=leaves_out,
            lacking_plugins=self.lacking_plugins,
        )

    def lacking_plugins(self) -> str:
        """Which plugins of others the run was trained with and are not installed; "" without any."""
        third_party = self.environment.plugins.third_party.values()
        versions = dict(each.rpartition(" ")[::2] for each in third_party)
        lacking = [name for name in versions if not installed_version(name)]
        named = " and ".join(f"{name} {versions[name]}" for name in lacking)
        needed = f"this run needs the plugin {named}, which is not installed"
        own = "pip install -e FOLDER if it is your own"
        return f"{needed}: pip install {' '.join(lacking)}, or {own}" if lacking else ""

    def write_recipe(self, tables: dict[str, Any]) -> None:
        write_file(self.path / "recipe.toml", tomli_w.dumps(tables).encode())

    def write_json(self, name: str, content: Any) -> None:
        """Write a file of the run; those that name or show patients are for this user only."""
        text = json.dumps(content, indent=1) + "\n"
        private = Path(name).name not in SHARED
        write_file(place_in(self.path, name), text.encode(), private=private)

    def add_to_log(self, line: LogLine) -> None:
        """Append one line to log.jsonl."""
        append_to_file(self.path / LOG, (json.dumps(line.dump()) + "\n").encode())

    def read_log(self) -> list[LogLine]:
        """All readable lines of log.jsonl; prints a warning that counts damaged lines."""
        problems: list[str] = []
        lines = list(read_log(self.path, problems))
        for problem in problems:
            warn(problem)
        return lines

    def rewind_log(self, step: int) -> float:
        """Delete the log lines after `step`, which a resume computes again; returns the training
        seconds up to it.
        """
        if step < 0:  # training starts from the beginning
            with suppress(OSError):
                remove(self.path / "samples")

        lines = [line for line in self.read_log() if line.step <= step]
        text = "".join(json.dumps(line.dump()) + "\n" for line in lines)
        write_file(self.path / LOG, text.encode())
        return max([line.seconds or 0.0 for line in lines], default=0.0)

    def write_picture(
        self, group: str, name: str, image: np.ndarray, low: float, high: float
    ) -> None:
        """Write samples/GROUP/NAME.png: an image (C, *spatial) in network intensities, `low` black,
        `high` white.
        """
        if image.ndim == 4:
            image = image[:, image.shape[1] // 2]  # the middle slice of a volume

        image = image[:3] if len(image) >= 3 else image[:1]
        folder = make_folder(expect_inside(self.path, self.path / "samples" / group))
        content = BytesIO()
        picture_of(np.nan_to_num(image), low, high).save(content, "png")
        write_file(folder / f"{name}.png", content.getvalue(), private=True)

    def latest(self) -> Path:
        """The newest complete checkpoint; UserError where there is none."""
        saved = self.to_continue()
        if saved is None:
            raise UserError(
                "the run has no checkpoint, because it ended before the first one",
                where=str(self.path),
                remedy=f"begin it again: gantk resume {argument(self.path)}",
            )
        return saved

    def to_continue(self) -> Path | None:
        """The checkpoint after which a training goes on; None where it ended before the first one.
        UserError where a run with scores has lost its checkpoints.
        """
        steps = self.steps
        if steps:
            return self.checkpoint_of(steps[-1])
        if (self.path / "metrics.json").exists():
            raise UserError(
                "the run has scores, but its checkpoints are gone",
                where=str(self.path),
                remedy="restore them from a backup, or train again with another --out",
            )
        return None

    def occupied_error(self) -> UserError:
        """Return the UserError for an `--out` that holds a run already, with the command that
        continues that run.
        """
        what = f"'{self.path}' already contains a run"
        remedy = f"choose another --out, or continue this run: gantk resume {argument(self.path)}"
        return UserError(what, where="--out", remedy=remedy)

    def best(self) -> Path:
        """The checkpoint that best.json names; UserError where best.json or that checkpoint is
        missing.
        """
        choice = read(self.path, "best.json", Choice)
        step = choice and choice.step
        if step not in self.steps:
            raise UserError(
                f"'{self.path}' has no best checkpoint: best.json names step {step}, which"
                " does not exist",
                where="evaluate.checkpoint",
                remedy="name the folder of another checkpoint, or set evaluate.checkpoint ="
                ' "last" in its recipe.toml',
            )

        return self.checkpoint_of(step)

    def inference_checkpoint(self) -> Path:
        """The checkpoint to use for inference: the newest or, where evaluate.checkpoint = "best",
        the best one.
        """
        table = self.recipe().tables.get("evaluate")
        wanted = table.get("checkpoint", "last") if isinstance(table, dict) else "last"
        if wanted != "best":
            return self.latest()

        choice = read(self.path, "best.json", Choice) or Choice()
        unscored = choice.dump().get("step", 0) is None
        return self.latest() if unscored else self.best()

    def split(self) -> RecordedSplit:
        """The content of split.json: the images of each set as they were at training; UserError
        where it is missing.
        """
        remedy = (
            "restore it from a backup: only this file lists the training images; or start the"
            " training again by `gantk run`"
        )
        return read_needed(self.path, "split.json", RecordedSplit, remedy)

    def usage(self) -> Speed:
        """The content of usage.json (time, memory); empty where it is absent or, with a warning,
        damaged.
        """
        try:
            return read(self.path, "usage.json", Speed) or Speed()
        except UserError as error:
            warn(f"time and memory used before are unknown: {error}")
            return Speed()


def flat(
    table: Mapping[str, Any], prefix: str = "", between: str = "."
) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every value of nested tables."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}{between}", between)
        else:
            yield prefix + key, value


def recipe_without(tables: Mapping[str, Any], *keys: str) -> str:
    """A recipe as text without these of its keys: equal for runs that differ in them alone."""
    return str({key: value for key, value in flat(tables) if key not in keys})


@contextmanager
def stored_data(
    data: Any,
    recipe: Any,
    settings: Settings,
    profile: str | None,
    out: Any,
    overwrite: bool,
    say: Say,
):
    """Write in-memory data into a new run folder; yields (recipe, folder). Deletes the folder where
    no run starts.
    """
    from gantk.data.arrays import keep
    from gantk.data.recipe_data import with_data

    loaded = load_recipe(recipe).override([], profile)
    domains = loaded.override(settings).check().data.domains
    with ExitStack() as locks:
        expect_replaceable([Path(out) / "data"] if out else [], overwrite, "--out")
        folder = RunFolder.create(out, loaded.name, locks, overwrite=overwrite).path
        try:
            source, words = keep(data, folder / "data", domains)
            say(f"kept     {words}")
            yield with_data(loaded, source), folder
        finally:
            if not (folder / "recipe.toml").exists():
                with suppress(OSError):
                    remove(folder / "data")
                with suppress(OSError):
                    (folder / "checkpoints").rmdir()
                    (folder / LOCK).unlink()
                    folder.rmdir()


def new_folder(path: Path) -> Path:
    """Create the folder, or `PATH-2`, `PATH-3` ... where it exists; returns a path that no other
    process gets. UserError where no folder can be created beside it.
    """
    expect_permission(path.parent, "--out")
    make_folder(path.parent)
    free = path
    number = 1
    while True:
        with suppress(FileExistsError):
            return make_folder(free, new=True)
        number += 1
        free = path.with_name(f"{path.name}-{number}")


def _plugins() -> PluginsRecord:
    """What differs from gantk's own plugins: those of others, those left out, parts replaced."""
    loaded = load()
    return PluginsRecord(
        third_party={
            plugin.name: f"{plugin.distribution} {plugin.version}"
            for plugin in loaded.plugins
            if plugin.distribution != "gantk" and not plugin.problem
        },
        left_out=[plugin.module for plugin in loaded.plugins if plugin.disabled],
        overrides={
            f"{entry.kind} {entry.name}": f"{entry.owner} in place of {entry.replaced}"
            for entry in loaded.registry.overrides()
        },
    )


def environment(**further: Any) -> Environment:
    """The software that made this run: versions, command and the folder where it was given, start
    time; and `further` facts.
    """
    return Environment(
        gantk=__version__,
        packages={name: installed_version(name) for name in PACKAGES},
        plugins=_plugins(),
        command=" ".join(["gantk", *sys.argv[1:]]),
        folder=os.getcwd(),
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        **further,
    )
