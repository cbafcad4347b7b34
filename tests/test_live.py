"""The live view: plain lines where there is no terminal, a bar below them where there is, a terminal left as it was."""

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


def test_the_bar_moves_at_every_step_and_the_remaining_time_follows_the_last_minute():
    now, console = [0.0], terminal()
    with LiveView(1000, console=console, clock=lambda: now[0]) as view:
        for step in range(1, 401):
            now[0] += 20.0 if step <= 100 else 0.5  # a slow start, as of a compiler or a first reading of files
            view.step(step)
            assert f"step {step}/1000" in view.words(100)
        assert "left 5 min 00 s" in view.words(100), view.words(100)
        now[0] += 3
        assert "left 4 min 57 s" in view.words(100)
        assert console.file.getvalue().count("\n") == 0  # no line at a step


def test_a_step_that_takes_long_shows_how_far_it_is_and_a_narrow_window_what_matters_most():
    now = [0.0]
    view = LiveView(10, console=terminal(), clock=lambda: now[0], doing=lambda: "generators, microbatch 3 of 8")
    view.step(4)
    now[0] += 9
    assert "microbatch" not in view.words(100)
    now[0] += 5
    assert view.words(30).endswith("generators, microbatch 3 of 8 14 s")
    view.busy = "saving the weights"
    assert view.words(100).startswith("step 4/10  40%  saving the weights 14 s  14 s so far")
    view.busy = None
    view.step(5)
    assert view.words(20) == "step 5/10  50%" and view.words(31) == "step 5/10  50%  left 1 min 10 s"


def test_away_from_a_terminal_a_line_is_written_at_least_once_a_minute():
    now, console = [0.0], Console(file=io.StringIO())
    with LiveView(1000, console=console, clock=lambda: now[0]) as view:
        for step in range(1, 13):
            now[0] += 25
            view.step(step)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 4 and lines[-1] == "step 12/1000  1%  left 6 h 51 min"


def test_the_engine_says_which_phase_and_microbatch_it_computes(tiny_recipe, tmp_path, monkeypatch):
    import gantk
    from gantk.training.engine import Engine

    said = []
    monkeypatch.setattr(Engine, "doing", property(lambda self: "", lambda self, what: said.append(what)), raising=False)
    tiny_recipe["train"] |= {"steps": 1, "microbatch": 1}
    gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    parts = [f"{part}: {what}" for part in ("1 of 2", "2 of 2") for what in ("losses", "gradients")]
    steps = [f"{k} of 2), microbatch {part}" for k in (1, 2) for part in parts]
    assert [each.split(" (")[-1] for each in said if "microbatch" in each] == steps and "reading images" in said
