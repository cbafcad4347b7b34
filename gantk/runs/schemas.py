"""Schemas of the JSON files in a run folder, and the functions that read and check these files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    create_model,
)

from gantk.data.look import QUANTILE_COUNT
from gantk.errors import UserError, argument, count_noun, one_line
from gantk.files import MAX_READ_BYTES, open_file, read_file, regular_file
from gantk.runs.results import (
    Amount,
    CheckpointScores,
    Choice,
    HeldOutPatients,
    Part,
    Results,
    Speed,
    Step,
)

LOG = "log.jsonl"
WEIGHTS = "weights.safetensors"  # of a checkpoint
MAX_LINE_BYTES = 2**20  # of the log
MAX_LOG_BYTES = 2**28
MAX_LOG_LINES = 1_000_000
# of report.pictures
Preview = Annotated[str, Field(pattern=r"^data:image/webp;base64,[A-Za-z0-9+/=]+$")]
Finite = Annotated[float, Field(ge=-1e30, le=1e30)]


def table(*required: str, **kinds: Any) -> Any:
    """The schema of a JSON object: for each key its type, or (type, meaning).

    Keys not in `required` may be absent or null; others are ignored.
    """
    keys: dict[str, Any] = {}
    for key, kind in kinds.items():
        kind, about = kind if isinstance(kind, tuple) else (kind, None)
        if key in required:
            keys[key] = (kind, Field(description=about))
        else:
            keys[key] = (kind | None, Field(None, description=about))
    return create_model("Table", __config__=ConfigDict(defer_build=True), **keys)


def list_of(schema: Any) -> Any:
    """The schema of a list."""
    return GenericAlias(list, (schema,))


def by_name(schema: Any, key: Any = str) -> Any:
    """The schema of an object with any keys."""
    return GenericAlias(dict, (key, schema))


IMAGE = table(
    "domain",
    "key",
    "subject",
    "pair",
    "path",
    domain=(str, "Letter of the domain: `a`, `b` or `image`."),
    key=(str, "Name of the image, unique in its domain."),
    subject=(str | None, "Name of the patient; empty or null if it is unknown."),
    pair=(str | None, "Name that the two images of a registered pair share; null without a pair."),
    path=(str | None, "Path of the file; null if the image is not read from a file."),
    sha256=(str, "SHA-256 of the file."),
    label=(str, "Class of the image, with data.labels."),
    missing=(list[str], "Contrasts that the patient lacks."),
)
IMAGES = list_of(IMAGE)
MAPPING = {
    "name": (str, "Name of the intensity mapping, such as `percentile`."),
    "range": (
        Annotated[list[Finite], Field(min_length=2, max_length=2)],
        "Lowest and highest intensity that the network sees.",
    ),
}
LINE = table(**MAPPING)
LOOK = Annotated[list[Finite], Field(min_length=26, max_length=26)]
VALUES = table(
    *("low", "high", "whole", "quantiles", "near"),
    low=(Finite, "Lowest intensity of the training images, in the units of the files."),
    high=(Finite, "Highest intensity of the training images, in the units of the files."),
    whole=(bool, "Whether these are whole numbers."),
    quantiles=(
        Annotated[list[Finite], Field(min_length=QUANTILE_COUNT, max_length=QUANTILE_COUNT)],
        "Mean quantiles of the tissue's intensities, without air.",
    ),
    near=(Amount, "Distance from these quantiles within which 95 % of the single images are."),
    looks=(list[LOOK], "What some training images look like: 26 numbers from 0 to 1 each."),
    look_near=(
        Amount,
        "Distance from the nearest image of another person within which 95 % of these are.",
    ),
    oriented=(
        bool,
        "Whether the scans state the patient's left and right, and their slices show them.",
    ),
    traits=(
        dict[str, list[str] | list[list[Finite]]],
        "Kinds of the training images: words, or the smallest and the largest numbers of each axis.",
    ),
)
COUNT = Annotated[int, Field(ge=0, le=10_000)]
SHOWN = table(
    "to",
    "count",
    **{"from": (str, "Name of the source domain; null for images from noise.")},
    to=(str, "Name of the target domain."),
    count=(COUNT, "Number of pictures."),
    images=(list[dict[str, str | None]], "`patient` and `image` (its path) of each picture."),
    cycle=(
        bool,
        "Whether `step-N/cycle` holds the pictures' reconstructions: translated there and back.",
    ),
)
SCHEMAS = {
    "meta.json": table(
        "method",
        "step",
        "format",
        "channels",
        "intensity",
        method=(str, "Name of the method."),
        step=(Step, "Number of finished steps."),
        steps=(Step, "Number of steps of the whole training."),
        format=(Annotated[int, Field(ge=1)], "Version of the checkpoint's format."),
        classes=(list[str], "Names of the classes, with data.labels."),
        channels=(
            dict[str, Annotated[int, Field(ge=1, le=2**16)]],
            "Number of channels of each domain.",
        ),
        values=(by_name(VALUES), "Statistics of the training intensities of each domain."),
        packed=(
            table(
                "left_out",
                left_out=(list[str], "First parts of the names of weights that were left out."),
                name=(str, "Name of the model."),
                split=(str, "SHA-256 of the split."),
                gantk=(str, "Version of gantk that packed the model."),
                seen=(
                    table(
                        "train",
                        by=(str | None, "How images were assigned to the sets, such as `patient`."),
                        train=(
                            list_of(table(sha256=(str, "SHA-256 of a training file."))),
                            "The training files, without names.",
                        ),
                    ),
                    "What identifies the training images.",
                ),
            ),
            "The record of `gantk pack`; only in a packed model.",
        ),
        intensity=(
            Annotated[
                by_name(
                    table(
                        **MAPPING,
                        lines=(list_of(LINE), "The mappings of the contrasts, if it has several."),
                    )
                ),
                Field(min_length=1),
            ],
            "Intensity mapping of each domain, with its options and fitted values.",
        ),
    ),
    "state.json": table(
        step=(Step, "Number of finished steps."),
        ema_updates=(Step, "Number of updates of the averaged weights."),
        threads=(
            Annotated[int, Field(ge=1, le=4096)],
            "Number of threads; a resume uses the same number.",
        ),
        ranks=(list[dict[str, Any]], "Buffers of all ranks but the first, such as image pools."),
        optimizers=(
            by_name(
                table(
                    state=(dict[int, dict[str, Any]], "State of each parameter."),
                    param_groups=(list[dict[str, Any]], "Options of each group of parameters."),
                )
            ),
            "State of each phase's optimizer, as PyTorch stores it.",
        ),
    ),
    "recipe.toml": table(  # the keys that the report reads; gantk.recipe checks all keys
        summary=str,
        method=table(name=str),
        data=table(domains=list[str]),
        train=table(steps=Step),
    ),
    "split.json": table(
        "splits",
        how=(str, "How the split was made, in words, with the number of images of each set."),
        leakage_allowed=(str, "The leaks that `--allow-leakage` accepted; null without leaks."),
        warnings=(list[str], "The warnings about the data at the start, repeated by a resume."),
        notes=(list[str], "All notes and warnings that were printed at the start."),
        catalog=(
            list[dict[str, Any]] | None,
            "Every image that the source found, with its files relative to the source's folder; a"
            " resume reads these and lists no folder. Null where images are computed.",
        ),
        splits=(
            table(
                "by",
                "train",
                "validation",
                "test",
                by=(
                    str | None,
                    "How images were assigned: `patient`, `block`, `image`, `folders` or `file`.",
                ),
                consequences=(list[str], "Consequences of the split for the scores, in words."),
                train=(IMAGES, "Training images."),
                validation=(IMAGES, "Validation images."),
                test=(IMAGES, "Held-out test images."),
                set_aside=(IMAGES, "Images of the training set that the method does not use."),
                left_out=(
                    list[Annotated[list[str], Field(min_length=2, max_length=2)]],
                    "Domain and key of each image that is in no set.",
                ),
            ),
            "The sets, and how they were made.",
        ),
    ),
    "log.jsonl": table(  # one line
        "step",
        step=(Step, "Number of finished steps; in every line."),
        epoch=(Step, "Number of finished epochs; at log points."),
        seconds=(Amount, "Training time so far in seconds; at log points."),
        images_per_s=(Amount, "Images per second since the last log point; at log points."),
        lr=(float, "Learning rate; at log points."),
        losses=(dict[str, float | None], "Each loss as `PHASE/NAME`; at log points."),
        stage=(str, "Name of the stage; at log points."),
        validation=(
            dict[str, dict[str, float | None]],
            "Validation scores of each direction; at sample points, if the truth is known.",
        ),
        cycle=(
            dict[str, float | None],
            "Mean absolute difference of the sample images from their reconstructions, in network"
            " intensities, by direction; at sample points of two-way methods.",
        ),
        selection=(
            CheckpointScores,
            "The checkpoint's row of the `table` in best.json; at checkpoints.",
        ),
        alarm=(str, "Name of an alarm, if the outputs look wrong."),
        message=(str, "The alarm in words."),
        note=(str, "A phase that is computed in another way than the recipe asks for, and why."),
        stopped=(str, "Why `train.patience` ended the training, in words."),
    ),
    "best.json": Choice,
    "usage.json": Speed,
    "metrics.json": Results,
    "patients.json": RootModel[dict[Part, HeldOutPatients]],
    "index.json": table(
        "directions",
        "steps",
        directions=(by_name(SHOWN, key=Part), "The pictures of each direction."),
        steps=(list[Step], "Steps at which pictures were written."),
        has_truth=(bool, "Whether the folder `truth` exists."),
    ),
    "environment.json": table(
        gantk=(str, "Version of gantk."),
        packages=(dict[str, str | None], "Versions of the packages that gantk uses."),
        started=(str, "Start of the training: date and time with time zone."),
        command=(str, "The command line."),
        folder=(str, "The working folder of the command."),
        recipe=(
            table(
                origin=(str, "The recipe's file, or the name of a bundled recipe."),
                profile=(str, "The profile that was applied."),
                changed=(
                    dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]],
                    "By key: value of the recipe's file, and value of the run.",
                ),
                data=(str, "The data source, with its path or what it draws."),
            ),
            "What was run.",
        ),
        matched=(str, "How the method matched training images, if it did."),
        device=(str, "Device, such as `cpu` or `cuda`."),
        precision=(str, "Precision: `bf16` or `fp32`."),
    ),
}


def read(
    folder: Path,
    name: str,
    schema: Any = None,
    remedy: str = "copy the run again from the original",
) -> dict[str, Any]:
    """Read and check `folder/name`, a JSON or TOML file of a run; {} where it is absent.

    UserError that names file and key where the file is damaged, does not match its schema, is no
    regular file, or lies outside the folder.
    """
    path = folder / name
    try:
        text = text_of(path, folder)
        parse = tomllib.loads if path.suffix == ".toml" else json.loads
        return parse_checked(text, schema or SCHEMAS[path.name], parse)
    except FileNotFoundError:
        return {}
    except UserError as error:
        raise UserError(error.what, where=str(path), remedy=remedy) from None
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path.name} could not be read: {one_line(error)}", where=str(path), remedy=remedy
        ) from None


def read_results(folder: Path) -> Results:
    """The results in metrics.json of a run or model folder, empty ones where it is absent; UserError
    as from `read`.
    """
    remedy = f"write it again: gantk eval {argument(folder)}"
    return Results.model_validate(read(folder, "metrics.json", None, remedy))


def is_inside(run: Path, path: Path) -> bool:
    """Whether a path is a regular file inside this run folder, links followed: files outside must
    not be shown.
    """
    try:
        return path == regular_file(path, run)
    except (OSError, UserError):
        return False


def read_log(run: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the readable lines of a run's log.jsonl; damaged or cut-off lines are counted in a
    message added to `problems`. UserError where it is no regular file, lies outside the run, or has
    more than MAX_LOG_LINES lines.
    """
    skipped = 0
    first_error = ""
    try:
        file = open_file(run / LOG, run, MAX_LOG_BYTES)
    except FileNotFoundError:
        return

    with file:
        for number, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if number > MAX_LOG_LINES:
                what = f"'{run / LOG}' has more than {MAX_LOG_LINES:,} lines, which no log needs"
                raise UserError(what, remedy="restore it from the original")
            try:
                yield parse_checked(text.decode(), SCHEMAS[LOG])
            except ValueError as error:
                skipped += 1
                first_error = first_error or f"the first one is line {number}: {one_line(error)}"

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
    text: str, schema: type[BaseModel], parse: Callable[[str], Any] = json.loads
) -> dict[str, Any]:
    """Parse a text and check it against a schema; ValueError that names the first key that does not
    match.
    """
    try:
        value = parse(text)
        schema.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(f"{key}: {first['msg']}") from None
    except RecursionError:
        raise ValueError("its tables are nested too deeply") from None

    return value
