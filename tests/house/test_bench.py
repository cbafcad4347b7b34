"""`gantk bench`: a row for every recipe whatever becomes of it, kept at once, resumed, swept and
compared.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import write_toml

from gantk_bench import child, running
from gantk_bench.rows import Row, read_rows

pytestmark = pytest.mark.bench
SUITE = (
    'jobs = 2\nthreads = 1\nlimit = 300\n[metrics]\ntranslate = ["psnr", "ssim"]\nnoise = ["kid"]\n'
)
STAND_IN = """
import json, os, pathlib, signal, sys, time
words = sys.argv[2:]
name, out = pathlib.Path(words[0]).stem, pathlib.Path(words[words.index("--out") + 1])
said = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--set")
out.mkdir(parents=True)
(out / "pid").write_text(str(os.getpid()))
log = lambda line: (out / "log.jsonl").open("a").write(json.dumps(line) + "\\n")
print("train    dualgan, 0.1 M weights, 4 steps, cpu fp32, 1 threads", flush=True)
log({"step": 2, "seconds": 1.5, "images_per_s": 1.0, "losses": {}})
log({"step": 2, "validation": {"a_to_b": {"psnr": 11.0}}})
if name == "fails":
    print("error    the loss 'cycle' is not finite at step 2.  (/home/somebody/runs/fails)", file=sys.stderr)
    sys.exit(1)
if name == "crashes":
    raise RuntimeError("a bug")
if name in ("hangs", "stubborn"):
    if name == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("waits", flush=True)
    time.sleep(600)
if name == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
value = 20.0 + float(said.get("method.cycle", 0)) + int(said.get("train.seed", 0)) + float(os.environ.get("SHIFT", 0))
score = {"value": value, "ci95": [value - 0.5, value + 0.5], "n": 4, "unit": "dB", "definition": "psnr",
         "higher_is_better": True}
result = {"metrics": {"a_to_b": {"psnr": score}}, "baselines": {"identity": {"a_to_b": {"psnr": score}}},
          "verdict": {"a_to_b": {"psnr": {"better": True, "best_baseline": "identity", "probability": 0.9}}},
          "speed": {"seconds": 1.5, "steps": 4, "step_seconds": [0.1, 0.1, 0.1], "peak_memory_gib": 0.5}}
(out / "metrics.json").write_text(json.dumps(result))
(out / "split.json").write_text(json.dumps({"splits": {"test": ["head-1"]}}))
(out / "environment.json").write_text(json.dumps({"gantk": "0.1", "python": "3", "packages": {"torch": "2"},
    "device": "cpu", "cpu": "a cpu", "threads": int(os.environ["OMP_NUM_THREADS"]), "precision": "fp32"}))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, tiny_recipe):
    """A folder to be in, with the small suite and the tiny recipe under every name."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SUITE, "utf-8")
    for name in ("tiny", "third", "fails", "crashes", "dies", "hangs", "stubborn"):
        write_toml(Path(f"{name}.toml"), tiny_recipe)


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    """Children run the stand-in; the file with its source."""
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN, "utf-8")
    monkeypatch.setattr(child, "PROGRAM", (sys.executable, str(path)))
    monkeypatch.setattr(child, "GRACE", 0.3)
    monkeypatch.setattr(running, "POLL_INTERVAL", 0.02)
    return path


@pytest.fixture
def bench(gantk):
    """`gantk bench ...` with the small suite, on the CPU, into the folder `out`."""
    return lambda *words: gantk(
        "bench", *words, "--suite", "small.toml", "--device", "cpu", "--out", "out"
    )


def rows() -> dict[str, Row]:
    return {row.label: row for row in read_rows("out/rows.jsonl")}


def values() -> dict[str, float]:
    return {label: row.metrics["a_to_b"]["psnr"].value for label, row in rows().items()}


@pytest.fixture
def one_row(bench, monkeypatch):
    """The bench of the tiny recipe in a folder with a file that must not be imported: its row."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    Path("random.py").write_text("raise RuntimeError('a file of the working folder is imported')")
    done = bench("tiny.toml", "--json", "copy.jsonl")
    assert done.code == 0, done.out + done.err
    (row,) = rows().values()
    return row, done


def test_each_recipe_becomes_a_row_from_its_own_process(one_row):
    row, done = one_row
    assert done.out.endswith("next     gantk report out/runs/*\n")
    expected = {
        "format": 1,
        "suite": "small",
        "recipe": "tiny",
        "label": "tiny",
        "status": "ok",
        "error": "",
        "run": "runs/tiny",
        "method": "dualgan",
        "domains": ["T1", "T2"],
        "paired": False,
        "seed": 0,
    }

    assert {key: getattr(row, key) for key in expected} == expected
    assert row.versions["torch"]
    assert len(row.recipe_hash) == 64
    assert len(row.data_hash) == 64
    assert str(Path.cwd()) not in row.model_dump_json()
    assert str(Path.home()) + "/" not in row.model_dump_json()


