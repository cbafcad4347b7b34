"""Fifty thousand steps: memory, threads, open files, shared memory and the run folder do not grow
with them.
"""

from __future__ import annotations

import json
import os

import pytest
from tiny import TINY, python, write_toml

STEPS = 50_000
EVERY = 2_500
WATCH = """
import gc, json, os, sys
from pathlib import Path
from gantk import hookimpl

@hookimpl
def gantk_step_logged(run, stage, step, logs, batch):
    if step % int(os.environ["WATCH_EVERY"]):
        return
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    files = [p for p in Path(run).rglob("*") if p.is_file()]
    row = {"step": step, "resident": resident, "threads": len(os.listdir("/proc/self/task"))}
    row |= {"open": len(os.listdir("/proc/self/fd")), "shared": len(os.listdir("/dev/shm")), "files": len(files)}
    print(json.dumps(row | {"bytes": sum(p.stat().st_size for p in files)}), file=sys.stderr, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts what Linux lists in /proc")
def test_a_long_training_grows_in_nothing_but_its_log(tmp_path, add_plugin):
    unet = {"name": "unet", "width": 2, "depth": 2}
    method = {
        "name": "pix2pix",
        "generator": unet,
        "discriminator": TINY["method"]["discriminator"],
    }
    train = TINY["train"] | {
        "steps": STEPS,
        "batch": 1,
        "log_every": 500,
        "sample_every": EVERY,
        "save_every": EVERY,
    }
    data = TINY["data"] | {
        "size": [16, 16],
        "source": {"name": "phantom", "subjects": 6, "slices": 1},
    }
    recipe = tmp_path / "soak.toml"
    write_toml(recipe, TINY | {"method": method, "train": train, "data": data})
    add_plugin("watch", "watch", WATCH)
    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(tmp_path / "installed"),
        "WATCH_EVERY": str(EVERY),
    }
    run = ("run", recipe, "--out", tmp_path / "run", "--device", "cpu")
    done = python("-m", "gantk", *run, **environment).ok()
    rows = [json.loads(line) for line in done.err.splitlines() if line.startswith('{"step"')]
    assert len(rows) == STEPS // EVERY

    # settled: the first samples, saves and reports are behind
    early = rows[3]
    late = rows[-1]
    steps = (late["step"] - early["step"]) / 1000

    assert (late["resident"] - early["resident"]) / steps < 0.25 * 2**20, rows
    assert late["threads"] <= early["threads"], rows
    assert late["open"] <= early["open"], rows
    assert late["shared"] <= early["shared"], rows
    samples = (late["step"] - early["step"]) // EVERY * 8  # pictures of each time
    assert late["files"] - early["files"] <= samples, rows
    assert late["bytes"] - early["bytes"] < 2**20 * steps / 4, rows
