"""Schemas of the JSON files in a run folder, and the functions that read and check these files."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from gantk.data.look import QUANTILE_COUNT
from gantk.errors import UserError, argument, count_noun, file_error_words, reading_file
from gantk.files import MAX_READ_BYTES, open_file, read_file, regular_file
from gantk.runs.results import (
    Amount,
    Part,
    Results,
    Step,
    StoredImage,
    Table,
    in_millions,
)

LOG = "log.jsonl"
WEIGHTS = "weights.safetensors"  # of a checkpoint
COPY_AGAIN = "copy the run again from the original"
MAX_LINE_BYTES = 2**20  # of the log
MAX_LOG_BYTES = 2**28
MAX_LOG_LINES = 1_000_000
Finite = Annotated[float, Field(ge=-1e30, le=1e30)]
Content = TypeVar("Content", bound=BaseModel)


class MappingState(Table):
    """An intensity mapping, with its options and fitted values."""

    # absent where there are `lines`
    name: str | None = None
    """Name of the intensity mapping, such as `percentile`."""
    range: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None
    """Lowest and highest intensity that the network sees."""
    lines: list[MappingState] | None = None
    """The mappings of the contrasts, if it has several."""


class Values(Table):
    """Statistics of the training intensities of a domain."""

    low: Finite
    """Lowest intensity of the training images, in the units of the files."""
    high: Finite
    """Highest intensity of the training images, in the units of the files."""
    whole: bool
    """Whether these are whole numbers."""
    quantiles: Annotated[list[Finite], Field(min_length=QUANTILE_COUNT, max_length=QUANTILE_COUNT)]
    """Mean quantiles of the tissue's intensities, without air."""
    near: Amount
    """Distance from these quantiles within which 95 % of the single images are."""
    looks: list[Annotated[list[Finite], Field(min_length=26, max_length=26)]] | None = None
    """What some training images look like: 26 numbers from 0 to 1 each."""
    look_near: Amount | None = None
    """Distance from the nearest image of another person within which 95 % of these are."""
    oriented: bool | None = None
    """Whether the scans state the patient's left and right, and their slices show them."""
    traits: dict[str, list[str] | list[list[Finite]]] | None = None
    """Kinds of the training images: words, or the smallest and the largest numbers of each axis."""


class SeenFile(Table):
    """A training file of a packed model, without its name."""

    sha256: str | None = None
    """SHA-256 of a training file."""


class SeenFiles(Table):
    """What identifies the training images of a packed model."""

    by: str | None = None
    """How images were assigned to the sets, such as `patient`."""
    train: list[SeenFile]
    """The training files, without names."""


class Packing(Table):
    """The record of `gantk pack`; only in a packed model."""

    left_out: list[str]
    """First parts of the names of weights that were left out."""
    name: str | None = None
    """Name of the model."""
    split: str | None = None
    """SHA-256 of the split."""
    gantk: str | None = None
    """Version of gantk that packed the model."""
    seen: SeenFiles | None = None
    """What identifies the training images."""


class Meta(Table):
    """The content of meta.json: what a checkpoint's weights are, and what inference needs."""

    method: str
    """Name of the method."""
    step: Step
    """Number of finished steps."""
    steps: Step | None = None
    """Number of steps of the whole training."""
    format: Annotated[int, Field(ge=1)]
    """Version of the checkpoint's format."""
    domains: list[str] = []
    """Names of the domains."""
    classes: list[str] = []
    """Names of the classes, with data.labels."""
    channels: dict[str, Annotated[int, Field(ge=1, le=2**16)]]
    """Number of channels of each domain."""
    values: dict[str, Values] = {}
    """Statistics of the training intensities of each domain."""
    packed: Packing | None = None
    """The record of `gantk pack`; only in a packed model."""
    intensity: Annotated[dict[str, MappingState], Field(min_length=1)]
    """Intensity mapping of each domain, with its options and fitted values."""
    sha256: dict[str, str] = {}
    """SHA-256 of each file of the checkpoint."""


class OptimizerState(Table):
    """The state of a phase's optimizer, as PyTorch stores it."""

    state: dict[int, dict[str, Any]] = {}
    """State of each parameter."""
    param_groups: list[dict[str, Any]] = []
    """Options of each group of parameters."""


class TrainingState(Table):
    """The content of state.json, whose tensors are in state.safetensors."""

    step: Step | None = None
    """Number of finished steps."""
    ema_updates: Step | None = None
    """Number of updates of the averaged weights."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Number of threads; a resume uses the same number."""
    recipe: str = ""
    """The text of recipe.toml with which these steps were trained."""
    ranks: list[dict[str, Any]] = []
    """Buffers of all ranks but the first, such as image pools."""
    optimizers: dict[str, OptimizerState] = {}
    """State of each phase's optimizer, as PyTorch stores it."""


