"""Schemas of the JSON files in a run folder, and the functions that read and check these files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from gantk.errors import UserError, count_noun, one_line
from gantk.plugin.spec import Share

MAX_FILE_BYTES = 2**26
MAX_LINE_BYTES = 2**20  # of the log
Step = Annotated[int, Field(ge=0, le=10**15)]
# of report.pictures
Preview = Annotated[str, Field(pattern=r"^data:image/webp;base64,[A-Za-z0-9+/=]+$")]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Finite = Annotated[float, Field(ge=-1e30, le=1e30)]
Pair = Annotated[list[float | None], Field(min_length=2, max_length=2)]
# part of a file name: no path separators
Part = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,200}$")]


def table(*required: str, **kinds: Any) -> Any:
    """The schema of a JSON object: a type per key. Keys not in `required` may be absent or null;
    others are ignored.
    """
    keys: dict[str, Any] = {}
    for key, kind in kinds.items():
        keys[key] = (kind, ...) if key in required else (kind | None, None)
    return create_model("Table", __config__=ConfigDict(defer_build=True), **keys)


def list_of(schema: Any) -> Any:
    """The schema of a list."""
    return GenericAlias(list, (schema,))


def by_name(schema: Any, key: Any = str) -> Any:
    """The schema of an object with any keys."""
    return GenericAlias(dict, (key, schema))


def _require_numbers(row: dict[str, Any]) -> dict[str, Any]:
    for key, value in row.items():
        if isinstance(value, str) and key != "barred":
            raise ValueError(f"'{key}' is not a number")
    return row


SCORE = {"value": float, "ci95": Pair, "n": Step, "images": Step, "unit": str, "definition": str}
ROW = table(
    **SCORE,
    higher_is_better=bool,
    corrected=float,
    per=by_name(table(**SCORE)),
    in_units=table(**SCORE),
)
TEST = table(
    "n",
    "gain",
    "p",
    n=Step,
    gain=float,
    ci95=Pair,
    p=Share,
    exact=bool,
    wilcoxon=Share,
    effect=float,
    needed=Step,
    holm=Share,
    fdr=Share,
    of=Step,
)
JUDGED = {"better": bool, "best_baseline": str, "probability": Share, "test": TEST}
ROWS = by_name(by_name(ROW))  # by direction and metric
CURVES = dict[str, list[float]]
GROUPS = table(
    "groups",
    "too_few",
    groups=by_name(ROW),
    too_few=list[str],
    worst=str,
    gap=float,
    p=Share,
    holm=Share,
)
CHOSEN_BY = Annotated[
    dict[str, dict[str, float | None] | float | str | None], AfterValidator(_require_numbers)
]
SPEED = table(
    step=Step,
    steps=Step,
    seconds=Amount,
    images_per_s=Amount,
    step_seconds=list[Amount],
    first_step_s=Amount,
    peak_memory_gib=Amount,
    predicted=dict[str, Any],
)
FILES = list_of(table("path", "sha256", path=str, sha256=str))
IMAGES = list_of(
    table(
        "domain",
        "key",
        "subject",
        "pair",
        "path",
        domain=str,
        key=str,
        subject=str | None,
        pair=str | None,
        path=str | None,
        sha256=str,
        label=str,
        missing=list[str],
        others=FILES,
        parts=FILES,
    )
)
MAPPING = {"name": str, "range": Annotated[list[Finite], Field(min_length=2, max_length=2)]}
VALUES = table("low", "high", low=Finite, high=Finite, quantiles=list[Finite], near=Amount)
COUNT = Annotated[int, Field(ge=0, le=10_000)]
SHOWN = table(
    "to", "count", **{"from": str}, to=str, count=COUNT, images=list[dict[str, str | None]]
)
SCHEMAS = {
    "meta.json": table(
        "method",
        "step",
        "format",
        "channels",
        "intensity",
        method=str,
        step=Step,
        steps=Step,
        format=Annotated[int, Field(ge=1)],
        classes=list[str],
        channels=dict[str, Annotated[int, Field(ge=1, le=2**16)]],
        values=by_name(VALUES),
        packed=table(
            "left_out",
            left_out=list[str],
            name=str,
            split=str,
            gantk=str,
            seen=table("train", by=str | None, train=list_of(table(sha256=str))),
        ),
        intensity=Annotated[
            by_name(table(**MAPPING, lines=list_of(table(**MAPPING)))), Field(min_length=1)
        ],
    ),
    "state.json": table(
        step=Step,
        ema_updates=Step,
        threads=Annotated[int, Field(ge=1, le=4096)],
        ranks=list[dict[str, Any]],
        optimizers=by_name(
            table(state=dict[int, dict[str, Any]], param_groups=list[dict[str, Any]])
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
        how=str,
        leakage_allowed=str,
        files=list[str],
        splits=table(
            "by",
            "train",
            "validation",
            "test",
            by=str | None,
            consequences=list[str],
            train=IMAGES,
            validation=IMAGES,
            test=IMAGES,
            set_aside=IMAGES,
            left_out=list[Annotated[list[str], Field(min_length=2, max_length=2)]],
        ),
    ),
    "log.jsonl": table(  # one line
        "step",
        step=Step,
        seconds=Amount,
        images_per_s=Amount,
        lr=float,
        losses=dict[str, float | None],
        stage=str,
        validation=dict[str, dict[str, float | None]],
        selection=CHOSEN_BY,
        alarm=str,
        message=str,
        stopped=str,
    ),
    "best.json": table(step=Step, rule=str, table=list[CHOSEN_BY]),
    "usage.json": SPEED,
    "metrics.json": table(
        metrics=ROWS,
        baselines=by_name(ROWS),
        alarms=dict[str, str],
        speed=SPEED,
        domains=list[str],
        step=Step,
        subgroups=by_name(by_name(by_name(GROUPS))),
        verdict=by_name(by_name(table(**JUDGED, without_pairs=table(**JUDGED)) | None)),
        uncertainty=by_name(
            table(
                auroc=ROW,
                auroc_10=ROW,
                auroc_10_whole=ROW,
                ause=ROW,
                spearman=ROW,
                coverage=ROW,
                rejection=CURVES,
                reliability=CURVES,
                scale=table(factor=float | None, patients=Step),
            ),
        ),
    ),
    "index.json": table(
        "directions", "steps", directions=by_name(SHOWN, key=Part), steps=list[Step], has_truth=bool
    ),
    "environment.json": table(
        gantk=str, packages=dict[str, str | None], started=str, device=str, precision=str
    ),
}


def read(
    path: Path, schema: Any = None, remedy: str = "copy the run again from the original"
) -> dict[str, Any]:
    """Read and check a JSON or TOML file of a run; {} where it is absent.

    UserError that names file and key where the file is damaged or does not match its schema.
    """
    try:
        parse = tomllib.loads if path.suffix == ".toml" else json.loads
        return parse_checked(content(path), schema or SCHEMAS[path.name], parse)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path.name} could not be read: {one_line(error)}", where=str(path), remedy=remedy
        ) from None


def is_inside(run: Path, path: Path) -> bool:
    """Whether a path is a file inside this run folder, links followed: files outside must not be
    shown.
    """
    return path.is_file() and path.resolve().is_relative_to(run.resolve())


def read_log(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the readable lines of log.jsonl; damaged or cut-off lines are counted in a message
    added to `problems`.
    """
    skipped = 0
    first_error = ""
    if path.is_file():
        with open(path, "rb") as file:
            for number, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                try:
                    yield parse_checked(text.decode(), SCHEMAS[path.name])
                except ValueError as error:
                    skipped += 1
                    first_error = (
                        first_error or f"the first one is line {number}: {one_line(error)}"
                    )

    if skipped:
        problems.append(
            f"{count_noun(skipped, 'line')} of {path.name} cannot be read and will be"
            f" ignored; {first_error}"
        )


def content(path: Path) -> str:
    """The text of a file of a run; ValueError where it is no file or larger than a run writes."""
    max_bytes = MAX_FILE_BYTES
    if path.name == "split.json":  # it lists every image
        max_bytes *= 8
    if path.stat().st_size > max_bytes or not path.is_file():
        raise ValueError(f"it is not a file, or it is larger than {max_bytes >> 20} MB")
    return path.read_bytes().decode("utf-8-sig")


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
