"""Builds the section `Statistics` of report.html from the tests and subgroups in metrics.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantk.metrics.rows import score_rows
from gantk.metrics.statistics.comparing import SystemTest


def section(record) -> dict[str, Any] | None:
    """The result of the hook `gantk_report_section`; None where metrics.json has neither tests nor
    subgroups.
    """
    tests = []
    for row in score_rows(record.results):
        test = row.verdict.test
        if test and test.holm is not None:
            place = record.label(row.key), row.metric
            tests.append(
                SystemTest(place=place, one="model", other=row.baseline_name, **dict(test))
            )

    if not tests and not record.results.subgroups:
        return None

    return {
        "folder": Path(__file__).parent,
        "template": "statistics.html.j2",
        "tests": tests,
        "groups": {
            record.label(direction): rows for direction, rows in record.results.subgroups.items()
        },
    }