class RecipeRecord(Table):
    """What was run, as environment.json states it."""

    origin: str = ""
    """The recipe's file, or the name of a bundled recipe."""
    profile: str = ""
    """The profile that was applied."""
    changed: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] = {}
    """By key: value of the recipe's file, and value of the run."""
    data: str = ""
    """The data source, with its path or what it draws."""


class PluginsRecord(Table):
    """What differs from gantk's own plugins, as environment.json states it."""

    third_party: dict[str, str] = {}
    """By name: distribution and version of plugins of others."""
    left_out: list[str] = []
    """Families that were switched off."""
    overrides: dict[str, str] = {}
    """By part: whose it is, and whose it replaces."""


class Environment(Table):
    """The content of environment.json: the software and the machine of a run."""

    gantk: str = ""
    """Version of gantk."""
    packages: dict[str, str | None] = {}
    """Versions of the packages that gantk uses."""
    plugins: PluginsRecord = Field(default_factory=PluginsRecord)
    """What differs from gantk's own plugins."""
    command: str = ""
    """The command line."""
    folder: str = ""
    """The working folder of the command."""
    started: str = ""
    """Start of the training: date and time with time zone."""
    device: str = ""
    """Device, such as `cpu` or `cuda`."""
    precision: str = ""
    """Precision: `bf16` or `fp32`."""
    python: str = ""
    """Version of Python."""
    recipe: RecipeRecord = Field(default_factory=RecipeRecord)
    """What was run."""
    matched: str = ""
    """How the method matched training images, if it did."""
    generator_weights: Step | None = None
    """Number of trained weights of the generators."""

    @property
    def size(self) -> str:
        """`, 11 M generator weights`; "" where they were not recorded."""
        count = self.generator_weights
        return f", {in_millions(count)} generator weights" if count else ""


class RecipePart(Table):
    """A part of a recipe, of whose options the report reads the path."""

    name: str = ""
    path: str = ""


class RecipeSplit(Table):
    """The table data.split of a recipe."""

    folds: Step = 0
    fold: Step = 0


class RecipeData(Table):
    """The keys of a recipe's table data that the report reads."""

    domains: list[str] = []
    plane: str = ""
    size: list[int] = []
    source: RecipePart = Field(default_factory=RecipePart)
    split: RecipeSplit = Field(default_factory=RecipeSplit)


class RecipeTrain(Table):
    """The keys of a recipe's table train that the report reads."""

    steps: Step | None = None
    seed: int = 0
    start: str = ""
    ema: float = 0.0


class RecipeEvaluate(Table):
    """The key of a recipe's table evaluate that a card reads."""

    checkpoint: str = ""


class RecipeTables(Table):
    """The content of recipe.toml, with all keys; gantk.recipe checks them."""

    summary: str = ""
    method: RecipePart = Field(default_factory=RecipePart)
    data: RecipeData = Field(default_factory=RecipeData)
    train: RecipeTrain = Field(default_factory=RecipeTrain)
    evaluate: RecipeEvaluate = Field(default_factory=RecipeEvaluate)


class LogLine(Table):
    """A line of log.jsonl."""

    step: Step
    """Number of finished steps; in every line."""
    epoch: Step | None = None
    """Number of finished epochs; at log points."""
    stage: str | None = None
    """Name of the stage; at log points."""
    seconds: Amount | None = None
    """Training time so far in seconds; at log points."""
    images_per_s: Amount | None = None
    """Images per second since the last log point; at log points."""
    lr: float | None = None
    """Learning rate; at log points."""
    losses: dict[str, float | None] = {}
    """Each loss as `PHASE/NAME`; at log points."""
    validation: dict[str, dict[str, float | None]] = {}
    """Validation scores of each direction; at sample points and checkpoints. The first one says
    which checkpoint is best.
    """
    cycle: dict[str, float | None] = {}
    """Mean absolute difference of the sample images from their reconstructions, in network
    intensities, by direction; at sample points of two-way methods.
    """
    alarm: str = ""
    """Name of an alarm, if the outputs look wrong."""
    message: str = ""
    """The alarm in words."""
    note: str = ""
    """A phase that is computed in another way than the recipe asks for, and why."""


