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


class Campaign:
    """Damaged files by number, each in a folder beside a good one, and what was said of them."""

    def __init__(self, tmp_path: Path, samples: dict[str, dict[str, bytes]]):
        self.tmp_path = tmp_path
        self.samples = samples
        self.names = list(samples)
        self.starts = first_parts(samples)
        draw_pictures(tmp_path / "good", 1)
        self.good = next((tmp_path / "good").rglob("*.png"))
        self.outcomes = collections.Counter()
        self.failed = {}

    def damaged_folder(self, number: int) -> Path:
        rng = random.Random(f"{SEED} {number}")
        name = self.names[number % len(self.names)]
        folder = self.tmp_path / f"{number:05d} {name}"
        (folder / "bad").mkdir(parents=True)
        shutil.copy(self.good, folder / "good.png")
        write_damaged(folder / "bad", self.samples[name], self.starts, rng)
        return folder

    def judge(self, folder: Path, good: int, said: list[str]) -> None:
        """Count what was said of a folder; it is kept where that was wrong."""
        wrong = [text for text in said if is_wrong(text)]
        if good != 1:
            wrong.append("! the good file beside it was not read")

        if wrong:
            self.outcomes["wrong"] += 1
            self.failed[folder.name] = wrong[0]
            return

        self.outcomes["refused" if any(said) else "read"] += 1
        shutil.rmtree(folder)


def first_parts(samples: dict[str, dict[str, bytes]]) -> list[bytes]:
    return [next(iter(parts.values())) for parts in samples.values()]


def write_damaged(
    folder: Path, parts: dict[str, bytes], starts: list[bytes], rng: random.Random
) -> None:
    """Write a sample of which the first part is changed."""
    for place, (part, content) in enumerate(parts.items()):
        changed = content if place else fuzzing.changed(content, starts, rng)
        (folder / part).write_bytes(changed)


def is_wrong(text: str) -> bool:
    return text[:1] == "!" or "does not fit into memory" in text or "Traceback" in text


def test_damaged_files_are_read_or_refused(tmp_path, request):
    real = Path(os.environ.get("GANTK_TEST_DATA", ROOT.parent / "shared" / "data"))
    samples = fuzzing.corpus(tmp_path / "corpus", real if real.is_dir() else None)
    campaign = Campaign(tmp_path, samples)
    workers = [Worker() for _ in range(len(os.sched_getaffinity(0)))]
    idle = list(workers)
    number = 0
    while number < COUNT or len(idle) < len(workers):
        while idle and number < COUNT:
            idle.pop().begin(campaign.damaged_folder(number))
            number = number + 1

        busy = {worker.process.stdout: worker for worker in workers if worker not in idle}
        for ready in select.select(list(busy), [], [], 5)[0]:
            worker = busy.pop(ready)
            good, said = worker.end()
            campaign.judge(worker.folder, good, said)
            idle.append(worker)

        for worker in busy.values():
            if time.monotonic() - worker.since > BLOCKED:
                worker.process.kill()

    for worker in workers:
        worker.process.kill()
        worker.process.wait()

    failed = campaign.failed
    print(f"seed {SEED}: {dict(campaign.outcomes)} of {COUNT} files of {len(samples)} kinds")
    told = "\n".join(": ".join(each) for each in failed.items())

    assert not failed, f"{len(failed)} of {COUNT}, kept in {tmp_path}:\n{told}"


def test_good_files_among_damaged_ones_are_translated(tiny_run, tmp_path, gantk, monkeypatch):
    monkeypatch.setenv("GANTK_MAX_GIB", "0.01")
    inputs = tmp_path / "in"
    outputs = tmp_path / "out"
    samples = fuzzing.corpus(tmp_path / "corpus", None)
    rng = random.Random(SEED)
    starts = first_parts(samples)
    draw_pictures(inputs, 4)
    good = [path.relative_to(inputs) for path in inputs.rglob("*.png")]
    for number, parts in enumerate(list(samples.values()) * 4):
        place = inputs / f"bad {number}"
        place.mkdir()
        write_damaged(place, parts, starts, rng)

    outcome = gantk("translate", tiny_run, inputs, outputs, "--device", "cpu")
    checked = gantk("data", "check", inputs)

    assert outcome.code in (1, 2), outcome
    assert all((outputs / path).is_file() for path in good), outcome
    assert checked.code in (0, 1, 2)
    assert "Traceback" not in checked.out + checked.err
