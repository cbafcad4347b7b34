"""`gantk bench --suite gpu`, tried out on the CPU with tiny networks."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import ROOT

import gantk_bench
from gantk.errors import GantkError, UserError
from gantk.recipe.load import load_recipe
from gantk_bench import device
from gantk_bench.device import Worker, count_flops, peak_rates, time_step
from gantk_bench.plan import Options, jobs_for
from gantk_bench.rows import read_rows
from gantk_bench.suite import load_suite

pytestmark = pytest.mark.bench
SUITE = load_suite("gpu")
SYSTEMS = [name for name in SUITE.recipes if load_recipe(name).tables.get("paper")]


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """The folder of a tiny bench of two recipes, and its rows by recipe."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    names = ["cyclegan_t1t2_64", "dcgan_tumour"]
    outcome = gantk_bench.bench(names, suite="gpu", tiny=True, device="cpu", out=folder)
    assert outcome.good
    return folder, {row["recipe"]: row for row in read_rows(folder / "rows.jsonl")}


def test_a_row_has_speed_quality_and_baselines(benched):
    _, rows = benched
    for row in rows.values():
        speed = row["speed"]
        rate = speed["flops"] / speed["step_s"] / 1e12

        assert speed["of_conv"] == pytest.approx(rate / speed["peaks"]["conv"]["fp32"])
        assert speed["of_matmul"] == pytest.approx(rate / speed["peaks"]["matmul"]["fp32"])
        assert speed["full_s"] == pytest.approx(speed["full_steps"] * speed["step_s"])
        assert speed["images_per_s"] > 0
        assert speed["peak_memory_gib"] > 0
        assert len(row["curve"]) >= 2  # quality against time
        assert row["baselines"]

    assert "psnr" in rows["cyclegan_t1t2_64"]["metrics"]["a_to_b"]
    assert "kid_random" in rows["dcgan_tumour"]["metrics"]["image"]


def test_page_and_table_show_shares_and_curves(benched):
    folder, _ = benched
    page = (folder / "bench.html").read_text("utf-8")
    table = (folder / "bench.md").read_text("utf-8")

    for head in ("Images/s", "Memory", "Of peak", "Full length", "Bare step"):
        assert head in page
        assert head in table
    assert "of training" in page  # the axis of the plot of quality against time
    assert str(ROOT) not in (folder / "rows.jsonl").read_text("utf-8")


def test_without_time_a_row_says_so(tmp_path):
    names = ["cyclegan_t1t2_64"]
    gantk_bench.bench(names, suite="gpu", minutes=1e-4, device="cpu", out=tmp_path / "out")
    (row,) = read_rows(tmp_path / "out" / "rows.jsonl")

    assert (row["status"], row["error"]) == ("skipped", "out of time")


def test_other_suites_have_no_fixed_length():
    with pytest.raises(UserError, match="no fixed length"):
        gantk_bench.bench(["cyclegan_t1t2_64"], suite="quick", tiny=True)


@pytest.mark.slow
def test_a_case_that_fails_is_a_row_and_the_next_one_runs(tmp_path, monkeypatch):
    def fails_once(self, timed, own):
        monkeypatch.undo()
        raise GantkError("no such luck")

    monkeypatch.setattr("gantk_bench.timed.TimedBench._with_shares", fails_once)
    names = ["cyclegan_t1t2_64", "dcgan_tumour"]
    gantk_bench.bench(names, suite="gpu", tiny=True, device="cpu", out=tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "rows.jsonl")

    assert [row["status"] for row in rows] == ["failed", "ok"]
    assert rows[0]["error"] == "no such luck"


def _exit(device):
    raise SystemExit(3)


def _fail(device):
    raise ValueError("first line\nsecond line")


def _sleep(device):
    torch.randn(8)
    while True:
        pass


def test_a_case_that_fails_hangs_or_dies_is_an_error():
    worker = Worker("cpu")
    try:
        with pytest.raises(GantkError, match="ValueError: first line"):
            worker.ask(_fail, 60.0)
        with pytest.raises(GantkError, match="ended with code 3"):
            worker.ask(_exit, 60.0)
    finally:
        worker.end()
    assert not worker.process.is_alive()


def test_a_process_that_hangs_is_ended():
    worker = Worker("cpu")
    try:
        with pytest.raises(GantkError, match="took longer than 1 s"):
            worker.ask(_sleep, 1.0)
    finally:
        worker.end()
    assert not worker.process.is_alive()


def test_a_missing_device_is_refused_before_anything_runs(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("has a CUDA device")
    with pytest.raises(UserError):
        gantk_bench.bench([], suite="gpu", device="cuda", out=tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_flops_are_those_of_the_products():
    a, b = torch.randn(8, 16), torch.randn(16, 4)

    assert count_flops(lambda: a @ b) == 2 * 8 * 16 * 4


def test_peaks_are_rates_of_this_device():
    found = peak_rates("cpu", tiny=True)

    assert found["conv"].keys() == found["matmul"].keys() == {"bf16", "fp32"}
    assert min(*found["conv"].values(), *found["matmul"].values(), found["copy_tb_s"]) > 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_networks_sizes_and_batches_are_the_published_ones(name):
    """Only data, and what is scored, differ from the recipe of a published system."""
    (job,) = jobs_for([name], SUITE, Options(), named=True)
    keys = {setting.partition("=")[0] for setting in job.settings}

    assert job.profile is None
    assert {key for key in keys if not key.startswith(("data.s", "evaluate."))} == set()
    assert "data.size" not in keys


def test_every_published_network_is_in_the_suite():
    published = {
        path.stem
        for path in (ROOT / "recipes").glob("*.toml")
        if load_recipe(path).tables.get("paper")
    }
    # the style step changes images of the same three networks after a training
    assert {name for name in published if not name.endswith("_style")} == set(SYSTEMS)


@pytest.mark.slow
def test_all_of_the_suite_runs_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "gantk", "bench", "--suite", "gpu", "--device", "cpu"]
    command += ["--tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").open()]

    assert done.returncode == 0, done.stdout
    assert [row["recipe"] for row in rows] == SUITE.recipes
    assert {row["status"] for row in rows} == {"ok"}


def test_a_bare_step_needs_no_images():
    settings = ["method.generator.width=4", "method.discriminator.width=4", "train.batch=2"]
    found = time_step("cpu", "cyclegan_t1t2_64", None, settings, tiny=True)

    assert found["images_per_s"] == pytest.approx(2 / found["median_s"])
    assert found["flops"] > 0
    assert device.TINY["least"] == len(found["samples_s"])
