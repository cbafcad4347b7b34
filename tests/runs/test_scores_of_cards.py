"""Card, app and `gantk show model` give the same scores."""

from pathlib import Path

import pytest

from gantk import score_table
from gantk.runs.models import card, find_model, scores_of
from gantk.runs.schemas import read_results

TABLE = """| volume | T1 to T2 |
| --- | --- |
| one | 22.8 / 0.880 |
| **mean of 12 people** | **21.2 / 0.821** |
"""
ROWS = [["volume", "T1 to T2"], ["one", "22.8 / 0.880"], ["mean of 12 people", "21.2 / 0.821"]]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (f"# m\n\n## Scores\n\nWords.\n\n{TABLE}\nMore.\n\n| a | b |\n| - | - |\n", ROWS),
        (f"# m\n\n## Scores\n\nNone yet.\n\n## Data\n\n{TABLE}", []),
        ("# m\n", []),
    ],
)
def test_the_first_table_of_the_section_is_read(text, rows, tmp_path):
    (tmp_path / "card.md").write_text(text, "utf-8")
    assert scores_of(tmp_path) == rows


def test_the_shipped_model_shows_the_score_of_its_page():
    *_, mean = scores_of(find_model("t1t2"))
    assert mean[0] == "mean of 12 people"
    page = (Path(__file__).parents[2] / "docs/guides/shipped-models.md").read_text("utf-8")
    psnr = mean[2].partition(" ")[0]
    assert f"| `t1t2` | {psnr} dB" in page


def test_the_shipped_card_holds_the_measured_scores():
    model = find_model("t1t2")
    assert f"\n\n{score_table(read_results(model))}\n\n" in card(model)
