"""Several processes at one run folder, readers that leave, terminals that close, and Ctrl-C while
gantk starts.

2 x 3 starts with names of their own, 3 with one name, 2 resumes, 4 commands beside a training, 7
ways to be left, 40 kills of a start (seed 1), a bench that is killed; about 3 minutes on two idle
cores.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tiny import TINY, draw_pictures, read_json, write_toml

pytestmark = pytest.mark.slow
GANTK = [sys.executable, "-m", "gantk"]
SHORT = TINY | {"train": TINY["train"] | {"steps": 6}, "evaluate": TINY["evaluate"] | {"images": 2}}
ENDLESS = [
    "--set",
    "train.steps=1000000",
    "--set",
    "train.save_every=1000000",
    "--set",
    "train.sample_every=1000000",
]
STARTED: list[subprocess.Popen] = []  # processes of a test
STARTS = 40
SEED = 1
FROM_PYTHON = re.compile(r'File "(?!<|.*/bin/gantk)[^"]*gantk')  # a line of ours in a traceback


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Path]:
    write_toml(tmp_path / "tiny.toml", SHORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path
    while STARTED:  # a failed test leaves an endless training
        STARTED.pop().kill()


def start(*words: object, **more) -> subprocess.Popen:
    """`gantk WORDS`, to which Ctrl-C is no stranger even where this test runs in the background."""
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "start_new_session": True,
    } | more
    options = {"preexec_fn": reset_signals} | options
    STARTED.append(subprocess.Popen([*GANTK, *map(str, words)], **options))
    return STARTED[-1]


def reset_signals() -> None:
    """Undo what nohup, or a shell that starts this test in the background, has set."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def train(out: str, *words: str, **more) -> subprocess.Popen:
    return start("run", "tiny.toml", "--device", "cpu", "--out", out, *words, **more)


def ended(*processes: subprocess.Popen) -> list[tuple[int, str, str]]:
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


def steps(run: Path) -> list[int]:
    """The steps of the log that have losses, in its order."""
    text = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
    return [line["step"] for line in map(json.loads, text.split("\n")[:-1]) if "losses" in line]


