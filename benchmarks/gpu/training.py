"""One short training with its scores: whether what is quick also learns, and how much of its time is the step."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gantk import api
from gantk.recipe.load import load_recipe
from gpu import cases, timing
from gpu.rows import row
from gpu.steps import EFFORT, TINY, Subject, memory_watched


def measure(task: dict[str, Any], device: torch.device) -> Iterator[dict[str, Any]]:
    """One row: `gantk run` on the phantom in a temporary folder, then the same step without its data."""
    plan = cases.training(task["tiny"])
    settings = [*plan["settings"], f"train.steps={plan['steps']}"]
    quiet = contextlib.redirect_stdout(io.StringIO())
    with memory_watched(str(device)) as peak, tempfile.TemporaryDirectory(prefix="gantk-gpu-") as folder, quiet:
        began = time.perf_counter()
        run = api.run(plan["recipe"], set=settings, out=Path(folder) / "run", device=str(device), say=lambda _: None)
        wall = time.perf_counter() - began
        result, log = json.loads((run.path / "metrics.json").read_text()), run.read_log()
        most = peak()
    train = load_recipe(plan["recipe"]).override(settings).check()
    about = {"recipe": plan["recipe"], "settings": settings, "size": train.data.size, "batch": train.train.batch}
    subject = Subject.build(plan["recipe"], settings, train.train.batch, train.train.precision, str(device))
    for _ in range(subject.settling):
        subject.step()
    alone = timing.summary(timing.samples(subject.step, device, **(TINY if task["tiny"] else EFFORT)))["median_s"]
    step = step_seconds(log)
    yield row(
        "training",
        **about,
        precision=subject.engine.runtime.precision,
        steps=plan["steps"],
        seconds=result["speed"]["seconds"],
        images_per_s=result["speed"]["images_per_s"],
        wall_s=wall,
        step_s=step,
        compute_step_s=alone,
        compute_share=alone / step if step else None,
        peak_memory_gib=most,
        metrics=_values(result["metrics"]),
        baselines={name: _values(rows) for name, rows in result["baselines"].items()},
        verdict=result["verdict"],
        alarms=[line["message"] for line in log if "alarm" in line],
    )


def step_seconds(log: list[dict[str, Any]]) -> float | None:
    """Seconds per step of the last stage: the median over its log intervals; None where it was logged once only."""
    lines = [line for line in log if "losses" in line]
    pairs = [(a, b) for a, b in zip(lines, lines[1:], strict=False) if a["stage"] == b["stage"] == lines[-1]["stage"]]
    found = [(b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairs]
    return statistics.median(found) if found else None


def _values(directions: dict[str, Any]) -> dict[str, dict[str, float]]:
    """direction -> metric -> value, whole images alone."""
    plain = ("psnr", "ssim", "mae")
    return {key: {n: scores[n]["value"] for n in plain if n in scores} for key, scores in directions.items()}
