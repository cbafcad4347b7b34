"""Tables and notebooks put the scores of a direction under its own name."""

import html
import re

from tiny import write_json

import gantk
from gantk import score_table
from gantk.runs.results import Results

SCORES = {"a_to_b": 21.25, "b_to_a": 33.5}
METRICS = {
    "domains": ["T1", "CT"],
    "metrics": {
        way: {"psnr": {"value": value, "unit": "dB", "n": 3, "higher_is_better": True}}
        for way, value in SCORES.items()
    },
}


def test_a_notebook_names_each_direction_beside_its_score(tmp_path):
    write_json(tmp_path / "metrics.json", METRICS)
    (tmp_path / "recipe.toml").write_text('format = 1\n[data]\ndomains = ["T1", "CT"]\n', "utf-8")
    rows = re.findall(r"<tr.*?</tr>", gantk.Run(tmp_path)._repr_html_())
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    shown = {plain(html.unescape(row[0])): float(row[2].split()[0]) for row in cells if row}

    assert shown == {"T1 \u2192 CT": 21.25, "CT \u2192 T1": 33.5}


def test_a_table_names_each_direction_beside_its_score():
    rows = [
        line.split(" | ") for line in score_table(Results.model_validate(METRICS)).splitlines()[2:]
    ]
    shown = {row[0].strip("| "): row[2].split()[0] for row in rows}

    assert shown == {"T1 -> CT": "21.25", "CT -> T1": "33.50"}


def plain(name):
    """A name with spaces that break."""
    return name.replace("\xa0", " ")
