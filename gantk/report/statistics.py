"""Builds the section `Statistical tests` of report.html from the tests in metrics.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gantk.metrics.comparing import SystemTest
from gantk.metrics.rows import score_rows
from gantk.plugin.hookspecs import ReportSection
from gantk.report.run_record import RunRecord


@dataclass(frozen=True, kw_only=True)
class StatisticsSection(ReportSection):
    """The section `Statistical tests`."""

    tests: list[SystemTest]


def section(record: RunRecord) -> StatisticsSection | None:
    """The section of the report; None where metrics.json has no tests."""
    tests = []
    for row in score_rows(record.results):
        test = row.verdict.test
        if test and test.holm is not None:
            place = record.label(row.key), row.metric
            tests.append(
                SystemTest(place=place, one="model", other=row.baseline_name, **dict(test))
            )

    if not tests:
        return None

    return StatisticsSection(
        folder=Path(__file__).parent,
        template="statistics.html.j2",
        tests=tests,
    )
