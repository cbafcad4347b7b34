"""Rows: one JSON object a line, each part's with the same keys whatever happened, written out as they come."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMAT = 2
OUT_OF_TIME = "out of time budget"
MEMORY, FAILED, SKIPPED, KILLED = "out of memory", "failed", "skipped", "killed"
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":]+/)+")

MEASURED = ("samples_s", "median_s", "spread", "spread_90")  # what `timing.summary` gives
STEP = (
    "case", "recipe", "method", "settings", "dims", "size", "batch", "precision", "mode", "parameters", *MEASURED,
    "first_step_s", "images_per_s", "flops", "operators", "tflops_per_s", "of_matmul", "of_conv", "peak_memory_gib",
    "host_waits", "notes",
)  # fmt: skip
FIELDS = {
    "environment": (
        "when",
        "device",
        "capability",
        "memory_gib",
        "multiprocessors",
        "driver",
        "power_limit_w",
        "power_w",
        "clock_sm_mhz",
        "clock_memory_mhz",
        "temperature_c",
        "python",
        "torch",
        "cuda",
        "cudnn",
        "packages",
        "cpu",
        "threads",
        "gantk",
        "git",
        "command",
        "started",
    ),  # fmt: skip
    "ceiling": ("kind", "precision", "dims", "shape", "work", "unit", *MEASURED, "reached"),
    "step": STEP,
    "peer": ("peer", *STEP),
    "ratio": ("case", "method", "dims", "size", "batch", "turns_s", "times"),
    "cost": ("what", "beside", "size", "batch", "precision", "images_per_s", *MEASURED, "beside_s", "ratio"),
    "training": (
        "recipe",
        "settings",
        "size",
        "batch",
        "precision",
        "steps",
        "seconds",
        "wall_s",
        "step_s",
        "compute_step_s",
        "compute_share",
        "data_s",
        "images_per_s",
        "peak_memory_gib",
        "metrics",
        "baselines",
        "verdict",
        "alarms",
    ),  # fmt: skip
    "bar": ("what", "case", "batch", "needed", "value", "ci95", "met", "text"),
    "definitions": ("format", "text"),
    "end": ("wall_s", "budget_s", "counts"),
}

DEFINITIONS = {
    "status": "ok; out of memory; failed; killed; skipped: `why` says for what reason",
    "step": "one whole training step: losses, gradients and updates of all phases and the moving average, on a batch "
    "that stays on the device; seeded as in training, nothing read or augmented",
    "samples_s": "seconds of single steps after a warm-up, back to back; on a GPU from one event to the next",
    "spread": "interquartile range of the samples over their median",
    "spread_90": "95th less 5th percentile of the samples, over their median",
    "precision": "bf16: autocast; fp32: float32 with TF32 in convolutions and matrix products where the card has it",
    "mode": "captured: gantk's default, the step as one graph where that can be, `notes` says where not; eager: "
    "operator by operator, train.capture = off; compiled: train.compile = true without capture",
    "peer": "gantk: its default path; gantk plain: all that can be turned off turned off; others at their own "
    "defaults, each by itself on a batch that stays on the device",
    "turns_s": "mean seconds of a few steps at a time, all sides in turns, their order swapped from round to round",
    "times": "how many times as long as gantk's a side's step takes: median over rounds, bootstrap 95 % interval",
    "host_waits": "how often a step makes the host wait for the device, as torch.cuda.set_sync_debug_mode counts, over "
    "up to 20 steps; null: not counted",
    "images_per_s": "images of each domain that went through a step, a second",
    "flops": "floating-point operations of the step's convolutions, matrix products and attention, forward and "
    "backward, two for a multiplication with its addition, by the formulas of torch.utils.flop_counter",
    "operators": "operators that the eager step dispatched, views left out: about as many kernels, where a fused "
    "optimizer's step counts once",
    "tflops_per_s": "flops over the median",
    "of_matmul, of_conv": "tflops_per_s over the best matrix product, and over the best convolution of as many "
    "dimensions, that was measured in the same run at the same precision",
    "peak_memory_gib": "the most that tensors held on the device, from building the method to its last step",
    "first_step_s": "the first step, choice of kernels included",
    "compute_share": "median step on a batch that stays on the device, over the mean step of the training",
    "cost": "`what` against `beside`, on the same images: ratio = beside_s / median_s for throughputs (1: as fast as "
    "the bare network), median_s / beside_s for costs of metrics beside a forward pass",
}  # fmt: skip


def row(part: str, status: str = "ok", why: str | None = None, **values: Any) -> dict[str, Any]:
    """A row with every key of its part, None where nothing is known; KeyError for a key that the part does not have."""
    unknown = set(values) - set(FIELDS[part])
    if unknown:
        raise KeyError(f"a row of '{part}' has no {', '.join(sorted(unknown))}")
    return {"part": part, "status": status, "why": why} | {key: plain(values.get(key)) for key in FIELDS[part]}


def plain(value: Any) -> Any:
    """A value that JSON can hold: what is not finite becomes None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def first_line(error: BaseException) -> str:
    """Class and first line of an error: what a row says of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_folders(f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": "))[:300]


def without_folders(text: str) -> str:
    """The text with files named by themselves: where they lie on this machine is nobody's business."""
    return FOLDERS.sub("", text)


class Writer:
    """Appends rows to a new file, each flushed to the disk: what was measured stays, whatever ends the run."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - open for as long as the run

    def __call__(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a file; one that was cut off is left out."""
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
