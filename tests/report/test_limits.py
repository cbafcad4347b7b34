"""A log and samples of any size make a page in bounded time, which says what it leaves out."""

import json

import pytest
from PIL import Image

from gantk import RunRecord
from gantk.report.build import write_report

ENTRIES = {
    "losses": lambda value: {"losses": {"generators/cycle_a": value}},
    "validation": lambda value: {"validation": {"a_to_b": {"psnr": value}}},
    "cycle": lambda value: {"cycle": {"a_to_b": value}},
    "rate": lambda value: {"lr": value},
}


def write_log(run, entries):
    lines = [json.dumps({"step": step} | entry) for step, entry in enumerate(entries, 1)]
    (run / "log.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("value", [1e308, 1.7e308, 5e-324, 10**400], ids=str)
@pytest.mark.parametrize("kind", ENTRIES)
def test_extreme_values_in_a_log_make_a_page(kind, value, copied_run):
    write_log(copied_run, [ENTRIES[kind](each) for each in (value, -value, value)])

    write_report(copied_run)

    problems = " ".join(RunRecord(copied_run).problems)
    assert "log.jsonl" in problems or value < 1 or kind == "rate"


def test_large_samples_are_left_out_and_told(copied_run):
    for size, name in (
        (8001, "input/a_to_b-0"),
        (4000, "truth/a_to_b-0"),
        (4090, "truth/b_to_a-0"),
    ):
        Image.new("1", (size, size)).save(copied_run / f"samples/{name}.png")
    Image.new("1", (4090, 4090)).save(copied_run / "samples/step-000004/a_to_b-0.png")

    samples = RunRecord(copied_run).samples
    first, second = samples.directions
    found = [
        samples.picture("input", first, 0),
        samples.picture("truth", first, 0),
        samples.picture("truth", second, 0),
    ]

    assert [path is not None for path in found] == [False, True, False]
    assert "has more than 16 megapixels" in samples.problems[-2]
    assert "large pictures before it" in samples.problems[-1]
