"""Every figure on a results page is in its record."""

import re
from dataclasses import replace

import pytest
import recorded_figures as recorded

pytestmark = pytest.mark.bench
INDEX = recorded.RESULTS / "README.md"
# figures of published-items.md are settings, which test_published_items.py compares with recipes
ELSEWHERE = ("README.md", "published-items.md")
PAGES = [page for page in sorted(recorded.RESULTS.glob("*.md")) if page.name not in ELSEWHERE]
SECTIONS = [section for page in PAGES for section in recorded.sections(page)]
RECORDED = [section for section in SECTIONS if section.records]


def name_of(section):
    return f"{section.page}-{section.title.strip('# ')[:40]}"


@pytest.mark.parametrize("section", RECORDED, ids=name_of)
def test_every_figure_is_in_its_record(section):
    assert recorded.unmatched(section) == []


@pytest.mark.parametrize("section", RECORDED, ids=name_of)
def test_records_would_not_accept_a_wrong_figure(section):
    assert recorded.accepted_shifts(section) <= recorded.MAX_ACCEPTED_SHIFTS


def test_every_section_with_figures_names_its_records():
    assert [name_of(section) for section in SECTIONS if not section.records] == []


def test_an_answer_of_the_index_is_on_its_page():
    wrong = []
    for line in INDEX.read_text("utf-8").splitlines():
        pages = re.findall(r"\]\(([\w./-]+\.md)\)", line)
        if line.startswith("|") and pages:
            text = (recorded.RESULTS / pages[-1]).read_text("utf-8")
            wrong += [(pages[-1], x) for x in recorded.FIGURE.findall(line) if x not in text]

    assert wrong == []


def test_a_changed_figure_is_noticed():
    section = max(RECORDED, key=lambda each: len(list(each.figures())))
    figure, _ = next(section.figures())
    value, unit = recorded.parsed(figure)
    changed = replace(section, text=section.text.replace(figure, f"{value + 777 * unit:.6f}", 1))

    assert recorded.unmatched(changed) != []
