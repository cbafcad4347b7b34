"""`gantk bench --suite gpu`, tried out on the CPU with tiny networks."""

import json

import pytest
from tiny import ROOT, python

import gantk_bench
from gantk.errors import GantkError
from gantk.recipe.load import load_recipe
from gantk_bench.device import Worker
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
    return folder, {row.recipe: row for row in read_rows(folder / "rows.jsonl")}


def test_a_row_has_speed_quality_and_baselines(benched):
    _, rows = benched
    for row in rows.values():
        speed = row.speed.dump()
        rate = speed["flops"] / speed["step_s"] / 1e12

        assert speed["of_conv"] == pytest.approx(rate / speed["peaks"]["conv"]["fp32"])
        assert speed["of_matmul"] == pytest.approx(rate / speed["peaks"]["matmul"]["fp32"])
        assert speed["full_s"] == pytest.approx(speed["full_steps"] * speed["step_s"])
        assert speed["images_per_s"] > 0
        assert speed["peak_memory_gib"] > 0
        assert row.baselines

    # quality against time; of so few heads none is held out to score images from noise
    assert len(rows["cyclegan_t1t2_64"].curve) >= 2
    assert not rows["dcgan_tumour"].curve
    assert "psnr" in rows["cyclegan_t1t2_64"].metrics["a_to_b"]
    assert "kid_random" in rows["dcgan_tumour"].metrics["image"]


def test_without_time_a_row_says_so(tmp_path):
    names = ["cyclegan_t1t2_64"]
    gantk_bench.bench(names, suite="gpu", minutes=1e-4, device="cpu", out=tmp_path / "out")
    (row,) = read_rows(tmp_path / "out" / "rows.jsonl")

    assert (row.status, row.error) == ("skipped", "out of time")


@pytest.mark.slow
def test_a_case_that_fails_is_a_row_and_the_next_one_runs(tmp_path, monkeypatch):
    def fails_once(self, timed, own):
        monkeypatch.undo()
        raise GantkError("no such luck")

    monkeypatch.setattr("gantk_bench.timed.TimedBench._with_shares", fails_once)
    names = ["cyclegan_t1t2_64", "dcgan_tumour"]
    gantk_bench.bench(names, suite="gpu", tiny=True, device="cpu", out=tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "rows.jsonl")

    assert [row.status for row in rows] == ["failed", "ok"]
    assert rows[0].error == "no such luck"


def _exit(device):
    raise SystemExit(3)


def _fail(device):
    raise ValueError("first line\nsecond line")


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
    bench = ("bench", "--suite", "gpu", "--device", "cpu", "--tiny", "--out", tmp_path / "out")
    python("-m", "gantk", *bench).ok()
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").open()]

    assert [row["recipe"] for row in rows] == SUITE.recipes
    assert {row["status"] for row in rows} == {"ok"}
