"""report.html: one file that opens offline, made from the files of a run folder and nothing else."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from gantk.files import write_file
from gantk.report.cards import cards
from gantk.report.facts import alarms, commands, environment, facts, method_name, missing, split_summary, title
from gantk.report.figures import Chart, chart, number
from gantk.report.folder import RunRecord, read_run
from gantk.report.naming import metric_name
from gantk.report.pictures import ERROR_CEILING, Block, error_scale, sample_blocks
from gantk.report.selection import chosen
from gantk.report.verdicts import SURE, headline, verdicts
from gantk.report.web import render

TOML_TOKEN = re.compile(
    r'(?P<string>"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')'
    r"|(?P<comment>#[^\n]*)"
    r"|(?P<table>^[ \t]*\[\[?[^\]\n]+\]\]?[ \t]*(?=#|$))"
    r"|(?P<key>[A-Za-z0-9_.-]+(?=[ \t]*=))"
    r"|(?P<number>\b(?:true|false|inf|nan)\b|(?<![\w.])[-+]?\d[\w.+-]*)",
    re.MULTILINE,
)


def write_report(run: Path) -> Path:
    """Writes the run's report.html, whole or not at all, and returns its path; raises UserError where it is no run."""
    folder = read_run(Path(run))
    return write_file(folder.path / "report.html", page(folder).encode("utf-8"))


def page(run: RunRecord) -> str:
    """The page's HTML."""
    return render("page.html.j2", _story(run))


def _story(run: RunRecord) -> dict[str, Any]:
    found = verdicts(run)
    sentence, tone = headline(found)
    steps, blocks = sample_blocks(run.samples)
    curves = _curves(run)
    return {
        "run": run,
        "title": title(run),
        "summary": str(run.recipe.get("summary") or ""),
        "method": method_name(run),
        "facts": facts(run),
        "headline": sentence,
        "tone": tone,
        "sure": round(100 * SURE),
        "verdicts": found,
        "notes": missing(run),
        "cards": cards(run),
        "steps": steps,
        "all_steps": len(run.samples.steps) if run.samples else 0,
        "blocks": blocks,
        "error_scale": error_scale(),
        "ceiling": ERROR_CEILING,
        "curves": _numbered(curves),
        "best": chosen(run),
        "marks": _marks(run),
        "alarms": alarms(run),
        "recipe": toml_markup(run.recipe_text),
        "environment": environment(run),
        "split": split_summary(run),
        "commands": commands(run),
        "data": _script_data(run, steps, blocks, curves),
    }


def _curves(run: RunRecord) -> dict[str, list[Chart]]:
    """Section -> its charts: one a group of losses, one a validation metric."""
    losses = [
        chart(group.replace("_", " ").capitalize(), series, from_zero=True, allow_log=True)
        for group, series in run.log.losses.items()
    ]
    validation = [
        chart(metric_name(metric), {run.label(key): points for key, points in by_direction.items()})
        for metric, by_direction in run.log.validation.items()
    ]
    selection = [
        chart(
            metric_name(name),
            {run.label(key) if key else metric_name(name): points for key, points in by_direction.items()},
        )
        for name, by_direction in run.log.selection.items()
    ]
    groups = {"losses": losses, "validation": validation, "selection": selection, "rejection": _rejection(run)}
    return {section: [c for c in charts if c] for section, charts in groups.items()}


def _numbered(curves: dict[str, list[Chart]]) -> dict[str, list[tuple[int, Chart]]]:
    """Each chart with its place in the list that the page's script reads."""
    places = count()
    return {section: [(next(places), each) for each in charts] for section, charts in curves.items()}


def _rejection(run: RunRecord) -> list[Chart | None]:
    """What is left of the error when the pixels that the model is least sure of are set aside."""
    charts = []
    for direction, judged in (run.metrics.get("uncertainty") or {}).items():
        curve = judged.get("rejection") if isinstance(judged, dict) else None
        if not isinstance(curve, dict) or not curve.get("kept"):
            continue
        aside = [round(100 * (1 - kept), 1) for kept in curve["kept"]]
        names = {"error": "by uncertainty", "oracle": "by error itself", "random": "at random"}
        series = {
            words: dict(zip(aside, curve[name], strict=False)) for name, words in names.items() if curve.get(name)
        }
        charts.append(chart(run.label(direction), series, from_zero=True, x="{} % set aside", tick="{} %"))
    return charts


def _marks(run: RunRecord) -> list[tuple[int, str, str]]:
    """Steps worth a line in every chart: (step, kind, words)."""
    marks = [(step, "stage", f"stage {name}") for step, name in run.log.stages[1:]]
    if isinstance(run.best.get("step"), int):
        marks.append((run.best["step"], "best", "chosen checkpoint"))
    return marks + [(int(a["step"]), "alarm", str(a["alarm"])) for a in run.log.alarms]


def toml_markup(text: str) -> Markup:
    """TOML with spans around comments, tables, keys, strings and numbers; every character of the text escaped."""
    pieces, end = [], 0
    for match in TOML_TOKEN.finditer(text):
        pieces.append(escape(text[end : match.start()]))
        pieces.append(Markup('<span class="t-{}">{}</span>').format(match.lastgroup, match.group()))
        end = match.end()
    return Markup("").join([*pieces, escape(text[end:])])


def _script_data(run: RunRecord, steps: list[int], blocks: list[Block], curves: dict[str, list[Chart]]) -> dict:
    """What the page's script reads; the last step's pictures are in the page already and travel as null."""

    def frames(pictures: list[list[str]]) -> list[list[str] | None]:
        return [*pictures[:-1], None]

    return {
        "steps": steps,
        "frames": {
            b.direction.key: {"output": frames(b.outputs), "error": frames(b.errors), "mean": b.error_means}
            for b in blocks
        },
        "scores": {b.direction.key: [_score_line(run, b.direction.key, step) for step in steps] for b in blocks},
        "charts": [c.data for charts in curves.values() for c in charts],
    }


def _score_line(run: RunRecord, direction: str, step: int) -> str:
    found = [
        f"{metric_name(metric)} {number(by_direction[direction][step], 3)}"
        for metric, by_direction in run.log.validation.items()
        if step in by_direction.get(direction, {})
    ]
    return f"validation at this step: {', '.join(found)}" if found else ""
