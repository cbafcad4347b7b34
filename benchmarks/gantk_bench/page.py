"""bench.html: all rows of a bench folder in one file that opens offline: table, curves, pictures, conditions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from gantk.files import write_file
from gantk.report.build import render
from gantk.report.charts import Chart
from gantk.report.words import duration, number
from gantk_bench.columns import Column, columns
from gantk_bench.comparison import BETTER, NO_CHANGE, REGRESSION, Change, told
from gantk_bench.details import detail
from gantk_bench.gallery import gallery
from gantk_bench.plots import over_time
from gantk_bench.systems import Line, Row, System, mapping, systems, value_of

HERE = Path(__file__).parent
MOST_NAMED = 6  # recipes in a command; of more, it is all of them


def write_page(rows: Iterable[Row], folder: Path, changes: Sequence[Change] | None = None) -> Path:
    """Writes the folder's bench.html, whole or not at all, and returns its path.

    `rows` may have any status and any metrics; their sample pictures are looked for in the folder. `changes` are what
    `gantk_bench.comparison.compare` found against earlier rows; None where nothing was compared.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write_file(folder / "bench.html", page(list(rows), folder, changes).encode("utf-8", "replace"))


def page(rows: list[Row], folder: Path, changes: Sequence[Change] | None = None) -> str:
    """The page's HTML."""
    found = systems(rows)
    lines = [line for system in found for line in system.lines]
    shown = columns(lines)
    places, charts = count(), []

    def numbered(each: Chart | None) -> list[tuple[int, Chart]]:
        if each is None:
            return []
        charts.append(each)
        return [(next(places), each)]

    plots = [(i, c, note) for c, note in over_time(lines) for i, c in numbered(c)]
    details = [detail(system, numbered) for system in found]
    strips, left_out = gallery(found, folder)
    story = {
        "title": _title(rows),
        "folder": folder.name,
        "facts": facts(rows, found),
        "failures": [(row.get("label") or row.get("recipe") or "unnamed", row.get("status"), row.get("error"))
                     for row in rows if row.get("status") != "ok"],
        "changes": _changes(changes),
        "columns": shown,
        "groups": [_group(line, shown) for line in lines],
        "plots": plots,
        "strips": strips,
        "left_out": left_out,
        "details": details,
        "conditions": conditions(rows),
        "commands": commands(rows, folder),
        "data": {"charts": [each.data for each in charts]},
    }  # fmt: skip
    return render(
        "bench.html.j2",
        story,
        folders=[HERE],
        styles=("page.css", "bench.css"),
        scripts=("charts.js", "zoom.js", "bench.js"),
    )


def _changes(changes: Sequence[Change] | None) -> dict[str, Any] | None:
    """What differs from last time, each with its tone, and the count of all."""
    if changes is None:
        return None
    *_, summary = told(changes)
    tones = {REGRESSION: "bad", BETTER: "good"}
    value = lambda each, unit: "" if each is None else f"{number(each)} {unit}".strip()  # noqa: E731
    rows = [
        (tones.get(c.verdict, ""), c.verdict, c.label, c.what, value(c.before, c.unit), value(c.now, c.unit), c.reason)
        for c in changes
        if c.verdict != NO_CHANGE
    ]
    return {"summary": summary, "rows": rows}


def _title(rows: list[Row]) -> str:
    suites = list(dict.fromkeys(str(row["suite"]) for row in rows if row.get("suite")))
    return f"Benchmark: {', '.join(suites)}" if suites else "Benchmark"


def facts(rows: list[Row], found: list[System]) -> list[tuple[str, str]]:
    """The strip under the title."""
    good = sum(row.get("status") == "ok" for row in rows)
    judged = [line.judgement for system in found for line in system.lines if line.judgement.tone]
    walls = [value for row in rows if (value := value_of(row.get("wall_s"))) is not None]
    started = sorted(str(row["started"]) for row in rows if row.get("started"))
    said = [
        ("Rows", f"{good} of {len(rows)} finished"),
        ("Systems", str(len(found))),
        (
            "Better than the best baseline",
            f"{sum(j.tone == 'good' for j in judged)} of {len(judged)}" if judged else "",
        ),
        ("Time of all runs", duration(sum(walls)) if walls else ""),
        ("Started", started[0][:16].replace("T", " ") if started else ""),
        ("Machine", _one(mapping(row.get("machine")).get("cpu") for row in rows)),
        ("Device", _one(mapping(row.get("machine")).get("device") for row in rows)),
        ("gantk", _one(mapping(row.get("versions")).get("gantk") for row in rows)),
        ("Commit", _one(_commit(row) for row in rows)),
    ]
    return [(name, value) for name, value in said if value]


def _one(values: Iterable[Any]) -> str:
    """What all rows say; the number of answers where they differ."""
    known = list(dict.fromkeys(str(value) for value in values if value not in (None, "")))
    return known[0] if len(known) == 1 else f"{len(known)} different" if known else ""


def _commit(row: Row) -> str:
    git = mapping(row.get("git"))
    return f"{str(git['commit'])[:10]}{' and changes' if git.get('dirty') else ''}" if git.get("commit") else ""


def _group(line: Line, shown: list[Column]) -> dict[str, Any]:
    """A line of the table and, beneath it, one for each of several seeds."""
    seeds = []
    for system in line.system.apart if len(line.system.rows) > 1 else ():
        alone = Line(system, line.direction if system.scored else "")
        seeds.append([column.cell(alone) for column in shown])
    return {"cells": [column.cell(line) for column in shown], "seeds": seeds}


def commands(rows: list[Row], folder: Path) -> list[tuple[str, str]]:
    """What goes on from this page: the same rows once more, held against these."""
    recipes = list(dict.fromkeys(str(row["recipe"]) for row in rows if row.get("recipe") and not row.get("peer")))
    suite = next((str(row["suite"]) for row in rows if row.get("suite")), "quick")
    words = ["gantk", "bench", *(recipes if len(recipes) <= MOST_NAMED else ["--all"]), "--suite", suite]
    values: dict[str, list[str]] = {}
    for row in rows:
        for key, value in mapping(row.get("grid")).items():
            text = value if isinstance(value, str) else json.dumps(value)
            values.setdefault(str(key), []).append(text)
    for key, found in values.items():
        words += ["--grid", f"{key}={','.join(dict.fromkeys(found))}"]
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    return [("Measure again and compare", shlex.join([*words, "--against", str(folder / "rows.jsonl")]))]


def conditions(rows: list[Row]) -> dict[str, list[tuple[str, list[tuple[str, int]]]]]:
    """Heading -> name -> the answers of the rows, each with how many gave it."""
    groups: dict[str, dict[str, dict[str, int]]] = {"Machine": {}, "Versions": {}, "Source": {}}
    for row in rows:
        git = mapping(row.get("git"))
        source = {
            "commit": git.get("commit"),
            "uncommitted changes": {True: "yes", False: "no"}.get(git.get("dirty")),
            "runs at once": row.get("jobs"),
        }
        for heading, found in (("Machine", row.get("machine")), ("Versions", row.get("versions")), ("Source", source)):
            for name, value in mapping(found).items():
                if value not in (None, "", [], {}):
                    answers = groups[heading].setdefault(str(name), {})
                    answers[str(value)] = answers.get(str(value), 0) + 1
    return {
        heading: [(name, sorted(answers.items(), key=lambda each: -each[1])) for name, answers in found.items()]
        for heading, found in groups.items()
        if found
    }
