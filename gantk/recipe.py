"""Recipes: one TOML file says what to train, on what, how, and how it is judged. All is checked before use."""

from __future__ import annotations

import copy
import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gantk.errors import UserError, did_you_mean
from gantk.plugins import registry
from gantk.spec import (
    Augment,
    Intensity,
    MethodPart,
    MetricPart,
    OptimizerPart,
    Problem,
    SchedulePart,
    Source,
    Table,
    _plain,
    check,
)

FORMAT = 1  # raised when an older gantk could no longer read what this one writes


class SplitTable(Table):
    """How subjects are shared out; `auto`: by patient where enough are known, else in blocks of neighbouring slices."""

    test: float = Field(0.2, ge=0, lt=1)  # part of the subjects (or slices) that training never sees
    validation: float = Field(0.1, ge=0, lt=1)  # part that is scored while training
    by: Literal["auto", "patient", "block", "image"] = "auto"
    blocks: int = Field(2, ge=1)  # by block: how many runs of neighbouring slices are held out per set
    gap: int = Field(2, ge=0)  # by block: slices dropped from training on each side of a held-out run
    seed: int = 0  # which subjects fall where; apart from train.seed, so that seeds share a split


class DataTable(Table):
    """Where images come from and what the networks see of them."""

    source: Source = "phantom"
    domains: tuple[str, ...] = ("A", "B")  # human names; the first is `a`, the second `b`
    dims: Literal[2, 3] = 2
    size: tuple[int, ...] = (96, 96)  # what the networks see, in pixels or voxels
    fit: Literal["pad", "stretch"] = "pad"  # how a native image is brought to `size`
    intensity: Intensity = "percentile"
    augment: list[Augment] = []  # applied to every training image, on the device
    unpair: bool = True  # unpaired methods: a subject gives one domain only, as in a real unpaired study
    memory: float = Field(8.0, gt=0)  # GiB of decoded images to keep; beyond it they are decoded again when needed
    split: SplitTable = SplitTable()

    @field_validator("domains")
    @classmethod
    def _one_or_two_names(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(set(domains)) == len(domains) <= 2 or not all(domains):
            raise ValueError("one name or two different ones are needed")
        return domains

    @field_validator("size")
    @classmethod
    def _one_side_per_dim(cls, size: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        dims = info.data.get("dims", 2)
        if len(size) != dims or min(size) < 1:
            raise ValueError(f"{dims} positive sides are needed, because data.dims is {dims}")
        return size


class TrainTable(Table):
    """How long, how fast, how exact."""

    steps: int | None = Field(None, ge=0)  # give steps or epochs
    epochs: float | None = Field(None, gt=0)  # an epoch shows the larger domain once
    batch: int = Field(1, ge=1)  # images of each domain per step and rank
    microbatch: int | None = Field(None, ge=1)  # images per forward; None: the batch. Smaller saves memory, costs time
    optimizer: OptimizerPart = "adam"
    optimizers: dict[
        str, OptimizerPart
    ] = {}  # per phase, where it differs: { discriminators = { name = "adam", lr = 1e-4 } }
    schedule: SchedulePart = "linear"
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the device is good at it
    channels_last: bool = True  # memory format of images and weights; faster on CPUs and tensor cores
    batched: bool = True  # one pass where one network has several inputs and its norm allows it
    ema: float = Field(0.995, ge=0, lt=1)  # moving average of the generators, used for inference; 0 = off
    seed: int = 0
    log_every: int = Field(20, ge=1)
    sample_every: int = Field(200, ge=1)  # sample pictures and validation scores
    save_every: int = Field(400, ge=1)
    keep: int = Field(3, ge=1)  # how many checkpoints stay


class EvaluateTable(Table):
    """How the result is scored, on the test split."""

    metrics: list[MetricPart] = ["psnr", "ssim", "mae"]
    samples: int = Field(4, ge=1)  # how many held-out images are drawn while training


class TranslateTable(Table):
    """How whole files go through the networks."""

    batch: int = Field(16, ge=1)  # slices per pass
    overlap: float = Field(0.25, ge=0, lt=1)  # of neighbouring windows, where an image is larger than a window


class Model(Table):
    """A whole recipe, checked; parts are bound, defaults filled in."""

    format: int = FORMAT
    summary: str = ""
    paper: dict[str, Any] = {}  # where the settings come from, and the figures published with them
    method: MethodPart
    # made when a recipe is checked, not when this module is imported: defaults are parts, and parts import torch
    data: DataTable = Field(default_factory=DataTable)
    train: TrainTable = Field(default_factory=TrainTable)
    evaluate: EvaluateTable = Field(default_factory=EvaluateTable)
    translate: TranslateTable = Field(default_factory=TranslateTable)


@dataclass
class Recipe:
    """A recipe as text and tables, before its parts are bound. `origin` is what errors name."""

    tables: dict[str, Any]
    name: str = "recipe"
    origin: str = "recipe"
    text: str = ""
    overridden: dict[str, str] = field(default_factory=dict)  # dotted key -> which option of the command line set it

    def override(self, settings: Iterable[str], profile: str | None = None) -> Recipe:
        """A copy with a `[profile.NAME]` laid over it, then `key=value` settings with dotted keys and TOML values."""
        tables, overridden = copy.deepcopy(self.tables), dict(self.overridden)
        profiles = tables.pop("profile", {})
        if profile is not None:
            tables_of = profiles if isinstance(profiles, dict) else {}
            known = [name for name, over in tables_of.items() if isinstance(over, dict)]
            if profile not in known:
                remedy, what = did_you_mean(profile, known), f"there is no profile '{profile}'"
                raise UserError(what, where=self.origin, allowed=known or "none", remedy=remedy)
            over = tables_of[profile]
            _merge(tables, over)
            for path in _leaves(over):
                overridden[".".join(path)] = f"{self.origin}:{find_line(self.text, ('profile', profile, *path))}"
        for setting in settings:
            key, value = _parse_setting(setting)
            overridden[_put(tables, key, value, setting)] = f"--set {setting}"
        return Recipe(tables, self.name, self.origin, self.text, overridden)

    def check(self) -> Model:
        """Every key, name and type checked, every part bound; UserError with the key, the line and the nearest name."""
        tables = {key: value for key, value in self.tables.items() if key != "profile"}
        newest = tables.get("format", FORMAT)
        if isinstance(newest, int) and newest > FORMAT:
            what = f"this recipe has format {newest}, and this gantk reads up to {FORMAT}"
            raise UserError(what, where=self._place(("format",)), remedy="upgrade gantk: pip install --upgrade gantk")
        try:
            model = check(Model, tables, "the recipe")
        except Problem as problem:
            raise self._error(problem) from None
        if (model.train.steps is None) == (model.train.epochs is None):
            given = "neither" if model.train.steps is None else "both"
            what = f"train.steps and train.epochs: {given} given"
            raise UserError(
                what, where=self._place(("train",)), remedy="give one of the two, for example train.steps = 2400"
            )
        return model

    def _error(self, problem: Problem) -> UserError:
        path = tuple(key for key in problem.path if not isinstance(key, int))
        error, owner = problem.error, path
        if "has no option" in error.what or "there is no key" in error.what:
            owner = path[:-1]
        dotted = ".".join(map(str, owner))
        error.what = f"{dotted}: {error.what}" if dotted else error.what
        return error.at(self._place(path))

    def _place(self, path: tuple) -> str:
        """`file:line` of a key, or the command-line option that set it."""
        for depth in range(len(path), 0, -1):
            dotted = ".".join(map(str, path[:depth]))
            if dotted in self.overridden:
                return self.overridden[dotted]
        line = find_line(self.text, path)
        return f"{self.origin}:{line}" if line else self.origin


def load_recipe(source: str | Path | Mapping[str, Any]) -> Recipe:
    """A recipe from a path, the name of a bundled or a plugin's one, or tables; UserError where it is no TOML."""
    if isinstance(source, Mapping):
        return Recipe(dict(source))
    path, origin = find_recipe(str(source))
    try:
        text = path.read_text("utf-8-sig")  # Windows editors write a byte-order mark
        tables = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"'{origin}' cannot be read: {error.strerror}", remedy="check the file's permissions") from None
    except UnicodeDecodeError:
        raise UserError(
            f"'{origin}' is not a text file", remedy="a recipe is a TOML file; see `gantk recipes`"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"'{origin}' is not valid TOML: {error}", remedy="compare it with a recipe of `gantk recipes`"
        ) from None
    return Recipe(tables, path.stem, origin, text)


def find_recipe(name: str) -> tuple[Path, str]:
    """(file, how to call it): the path as typed, else a bundled recipe, else a plugin's own."""
    typed = Path(name)
    if typed.is_file():
        return typed, name
    if typed.is_dir():
        raise UserError(
            f"'{name}' is a folder", remedy="name a recipe file; `gantk resume RUN` goes on with a run's folder"
        )
    known = all_recipes()
    stem = re.sub(r"\.toml$", "", re.sub(r"^(\./)?recipes/", "", name))
    if stem in known:
        path, owner = known[stem]
        return path, f"{stem}.toml (bundled with {owner})"
    remedy = did_you_mean(Path(stem).name, known) or "see `gantk recipes`"
    raise UserError(f"there is no recipe '{name}'", allowed=f"a path, or {', '.join(sorted(known))}", remedy=remedy)


def all_recipes() -> dict[str, tuple[Path, str]]:
    """name -> (file, distribution) of every bundled and plugin recipe; the bundled ones win."""
    found: dict[str, tuple[Path, str]] = {}
    for package, owner in reversed(registry().recipe_packages):
        try:
            files = [Path(str(file)) for file in importlib.resources.files(package).iterdir()]
        except Exception as error:  # importing a third party's package may raise anything
            registry().broken[f"{package} of {owner}"] = f"its recipes cannot be read: {type(error).__name__}: {error}"
            continue
        found |= {path.stem: (path, owner) for path in sorted(files) if path.suffix == ".toml"}
    inside = Path(__file__).parent / "recipes"  # the wheel keeps them inside the package, a checkout beside it
    bundled = inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"
    return found | {path.stem: (path, "gantk") for path in sorted(bundled.glob("*.toml"))}


def resolved(model: Model) -> dict[str, Any]:
    """The recipe in force as tables that TOML can hold: every default filled in."""
    return {key: _tables(getattr(model, key)) for key in Model.model_fields}


def _tables(value: Any) -> Any:
    if isinstance(value, Table):
        pairs = ((key, _tables(getattr(value, key))) for key in type(value).model_fields)
        return {key: inner for key, inner in pairs if inner is not None}
    if isinstance(value, dict):
        return {key: _tables(inner) for key, inner in value.items()}
    return _plain(value)


def find_line(text: str, path: tuple) -> int | None:
    """The line of a TOML text that holds the key at `path`: exact, or the deepest table or key found on the way."""
    table: tuple[str, ...] = ()
    best, best_depth = None, 0
    keys = tuple(map(str, path))
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]+", line)
        pair = re.match(r"\s*([\w.\-\"' ]+?)\s*=", line)
        if header:
            table = tuple(part.strip(" \"'") for part in header[1].split("."))
        here = table if header else table + tuple(part.strip(" \"'") for part in pair[1].split(".")) if pair else None
        if here and keys[: len(here)] == here and len(here) > best_depth:
            best, best_depth = number, len(here)
    return best


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, value = setting.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not re.fullmatch(r"[\w\-]+(\.[\w\-]+)*", key):
        raise UserError(f"'{setting}' is not key=value", where="--set", remedy="for example --set train.steps=200")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        if re.fullmatch(r"[\w./\\ ~:@#+\-]+", value):
            return key, value  # a bare word or path: the quotes are the shell's
        raise UserError(
            f"'{value}' is not a TOML value", where=f"--set {setting}", remedy="quote it for the shell"
        ) from None


def _put(tables: dict[str, Any], key: str, value: Any, setting: str) -> str:
    """Set a dotted key; returns the key of the first table that had to be made for it, or the key itself."""
    *parents, last = key.split(".")
    made = None
    for depth, parent in enumerate(parents, 1):
        if parent not in tables:
            made = made or ".".join(parents[:depth])
        inner = tables.get(parent, {})
        if isinstance(inner, str) and parent not in ("summary",):
            inner = {"name": inner}  # a bare part name gains options: --set method.generator.width=32
        if not isinstance(inner, dict):
            raise UserError(f"'{parent}' is not a table, so it has no key '{last}'", where=f"--set {setting}")
        tables[parent] = inner
        tables = inner
    tables[last] = value
    return made or key


def _leaves(tables: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value that is not a table."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _merge(tables: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(tables.get(key), dict) and "name" not in value:
            _merge(tables[key], value)
        else:
            tables[key] = copy.deepcopy(value)
