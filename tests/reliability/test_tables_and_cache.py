"""Large tables and a cache that many fill: counts and ratios, never seconds; killed at random,
nothing stays behind.

Bounds: 4 times the rows are at most 4.5 times the calls, 5 times the memory, and at most the opened
files; of 12 fillings by four processes, in each of which one is killed, none gives another image,
leaves a temporary file or passes the limit.
"""

from __future__ import annotations

import cProfile
import csv
import os
import pstats
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantk.data.cache import Cache
from gantk.data.dataset import source_and_records
from gantk.recipe.load import Recipe

pytestmark = pytest.mark.slow
SEED = 20261121
METHOD = type("Unpaired", (), {"paired": False, "reads": ("a", "b")})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of 8,000 pictures of 12 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(SEED)
    for number in range(8000):
        Image.fromarray(rng.integers(0, 255, (12, 12), dtype=np.uint8)).save(
            folder / f"{number:05d}.png"
        )
    return folder


def table(folder: Path, rows: int) -> Path:
    path = folder / f"table-{rows}.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerow(["path", "domain", "patient"])
        for number in range(rows):
            csv.writer(file).writerow(
                [f"{number:05d}.png", ("T1", "T2")[number % 2], f"p{number // 40}"]
            )
    return path


def records(path: Path) -> list:
    data = {"source": {"name": "manifest", "path": str(path)}, "domains": ["T1", "T2"]}
    return source_and_records(Recipe({"data": data}).data_table(), METHOD)[1]


def calls(function) -> int:
    """How many functions a call of this one calls, whatever the load of the machine."""
    profile = cProfile.Profile()
    profile.runcall(function)
    return pstats.Stats(profile).total_calls


def test_table_cost_grows_linearly_with_rows(pictures):
    few = table(pictures, 2000)
    many = table(pictures, 8000)
    records(few)
    peaks = []
    for path in (few, many):
        tracemalloc.start()
        found = records(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found) == (2000 if path == few else 8000)

    assert peaks[1] < 5 * peaks[0], "bytes a row"
    assert peaks[1] / 8000 < 4096, "bytes a row"
    assert calls(lambda: records(many)) < 4.5 * calls(lambda: records(few))


FILL = """
import sys, warnings
import numpy as np
from pathlib import Path
from gantk.data.cache import Cache
warnings.simplefilter("ignore")
folder, limit, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache, order = Cache(folder, limit), np.random.default_rng(seed).permutation(400)
print("ready", flush=True)
for number in order:
    expected = np.random.default_rng(number).random((2, 1, 32, 32)).astype(np.float32)
    found = cache.rows(f"{number:032x}", lambda: expected)
    assert found is None or np.array_equal(found, expected), number
print("right", flush=True)
"""


def test_a_cache_survives_a_killed_writer_among_four(tmp_path):
    chance = random.Random(SEED)
    limit = 2**21
    size = 0
    for number in range(12):
        # the fourth filling of each finds what the others left
        folder = tmp_path / f"cache-{number % 3}"
        started = [
            subprocess.Popen(
                [sys.executable, "-c", FILL, folder, str(limit), str(4 * number + k)],
                stdout=subprocess.PIPE,
            )
            for k in range(4)
        ]
        for one in started:
            assert one.stdout.readline() == b"ready\n"

        # somewhere in its work, wherever the machine is by then
        time.sleep(chance.uniform(0, 0.15))
        os.kill(started[0].pid, signal.SIGKILL)
        for one in started[1:]:
            assert one.communicate()[0] == b"right\n"
            assert one.returncode == 0

        started[0].communicate()
        with suppress(OSError):  # it is full: what was used within the hour stays
            Cache(folder, limit)._make_room(1)  # as the first store of the next process does

        left = [path for path in (folder / "images").iterdir() if path.name.startswith(".")]
        size = sum(path.stat().st_size for path in (folder / "images").iterdir())
        # what others write at that moment
        assert not left and size <= limit + 3 * 8400, f"filling {number}"

    assert size > 0.5 * limit
