"""What a bench shows: plain lines in a pipe, a live table on a terminal, and a table of results in the end."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from gantk_bench.board import Board, brief, number, result_table, title_of
from gantk_bench.spread import over_seeds


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch):
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def console(terminal: bool = False, height: int = 40) -> Console:
    return Console(file=io.StringIO(), width=150, height=height, force_terminal=terminal, color_system=None)


def row(label: str = "a", status: str = "ok", **fields) -> dict:
    scores = {name: {"value": value, "unit": unit} for name, value, unit in (("psnr", 21.234, "dB"), ("ssim", 0.8, ""))}
    verdict = {"b_to_a": {"psnr": {"better": False, "best_baseline": "regression"}}}
    base = {"label": label, "recipe": label, "status": status, "error": None, "wall_s": 75.0, "seed": 0}
    figures = {"domains": ["T1", "T2"], "metrics": {"b_to_a": scores}, "verdict": verdict, "speed": {}}
    return base | (figures if status == "ok" else {"error": "a bug"}) | fields


def child(label: str, step: int, steps: int | None) -> SimpleNamespace:
    job = SimpleNamespace(label=label)
    return SimpleNamespace(job=job, step=lambda: step, steps=lambda: steps, seconds=61.0)


def drawn(board: Board) -> str:
    """What the live table would show now."""
    page = console(height=board.console.height)
    page.print(board._render())
    return page.file.getvalue()


def test_plain_lines_are_golden():
    out = console()
    with Board(2, out) as board:
        board.started(SimpleNamespace(label="a"))
        board.progress([child("a", 3, 10)])
        board.finished(row())
        board.finished(row("b", "out of time"))
    assert out.file.getvalue().splitlines() == [
        "start    a",
        "ok       a  1:15  (1/2)  T2 -> T1 psnr 21.23 dB, ssim 0.8, not better than regression",
        "out of time b  1:15  (2/2)  a bug",
    ]


def test_the_live_table_shows_what_runs_what_has_ended_and_what_waits():
    board = Board(6, console(terminal=True))
    board.finished(row("done"))
    board.finished(row("broken", "killed"))
    board.progress([child("early", 0, 10), child("half", 5, 10), child("epochs", 5, None), child("end", 10, 10)])
    text = drawn(board)
    for words in (["done", "ok", "1:15", "psnr 21.23 dB"], ["broken", "killed", "a bug"], ["early", "starts", "1:01"]):
        line = next(line for line in text.splitlines() if line.startswith(words[0]))
        assert all(word in line for word in words)
    cells = {line.split()[0]: line.split()[1:3] for line in text.splitlines() if line.strip()}
    assert cells["half"] == ["trains", "5/10"] and cells["epochs"] == ["trains", "5/?"]
    assert cells["end"] == ["scores", "10/10"]
    assert "2 of 6 done, 0 wait, 1 not ok" in text


def test_a_low_terminal_shows_the_last_rows_that_fit():
    board = Board(31, console(terminal=True, height=10))
    for place in range(20):
        board.finished(row(f"row-{place:02d}"))
    board.progress([child("running", 1, 2)])
    lines = drawn(board).splitlines()
    assert len(lines) <= 10
    assert any("row-19" in line for line in lines) and any("running" in line for line in lines)
    assert not any("row-00" in line for line in lines) and "20 of 31 done, 10 wait" in lines[-1]


def test_a_terminal_is_left_as_it_was_even_by_ctrl_c():
    out = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), Board(2, out) as board:
        assert not board.plain
        raise KeyboardInterrupt
    text = out.file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # cursor hidden, cursor shown


@pytest.mark.parametrize("name, value", [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb")])
def test_a_terminal_that_wants_plain_lines_gets_them(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    out = console(terminal=True)
    with Board(1, out) as board:
        board.finished(row())
    assert "\x1b" not in out.file.getvalue()


def test_the_results_have_a_line_for_each_direction_each_failure_and_each_group_of_seeds():
    rows = [row("a seed=0", recipe="a"), row("a seed=1", recipe="a", seed=1), row("b", "failed")]
    rows[1]["metrics"]["b_to_a"]["psnr"] = {"value": 23.234, "unit": "dB"}
    rows[0]["speed"] = {"step_seconds": [0.1, 0.2, 0.3]}
    out = console()
    out.print(result_table(rows, over_seeds(rows)))
    text = out.file.getvalue()
    assert "a, 2 seeds" in text and "psnr 22.23 ± 1.4" in text
    first = next(line for line in text.splitlines() if line.startswith("a seed=0"))
    assert all(
        word in first for word in ("T2 -> T1", "psnr 21.23 dB, ssim 0.8", "not better than regression", "200 ms")
    )
    assert any(line.startswith("b ") and "failed" in line and "a bug" in line for line in text.splitlines())


def test_scores_are_named_by_what_they_are_of():
    assert title_of("a_to_b", ["CT", "MR"]) == "CT -> MR" and title_of("image", ["T1"]) == "T1 from noise"
    assert title_of("image_post", ["T1"]) == "T1 from noise, post-steps" and title_of("a_to_b", []) == "a_to_b"
    made = row(metrics={"image": {"kid_random": {"value": 0.00012, "unit": ""}, "recall": {"value": None}}}, verdict={})
    assert list(brief(made)) == ["T1 from noise kid_random 0.00012"]
    assert number({"value": None}) == "-" and number({"value": 1234.5, "unit": "HU"}) == "1234 HU"
