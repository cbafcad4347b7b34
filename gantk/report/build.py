"""Writes report.html, one file that opens offline, from the files of a run folder only."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gantk.data.look import AIR_SHARE
from gantk.data.split import held_out_patients
from gantk.data.test_size import folds_command, folds_of, needed_patients, needed_words
from gantk.errors import argument, count_noun
from gantk.files import write_file
from gantk.metrics.names import baseline_words, baselines
from gantk.plugin.hookspecs import ReportSection
from gantk.plugin.loader import load
from gantk.report import words
from gantk.report.charts import Chart, chart
from gantk.report.heading import system_of, undefined_figures, what_was_run
from gantk.report.markdown import escape_markdown
from gantk.report.patients.section import how_kept, label_patients, shown_patients
from gantk.report.pictures import (
    ERROR_CEILING,
    TEXTS,
    SampleBlock,
    error_scale,
    image_uri,
    sample_blocks,
)
from gantk.report.run_record import Curves, RunRecord
from gantk.report.scores import grids, summarise_systems, verdict_tests
from gantk.report.summary import (
    score_tables,
    summarise,
    typical_images,
)
from gantk.report.words import metric_name, number
from gantk.runs.folder import RunFolder
from gantk.runs.results import Speed
from gantk.runs.schemas import Meta
from gantk.terminal import duration

HERE = Path(__file__).parent
# sets of images in metrics.json's "values", and their labels, in this order
SETS_OF_VALUES = {
    "real": "real test images",
    "generated": "generated",
    "generated_post": "after the post-steps",
}
# what could control a terminal that shows the file
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# what is not text of a page, and words of code in a text
MARKUP = re.compile(
    r"(<(?:script|style|pre|title)\b.*?</(?:script|style|pre|title)>|<[^>]*>)", re.DOTALL
)
BACKTICKS = re.compile(r"`([^`\n]+)`")
# functions of `words` that the templates use
FILTERS = (
    "number",
    "short_time",
    "metric_name",
    "digits",
    "score_number",
    "typographic",
)


def write_report(run: str | Path, *, renewed_after: float | None = None) -> Path:
    """Write the run's report.html atomically and return its path; UserError where `run` is not a
    run folder.

    `renewed_after`: seconds since the page of a running training was last written; the page then
    reloads itself.
    """
    record = RunRecord(run)
    sections = []
    for found in load().hook.gantk_report_section(record=record):
        sections += [each for each in (found if isinstance(found, list) else [found]) if each]
    live = None
    if renewed_after is not None:
        live = {"written": round(time.time(), 1), "after": round(renewed_after, 1)}

    story = _story(record, live)
    try:
        page = _render_page(story, sections)
    except Exception as error:
        from gantk.plugin.faults import fault_of, switch_off

        page = _render_page(story, [])  # raises again where the fault is not a plugin's
        for section in sections:
            if section.plugin is not None and not section.plugin.problem:
                problem = f"its section of the report failed with {fault_of(error, section.plugin.module)}"
                switch_off(section.plugin, problem)

    content = page.encode("utf-8", "backslashreplace")
    return write_file(record.path / "report.html", content, private=True)


def _render_page(story: Mapping[str, object], sections: Sequence[ReportSection]) -> str:
    """The HTML of the page, with the sections of plugins."""
    styles = [name for section in sections for name in section.styles]
    scripts = [name for section in sections for name in section.scripts]
    return render(
        "page.html.j2",
        folders=[section.folder for section in sections],
        styles=("page.css", *styles),
        scripts=("charts.js", "zoom.js", "page.js", *scripts, "live.js"),
        sections=sections,
        **story,
    )


def render(
    template: str,
    *,
    folders: Sequence[Path] = (),  # searched before this one for the template and its files
    styles: Sequence[str] = ("page.css",),
    scripts: Sequence[str] = ("charts.js", "zoom.js", "page.js"),
    **shown: object,
) -> str:
    """Render a page and return its HTML: what is `shown` is escaped, and the page's policy blocks
    scripts not its own.
    """
    environment = templates(*folders, HERE)
    loader = FileSystemLoader([*folders, HERE])

    def join_sources(names: Sequence[str]) -> str:
        return "\n".join(loader.get_source(environment, name)[0] for name in names)

    script = join_sources(scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    page = environment.get_template(template).render(
        **shown, style=Markup(join_sources(styles)), script=Markup(script), digest=digest
    )
    parts = MARKUP.split(page)
    # in texts `words` of code are shown as code; not in scripts, styles and listings
    parts[::2] = [BACKTICKS.sub(r"<code>\1</code>", text) for text in parts[::2]]
    return CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", "".join(parts))


@cache
def templates(*folders: Path) -> Environment:
    """The templates of these folders, cached: compiling one takes longer than rendering it."""
    templates = Environment(
        loader=FileSystemLoader(folders),
        autoescape=lambda name: ".md" not in (name or ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update((name, getattr(words, name)) for name in FILTERS)
    templates.filters.update(markdown=escape_markdown, count_noun=count_noun)
    templates.filters.update(duration=duration, median=median, png=image_uri, quote=shlex.quote)
    return templates


def _story(run: RunRecord, live: dict[str, float] | None) -> Mapping[str, object]:
    """The variables of page.html.j2."""
    patients = shown_patients(run)
    steps, blocks = sample_blocks(run.samples)
    places = count()  # the page's script finds a chart by its number
    curves = {
        section: [(next(places), each) for each in charts]
        for section, charts in _curves(run).items()
    }
    folder = run.path
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())

    return {
        "run": run,
        "title": _title(run),
        "speed": run.results.speed or Speed(),
        "published": system_of(run),
        "departures": what_was_run(run),
        "undefined": undefined_figures(system_of(run)),
        "result": summarise(run),
        "typical": typical_images(run, patients),
        "patients": patients,
        "labels": label_patients(run),
        "tests": verdict_tests(run.results.judged_by),
        "needed": needed_words(),
        "how_kept": how_kept(run),
        "tables": score_tables(run),
        "grids": [*grids(summarise_systems({"model": run.results}))],
        "steps": steps,
        "blocks": blocks,
        "error_scale": error_scale(),
        "ceiling": ERROR_CEILING,
        "curves": curves,
        "marks": _marks(run),
        "split": _shown_split(run),
        "folder": argument(folder),
        "folds": _folds_command(run, folder),
        "oriented": shows_left_and_right(run),
        "baselines": [
            (baseline_words(name, run.results.baseline_steps), meaning)
            for name, (_, meaning) in baselines().items()
            if name in run.results.baselines
        ],
        "live": live,
        "data": {
            "live": live,
            "steps": steps,
            "frames": {block.direction.key: _frames(block) for block in blocks},
            "charts": [each.data for charts in curves.values() for _, each in charts],
        },
    }


def _folds_command(run: RunRecord, folder: Path) -> str:
    """The trainings that test each patient once, where one run tests few patients; else ""."""
    owners = [run.images_of(name)[1] for name in ("train", "validation", "test")]
    patients = len(set.union(*owners))
    split = run.recipe.data.split
    if split.fold or not 0 < len(owners[-1]) < needed_patients() or patients < 3:
        return ""
    recipe = argument(folder / "recipe.toml")
    run_name = argument(folder)
    command = folds_command(recipe, run_name, split.folds or folds_of(patients))
    return f"{command}; gantk report {run_name}_fold*"


def shows_left_and_right(run: RunRecord) -> bool:
    """Whether the pictures are axial or coronal slices of scans that state their orientation: the
    patient's right is on their left.
    """
    folder = RunFolder(run.path)
    meta = folder.steps and run.read(f"checkpoints/{folder.latest().name}/meta.json", Meta)
    values = meta.values.values() if meta else ()
    oriented = bool(values) and all(known.oriented for known in values)
    return oriented and run.recipe.data.plane != "sagittal"


def _frames(block: SampleBlock) -> dict[str, list]:
    """A block's pictures for the page's script: null for the last step's, which the page embeds."""
    return {
        kind: frames if kind in TEXTS else [*frames[:-1], None]
        for kind, frames in block.frames.items()
    }


