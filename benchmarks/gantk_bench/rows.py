"""Rows: one JSON object per line, one line per training; read, written, and filled from a finished run."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gantk
from gantk.errors import GantkError, UserError
from gantk.files import write_file
from gantk.runs.folder import RunFolder

FORMAT = 1
# an absolute path of two names or more: between quotes with its blanks, or up to the next blank
ROOT = r"(?:[A-Za-z]:)?[\\/]"
PLACE = re.compile(rf"(?<=')(?:{ROOT})[^'\n]*[\\/][^'\n]*(?=')|(?<![\w.:/\\~-])(?:{ROOT})[^\s\\/'\"]+[\\/][^\s'\"]*")
MACHINE = ("device", "cpu", "threads", "precision", "channels_last", "ranks", "cuda", "platform")


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; UserError where it is missing, or a line is no row of this format."""
    path = Path(path)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(
            f"'{path}' cannot be read: {why}", remedy="name a rows.jsonl that `gantk bench` wrote"
        ) from None
    return [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("label"), str) or not isinstance(row.get("status"), str):
        what = "this line is no row of a bench"
        raise UserError(what, where=where, remedy="name a rows.jsonl that `gantk bench` wrote, or remove the line")
    if row.get("format") != FORMAT:
        what = f"this row has format {row.get('format')}, and this gantk reads {FORMAT}"
        raise UserError(what, where=where, remedy="measure it again")
    return row


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """All rows, there whole or as they were before; GantkError where the disk does not take them."""
    text = "".join(json.dumps(_finite(row), ensure_ascii=False) + "\n" for row in rows)
    try:
        write_file(path, text.encode())
    except OSError as error:
        what = f"the rows cannot be written to '{path}': {error.strerror}. Those written before are still there"
        raise GantkError(f"{what}; make room and go on with --resume.") from None


def figures(run: Path) -> dict[str, Any]:
    """What a finished run folder tells; GantkError where it lacks what a finished run has."""
    folder = RunFolder(run)
    try:
        result, environment = (_json(run / name) for name in ("metrics.json", "environment.json"))
        split = _json(run / "split.json")
    except (OSError, ValueError) as error:
        raise GantkError(f"the run ended well, and yet its figures cannot be read: {error}") from None
    log, best = folder.read_log(), run / "best.json"
    versions = environment.get("packages", {}) | {key: environment.get(key) for key in ("gantk", "python")}
    return {
        "metrics": result["metrics"],
        "baselines": result.get("baselines", {}),
        "verdict": result.get("verdict", {}),
        "speed": result.get("speed", {}),
        "selection": _json(best) if best.is_file() else None,
        "curve": curve_of(log),
        "alarms": [{key: line[key] for key in ("step", "alarm", "message")} for line in log if "alarm" in line],
        "machine": {key: environment.get(key) for key in MACHINE},
        "versions": versions,
        "data_hash": hashlib.sha256(json.dumps(split, sort_keys=True).encode()).hexdigest(),
    }


def curve_of(log: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Validation scores over training: the step, the seconds of training up to it, the scores."""
    points, seconds = [], 0.0
    for line in log:
        seconds = line.get("seconds", seconds)
        if "validation" in line:
            points.append({"step": line["step"], "seconds": seconds, "scores": line["validation"]})
    return points


def without_places(text: str) -> str:
    """Text with every absolute path cut to its last name: a row says nothing of the machine's folders."""
    return PLACE.sub(lambda found: re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], text)


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _finite(value: Any) -> Any:
    """JSON knows neither nan nor infinity: what is no number is not known."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def commit(package: Path | None = None) -> dict[str, Any] | None:
    """{"commit": ..., "dirty": ...} of the checkout that holds gantk; None where it is installed, or git is missing.

    A checkout that merely surrounds an installed gantk (an environment inside a project) is not it: git has to know
    the file.
    """
    package = package or Path(gantk.__file__).parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", ":/")
    return None if head is None else {"commit": head, "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    """What git answers, None where it refuses or is not there."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
