"""Commands of gantk in forks of one process that has loaded, and used, all they need: a hundred in
the time of ten.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

FORKS = """
import contextlib, ctypes, importlib, json, os, resource, signal, sys, time, traceback
import torch
import pandas  # its pyarrow keeps a thread, which forks do without
torch.set_num_threads(1)
from gantk.cli import main
faults = ctypes.CDLL(None)

def run(job):
    os.chdir(job["place"])
    sys.argv, code = ["gantk", *job["command"]], 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush(), sys.stderr.flush()
    return code

questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
print("ready", file=answers)
for line in questions:
    job, (reading, writing) = json.loads(line), os.pipe()
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2), os.close(output)
    if job["here"]:
        threads, code = len(os.listdir("/proc/self/task")), run(job)
        os.chdir("/")
        end = time.monotonic() + 30
        while len(os.listdir("/proc/self/task")) > threads:  # no fork has them; those that read ahead end soon
            assert time.monotonic() < end, "threads are left"
            time.sleep(0.05)
        print(json.dumps([code, 0, 0]), file=answers)
        continue
    known, child = set(sys.modules), os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_PROF, job["seconds"])  # of computing: a busy machine is no hang
        signal.alarm(10 * job["seconds"])
        os.setpgid(0, 0)
        if job["armed"]:
            faults.faults_arm(os.fsencode(job["place"]), ctypes.c_long(job["at"]), job["full"])
        code = run(job)
        changes = ctypes.c_long(faults.faults_calls()).value if job["armed"] else 0
        os.write(writing, json.dumps([changes, [name for name in sys.modules if name not in known]]).encode())
        os._exit(code)
    os.close(writing)
    with open(reading) as told:
        changes, names = json.loads(told.read() or "[0, []]")
    for name in names:
        with contextlib.suppress(Exception):  # so that the next fork need not
            importlib.import_module(name)
    _, status, used = os.wait4(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), changes, used.ru_maxrss]), file=answers)
"""


class Done(NamedTuple):
    """How a command ended; -9 is a kill."""

    code: int
    said: str  # on standard output and error
    changes: int  # of files below its folder, where these are counted
    memory: int  # KiB at the most


class Warm:
    """Runs `gantk` commands in forks of one process.

    Modules that a fork imports are imported for all that follow. What is compiled or found out at
    first use (templates of the report, kernels) is there for them where `use` has run such a
    command before, in the process itself.
    """

    def __init__(self, folder: Path, library: Path | None = None):
        """`folder`: for what is printed; `library`: of faults.c."""
        self.output = folder / "output.txt"
        self.armed = library is not None
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "GANTK_CACHE_GIB": "0",
            "CUDA_VISIBLE_DEVICES": "",
        }
        environment |= {"LD_PRELOAD": str(library)} if library else {}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", FORKS], env=environment, **pipes
        )
        assert self.process.stdout.readline() == "ready\n"

    def __call__(
        self,
        place: Path,
        *command: object,
        at: int = 0,
        full: bool = False,
        seconds: int = 120,
        here: bool = False,
    ) -> Done:
        """A command in the folder `place`, in a fork, or `here`: in the process itself.

        At the `at`-th change of a file below `place` the fork dies, or with `full` finds the disk
        full from there on. After `seconds` of computing, or ten times as long on the clock, it is
        ended.
        """
        job = {
            "place": str(place),
            "command": [str(word) for word in command],
            "at": at,
            "full": int(full),
        }
        job |= {"output": str(self.output), "seconds": seconds, "here": here, "armed": self.armed}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code, changes, memory = json.loads(self.process.stdout.readline() or "[70, 0, 0]")
        return Done(code, self.output.read_text("utf-8", "replace"), changes, memory)

    def use(self, place: Path, *command: object, code: int = 0) -> None:
        """A command in the process itself, in a copy of `place`: `place` itself is still to be
        swept by forks.
        """
        with tempfile.TemporaryDirectory() as folder:
            done = self(shutil.copytree(place, Path(folder) / "copy"), *command, here=True)
        assert done.code == code, done.said

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