def _curves(run: RunRecord) -> dict[str, list[Chart]]:
    """Section -> its charts: one for each group of losses and each validation metric."""
    losses = []
    for group, series in run.log.losses.items():
        title = group.replace("_", " ").capitalize()
        losses.append(chart(title, series, from_zero=True))

    drawn = {
        "losses": losses,
        "validation": _charts_of_metrics(run, run.log.validation),
        "cycle": _charts_of_metrics(run, run.log.cycle),
        "intensities": _charts_of_values(run),
        "post": _charts_of_posts(run),
    }
    return {section: [each for each in charts if each] for section, charts in drawn.items()}


def draw_losses(run: RunRecord) -> str:
    """The charts of the losses as an SVG file."""
    return templates(HERE).get_template("curves.svg.j2").render(charts=_curves(run)["losses"])


def _charts_of_metrics(run: RunRecord, curves: Curves) -> list[Chart | None]:
    """A chart of each metric, with a curve of each direction."""
    order = [direction.label for direction in run.directions]  # the same colours in every chart
    charts = []
    for metric, series in curves.items():
        title = metric_name(metric)
        by_label = {run.label(key) or title: points for key, points in series.items()}
        charts.append(chart(title, by_label, names=order))
    return charts


def _charts_of_values(run: RunRecord) -> list[Chart | None]:
    """A chart of each direction: the intensities of real and of generated images."""
    charts = []
    for key, found in run.results.values.items():
        bins = [(low, high) for low, high in pairwise(found.edges) if low >= AIR_SHARE]
        centres = [round(100 * (low + high) / 2, 2) for low, high in bins]
        series = {}
        for name, label in SETS_OF_VALUES.items():
            shares = found.shares.get(name)
            if shares:
                tissue = shares[-len(bins) :]
                percent = [100 * share / max(sum(tissue), 1e-9) for share in tissue]
                distance = found.distance.get(name)
                if distance is not None:
                    label += f", distance {number(distance, 2)}"
                series[label] = dict(zip(centres, percent, strict=False))

        title = f"{run.label(key)}: share of tissue, %"
        drawn = chart(title, series, from_zero=True, x="intensity {} %", tick="{} %", latest=False)
        charts.append(drawn)

    return charts


