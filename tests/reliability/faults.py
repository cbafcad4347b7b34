"""Commands in processes that die, or find the disk full, at a chosen change of a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FORKS = """
import ctypes, importlib, json, os, signal, sys
faults = ctypes.CDLL(None)
faults.faults_calls.restype = ctypes.c_long
import torch
torch.set_num_threads(1)
from gantk.cli import main
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    reading, writing = os.pipe()
    known = set(sys.modules)
    child = os.fork()
    if not child:
        code = 0
        signal.alarm(job["seconds"])
        os.setpgid(0, 0)
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(output, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(job["place"])
        sys.argv = ["gantk", *job["command"]]
        faults.faults_arm(os.fsencode(job["place"]), ctypes.c_long(job["at"]), job["full"])
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 70
        calls, new = faults.faults_calls(), [name for name in sys.modules if name not in known]
        os.write(writing, json.dumps([calls, new]).encode())
        os._exit(code)
    os.close(writing)
    told = b""
    while part := os.read(reading, 1 << 16):
        told += part
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls, new = json.loads(told or "[0, []]")
    for name in new:  # so that the next need not
        try:
            importlib.import_module(name)
        except Exception:
            pass
    print(json.dumps([code, calls]), flush=True)
"""


class Faulty:
    """Runs `gantk` commands in forks of one process, each with its fault; code and number of changes are returned."""

    def __init__(self, library: Path):
        environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "GANTK_CACHE_GIB": "0"}
        self.output = library.with_name("output.txt")
        command = [sys.executable, "-P", "-c", FORKS]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        assert self.process.stdout.readline() == "ready\n"

    def __call__(self, place: Path, *command: str, at: int = 0, full: bool = False, seconds: int = 120) -> tuple:
        """(exit code, changes of files, what was printed) of a command in the folder `place`; -9 is a kill.

        At the `at`-th change below `place` the process dies, or with `full` finds the disk full from there on.
        """
        job = {"place": str(place), "command": [str(word) for word in command], "at": at, "full": int(full)}
        job |= {"output": str(self.output), "seconds": seconds}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code, calls = json.loads(self.process.stdout.readline())
        return code, calls, self.output.read_text("utf-8", "replace")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def faulty(folder: Path) -> Faulty:
    """A `Faulty` whose library is compiled in a folder; the test is skipped where that cannot be done."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("faults are put between a process and Linux by a library that a C compiler makes")
    library = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return Faulty(library)
