"""One JSON object per measured side, in the shape of the benchmark's rows."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from argparse import Namespace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gantk import __version__
from gantk.errors import UserError
from gantk.files import write_file
from gantk.machine.runtime import describe
from gantk.recipe.load import resolved
from gantk.runs.folder import environment
from peers.cases import Case
from peers.own import Own

if TYPE_CHECKING:
    from peers.adapters import Peer

FORMAT = 1
SUITE = "peers"
Row = dict[str, Any]


def begun(case: Case, label: str, peer: Peer | None, options: Namespace) -> Row:
    """What a row says whatever came of it; `peer` is None for gantk's own sides."""
    found = peer.found if peer else None
    return {
        "format": FORMAT,
        "suite": SUITE,
        "recipe": case.name,
        "label": f"{case.name} {label}",
        "summary": case.summary,
        "profile": None,
        "settings": list(options.set),
        "grid": {},
        "seed": options.seed,
        "status": "ok",
        "error": None,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "wall_s": 0.0,
        "run": None,
        "peer": peer.name if peer else None,
        "kind": case.kind,
        "side": label,
        "size": case.size,
        "batch": case.batch,
        "version": found.version if found else None if peer else __version__,
        "found": found.where if found else None,
        "notes": [],
        "ratio": {},
    }


def measured(row: Row, host: Own, samples: list[float], steps: int, weights: int, seconds: float) -> Row:
    """What a finished row says beside its scores; `samples` are seconds per step, `seconds` what all took."""
    parts, found = host.parts, environment()
    versions = found["packages"] | {"gantk": __version__, "python": platform.python_version()}
    machine = describe(parts.runtime)
    return {
        "method": host.model.method.name,
        "domains": list(host.model.data.domains),
        "paired": parts.data.paired,
        "weights": weights,
        "metrics": {},
        "baselines": {},
        "verdict": {},
        "speed": {
            "images_per_s": row["batch"] / median(samples),
            "seconds": seconds,
            "steps": steps,
            "step_seconds": samples,
            "first_step_s": None,
            "peak_memory_gib": None,  # several sides share the process
            "energy_j": None,
        },
        "selection": None,
        "published": None,
        "system": None,
        "curve": [],
        "alarms": [],
        "machine": machine | ({"precision": "fp32", "channels_last": False} if row["peer"] else {}),
        "versions": versions | ({row["peer"]: row["version"]} if row["peer"] else {}),
        "git": git_state(),
        "recipe_hash": sha256_of(resolved(host.model)),
        "data_hash": sha256_of(parts.data.split_json()),
        "jobs": 1,
    }


def sha256_of(content: Any) -> str:
    """Of the canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def git_state() -> dict[str, Any] | None:
    """gantk's own commit, where it is run from a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        found = [
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=30
            ).stdout
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": found[0].strip(), "dirty": bool(found[1].strip())}


def read(path: Path) -> list[Row]:
    """The rows of a file; UserError where it is none."""
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        what = f"'{path}' cannot be read as rows: {error}"
        raise UserError(what, where="--json", remedy="name a file that this benchmark wrote, or another name") from None
    if not all(isinstance(row, dict) and {"label", "status", "recipe"} <= row.keys() for row in rows):
        what = f"'{path}' holds lines that are no rows of this benchmark"
        raise UserError(what, where="--json", remedy="name another file")
    return rows


def write(path: Path, rows: list[Row]) -> None:
    """All rows, one per line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, "".join(json.dumps(row, default=float) + "\n" for row in rows).encode())


def joined(before: list[Row], new: list[Row]) -> list[Row]:
    """Rows that were measured again in the place of those of the same label, new ones behind; none skipped any more."""
    again, here = {row["label"]: row for row in new}, {row["peer"] for row in new if row["status"] != "skipped"}
    kept = [again.pop(row["label"], row) for row in before if row["status"] != "skipped" or row["peer"] not in here]
    return kept + [row for row in new if row["label"] in again]