def saves(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def until(true, process: subprocess.Popen) -> None:
    while not true():
        assert process.poll() is None, ended(process)
        time.sleep(0.01)


def test_starts_in_threes_get_folders_of_their_own(place):
    for round in range(2):
        begun = [
            start("run", "tiny.toml", "--device", "cpu", "--seed", 10 * round + seed)
            for seed in range(3)
        ]
        for seed, (code, out, err) in enumerate(ended(*begun), 10 * round):
            assert code == 0, err
            run = Path(re.search(r"^run +(\S+)$", out, re.M)[1])
            assert f"seed = {seed}\n" in (run / "recipe.toml").read_text()
            assert steps(run) == [
                1,
                2,
                3,
                4,
                5,
                6,
            ]
            assert read_json(run / "environment.json")["command"].endswith(f"--seed {seed}")

    assert len(list((place / "runs").iterdir())) == 6


def wait_for_losers(processes: list[subprocess.Popen]) -> subprocess.Popen:
    """Wait until one process alone is left, and return it."""
    while True:
        left = [process for process in processes if process.poll() is None]
        if len(left) < 2:
            (winner,) = left
            return winner
        time.sleep(0.1)


def test_one_of_several_writers_of_a_folder_wins(place):
    run = place / "one"
    begun = [train("one", "--seed", str(seed), *ENDLESS) for seed in range(3)]
    winner = wait_for_losers(begun)
    until(lambda: len(steps(run)) > 2, winner)
    winner.send_signal(signal.SIGINT)

    endings = ended(*begun)
    for process, (code, _, err) in zip(begun, endings, strict=True):
        if process is winner:
            assert code == 130, err
        else:
            assert code == 2, err
            assert f"process {winner.pid} on " in err

    assert f"seed = {begun.index(winner)}\n" in (run / "recipe.toml").read_text()


def test_one_of_two_resumes_wins_and_a_kill_frees_the_folder(place):
    run = place / "one"
    training = train("one", *ENDLESS)
    until(lambda: len(steps(run)) > 2, training)
    training.send_signal(signal.SIGINT)
    ended(training)

    resumed = [start("resume", "one", "--device", "cpu") for _ in range(2)]
    first = wait_for_losers(resumed)
    first.send_signal(signal.SIGKILL)  # which frees the folder
    (second,) = (process for process in resumed if process is not first)
    _, (code, _, err) = ended(first, second)

    assert code == 2
    assert f"process {first.pid} on " in err
    assert "gantk resume one" in err

    again = start("resume", "one", "--device", "cpu")
    until(lambda: again.stdout.readline().startswith("step "), again)
    again.send_signal(signal.SIGTERM)

    assert ended(again)[0][0] == 130
    logged = steps(run)
    assert logged == list(range(1, logged[-1] + 1))


def test_beside_a_training_others_read_and_none_writes(place):
    draw_pictures(place / "in", 2)
    often = ["--set", "train.save_every=1", "--set", "train.keep=1"]
    training = train("run", *ENDLESS, *often, stdout=subprocess.DEVNULL)
    until(lambda: saves(place / "run"), training)
    commands = [("translate", "run", "in", f"out-{k}", "--device", "cpu") for k in range(2)]
    commands += [("report", "run"), ("eval", "run", "--device", "cpu")]
    for command in commands:
        ((code, _, err),) = ended(start(*command))
        assert code == (2 if command[0] == "eval" else 0), (command, err)
        assert code == 0 or f"process {training.pid} on " in err
        assert training.poll() is None

    training.send_signal(signal.SIGINT)

    assert ended(training)[0][0] == 130
    assert saves(place / "run")[-1] == steps(place / "run")[-1]


WAYS = (
    "head",
    "head of both",
    "tee and Ctrl-C",
    "SIGHUP",
    "SIGTERM twice",
    "terminal",
    "nohup",
)


def streams_of(way: str, writing: int) -> dict[str, object]:
    """How a training is started that will be left in this way."""
    both = way in ("head of both", "terminal")
    streams = {"stdout": writing, "stderr": writing if both else subprocess.PIPE}

    def prepare() -> None:
        reset_signals()
        if way == "terminal":
            os.login_tty(writing)
        if way == "nohup":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    if way == "terminal":
        streams["start_new_session"] = False
    return streams | {"preexec_fn": prepare}


# way -> the signals that are sent, beside what a terminal sends itself
SIGNALS = {
    "tee and Ctrl-C": [signal.SIGINT],
    "SIGHUP": [signal.SIGHUP],
    "SIGTERM twice": [signal.SIGTERM] * 2,
    "nohup": [signal.SIGHUP],
}


@pytest.mark.parametrize("way", WAYS)
def test_saving_comes_first_and_telling_second(place, way):
    run = place / "run"
    reading, writing = pty.openpty() if way == "terminal" else os.pipe()
    training = train("run", *ENDLESS, **streams_of(way, writing))
    os.close(writing)
    os.set_blocking(reading, False)

    def logged() -> bool:
        with suppress(OSError):
            os.read(reading, 1 << 16)  # as head and tee do, until they end
        return len(steps(run)) > 4

    until(logged, training)
    if way in ("head", "head of both", "tee and Ctrl-C", "terminal"):
        os.close(reading)

    for number in SIGNALS.get(way, []):
        training.send_signal(number)
        time.sleep(0.05)

    if way == "nohup":
        count = len(steps(run))
        until(lambda: logged() and len(steps(run)) > count + 2, training)
        training.send_signal(signal.SIGINT)

    ((code, _, err),) = ended(training)

    assert code == 130
    assert saves(run) == [steps(run)[-1]]
    if err is not None:
        assert "Traceback" not in err
        assert "gantk resume run" in err


def test_ctrl_c_while_gantk_starts_ends_it_with_130(place):
    command = ("run", "tiny.toml", "--device", "cpu", "--data", "nowhere")
    for _ in range(2):  # the first fills the caches of the disk
        began = time.perf_counter()
        ended(start(*command))
        whole = time.perf_counter() - began

    drawn = random.Random(SEED)
    early = 0
    for number in range(STARTS):
        process = start(*command)
        time.sleep(whole * (number + drawn.random()) / STARTS)
        process.send_signal(signal.SIGINT)
        ((code, _, err),) = ended(process)
        # Python itself had not yet begun with gantk
        if "Traceback" in err and not FROM_PYTHON.search(err):
            early += 1
            continue

        assert "Traceback" not in err, err
        assert code in (130, -signal.SIGINT, 2), err
        assert code != 2 or "nowhere" in err  # it had ended before

    assert early <= STARTS / 10


def test_a_killed_bench_leaves_no_training_and_goes_on(place):
    bench = ("bench", "tiny.toml", "--out", "b", "--device", "cpu", *ENDLESS)
    run = place / "b/runs/tiny"
    killed = start(*bench)
    until(lambda: len(steps(run)) > 2, killed)
    killed.kill()
    pid = read_json(run / ".lock")["pid"]
    again = start(*bench, "--resume")
    until(lambda: not Path(f"/proc/{pid}").exists(), again)
    second = start(*bench, "--resume")
    code, _, err = ended(second)[0]

    assert code == 2
    assert f"process {again.pid} on " in err
    again.send_signal(signal.SIGINT)
    assert ended(again)[0][0] == 130
    ended(killed)
