"""Rows of a GPU run: JSON lines, flushed one by one; their fields are defined in `DEFINITIONS`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gantk_bench.rows import finite

FORMAT = 3
OUT_OF_TIME = "out of time budget"
MEMORY, FAILED, SKIPPED, KILLED = "out of memory", "failed", "skipped", "killed"
PATH_PREFIX = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":]+/)+")
TASK_KEYS = ("kind", "what", "when", "peer", "case", "recipe", "settings", "dims", "size", "batch", "precision", "mode")
Row = dict[str, Any]

DEFINITIONS = {
    "status": "ok; out of memory; failed; killed; skipped: `why` says for what reason",
    "step": "one whole training step: losses, gradients and updates of all phases and the moving average, on a batch "
    "that stays on the device; seeded as in training, nothing read or augmented",
    "samples_s": "seconds of single steps after a warm-up, back to back; on a GPU from one event to the next",
    "spread": "interquartile range of the samples over their median",
    "spread_90": "95th less 5th percentile of the samples, over their median",
    "precision": "bf16: autocast; fp32: float32 with TF32 in convolutions and matrix products where the card has it",
    "mode": "captured: gantk's default, the step as one graph where that can be, `notes` says where not; eager: "
    "operator by operator, train.fast.cuda_graph = false; compiled: train.fast.compile = true without capture",
    "peer": "gantk: its default path; gantk plain: train.fast = false in fp32; others at their own defaults, each by "
    "itself on a batch that stays on the device",
    "turns_s": "mean seconds of a few steps at a time, all sides in turns, their order swapped from round to round",
    "times": "how many times as long as gantk's a side's step takes: median over rounds, bootstrap 95 % interval",
    "host_waits": "how often a step makes the host wait for the device, as torch.cuda.set_sync_debug_mode counts, over "
    "up to 20 steps",
    "images_per_s": "images of each domain that went through a step, a second",
    "flops": "floating-point operations of the step's convolutions, matrix products and attention, forward and "
    "backward, two for a multiplication with its addition, by the formulas of torch.utils.flop_counter",
    "tflops_per_s": "flops over the median",
    "of_matmul, of_conv": "tflops_per_s over the best matrix product, and over the best convolution of as many "
    "dimensions, that was measured in the same run at the same precision",
    "peak_memory_gib": "the most that tensors held on the device, from building the method to its last step",
    "first_step_s": "the first step, choice of kernels included",
}  # fmt: skip


def row(part: str, status: str = "ok", why: str | None = None, **values: Any) -> Row:
    """A row for JSON: NaN and infinity become None."""
    return {"part": part, "status": status, "why": why} | finite(values)


def missing_rows(task: dict[str, Any], status: str, why: str) -> list[Row]:
    """Rows for a task without results: its parameters, `status` and the reason `why`."""
    fields = {key: task[key] for key in TASK_KEYS if key in task}
    if task["part"] != "peer":
        return [row(task["part"], status, why, **fields)]
    fields |= {"dims": 2, "size": [task["size"]] * 2}
    sides = [row("peer", status, why, **fields, peer=side) for side in task["sides"]]
    return [*sides, row("ratio", status, why, **fields)]


def first_line(error: BaseException) -> str:
    """Class and first line of an error, with paths shortened to file names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return PATH_PREFIX.sub("", f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": "))[:300]


def best(rows: list[Row], kind: str, precision: str, dims: int | None = None) -> float | None:
    """The highest measured peak rate of a kind ("matmul", "conv") in TFLOP/s; None if there is none."""
    rates = [
        entry["reached"]
        for entry in rows
        if entry["part"] == "ceiling" and entry["status"] == "ok" and entry["precision"] == precision
        if entry["kind"].startswith(kind) and (dims is None or entry["dims"] == dims)
    ]
    return max(rates, default=None)


class Writer:
    """Writes rows to a new file, each synced to the disk, so that an interrupted run keeps its rows."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - open for as long as the run

    def __call__(self, entry: Row) -> None:
        self.rows.append(entry)
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file; a truncated line is skipped."""
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
