"""What the promises share: recipes of seconds, drawn pictures, and the command line, here or as a process.

Only what a user has: the command line, the names of `gantk` and of the modules open to plugins, and files.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from PIL import Image

HERE = Path(__file__).parent
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "400", "PYTHONDONTWRITEBYTECODE": "1"}

TINY: dict[str, Any] = {
    "format": 1,
    "method": {
        "name": "cyclegan",
        "generator": {"name": "unet", "width": 4, "depth": 3},
        "discriminator": {"name": "patchgan", "width": 4, "receptive_field": 16},
        "pool": 4,
    },
    "data": {
        "source": {"name": "phantom", "subjects": 6, "slices": 2},
        "domains": ["T1", "T2"],
        "size": [32, 32],
        "split": {"test": 0.2, "validation": 0.2},
        "cache": False,
    },
    "train": {"steps": 4, "batch": 2, "precision": "fp32", "ema": 0.9, "log_every": 1, "sample_every": 4},
    "evaluate": {"metrics": ["psnr", "mae"], "samples": 1},
}
NOISE: dict[str, Any] = {
    "method": {"name": "dcgan", "latent": 8, "width": 4, "discriminator": {"name": "dcgan", "width": 4, "depth": 3}},
    "data": TINY["data"] | {"domains": ["T1"]},
    "evaluate": {"metrics": [{"name": "kid", "features": "random"}], "samples": 1, "images": 8},
}


def tables(**over: dict[str, Any]) -> dict[str, Any]:
    """The tiny recipe with tables laid over its own; a method with another name replaces it."""
    found = copy.deepcopy(TINY)
    for table, values in over.items():
        renewed = table == "method" and "name" in values
        found[table] = copy.deepcopy(values if renewed else found.get(table, {}) | values)
    return found


def written(folder: Path, recipe: dict[str, Any]) -> Path:
    """A recipe as a file."""
    path = folder / "recipe-to-run.toml"
    path.write_text(tomli_w.dumps(recipe), "utf-8")
    return path


def draw(folder: Path, count: int, seed: int, size: int = 32) -> dict[str, Path]:
    """PNG pictures of seeded blobs, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:size, :size]
    found = {}
    for number in range(count):
        image = np.zeros((size, size))
        spots = np.random.default_rng([seed, number]).uniform((4, 4, 2, 60), (28, 28, 6, 200), (5, 4))
        for y, x, width, height in spots:
            image += height * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
        found[f"p{number:02d}"] = folder / f"p{number:02d}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(found[f"p{number:02d}"])
    return found


@dataclass
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str


def gantk(*words: object) -> Outcome:
    """The command line in this process; anything but an exit is raised."""
    from gantk.cli import main

    out, err, code, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["gantk", *map(str, words)]
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = QUIET["COLUMNS"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return Outcome(code, out.getvalue(), err.getvalue())


def process(*words: object, cwd: Path, before: tuple[str, ...] = ("-m", "gantk"), **more: str) -> subprocess.Popen:
    """`python -m gantk WORDS` as a process of its own, in a group of its own, on one thread."""
    return subprocess.Popen(
        [sys.executable, *before, *map(str, words)],
        cwd=cwd,
        env=os.environ | QUIET | {"GANTK_CACHE": str(cwd / "cache")} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(started: subprocess.Popen, timeout: float = 600) -> Outcome:
    """What a process left, once it has ended."""
    try:
        out, err = started.communicate(timeout=timeout)
    finally:
        started.kill()
    return Outcome(started.returncode, out, err)


def wait_until(true: Callable[[], bool], started: subprocess.Popen) -> None:
    """Look again and again; a process that ends before is an error."""
    while not true():
        if started.poll() is not None:
            raise AssertionError(f"it ended too early: {ended(started)}")
        time.sleep(0.002)


def log_of(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's log."""
    path = run / "log.jsonl"
    lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def saved(run: Path) -> list[str]:
    """The names of a run's whole checkpoints, the newest last."""
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested tables; the parts of a list are counted from 0."""
    parts = isinstance(value, list) and any(isinstance(one, dict) for one in value)
    if (isinstance(value, dict) and value) or parts:
        for key, inner in enumerate(value) if parts else value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def nested(leaves: dict[str, Any]) -> Any:
    """The tables that `flat` took apart."""
    found: dict[str, Any] = {}
    for path, value in leaves.items():
        *above, last = path.split(".")
        table = found
        for key in above:
            table = table.setdefault(key, {})
        table[last] = value

    def lists(one: Any) -> Any:
        if not isinstance(one, dict) or not one:
            return one
        inner = {key: lists(value) for key, value in one.items()}
        return list(inner.values()) if all(key.isdigit() for key in inner) else inner

    return lists(found)
