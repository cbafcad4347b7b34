"""Builds the section `Statistics` of report.html from the tests and subgroups in metrics.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gantk.metrics.rows import score_rows
from gantk.metrics.statistics.comparing import SystemTest
from gantk.plugin.hookspecs import ReportSection
from gantk.report.run_record import RunRecord
from gantk.runs.results import Groups


@dataclass(frozen=True, kw_only=True)
class StatisticsSection(ReportSection):
    """The section `Statistical tests`."""

    tests: list[SystemTest]
    groups: dict[str, dict[str, dict[str, Groups]]]  # direction in words -> column -> metric


def section(record: RunRecord) -> StatisticsSection | None:
    """The section of the report; None where metrics.json has neither tests nor subgroups."""
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

    return StatisticsSection(
        folder=Path(__file__).parent,
        template="statistics.html.j2",
        tests=tests,
        groups={
            record.label(direction): rows for direction, rows in record.results.subgroups.items()
        },
    )
