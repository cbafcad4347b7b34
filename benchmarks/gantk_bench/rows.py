"""Rows of a bench: JSON lines, one per training; reads and writes them, and collects a finished
run's figures.
"""

import hashlib
import json
import math
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

import gantk
from gantk.errors import GantkError, UserError, reading_file, writing_file
from gantk.files import read_file, write_file
from gantk.metrics.table import MODEL, read_lines
from gantk.runs.folder import RunFolder
from gantk.runs.results import Choice, Results, Speed, Table, Verdict

FORMAT = 1
# an absolute path of two names or more: between quotes it may contain blanks, else it ends at the
# next blank
ROOT = r"(?:[A-Za-z]:)?[\\/]"
PATHS = re.compile(
    rf"(?<=')(?:{ROOT})[^'\n]*[\\/][^'\n]*(?=')|(?<![\w.:/\\~-])(?:{ROOT})[^\s\\/'\"]+[\\/][^\s'\"]*"
)
MACHINE_KEYS = (
    "device",
    "cpu",
    "threads",
    "precision",
    "channels_last",
    "ranks",
    "cuda",
    "platform",
)
# [data] keys that shape a test image
IMAGE_KEYS = ("domains", "dims", "size", "fit", "plane", "spacing", "intensity")
MAX_ROWS_BYTES = 2**29  # of a file of rows, or of split.json
REMEDY = "name a rows.jsonl that `gantk bench` wrote"
ROWS_ARE_THERE = "all rows written before are there: make room and go on with --resume"


class Alarm(Table):
    """A warning of a training."""

    step: int
    alarm: str
    message: str = ""


class CurvePoint(Table):
    """Validation scores by direction and metric, and the seconds of training until then."""

    step: int
    seconds: float
    scores: dict[str, dict[str, float | None]]


class BenchSpeed(Speed):
    """Time and memory of a training, and those of its bare steps in a suite of fixed minutes."""

    step_s: float | None = None
    of_conv: float | None = None  # share of the fastest convolution measured on this device
    full_s: float | None = None  # seconds of a training of the published length


