"""5,000 damaged files of every kind that is read: each is read or is one message, in bounded time
and memory, and the good files beside it are read as before.
"""

from __future__ import annotations

import collections
import json
import os
import random
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fuzzing
import pytest
from tiny import ROOT, draw_pictures

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("GANTK_FUZZ_SEED", 20261121))
COUNT = int(os.environ.get("GANTK_FUZZ_COUNT", 5000))
# of computing for one file; of memory in use at a time, above what the process takes before
SECONDS = 20
GIB = 2
BLOCKED = 300  # seconds on the clock, in which less than SECONDS of computing were done
WORKER = """
import json, os, resource, signal, sys, traceback
from pathlib import Path
import gantk_dicom.read, gantk_dicom.write, SimpleITK
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.data.check.inspect import inspect
io.formats()
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20
used = peak()
resource.setrlimit(resource.RLIMIT_DATA, (8 * 2**30,) * 2)  # what is asked for and never used may be more
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for line in sys.stdin:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    folder, said, good = Path(line.rstrip()), [], 0
    try:
        for scan in io.scans(folder):
            item, result = inspect(scan), "refused"
            good += scan.name.startswith("good") and item.error is None
            said.append(str(item.error or ""))
            for action in (lambda: io.outline(scan), lambda: io.files_of(scan.path), lambda: rewritten(scan)):
                try:
                    action()
                except UserError as error:
                    said.append(str(error))
    except BaseException:
        said.append("! " + traceback.format_exc()[-1500:])
    signal.setitimer(signal.ITIMER_PROF, 0)
    if peak() > used + GIB:
        said.append(f"! took {peak() - used:.1f} GiB")
        used = peak()
    print(json.dumps([good, said]), flush=True)
""".replace("SECONDS", str(SECONDS)).replace("GIB", str(GIB))
REWRITTEN = """
def rewritten(scan):
    if scan.name.startswith("good"):
        return
    image = io.read(scan)
    target = folder.parent / f"written-{os.getpid()}" / scan.path.name
    io.write(target / "series" if scan.path.is_dir() else target, image)
"""


class Worker:
    """A process that reads folders one after the other, and is replaced where one kills it."""

    def __init__(self):
        self.process = None
        self.folder = None
        self.since = 0.0

    def begin(self, folder: Path) -> None:
        if self.process is None:
            place = [str(ROOT / "plugins"), str(ROOT)]
            environment = os.environ | {
                "GANTK_MAX_GIB": "0.25",
                "PYTHONPATH": os.pathsep.join(place),
            }
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                WORKER.replace("io.formats()", REWRITTEN + "io.formats()"),
            ]
            pipes = {
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.DEVNULL,
            }
            self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        self.folder = folder
        self.since = time.monotonic()

    def end(self) -> tuple[int, list[str]]:
        """How many good files were read, and what was said; what ended the process."""
        line = self.process.stdout.readline()
        if not line:
            self.process.kill()
            code = self.process.wait()
            self.process = None
            return 0, [
                f"! ended by signal {-code}, 27 being that of the limit of {SECONDS} s of computing"
            ]

        return tuple(json.loads(line))


def test_damaged_files_are_read_or_refused(tmp_path, request):
    real = Path(os.environ.get("GANTK_TEST_DATA", ROOT.parent / "shared" / "data"))
    samples = fuzzing.corpus(tmp_path / "corpus", real if real.is_dir() else None)
    names = list(samples)
    starts = [next(iter(parts.values())) for parts in samples.values()]
    draw_pictures(tmp_path / "good", 1)
    good = next((tmp_path / "good").rglob("*.png"))
    workers = [Worker() for _ in range(len(os.sched_getaffinity(0)))]
    idle = list(workers)
    outcomes = collections.Counter()
    failed = {}
    number = 0
    while number < COUNT or len(idle) < len(workers):
        while idle and number < COUNT:
            rng = random.Random(f"{SEED} {number}")
            name = names[number % len(names)]
            folder = tmp_path / f"{number:05d} {name}"
            (folder / "bad").mkdir(parents=True)
            shutil.copy(good, folder / "good.png")
            for place, (part, content) in enumerate(samples[name].items()):
                changed = content if place else fuzzing.changed(content, starts, rng)
                (folder / "bad" / part).write_bytes(changed)
            worker = idle.pop()
            number = number + 1
            worker.begin(folder)
        busy = {worker.process.stdout: worker for worker in workers if worker not in idle}
        for ready in select.select(list(busy), [], [], 5)[0]:
            worker = busy[ready]
            done, said = worker.end()
            wrong = [
                text
                for text in said
                if text[:1] == "!" or "does not fit into memory" in text or "Traceback" in text
            ]
            wrong += [] if done == 1 else ["! the good file beside it was not read"]
            outcomes["wrong" if wrong else "refused" if any(said) else "read"] += 1
            if wrong:
                failed[worker.folder.name] = wrong[0]
            else:
                shutil.rmtree(worker.folder)
            idle.append(worker)
        for worker in workers:
            if worker not in idle and time.monotonic() - worker.since > BLOCKED:
                worker.process.kill()

    for worker in workers:
        worker.process.kill()
        worker.process.wait()

    print(f"seed {SEED}: {dict(outcomes)} of {COUNT} files of {len(names)} kinds")
    assert not failed, f"{len(failed)} of {COUNT}, kept in {tmp_path}:\n" + "\n".join(
        map(": ".join, failed.items())
    )


def test_good_files_among_damaged_ones_are_translated(tiny_run, tmp_path, gantk, monkeypatch):
    monkeypatch.setenv("GANTK_MAX_GIB", "0.01")
    samples = fuzzing.corpus(tmp_path / "corpus", None)
    rng = random.Random(SEED)
    starts = [next(iter(parts.values())) for parts in samples.values()]
    draw_pictures(tmp_path / "in", 4)
    good = [path.relative_to(tmp_path / "in") for path in (tmp_path / "in").rglob("*.png")]
    for number, parts in enumerate(list(samples.values()) * 4):
        place = tmp_path / "in" / f"bad {number}"
        place.mkdir()
        for later, (part, content) in enumerate(parts.items()):
            (place / part).write_bytes(content if later else fuzzing.changed(content, starts, rng))

    outcome = gantk("translate", tiny_run, tmp_path / "in", tmp_path / "out", "--device", "cpu")
    assert outcome.code in (1, 2) and all((tmp_path / "out" / path).is_file() for path in good), (
        outcome
    )
    checked = gantk("data", "check", tmp_path / "in")
    assert checked.code in (0, 1, 2)
    assert "Traceback" not in checked.out + checked.err
