"""`gantk sweep`: drawn settings are allowed ones, nothing is lost to a kill, and a trial is the run
it says it is.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from several import SRUN
from tiny import TINY, read_json, same_weights, weights_of, write_json, write_toml

import gantk
from gantk import __version__ as version
from gantk.errors import GantkError, UserError
from gantk.files import make_folder, temporary_beside, write_file
from gantk_cluster.sweep import sweep as sweeping
from gantk_cluster.sweep.sweep import write_table
from gantk_cluster.sweep.trial import expect_same_node

STEPS = 24
RECIPE = TINY | {"train": TINY["train"] | {"steps": STEPS, "save_every": 2, "sample_every": 100}}
SPACE = ["method.cycle=1.0..20.0:log", "train.optimizer.lr=1e-4..1e-3:log"]


def table_of(folder) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sweep.csv").read_text("utf-8").splitlines()))


def test_the_table_ranks_trials_by_best_checkpoint(tmp_path):
    asked = {
        "name": "tiny",
        "recipe": TINY,
        "space": SPACE,
        "steps": 4,
    }
    write_json(tmp_path / "sweep.json", asked | {"trials": 3})
    for number, scores in enumerate([[3.0, 2.5], [9.0, 1.5], [None]]):
        run = tmp_path / "trials" / f"trial-{number:05}"
        run.mkdir(parents=True)
        values = {"method.cycle": 2.0 + number, "train.optimizer.lr": 2e-4}
        write_json(run / "trial.json", {"values": values, "error": None})
        table = [{"step": 2 * place + 2, "score": score} for place, score in enumerate(scores)]
        best = {"rule": "lowest", "higher_is_better": False, "step": 4, "table": table}
        write_json(run / "best.json", best)
        (run / "recipe.toml").write_text(f"[method]\ncycle = {2.0 + number}\n")

    (tmp_path / "trials" / "trial-00003").mkdir()  # killed as it began
    write_table(tmp_path)
    rows = table_of(tmp_path)

    assert [(row["trial"][-1], row["score"], row["step"]) for row in rows] == [
        ("1", "1.5", "4"),
        ("0", "2.5", "4"),
        ("2", "", ""),
    ]
    assert [row["method.cycle"] for row in rows] == ["3.0", "2.0", "4.0"]
    assert "cycle = 3.0" in (tmp_path / "best.toml").read_text()


def started(*words: object, log: Path) -> subprocess.Popen:
    with log.open("ab") as file:
        command = [sys.executable, "-m", "gantk", "sweep", *map(str, words)]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def until(words: str, log: Path, process: subprocess.Popen, trials: Path | None = None) -> None:
    """Wait until a sweep, or one of its `trials`, has said the words."""
    while True:
        files = trials.glob("trials/*/output.txt") if trials else [log]
        if any(words in file.read_text("utf-8", "replace") for file in files):
            return
        assert process.poll() is None, log.read_text("utf-8", "replace")
        time.sleep(0.1)


def assert_as_if_left_alone(folder: Path, apart: Path) -> None:
    """Every trial's weights are bit by bit those of a training of the same settings that nobody
    disturbed.
    """
    recipe = read_json(folder / "sweep.json")["recipe"]
    for run in sorted((folder / "trials").glob("trial-*")):
        noted = read_json(run / "trial.json")
        if (run / "metrics.json").is_file():
            alone = gantk.run(
                recipe,
                set=noted["values"],
                out=apart / run.name,
                device="cpu",
                say=lambda line: None,
            )
            assert same_weights(weights_of(run, STEPS), weights_of(alone.path, STEPS))


@pytest.fixture
def recipe(tmp_path) -> Path:

    write_toml(tmp_path / "tiny.toml", RECIPE)
    return tmp_path / "tiny.toml"


@pytest.mark.slow
def test_sweep_survives_killed_workers_and_driver(tmp_path, recipe, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    log = tmp_path / "log"
    spaces = [word for space in SPACE for word in ("--space", space)]
    asked = [recipe, *spaces, "--trials", 2, "--device", "cpu", "--out", out]
    node = {"num_cpus": 1, "env_vars": SRUN}  # srun began Ray, whose workers are no ranks
    cluster = pytest.importorskip("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args=node | {"include_dashboard": False}
    )
    try:
        cluster.add_node(**node)  # a second raylet: a second machine
        driver = started(*asked, "--address", cluster.address, log=log)
        until("step 6/24", log, driver, out)
        # the first one so far, which ASHA therefore does not stop
        logs = out.glob("trials/*/output.txt")
        trial = next(file.parent for file in logs if "step 6/24" in file.read_text())
        os.kill(read_json(trial / ".lock")["pid"], signal.SIGKILL)
        until(f"lost     {trial.name}", log, driver)
        until("step 10/24", log, driver, out)
        driver.kill()
        driver.wait()
    finally:
        cluster.shutdown()

    again = started("--resume", out, log=log)  # on a Ray of its own

    assert again.wait() == 0, log.read_text()
    # what had been reported is not trained again
    said = (trial / "output.txt").read_text()
    assert said.count("step 4/24") == 1
    # a trial that ended just before the driver was killed may be stopped again
    lines = log.read_text().splitlines()
    assert len({line.split()[1] for line in lines if line.startswith("trial ")}) == 2
    assert_as_if_left_alone(out, tmp_path / "alone")


@pytest.mark.slow
def test_ctrl_c_resumes_and_bad_trials_end_early(tmp_path, recipe):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    log = tmp_path / "log"
    space = ["--space", "train.optimizer.lr=1e-8,1e-3,1e30,2e-3"]
    driver = started(recipe, *space, "--trials", 5, "--out", out, "--device", "cpu", log=log)
    until("step 6/24", log, driver, out)
    driver.send_signal(signal.SIGINT)

    assert driver.wait() == 130
    assert f"gantk sweep --resume {out}" in log.read_text().replace("\n", "")
    assert started("--resume", out, log=log).wait() == 0, log.read_text()
    rows = table_of(out)
    assert len(rows) == 5
    assert {bool(row["error"]) for row in rows} == {False, True}
    assert not rows[0]["error"]


def test_a_sweep_killed_before_its_settings_begins_again(tmp_path, monkeypatch):
    def connect(*where):
        raise RuntimeError("begun")

    monkeypatch.setattr(sweeping, "connect_cluster", connect)
    options = {"space": SPACE, "out": tmp_path / "out"}
    write_file(make_folder(tmp_path / "out") / ".lock", b"")
    temporary_beside(tmp_path / "out" / "sweep.json").write_bytes(b"{")
    with pytest.raises(RuntimeError, match="begun"):
        sweeping.sweep(RECIPE, **options)

    write_file(tmp_path / "out" / "notes.txt", b"mine")
    with pytest.raises(UserError, match="is not empty"):
        sweeping.sweep(RECIPE, **options)


def test_a_node_that_does_not_see_the_same_is_told_by_what(tmp_path):
    with pytest.raises(GantkError, match=f"does not see '{tmp_path}'"):
        expect_same_node(tmp_path, version)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(GantkError, match=r"the sweep has 0\.0\.9"):
        expect_same_node(tmp_path, "0.0.9")
    expect_same_node(tmp_path, version)


def test_an_address_that_does_not_answer_is_an_error(gantk, tiny_file):
    pytest.importorskip("ray")
    words = ("sweep", tiny_file, "--space", SPACE[0], "--address")
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    for place, why in (
        ("127.0.0.1", "the address is not HOST:PORT"),
        (closed, "Connection refused"),
    ):
        done = gantk(*words, place)
        assert done.code == 2
        assert done.err.startswith(f"error  no Ray cluster answers at '{place}': {why}. Allowed")