def _charts_of_posts(run: RunRecord) -> list[Chart | None]:
    """A chart of each loss of a post-step, over its steps: losses differ in size."""
    charts = []
    for key, steps in run.results.post.items():
        for step in steps:
            images = f", mean of {count_noun(step.images, 'image')}" if step.images else ""
            for name, curve in step.curves.items():
                title = f"{run.label(key)}, {step.name}: {name} loss{images}"
                points = {float(number): loss for number, loss in enumerate(curve)}
                charts.append(chart(title, {name: points}, from_zero=True))

    return charts


def _marks(run: RunRecord) -> list[tuple[int, str, str]]:
    """Vertical marks for every chart: (step, kind, label)."""
    marks = [(step, "stage", f"stage {name}") for name, step in run.log.stages.items()][1:]
    if run.best.scores and run.best.step is not None:
        marks.append((run.best.step, "best", "best checkpoint"))
    marks += [(alarm.step, "alarm", alarm.alarm) for alarm in run.log.alarms]
    return marks


def _title(run: RunRecord) -> str:
    """`T1 ↔ T2`, `T1 → T2` where one direction is trained, `T1 from noise` where none is."""
    labels = {direction.label for direction in run.directions}
    labels = labels or {run.label(key) for key in run.results.metrics}
    if len(labels) == 1:
        return labels.pop()
    return " ↔ ".join(run.domains) or run.path.name


def _shown_split(run: RunRecord) -> dict[str, object]:
    """The sets of a run, with the images of each domain and the number of known patients, who is held
    out, and what was noted at the start of the training.
    """
    sets = {name: run.images_of(name) for name in ("train", "validation", "test")}
    said = (run.split and run.split.notes) or ()
    return {
        "sets": sets,
        "domains": sorted(set().union(*(images for images, _ in sets.values()))),
        "held_out": held_out_patients({name: who for name, (_, who) in sets.items()}),
        "notes": [note for note in said if note not in {*run.consequences, *run.warnings}],
    }