def test_a_dry_run_trains_and_writes_nothing(bench):
    before = sorted(Path().iterdir())
    done = bench("tiny.toml", "third.toml", "--dry-run")

    assert done.code == 0
    assert "time     unknown: no row has been trained before" in done.out
    assert [line.split()[0] for line in done.out.splitlines()][:3] == ["Row", "tiny", "third"]
    assert sorted(Path().iterdir()) == before


def test_each_way_to_end_is_a_row_and_the_other_rows_are_safe(stand_in, bench):
    done = bench("fails.toml", "crashes.toml", "dies.toml", "tiny.toml")
    assert done.code == 1
    found = rows()
    # in the order of the command
    assert [(label, row.status, row.error) for label, row in found.items()] == [
        ("fails", "failed", "the loss 'cycle' is not finite at step 2.  (fails)"),
        ("crashes", "failed", "RuntimeError: a bug"),
        ("dies", "killed", "killed by SIGKILL (perhaps it ran out of memory) at step 2"),
        ("tiny", "ok", ""),
    ]
    assert {"settings", "seed", "wall_s", "run", "recipe_hash"} <= found["fails"].model_fields_set
    assert "RuntimeError: a bug" in Path("out/logs/crashes.txt").read_text("utf-8")

    for label, row in found.items():
        assert re.search(rf"^{row.status} +{label}  .*{re.escape(row.error)}$", done.out, re.M)


def gone(name: str) -> bool:
    """Whether the child of that name has ended, or never began."""
    pid = Path(f"out/runs/{name}/pid")
    return not pid.is_file() or not Path(f"/proc/{pid.read_text()}").exists()


@pytest.mark.parametrize("name", ["hangs", "stubborn"])
def test_rows_over_their_time_limit_are_killed(stand_in, bench, name):
    assert bench(f"{name}.toml", "--limit", "0.5").code == 1
    assert rows()[name].status == "out of time"
    assert rows()[name].error == "longer than 0.5 s, at step 2"
    assert gone(name)


def test_ctrl_c_keeps_the_rows_and_says_how_to_go_on(stand_in):
    look = (
        f"from gantk_bench import child; child.PROGRAM = ({sys.executable!r}, {str(stand_in)!r}); "
    )
    words = [
        "bench",
        "tiny.toml",
        "hangs.toml",
        "--suite",
        "small.toml",
        "--jobs",
        "1",
        "--out",
        "out",
    ]
    command = [sys.executable, "-c", look + "from gantk.cli import main; main()", *words]
    bench = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in bench.stdout:
        if line.startswith("start") and "hangs" in line:
            break

    os.kill(bench.pid, signal.SIGINT)
    _, told = bench.communicate(timeout=300)

    assert bench.returncode == 130
    assert told.strip().startswith("stop  stopped after 1 of 2 rows, which are kept in out.")
    assert "--resume" in told
    assert "Traceback" not in told
    assert {label: row.status for label, row in rows().items()} == {"tiny": "ok"}
    assert gone("hangs")


def test_resume_measures_only_what_is_not_done(stand_in, bench):
    bench("tiny.toml", "fails.toml")
    before = rows()
    stand_in.write_text(STAND_IN.replace('name == "fails"', "False"), "utf-8")
    done = bench("tiny.toml", "fails.toml", "third.toml", "--resume")

    assert done.code == 0
    assert "resume   done already: 1 row" in done.out
    assert rows()["tiny"] == before["tiny"]
    assert [row.status for row in rows().values()] == ["ok"] * 3
    changed = bench("tiny.toml", "--resume", "--set", "method.cycle=3.0")
    assert "done already" not in changed.out
    assert values()["tiny"] == 23.0


def test_a_grid_expands_to_a_row_for_each_combination(stand_in, bench):
    done = bench("tiny.toml", "--grid", "method.cycle=0,5.5", "--grid", "train.seed=0,1")
    assert done.code == 0
    assert "2 seeds" in Path("out/bench.md").read_text("utf-8")
    expected = {(0, 0): 20.0, (0, 1): 21.0, (5.5, 0): 25.5, (5.5, 1): 26.5}
    assert values() == {
        f"tiny cycle={cycle} seed={seed}": value for (cycle, seed), value in expected.items()
    }
    assert rows()["tiny cycle=5.5 seed=1"].grid == {"method.cycle": 5.5}
    printed = bench("tiny.toml", "--json", "-").out.splitlines()
    assert json.loads(printed[-1])["label"] == "tiny"
    assert len(printed) == len(rows())


def test_against_better_rows_exits_1_with_the_regression(stand_in, bench, monkeypatch):
    bench("tiny.toml")
    monkeypatch.setenv("SHIFT", "-3")
    done = bench("tiny.toml", "--against", "out/rows.jsonl")

    assert done.code == 1
    assert "REGRESSION     tiny  psnr a_to_b  20 dB -> 17 dB" in done.out
    assert "\n1 REGRESSION\n" in done.out
