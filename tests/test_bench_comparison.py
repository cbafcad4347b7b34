"""What changed since last time: intervals decide, a neighbour's load does not, and nothing is silently left out."""

from __future__ import annotations

import copy
import json

import pytest

from gantk.errors import UserError
from gantk_bench.comparison import compare, regressed, told
from gantk_bench.rows import curve_of, read_rows, without_places, write_rows
from gantk_bench.spread import over_seeds


def score(value: float | None = 20.0, half: float | None = 0.5, **fields) -> dict:
    interval = None if half is None or value is None else [value - half, value + half]
    about = {"unit": "dB", "definition": "psnr/fixed", "higher_is_better": True}
    return {"value": value, "ci95": interval, "n": 5} | about | fields


def row(label: str = "a", **fields) -> dict:
    base = {
        "format": 1, "label": label, "recipe": label, "status": "ok", "error": None, "seed": 0, "jobs": 2,
        "recipe_hash": "r", "data_hash": "d", "metrics": {"a_to_b": {"psnr": score()}},
        "speed": {"step_seconds": [0.10, 0.11, 0.12, 0.13], "peak_memory_gib": 1.0},
        "machine": {"device": "cpu", "cpu": "a cpu", "threads": 1, "precision": "bf16"},
    }  # fmt: skip
    return copy.deepcopy(base) | fields


def verdicts(now: dict, before: dict) -> dict[str, str]:
    return {change.what: change.verdict for change in compare([now], [before])}


def last(now: list[dict], before: list[dict]) -> str:
    return list(told(compare(now, before)))[-1]


def test_equal_rows_are_no_change():
    assert last([row(), row("b")], [row(), row("b")]) == "no change"
    assert not regressed(compare([row()], [row()]))


@pytest.mark.parametrize(
    "value, verdict",
    [(20.0, "no change"), (20.6, "no change"), (19.4, "no change"), (20.8, "better"), (19.2, "REGRESSION")],
)
def test_a_score_has_changed_where_the_interval_of_the_difference_leaves_0_out(value, verdict):
    """Two half widths of 0.5 make one of 0.707."""
    now = row(metrics={"a_to_b": {"psnr": score(value)}})
    assert verdicts(now, row())["psnr a_to_b"] == verdict


def test_the_nearer_ends_of_lopsided_intervals_decide():
    before = score(20.0, ci95=[19.9, 22.0])  # may well be more, hardly less
    rises, falls = score(20.5, ci95=[20.4, 20.6]), score(19.5, ci95=[19.4, 19.6])
    of = lambda now: verdicts(row(metrics={"x": {"m": now}}), row(metrics={"x": {"m": before}}))["m x"]  # noqa: E731
    assert of(rises) == "no change" and of(falls) == "REGRESSION"


def test_less_is_better_where_the_metric_says_so():
    now, before = (row(metrics={"x": {"mae": score(value, higher_is_better=False)}}) for value in (10.0, 20.0))
    assert verdicts(now, before)["mae x"] == "better"
    assert verdicts(before, now)["mae x"] == "REGRESSION"


def test_a_score_without_an_interval_counts_as_changed_and_not_as_worse():
    now, before = (row(metrics={"x": {"m": score(value, None)}}) for value in (10.0, 20.0))
    assert verdicts(now, before)["m x"] == "changed" and not regressed(compare([now], [before]))
    assert last([now], [before]) == "1 changed"


@pytest.mark.parametrize("key, told_as", [("recipe_hash", "the recipe"), ("data_hash", "the data")])
def test_another_recipe_or_other_data_are_not_comparable(key, told_as):
    worse = row(metrics={"a_to_b": {"psnr": score(1.0)}}, **{key: "other"})
    (change,) = compare([worse], [row()])
    assert change.verdict == "not comparable" and told_as in change.reason
    assert not regressed([change]) and last([worse], [row()]) == "1 not comparable"


def test_a_metric_that_is_defined_otherwise_is_not_comparable():
    now = row(metrics={"a_to_b": {"psnr": score(5.0, definition="psnr/own-maximum")}})
    assert verdicts(now, row())["psnr a_to_b"] == "not comparable"


def test_rows_and_metrics_that_come_or_go_are_listed():
    found = {(c.label, c.what): c.verdict for c in compare([row("a"), row("b")], [row("b"), row("c")])}
    assert found["a", "row"] == "new" and found["c", "row"] == "missing"
    now, before = row(metrics={"x": {"ssim": score()}}), row(metrics={"x": {"psnr": score()}})
    assert verdicts(now, before) | {"step": "", "memory": ""} == {
        "ssim x": "new", "psnr x": "missing", "step": "", "memory": ""
    }  # fmt: skip


def test_a_row_that_no_longer_works_is_a_regression_and_one_that_works_again_is_better():
    failed = {"format": 1, "label": "a", "status": "failed", "error": "a bug"}
    (now,) = compare([failed], [row()])
    assert now.verdict == "REGRESSION" and "a bug" in now.reason
    assert verdicts(row(), failed) == {"row": "better"}
    assert verdicts(failed, failed) == {"row": "no change"}
    assert verdicts(failed | {"status": "skipped"}, row()) == {"row": "changed"}


