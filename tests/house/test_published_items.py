"""The page of every stated item names keys that recipes have, files that exist and tests that run."""

import re
import sys
import tomllib

import pytest
from tiny import ROOT

from gantk.recipe.load import load_recipe, resolved

sys.path.insert(0, str(ROOT / "benchmarks"))

import published_systems as systems  # noqa: E402

PAGE = (ROOT / "benchmarks/results/published-items.md").read_text("utf-8")
SYSTEMS = tomllib.loads((ROOT / "tests/fidelity/stated.toml").read_text("utf-8"))
REPORTS = {int(part[0]): part for part in re.split(r"^## Report ", PAGE, flags=re.M)[1:]}
KEY = re.compile(r"`((?:method|data|train|post|paper|profile|evaluate)\.[\w.]+)`")
STATES = ("as stated", "reading: ", "ours", "differs: ", "missing: ", "quoted as", "said")


def rows(report):
    """(item, key or code, test, state) of a report's table."""
    lines = [line for line in REPORTS[report].splitlines() if line.startswith("| ")][1:]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def recipes_of(report):
    """The raw and the resolved tables of a report's recipes."""
    found = []
    for name in systems.REPORTS[report - 1].recipes:
        recipe = load_recipe(name)
        found += [recipe.tables, resolved(recipe.check())]
    return found


def has(tables, path):
    """Whether tables have a dotted key; a list of parts has the keys of its first one."""
    for key in path.split("."):
        if isinstance(tables, list) and tables:
            tables = tables[0]
        if not isinstance(tables, dict) or key not in tables:
            return False
        tables = tables[key]
    return True


def stated_values(report):
    """ "group.key" of every value that the golden table has for a report."""
    found = set()
    key = f"R{report - 1}"
    for table in (each for name, each in SYSTEMS.items() if name.partition("_")[0] == key):
        style = {"style": table.get("style", {})}
        for groups in [table["stated"], *table["systems"].values(), style]:
            for group, values in groups.items():
                if isinstance(values, dict):
                    found |= {f"{group}.{name}" for name in values}
    return found


@pytest.mark.parametrize("report", REPORTS)
def test_every_key_of_the_page_is_a_key_of_its_recipes(report):
    tables = recipes_of(report)
    wanted = {key for row in rows(report) for key in KEY.findall(row[1])}

    assert sorted(key for key in wanted if not any(has(each, key) for each in tables)) == []


@pytest.mark.parametrize("report", REPORTS)
def test_every_test_of_the_page_exists(report):
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    functions = set(re.findall(r"^def (test_\w+)", "\n".join(sources), re.M))
    known = functions | stated_values(report)
    named = {name for row in rows(report) for name in re.findall(r"`([\w.]+)`", row[2])}

    assert sorted(named - known) == []


@pytest.mark.parametrize("report", REPORTS)
def test_every_stated_value_is_an_item_of_the_page(report):
    named = {name for row in rows(report) for name in re.findall(r"`([\w.]+)`", row[2])}
    of_all_networks = {"generator.alike", "discriminator.alike"}

    assert sorted(stated_values(report) - named - of_all_networks) == []


@pytest.mark.parametrize("report", REPORTS)
def test_every_row_has_a_state_and_its_files_exist(report):
    for row in rows(report):
        assert len(row) == 4, row
        assert row[3].startswith(STATES), row
        for place in re.findall(r"`((?:gantk|plugins|recipes)/[\w./]+)`", row[1]):
            assert (ROOT / place).is_file(), place
        if row[3] == "as stated":
            assert row[1], row


def test_the_counts_at_the_top_are_those_of_the_tables():
    for report in REPORTS:
        count = len(rows(report))
        assert f"| {report} | {count} |" in PAGE
