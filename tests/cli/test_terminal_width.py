"""Tables fit 80 columns where there is no terminal, texts keep whole lines, and progress is told."""

import io

import pytest
from rich.console import Console

from gantk import registry, terminal
from gantk.lookup.options import options_help


@pytest.mark.parametrize(
    "words", ["recipes", "list", "list loss", "plugins", "models"], ids=lambda words: words
)
def test_tables_in_pipes_fit_80_columns(gantk, words):
    lines = gantk(*words.split()).out.splitlines()
    assert lines
    assert max(map(len, lines)) <= 80


def test_names_of_options_are_never_broken(gantk):
    names = {name for name, *_ in options_help(registry().get("method", "cyclegan").load())}
    lines = gantk("show", "method", "cyclegan").out.splitlines()

    assert names <= {line.split(" ")[0] for line in lines}


HEADS = ("direction", "score", "difference", "verdict")
SCORES = [
    (
        "T1+T1CE -> FLAIR, whole files",
        "PSNR in the foreground",
        "0.85 better [0.42, 1.24]",
        "better",
    ),
    ("", "SSIM", "0.023 worse [0.015, 0.030]", "ahead"),
]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_breaks_no_word_of_a_table_of_figures(width):
    out = io.StringIO()
    table = terminal.TextTable(HEADS, SCORES)
    table.print_on(Console(file=out, force_terminal=True, color_system=None, width=width))
    words = " ".join(" ".join(row) for row in (HEADS, *SCORES)).split()

    assert sorted(out.getvalue().split()) == sorted(words)