class SampleImages(Table):
    """The pictures of a direction in samples/index.json."""

    model_config = ConfigDict(populate_by_name=True)

    source: str | None = Field(
        default=None,
        validation_alias="from",
        serialization_alias="from",
        description="Name of the source domain; null for images from noise.",
    )
    to: str
    """Name of the target domain."""
    count: Annotated[int, Field(ge=0, le=10_000)]
    """Number of pictures."""
    images: list[dict[str, str | None]] = []
    """`patient` and `image` (its path) of each picture; of one from noise its `class`, if known."""
    cycle: bool = False
    """Whether `step-N/cycle` holds the pictures' reconstructions: translated there and back."""


class SampleIndex(Table):
    """The content of samples/index.json."""

    directions: dict[Part, SampleImages]
    """The pictures of each direction."""
    steps: list[Step] = []
    """Steps at which pictures were written."""
    has_truth: bool = False
    """Whether the folder `truth` exists."""


class StoredImages(RootModel[dict[Part, list[StoredImage]]]):
    """The content of samples/test/index.json: the stored test images of each direction."""


def read(
    folder: Path,
    name: str,
    schema: type[Content],
    remedy: str = COPY_AGAIN,
) -> Content | None:
    """The content of `folder/name`, a JSON or TOML file of a run, as `read_needed`; None where it is
    absent.
    """
    if os.path.lexists(folder / name):
        return read_needed(folder, name, schema, remedy)
    return None


def read_needed(
    folder: Path, name: str, schema: type[Content], remedy: str = COPY_AGAIN
) -> Content:
    """The content of `folder/name`, a JSON or TOML file of a run.

    UserError that names file and key where the file is damaged, does not match its schema, is no
    regular file, or lies outside the folder.
    """
    path = folder / name
    with reading_file(path.name, where=str(path), remedy=remedy):
        text = text_of(path, folder)
        parse = tomllib.loads if path.suffix == ".toml" else json.loads
        return parse_checked(text, schema, parse)


def read_results(folder: Path) -> Results:
    """The results in metrics.json of a run or model folder, empty ones where it is absent; UserError
    as from `read`.
    """
    remedy = f"write it again: gantk eval {argument(folder)}"
    return read(folder, "metrics.json", Results, remedy) or Results()


def is_inside(run: Path, path: Path) -> bool:
    """Whether a path is a regular file inside this run folder, links followed: files outside must
    not be shown.
    """
    try:
        return path == regular_file(path, run)
    except (OSError, UserError):
        return False


def read_log(run: Path, problems: list[str]) -> Iterator[LogLine]:
    """Yield the readable lines of a run's log.jsonl; damaged or cut-off lines are counted in a
    message added to `problems`. UserError where it is no regular file, lies outside the run, or has
    more than MAX_LOG_LINES lines.
    """
    try:
        file = open_log(run)
    except FileNotFoundError:
        return
    with file:
        yield from further_lines(file, problems)


def open_log(run: Path) -> BufferedReader:
    """A run's log.jsonl, for `further_lines`; FileNotFoundError where it is absent, UserError where
    it is no regular file, lies outside the run or is too large.
    """
    return open_file(run / LOG, run, MAX_LOG_BYTES)


def further_lines(file: BufferedReader, problems: list[str]) -> Iterator[LogLine]:
    """Yield the readable lines of an open log from where it was read to; damaged lines and too many
    lines as for `read_log`.
    """
    skipped = 0
    first_error = ""
    for number, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
        if number > MAX_LOG_LINES:
            raise UserError(
                f"'{file.name}' has more than {MAX_LOG_LINES:,} lines, which no log needs",
                remedy="restore it from the original",
            )
        try:
            yield parse_checked(text.decode(), LogLine)
        except (ValueError, RecursionError) as error:
            skipped += 1
            words = file_error_words(error)
            first_error = first_error or f"the first one is line {number}: {words}"

    if skipped:
        problems.append(
            f"{count_noun(skipped, 'line')} of {LOG} cannot be read and will be"
            f" ignored; {first_error}"
        )


def text_of(path: Path, folder: Path) -> str:
    """The text of a file of the run in `folder`; UserError or ValueError where it cannot be read."""
    max_bytes = MAX_READ_BYTES
    if path.name == "split.json":  # it lists every image
        max_bytes *= 8
    return read_file(path, folder, max_bytes).decode("utf-8-sig")


def parse_checked(
    text: str, schema: type[Content], parse: Callable[[str], Any] = json.loads
) -> Content:
    """Parse a text and check it against a schema; ValueError that names the first key that does not
    match.
    """
    value = parse(text)
    try:
        return schema.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(f"{key}: {first['msg']}") from None
