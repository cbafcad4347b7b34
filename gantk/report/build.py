"""report.html: one file that opens offline, made from a run folder's files alone; `render` also makes bench.html."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gantk.files import write_file
from gantk.report.charts import Chart, chart
from gantk.report.pictures import ERROR_CEILING, error_scale, sample_blocks
from gantk.report.run_record import RunRecord, mapping, read_run
from gantk.report.scores import SURE, cards, chosen, headline, verdicts
from gantk.report.words import joules, metric_name, number, short_time
from gantk.terminal import duration

HERE = Path(__file__).parent
SPEED = ("steps", "seconds", "images_per_s", "step_seconds", "first_step_s", "peak_memory_gib", "energy_j")


def write_report(run: Path) -> Path:
    """Writes the run's report.html, whole or not at all, and returns its path; raises UserError where it is no run."""
    record = read_run(Path(run))
    return write_file(record.path / "report.html", render("page.html.j2", _story(record)).encode("utf-8"))


def render(
    template: str,
    story: dict[str, Any],
    *,
    folders: Sequence[Path] = (),  # searched before this one for the template, its styles and its scripts
    styles: Sequence[str] = ("page.css",),
    scripts: Sequence[str] = ("charts.js", "zoom.js", "page.js"),
) -> str:
    """The page's HTML: all of `story` is escaped, and a script other than the page's own is refused by its policy."""
    places = [*folders, HERE]

    def joined(names: Sequence[str]) -> Markup:
        files = (next(place / name for place in places if (place / name).is_file()) for name in names)
        return Markup("\n".join(file.read_text(encoding="utf-8") for file in files))

    templates = Environment(
        loader=FileSystemLoader(places),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": number, "duration": duration, "short_time": short_time, "joules": joules}
    templates.filters |= {"median": median, "quote": shlex.quote}
    script = joined(scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return templates.get_template(template).render(**story, style=joined(styles), script=script, digest=digest)


def _story(run: RunRecord) -> dict[str, Any]:
    """What page.html.j2 is filled with."""
    found = verdicts(run)
    sentence, tone = headline(found)
    steps, blocks = sample_blocks(run.samples)
    curves, places = _curves(run), count()
    here = run.path.is_absolute() and run.path.is_relative_to(Path.cwd())
    folder = run.path.relative_to(Path.cwd()) if here else run.path
    return {
        "run": run,
        "title": _title(run),
        "method": mapping(run.recipe.get("method")).get("name"),
        "total": mapping(run.recipe.get("train")).get("steps"),  # None where the recipe counts in epochs
        "speed": dict.fromkeys(SPEED) | (run.metrics.get("speed") or {}),
        "summary": str(run.recipe.get("summary") or ""),
        "headline": sentence,
        "tone": tone,
        "sure": round(100 * SURE),
        "verdicts": found,
        "cards": cards(run),
        "steps": steps,
        "blocks": blocks,
        "error_scale": error_scale(),
        "ceiling": ERROR_CEILING,
        "curves": {section: [(next(places), each) for each in charts] for section, charts in curves.items()},
        "best": chosen(run),
        "marks": _marks(run),
        "split": _split_summary(run),
        "folder": shlex.quote(str(folder)),
        "data": {  # what the page's script reads; the last step's pictures are in the page and travel as null
            "steps": steps,
            "frames": {
                block["direction"].key: {
                    "output": [*block["outputs"][:-1], None],
                    "error": [*block["errors"][:-1], None],
                    "mean": block["error_means"],
                }
                for block in blocks
            },
            "scores": {d.key: [_score_line(run, d.key, step) for step in steps] for d in run.directions},
            "charts": [each.data for charts in curves.values() for each in charts],
        },
    }


def _curves(run: RunRecord) -> dict[str, list[Chart]]:
    """Section -> its charts: one a group of losses, one a validation metric."""
    losses = [
        chart(group.replace("_", " ").capitalize(), series, from_zero=True, allow_log=True)
        for group, series in run.log.losses.items()
    ]
    scores = {"validation": run.log.validation, "selection": run.log.selection}
    found = {"losses": losses} | {
        section: [
            chart(metric_name(name), {run.label(key) or metric_name(name): points for key, points in series.items()})
            for name, series in by_name.items()
        ]
        for section, by_name in scores.items()
    }
    found["rejection"] = []  # what is left of the error when the pixels that the model is least sure of are set aside
    for direction, judged in mapping(run.metrics.get("uncertainty")).items():
        curve = mapping(mapping(judged).get("rejection"))
        aside = [round(100 * (1 - kept), 1) for kept in curve.get("kept") or ()]
        names = {"error": "by uncertainty", "oracle": "by error itself", "random": "at random"}
        series = {words: dict(zip(aside, curve.get(name) or (), strict=False)) for name, words in names.items()}
        drawn = chart(run.label(direction), series, from_zero=True, x="{} % set aside", tick="{} %")
        found["rejection"].append(drawn)
    return {section: [each for each in charts if each] for section, charts in found.items()}


def _marks(run: RunRecord) -> list[tuple[int, str, str]]:
    """Steps worth a line in every chart: (step, kind, words)."""
    marks = [(step, "stage", f"stage {name}") for name, step in run.log.stages.items()][1:]
    if isinstance(run.best.get("step"), int):
        marks.append((run.best["step"], "best", "chosen checkpoint"))
    return marks + [(int(a["step"]), "alarm", str(a["alarm"])) for a in run.log.alarms]


def _score_line(run: RunRecord, direction: str, step: int) -> str:
    scores = [(name, found.get(direction, {}).get(step)) for name, found in run.log.validation.items()]
    found = [f"{metric_name(name)} {number(value, 3)}" for name, value in scores if value is not None]
    return f"validation at this step: {', '.join(found)}" if found else ""


def _title(run: RunRecord) -> str:
    """`T1 ↔ T2`, `T1 → T2` where one direction is trained, `T1 from noise` where none is."""
    if run.directions and all(direction.source is None for direction in run.directions):
        return " and ".join(direction.target for direction in run.directions) + " from noise"
    keys = {direction.key for direction in run.directions} or set(run.metrics.get("metrics") or {})
    if len(keys) == 1:
        return run.label(keys.pop())
    return " ↔ ".join(run.domains) if run.domains else run.path.name


def _split_summary(run: RunRecord) -> dict[str, Any]:
    """Images and subjects of every set and domain, how they were parted, and a leak that was let pass."""
    found, names, rows = run.split.get("splits") or run.split, dict(zip("ab", run.domains, strict=False)), []
    for name in ("train", "validation", "test"):
        records = [record for record in found.get(name) or () if isinstance(record, dict)]
        letters = [str(record.get("domain", "")) for record in records]
        subjects = {record["subject"] for record in records if record.get("subject")}
        images = Counter(names.get(letter, letter) for letter in letters)
        rows.append({"name": name, "images": images, "subjects": len(subjects)})
    return {
        "rows": rows,
        "domains": sorted({domain for row in rows for domain in row["images"]}),
        "how": str(run.split.get("how") or ""),
        "leak": str(run.split.get("leakage_allowed") or ""),
    }
