"""The page "Published systems" and the README's table show what recipes and records say, and no
other figure.
"""

import re
import sys
import tomllib

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import published_systems as systems  # noqa: E402

STATED = tomllib.loads((ROOT / "tests/fidelity/stated.toml").read_text("utf-8"))
RECORDS = systems.read_records()


def published_by_stated_table():
    """(recipe, figure, value) of every published figure in the golden table of the reports."""
    found = set()
    for report in STATED.values():
        for recipe, system in report.get("systems", {}).items():
            for figure, value in system.get("paper", {}).get("figures", {}).items():
                scores = value if isinstance(value, dict) else {"": value}
                found |= {(recipe, f"{figure} {name}".strip(), x) for name, x in scores.items()}
    return found


def test_page_and_readme_show_the_recorded_figures():
    for path, text in systems.written().items():
        assert path.read_text("utf-8") == text, "run python benchmarks/published_systems.py"


@pytest.mark.parametrize("record", RECORDS, ids=lambda x: f"{x['recipe']}-{x['date']}")
def test_a_record_says_how_it_was_measured(record):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["command"].startswith("gantk ")
    assert not re.search(r"""(^|[\s"'=])/""", record["command"])  # no folder of one machine
    assert all(record[key] for key in ("machine", "data", "size", "batch", "steps"))
    assert record["scores"] or record["test"] == "none, since all images are trained on"
    assert record["steps"] <= record["planned_steps"]
    assert record["test"]
    if record["kind"] == "published":
        assert systems.report_of(record["recipe"]).number in record["reports"]
    else:
        assert record["kind"] == "ours"
        assert record["partners"]


def test_every_recipe_of_a_report_is_on_the_page():
    titles = {paper["title"] for report in systems.REPORTS for paper in report.papers().values()}
    recipes = {name for report in systems.REPORTS for name in report.recipes}
    with_title = {
        path.stem
        for path in (ROOT / "recipes").glob("*.toml")
        if systems.recipe_tables(path.stem).get("paper", {}).get("title") in titles
    }
    page = systems.PAGE.read_text("utf-8")

    assert len(titles) == 5
    assert recipes == with_title
    assert all(f"*{title}*" in page for title in titles)


def test_published_figures_are_those_of_the_reports():
    recorded = set()
    for report in systems.REPORTS:
        for recipe, paper in report.papers().items():
            for figure, value in paper.get("published", {}).items():
                scores = value if isinstance(value, dict) else {"": value}
                recorded |= {(recipe, f"{figure} {name}".strip(), x) for name, x in scores.items()}
    cells = {cell[3]: cell[4] for cell in overview_rows(systems.PAGE)[:4]}
    others = [cell[4] for cell in overview_rows(systems.PAGE)[4:]]

    assert recorded == published_by_stated_table()
    assert cells == {
        "CycleGAN T1 → T2": "8.09 / 0.00",
        "CycleGAN T2 → T1": "none",
        "DualGAN T1 → T2": "none",
        "DualGAN T2 → T1": "10.91 / 0.18",
    }
    assert [cell for cell in others if cell != "none" and "%" not in cell] == []
    assert "undefined in the report" in systems.README.read_text("utf-8").replace("\n", " ")


def overview_rows(path):
    """The cells of each row of the overview; the first and the last are empty."""
    table = path.read_text("utf-8").partition("<!-- overview:")[2].partition("<!-- end -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split("|")] for line in lines]