@pytest.mark.parametrize(
    "steps, jobs, verdict",
    [
        ([0.10, 0.11, 0.12, 0.13], 1, "no change"),
        ([0.13, 0.14, 0.15, 0.16], 1, "REGRESSION"),  # by 26 %, alone on the machine
        ([0.13, 0.14, 0.15, 0.16], 2, "no change"),  # beside others
        ([0.20, 0.21, 0.22, 0.23], 2, "REGRESSION"),
        ([0.05, 0.06, 0.06, 0.06], 2, "better"),
        ([0.10, 0.11, 0.30, 0.31], 1, "no change"),  # a load that came and went
    ],
)
def test_steps_are_slower_only_beyond_the_tolerance_and_all_along(steps, jobs, verdict):
    now = row(jobs=jobs, speed={"step_seconds": steps})
    assert verdicts(now, row(jobs=jobs))["step"] == verdict


def test_memory_has_a_tolerance_too():
    now = row(speed={"peak_memory_gib": 1.3})
    assert verdicts(now, row())["memory"] == "REGRESSION"
    assert verdicts(row(speed={"peak_memory_gib": 1.1}), row())["memory"] == "no change"


def test_speed_of_another_machine_or_beside_other_jobs_is_not_compared():
    slower = {"step_seconds": [9.0], "peak_memory_gib": 9.0}
    now = row(speed=slower, machine=row()["machine"] | {"threads": 8})
    (change,) = [change for change in compare([now], [row()]) if change.what == "speed"]
    assert change.verdict == "not comparable" and "threads" in change.reason
    assert verdicts(row(speed=slower, jobs=1), row())["speed"] == "not comparable"


def test_rows_without_measured_speed_are_compared_by_their_scores():
    assert verdicts(row(speed={}), row(speed={})) == {"psnr a_to_b": "no change"}


def test_a_value_that_could_not_be_computed_any_more_is_missing():
    now = row(metrics={"a_to_b": {"psnr": score(None)}})
    assert verdicts(now, row())["psnr a_to_b"] == "missing"


# ---- rows on the disk ----------------------------------------------------------------------------


def test_rows_read_back_as_they_were_written_and_what_is_no_number_is_not_known(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [row(), row("b") | {"wall_s": float("nan"), "speed": {"step_seconds": (float("inf"), 1.0)}}])
    first, second = read_rows(path)
    assert first == row()
    assert second["wall_s"] is None and second["speed"] == {"step_seconds": [None, 1.0]}


@pytest.mark.parametrize("line", ["{", "[]", '{"label": "a"}', '{"status": "ok"}', "\x00"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row()) + "\n" + line + "\n", "utf-8")
    with pytest.raises(UserError, match=r"this line is no row of a bench.*rows.jsonl:2"):
        read_rows(path)


def test_rows_of_a_newer_format_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row() | {"format": 2}) + "\n", "utf-8")
    with pytest.raises(UserError, match="format 2"):
        read_rows(path)


def test_the_curve_has_the_seconds_of_training_at_each_validation():
    log = [
        {"step": 0, "validation": {"a_to_b": {"psnr": 9.0}}},
        {"step": 2, "seconds": 1.5, "losses": {}},
        {"step": 2, "validation": {"a_to_b": {"psnr": 11.0}}},
        {"step": 4, "seconds": 3.0, "losses": {}},
    ]
    assert curve_of(log) == [
        {"step": 0, "seconds": 0.0, "scores": {"a_to_b": {"psnr": 9.0}}},
        {"step": 2, "seconds": 1.5, "scores": {"a_to_b": {"psnr": 11.0}}},
    ]


@pytest.mark.parametrize(
    "text, kept",
    [
        ("no space in '/home/ada/runs/a b/x.pt'", "no space in 'x.pt'"),
        ("(/srv/data/x.toml:7)", "(x.toml:7)"),
        ("data.source.path=/mnt/heads/", "data.source.path=heads"),
        (r"C:\Users\ada\x.png is missing", "x.png is missing"),
        ("4/5 images, runs/a and ../b stay, 1/2", "4/5 images, runs/a and ../b stay, 1/2"),
        ("https://example.org/a/b stays", "https://example.org/a/b stays"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_name(text, kept):
    assert without_places(text) == kept


# ---- seeds ---------------------------------------------------------------------------------------


def test_rows_that_differ_in_the_seed_alone_have_a_mean_and_a_spread():
    seeds = [row(f"a seed={n}", seed=n, recipe="a", metrics={"x": {"psnr": score(20.0 + n)}}) for n in range(3)]
    other = row("b", metrics={"x": {"psnr": score()}})
    failed = row("a seed=3", seed=3, recipe="a", status="failed", metrics={})
    (group,) = over_seeds([*seeds, other, failed])
    assert (group.label, group.seeds) == ("a", [0, 1, 2])
    assert group.metrics() == {"x": {"psnr": {"mean": 21.0, "sd": 1.0, "n": 3, "unit": "dB"}}}