class Row(Results):
    """A row of a bench: the results of a training, what was trained, and how it ended."""

    format: Literal[1]
    label: str
    status: str  # ok, failed, out of time, killed, skipped
    error: str = ""
    suite: str = ""
    recipe: str = ""
    profile: str | None = None
    settings: list[str] = []
    grid: dict[str, Any] = {}
    seed: int | None = None
    recipe_hash: str = ""
    data_hash: str = ""
    summary: str = ""
    method: str = ""
    system: str = ""  # of a report, which the recipe reproduces
    published: dict[str, Any] = {}
    started: str = ""
    wall_s: float | None = None
    load: float | None = None  # mean number of busy processes of the machine in the last minute
    run: str = ""  # the run folder, in the bench folder
    git: dict[str, Any] = {}
    jobs: int | None = None
    speed: BenchSpeed = BenchSpeed()
    selection: Choice = Choice()
    curve: list[CurvePoint] = []
    alarms: list[Alarm] = []
    machine: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    # direction -> metric -> hash of a patient's name -> score
    patients: dict[str, dict[str, dict[str, float | None]]] = {}
    test_images: str = ""  # equal for rows of the same test images

    def verdicts(self, direction: str) -> dict[str, Verdict]:
        """The verdicts on the scores of a direction that were judged."""
        judged = self.verdict.get(direction, {})
        return {metric: verdict for metric, verdict in judged.items() if verdict}


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a JSONL file; raises UserError if it cannot be read or a line is no row."""
    path = Path(path)
    with reading_file(path, "rows of a bench", remedy=REMEDY):
        lines = read_file(path, max_bytes=MAX_ROWS_BYTES).decode("utf-8").splitlines()

    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError as error:
            first, *_ = error.errors()
            key = ".".join(map(str, first["loc"])) or "all of it"
            what = f"this line is no row of a bench: {key}: {first['msg']}"
            remedy = f"{REMEDY}, or remove the line"
            raise UserError(what, where=f"{path}:{number}", remedy=remedy) from None
    return rows


def write_rows(path: Path, rows: Iterable[Row | dict[str, Any]]) -> None:
    """Replace a file by all rows, atomically; UserError if it cannot be written."""
    tables = [row.dump() if isinstance(row, Row) else row for row in rows]
    lines = [json.dumps(finite(table), ensure_ascii=False, default=float) for table in tables]
    with writing_file(path, remedy=ROWS_ARE_THERE):
        write_file(path, "".join(f"{line}\n" for line in lines).encode())


def figures(run: Path) -> dict[str, Any]:
    """The figures of a finished run folder; raises GantkError if a file of a finished run is
    missing or broken.
    """

    def read(name: str) -> Any:
        return json.loads(read_file(run / name, run, MAX_ROWS_BYTES).decode("utf-8"))

    try:
        result = read("metrics.json")
        environment = read("environment.json")
        split = read("split.json")
    except (OSError, ValueError) as error:
        raise GantkError(
            f"the run ended well, and yet its figures cannot be read: {error}"
        ) from None
    log = RunFolder(run).read_log()
    curve = []
    seconds = 0.0
    for line in log:
        seconds = seconds if line.seconds is None else line.seconds
        if line.validation:
            curve.append({"step": line.step, "seconds": seconds, "scores": line.validation})
    return {
        "metrics": result["metrics"],
        "baselines": result.get("baselines", {}),
        "verdict": result.get("verdict", {}),
        "speed": result.get("speed", {}),
        "selection": read("best.json") if (run / "best.json").is_file() else {},
        "curve": curve,
        "alarms": [
            {"step": line.step, "alarm": line.alarm, "message": line.message}
            for line in log
            if line.alarm
        ],
        "machine": {key: environment.get(key) for key in MACHINE_KEYS},
        "versions": (
            environment.get("packages", {})
            | {key: environment.get(key) for key in ("gantk", "python")}
        ),
        "data_hash": hashlib.sha256(json.dumps(split, sort_keys=True).encode()).hexdigest(),
        **_patients(run, split, result["metrics"]),
    }


def _patients(run: Path, split: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """`patients`: direction -> metric -> hash of a patient's name -> score, of metrics whose scores all
    have a patient; `test_images`: a hash of the test split, the data source and the [data] keys that
    shape an image. {} if the run has no scores of single images.
    """
    lines = read_lines(run)
    lines = lines[
        (lines.system == MODEL) & (lines.image != "") & ~lines.direction.str.endswith("_post")
    ]
    if lines.empty:
        return {}
    data = RunFolder(run).recipe().tables["data"]
    source = {key: value for key, value in data["source"].items() if key != "path"}
    test_set = [source, [data.get(key) for key in IMAGE_KEYS], split["splits"]["test"]]
    scores: dict[str, Any] = {}
    for (direction, metric), own in lines.groupby(["direction", "metric"], sort=False):
        means = own.groupby(
            own.patient.where(own.patient != "", own.image), sort=False
        ).value.mean()
        if metrics[direction][metric].get("n") == means.count():  # else no patient is known
            names = [hashlib.sha256(name.encode()).hexdigest()[:12] for name in means.index]
            values = [None if math.isnan(value) else value for value in means]
            scores.setdefault(direction, {})[metric] = dict(zip(names, values, strict=True))
    images = hashlib.sha256(json.dumps(test_set, sort_keys=True, default=str).encode()).hexdigest()
    return {"patients": scores, "test_images": images}


def without_paths(text: str) -> str:
    """Text with every absolute path cut to its last name, so that rows reveal no folders of the
    machine.
    """
    return PATHS.sub(lambda match: re.split(r"[\\/]", match[0].rstrip("\\/"))[-1], text)


def commit(
    folder: Path = Path(gantk.__file__).parent, tracked: str = "__init__.py"
) -> dict[str, Any] | None:
    """{"commit": ..., "dirty": ...} of the git checkout that holds the file `tracked`; None for
    other folders.
    """

    def git(*words: str) -> str | None:
        try:
            command = ["git", "-C", str(folder), *words]
            process = subprocess.run(
                command, capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return process.stdout.strip() if process.returncode == 0 else None

    # The file must be tracked: an installed package may lie inside another project's checkout.
    if git("ls-files", "--error-unmatch", tracked) is not None:
        head = git("rev-parse", "HEAD")
    else:
        head = None
    return head and {"commit": head, "dirty": bool(git("status", "--porcelain", ":/"))}


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None in nested values."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
