"""Builds the section `Statistics` of report.html from the tests and subgroups in metrics.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantk.metrics.words import baseline_words


def section(record) -> dict[str, Any] | None:
    """The result of the hook `gantk_report_section`; None where metrics.json has neither tests nor
    subgroups.
    """
    tests = []
    for direction, rows in (record.metrics.get("verdict") or {}).items():
        for metric, row in rows.items():
            test = (row or {}).get("test")
            if test:
                about = {
                    "label": record.label(direction),
                    "score": metric,
                    "one": "model",
                    "other": baseline_words(row["best_baseline"]),
                }
                tests.append(about | test)

    subgroups = record.metrics.get("subgroups") or {}
    if not tests and not subgroups:
        return None

    return {
        "folder": Path(__file__).parent,
        "template": "statistics.html.j2",
        "tests": tests,
        "groups": {record.label(direction): rows for direction, rows in subgroups.items()},
    }
