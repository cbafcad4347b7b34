"""`make bench-gpu`, tried out on the CPU: every part measures, and everything that goes wrong is a row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu import measure, rows, suite, table, tasks  # noqa: E402
from gpu.suite import Clock  # noqa: E402

from gantk.recipe.load import all_recipes, load_recipe  # noqa: E402

pytestmark = pytest.mark.bench


def listed(tiny: bool = True, chosen: list[str] | None = None) -> list[dict]:
    return [task for task in tasks.tasks(tiny, chosen, {}, "a command") if task["part"] == "step"]


def run_suite(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_suite.py"), "--json", str(folder / "rows.jsonl"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=folder, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[list[dict], str]:
    """The rows of a whole small run in a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("gpu")
    done = run_suite(folder, "--device", "cpu", "--tiny", "--cases", "dcgan, 3-D", "--minutes", "20")
    assert done.returncode == 0, done.stderr
    return list(rows.read_rows(folder / "rows.jsonl")), done.stdout


def test_every_part_of_a_run_is_measured(run):
    found, printed = run
    assert {row["part"] for row in found} == {*tasks.PARTS, "definitions", "ratio", "bar", "end"}
    for row in found:
        assert row["part"] in ("bar", "peer", "ratio") or row["status"] == "ok", row
    assert [row["status"] for row in found if row.get("peer") in ("gantk", "gantk plain")] == ["ok"] * 3
    steps = [row for row in found if row["part"] == "step"]
    assert {row["mode"] for row in steps} == {"eager", "captured"}
    best = rows.best(found, "conv", "fp32", 3)
    for row in steps:
        assert len(row["samples_s"]) >= 2 and row["parameters"] > 0 and row["host_waits"] is None
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["median_s"])
        assert row["of_conv"] == pytest.approx(row["flops"] / row["median_s"] / 1e12 / best)
    assert table.markdown(found) in printed
    assert "| dcgan, 3-D | 16 x 16 x 16 | 1 | fp32 |" in printed
    assert "| cyclegan-256-unet | 1 | >= 5.00 | not measured (it is not in this run) |" in printed


def test_no_row_names_the_folders_of_this_machine(run):
    assert str(ROOT) not in json.dumps(run[0])
    assert "--json rows.jsonl" in next(row for row in run[0] if row["part"] == "environment")["command"]
    said = rows.first_line(FileNotFoundError("no such file: '/home/x/models/x.py', see https://a.org/b/c or 3/4"))
    assert said == "FileNotFoundError: no such file: 'x.py', see https://a.org/b/c or 3/4"


def test_a_device_that_is_not_there_is_one_message_and_no_file(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = run_suite(tmp_path, "--device", "cuda")
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: ") and "--device cpu --tiny" in done.stderr


# ---- budget, crashes, refusals: told by a stand-in for the process that measures


class Pretender:
    """Answers every task with what `say` gives of it, as the process that measures would."""

    ended = 0

    def answers(self, task, clock, limit):
        if task["case"] == "pix2pix":
            yield "killed", "took longer than 60 s"
            return
        about = {key: task[key] for key in ("case", "size", "batch", "precision", "mode", "dims")}
        yield rows.row("step", **about, samples_s=[1.0], median_s=1.0, spread=0.0)
        yield "done", True

    def end(self):
        self.ended += 1


def measured(tmp_path, wanted, minutes: float) -> tuple[list[dict], Pretender]:
    pretender, file = Pretender(), tmp_path / "rows.jsonl"
    found = suite.Suite(file, Clock(minutes), lambda: pretender, say=lambda line: None).run(iter(wanted))
    assert found == list(rows.read_rows(file))
    return found, pretender


def test_what_does_not_fit_into_the_minutes_is_a_row_that_says_so(tmp_path):
    found, _ = measured(tmp_path, tasks.tasks(False, None, {}, ""), 0.0)
    skipped = [row for row in found if row["part"] not in ("definitions", "end", "bar")]
    assert {(row["status"], row["why"]) for row in skipped} == {("skipped", "out of time budget")}
    assert {row["part"] for row in skipped} == {*tasks.PARTS, "ratio"}
    assert found[-1]["counts"] == {"skipped": len(skipped)}
    assert "not measured (out of time budget)" in table.markdown(found)


def test_what_ended_the_process_is_a_row_and_not_tried_again(tmp_path):
    wanted = [task for task in listed(False, ["pix2pix", "dualgan"]) if task["mode"] == "captured"]
    found, pretender = measured(tmp_path, wanted, 9.0)
    whys = [row["why"] for row in found if row.get("case") == "pix2pix"]
    assert whys == ["took longer than 60 s", "not tried again; at 256 x 256, batch 1, bf16: took longer than 60 s"]
    assert {row["status"] for row in found if row.get("case") == "dualgan"} == {"ok"}
    assert pretender.ended == 2  # after the crash, and at the end


# ---- steps


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no\nsecond line"), "failed"), (torch.OutOfMemoryError("CUDA"), "out of memory")],
    ids=["bug", "memory"],
)  # fmt: skip
def test_a_method_that_raises_is_a_row(monkeypatch, error, status):
    def broken(self, batch):
        raise error

    monkeypatch.setattr("gantk_cyclegan.model.CycleGAN.generator_losses", broken)
    (row,) = measure.measure(listed(chosen=["cyclegan"])[0], "cpu")
    assert (row["status"], row["method"]) == (status, "cyclegan") and "second line" not in row["why"]


def test_every_method_of_the_bundled_recipes_is_timed_as_a_user_gets_it():
    own = {name for name, (_, owner) in all_recipes().items() if owner == "gantk"}
    used = {load_recipe(name).tables["method"]["name"] for name in own}
    timed = {}
    for task in listed(False):
        load_recipe(task["recipe"]).override(task["settings"]).check()
        method = load_recipe(task["recipe"]).tables["method"]["name"]
        timed.setdefault(method, set()).add((task["size"][0], task["batch"], task["precision"], task["mode"]))
    assert timed.keys() == used and all((256, 1, "bf16", "captured") in timed[method] for method in used)


# ---- targets


def cell(part: str, batch: int, status: str = "ok", why=None, **values) -> dict:
    return rows.row(part, status, why, case="cyclegan-256-unet", batch=batch, size=[256, 256], **values)


def test_targets_are_judged_by_the_rows_and_what_was_not_measured_says_why():
    even = {"peer": "gantk", "samples_s": [1.0] * 40, "spread_90": 0.01, "host_waits": 0}
    found = [
        cell("peer", 1, **even), cell("ratio", 1, times={"reference": {"median": 5.5, "ci95": [4.5, 6.5]}}),
        cell("peer", 16, **even | {"samples_s": [1.0] * 29, "host_waits": 4}, of_conv=0.4),
        cell("peer", 16, "skipped", "reference is not here", peer="reference"),
    ]  # fmt: skip
    judged = [row for row in table.bars(found) if row["case"] == "cyclegan-256-unet"]
    assert {(row["what"], row["batch"]): (row["met"], row["text"]) for row in judged} == {
        ("times the reference's speed", 1): (True, "5.50 [4.50, 6.50]"),
        ("spread of single steps", 1): (True, "1.0%"),
        ("host waits in a step", 1): (True, "0"),
        ("times the reference's speed", 16): (None, "not measured (reference is not here)"),
        ("of the convolution ceiling", 16): (False, "40%"),
        ("spread of single steps", 16): (None, "not measured (29 steps are too few)"),
        ("host waits in a step", 16): (False, "4"),
    }
