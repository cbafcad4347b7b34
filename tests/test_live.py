"""The live view: plain lines where there is no terminal, a bar below them where there is, a terminal left as it was."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gantk.training.live import LiveView

LOSSES = {"generators/adversarial_b": 0.9123, "generators/cycle": 1.2, "discriminators/d_a": 0.2}
SCORES = {"a_to_b": {"psnr": 20.1, "ssim": 0.713}, "b_to_a": {"psnr": 19.0, "ssim": 0.7}}


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch):
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, height=40, force_terminal=True, color_system=None)


def test_plain_lines_are_golden():
    now, console = [100.0], Console(file=io.StringIO(), width=40)
    with LiveView(2400, console=console, clock=lambda: now[0]) as view:
        view.print("recipe   dualgan")
        view.update(0, validation={"a_to_b": {"psnr": 18.5}})
        for seconds, step in ((60, 200), (60, 400), (600, 2400)):
            now[0] += seconds
            view.update(step, images_per_s=31.24, losses=LOSSES)
            if step == 200:
                view.update(step, validation=SCORES)
                view.print("alarm: a_to_b: the output is the input, nearly unchanged", style="yellow")
    assert console.file.getvalue().splitlines() == [
        "recipe   dualgan",
        "step 0/2400  0%  psnr a_to_b 18.5",
        "step 200/2400  8%  31.2 images/s  left 11 min 00 s  g: adversarial_b 0.912 cycle 1.2  d: d_a 0.2",
        "step 200/2400  8%  left 11 min 00 s  psnr a_to_b 20.1 b_to_a 19  ssim a_to_b 0.713 b_to_a 0.7",
        "alarm: a_to_b: the output is the input, nearly unchanged",
        "step 400/2400  16%  31.2 images/s  left 10 min 00 s  g: adversarial_b 0.912 cycle 1.2  d: d_a 0.2",
        "step 2400/2400  100%  31.2 images/s  g: adversarial_b 0.912 cycle 1.2  d: d_a 0.2",
    ]


@pytest.mark.parametrize("name, value", [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb")])
def test_a_terminal_that_wants_plain_lines_gets_them(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    console = terminal()
    with LiveView(10, console=console) as view:
        view.update(1, losses=LOSSES)
    text = console.file.getvalue()
    assert text.startswith("step 1/10  10%")
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_lines_stay_and_are_no_markup_and_the_cursor_comes_back_however_the_view_ends(error):
    console = terminal()
    with pytest.raises(error), LiveView(10, console=console) as view:
        view.print("[bold]data[/bold] /x/[a]")
        view.update(1, losses=LOSSES)
        view.print("alarm: [red]", style="yellow")
        raise error
    text = console.file.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "[bold]data[/bold] /x/[a]" in text and "alarm: [red]" in text and "g: adversarial_b 0.912" in text
