"""`make bench-gpu`, tried out on the CPU: every part measures, and everything that goes wrong is a row."""

import json
import subprocess
import sys
from types import SimpleNamespace

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


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[list[dict], str]:
    """The rows of a whole small run in a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_suite.py"), "--json", str(folder / "rows.jsonl")]
    command += ["--device", "cpu", "--tiny", "--cases", "dcgan, 3-D", "--minutes", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=folder, check=False)
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
    assert str(ROOT) not in json.dumps(found)


def test_what_does_not_fit_into_the_minutes_is_a_row_that_says_so(tmp_path):
    file = tmp_path / "rows.jsonl"
    whole = suite.Suite(file, Clock(0.0), lambda: SimpleNamespace(end=lambda: None), say=lambda line: None)
    found = whole.run(iter(tasks.tasks(False, None, {}, "")))
    assert found == list(rows.read_rows(file))
    skipped = [row for row in found if row["part"] not in ("definitions", "end", "bar")]
    assert {(row["status"], row["why"]) for row in skipped} == {("skipped", "out of time budget")}
    assert {row["part"] for row in skipped} == {*tasks.PARTS, "ratio"}
    assert found[-1]["counts"] == {"skipped": len(skipped)}
    assert "not measured (out of time budget)" in table.markdown(found)


def test_a_method_that_does_not_fit_into_the_memory_is_a_row(monkeypatch):
    def broken(self, batch):
        raise torch.OutOfMemoryError("CUDA\nsecond line")

    monkeypatch.setattr("gantk_cyclegan.model.CycleGAN.generator_losses", broken)
    (row,) = measure.measure(listed(chosen=["cyclegan"])[0], "cpu")
    assert (row["status"], row["method"]) == ("out of memory", "cyclegan") and "second line" not in row["why"]


def test_every_method_of_the_bundled_recipes_is_timed_as_a_user_gets_it():
    own = {name for name, (_, owner) in all_recipes().items() if owner == "gantk"}
    used = {load_recipe(name).tables["method"]["name"] for name in own}
    timed = {}
    for task in listed(False):
        load_recipe(task["recipe"]).override(task["settings"]).check()
        method = load_recipe(task["recipe"]).tables["method"]["name"]
        timed.setdefault(method, set()).add((task["size"][0], task["batch"], task["precision"], task["mode"]))
    assert timed.keys() == used and all((256, 1, "bf16", "captured") in timed[method] for method in used)


def test_targets_are_judged_by_the_rows_and_what_was_not_measured_says_why():
    same = {"case": "cyclegan-256-unet", "batch": 16, "size": [256, 256]}
    found = [
        rows.row("ratio", times={"reference": {"median": 5.5, "ci95": [4.5, 6.5]}}, **same | {"batch": 1}),
        rows.row("peer", peer="gantk", samples_s=[1.0] * 29, spread_90=0.01, host_waits=4, of_conv=0.4, **same),
        rows.row("peer", "skipped", "reference is not here", peer="reference", **same),
    ]
    judged = [row for row in table.bars(found) if row["case"] == "cyclegan-256-unet"]
    told = {(row["what"], row["batch"]): (row["met"], row["text"]) for row in judged}
    assert told[("times the reference's speed", 1)] == (True, "5.50 [4.50, 6.50]")
    assert told[("times the reference's speed", 16)] == (None, "not measured (reference is not here)")
    assert told[("of the convolution ceiling", 16)] == (False, "40%")
    assert told[("spread of single steps", 16)] == (None, "not measured (29 steps are too few)")
    assert told[("host waits in a step", 16)] == (False, "4")
