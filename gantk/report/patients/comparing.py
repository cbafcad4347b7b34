"""Writes a page that compares runs, with folds and seeds of one recipe as one: scores, tests, the
same test images, and differences of their recipes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from gantk.errors import UserError, count_noun
from gantk.files import expect_file, write_output
from gantk.metrics.comparing import Comparison, compare_systems
from gantk.metrics.names import baseline_words
from gantk.metrics.rows import result_tone, unlike_inputs
from gantk.metrics.summary import with_label
from gantk.metrics.table import MODEL
from gantk.report.build import render, shows_left_and_right
from gantk.report.build import write_report as write_one
from gantk.report.figures import TitledPictures, draw_figure, picture_row, write_figures
from gantk.report.patients.section import (
    HERE,
    ShownImage,
    error_window,
    pictures,
    shown_patients,
)
from gantk.report.patients.systems import FOLD, System, systems_of
from gantk.report.run_record import RunRecord
from gantk.report.scores import grids, run_summary, summary_of
from gantk.report.summary import summarise
from gantk.report.words import ARROW
from gantk.runs.folder import flat
from gantk.runs.results import Score, StoredImage

OTHER_IMAGES = (
    "These runs were not scored on the same test images, so their scores cannot be compared. Give the"
    " trainings one split: `--set data.split.file=FILE`, a table with the columns patient and split."
)
FOLDS = (
    " Folds count as one where every run has scores, the recipes differ in data.split.fold alone and no"
    " patient is tested twice; they are compared with the same folds of another recipe."
)
OTHER_SCALES = (
    "The runs score images of the networks on other gray values, as the unchanged input shows ({}), so"
    " differences of these scores say nothing about the models. To make them comparable, translate the"
    " same scans by each (`gantk translate RUN SCANS OUT`) and score each OUT by"
    " `gantk eval --pred OUT --truth TRUE --match`, or train with equal data.size, data.fit and"
    ' data.intensity, and with data.intensity.per = "volume".'
)
ONE_SEED = (
    "The tests are over patients, not over trainings: a training with another seed gives other scores."
    " Train each recipe with several (`--set train.seed=1`); those of one recipe count as one here."
)
ABSENT = "–"  # a key that a run's recipe does not have
# direction in words, the image with all pictures, and its first score in each system
ComparedImage = tuple[str, ShownImage, dict[str, tuple[str, float]]]


def write_report(
    *runs: str | Path,
    out: str | Path | None = None,
    figures: str | Path | None = None,
    rows: int = 4,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Write the report of a run again, or a page that compares several runs.

    Example:

        gantk.write_report("runs/first", "runs/second", out="comparison.html")

    Args:
        runs: one run folder, or several.
        out: the path of the comparison. Default: comparison.html in the current folder.
        figures: a folder for the page's test images as PNG and PDF, one for each direction, 180 mm wide
            at 300 dpi, and its scores as scores.csv and scores.tex.
        rows: how many patients a figure shows.
        overwrite: whether to replace files that gantk did not write, or that were changed since.
        say: called with each line of output, such as why scores cannot be compared.

    Returns:
        The path of the page.

    Raises:
        UserError: a folder is not a run, or a run is named twice.
    """
    if len(runs) == 1 and out is None:
        if figures is not None:
            _write_figures_of_run(figures, rows, RunRecord(runs[0]), overwrite)
        return write_one(runs[0])

    named = _records_of(runs)
    path = Path(expect_file(out or "comparison.html", "--out", overwrite=overwrite))
    systems = systems_of(named)
    reason = _why_not_compared(systems)
    statistics = Comparison([], []) if reason else _statistics(systems)
    answers = [reason] if reason else [*statistics.sentences, *_own_sentences(systems)]
    caution = _caution(systems)
    label = "warning" if reason else "result"
    notes = [(label, answer.replace(ARROW, " -> ")) for answer in answers]
    for label, text in [*notes, *[("note", caution)] * bool(caution)]:
        say(with_label(label, text))

    summary = _summary(systems)
    common = [*_common_images(systems)]
    if figures is not None:
        titled = [(label, image, _titles(label, of_systems)) for label, image, of_systems in common]
        _write_figures(figures, rows, summary, titled, overwrite)
    records = [*named.values()]
    page = render(
        "compare.html.j2",
        folders=[HERE],
        styles=("page.css", "patients.css"),
        scripts=("patients.js",),
        title=f"{len(named)} runs {'compared' if len(systems) > 1 else 'together'}",
        systems=systems,
        answers=[answer.replace(" -> ", ARROW) for answer in answers],
        reason=reason,
        caution=caution,
        runs=[(name, record, summarise(record)["sentence"]) for name, record in named.items()],
        trained_on={name: _training_images([record]) for name, record in named.items()},
        oriented=all(map(shows_left_and_right, records)),
        grids=[*grids(summary)],
        places={system.name: records.index(system.runs[0]) for system in systems},
        tests=statistics.tests,
        cases=common,
        error_window=error_window([image.pictures for _, image, _ in common]),
        differences=_differences(named),
    )
    return write_output(path, page.encode("utf-8", "backslashreplace"), private=True)


def _titles(label: str, systems: Iterable[str]) -> dict[str, str]:
    """The titles of an image's pictures, by kind: the systems' outputs under their names."""
    source, target = label.split(ARROW)
    outputs = {f"output-{place}": name for place, name in enumerate(systems)}
    return {"input": f"Input: {source}", "truth": f"Real {target}", **outputs}


def _write_figures_of_run(
    folder: str | Path, rows: int, record: RunRecord, overwrite: bool
) -> None:
    images = [
        (shown.label, case, shown.titles)
        for shown in shown_patients(record)
        for case in shown.cases
    ]
    _write_figures(folder, rows, run_summary(record), images, overwrite)


def _records_of(runs: Sequence[str | Path]) -> dict[str, RunRecord]:
    """The runs by the names of their folders, or by their paths where two have one name; UserError
    for one that is named twice.
    """
    folders = [Path(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < max(len(folders), 1):
        what = "a run is named twice" if runs else "no run is named"
        raise UserError(what, where="report", remedy="name each once")
    names = [folder.resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else str(folder): RunRecord(folder)
        for name, folder in zip(names, folders, strict=True)
    }


def _caution(systems: Sequence[System]) -> str:
    """What tests over patients do not say, where a system was trained once; "" for one system."""
    once = any(len(system.seeds) == 1 for system in systems)
    return ONE_SEED if once and len(systems) > 1 else ""


def _own_sentences(systems: Sequence[System]) -> list[str]:
    """The results of those systems that are several runs, or lose against a baseline."""
    return [
        system.sentence
        for system in systems
        if system.is_pooled or result_tone(system.results) == "bad"
    ]


def _write_figures(
    folder: str | Path,
    rows: int,
    summary: pd.DataFrame,
    images: Sequence[tuple[str, ShownImage, Mapping[str, str]]],
    overwrite: bool,
) -> None:
    """Write scores, and of each direction the first image of so many patients, with the titles of its
    pictures; all errors of a direction have one scale.
    """
    figures = {}
    for label in dict.fromkeys(label for label, _, _ in images):
        of_patients: dict[str, tuple[ShownImage, Mapping[str, str]]] = {}
        for other, image, titles in images:
            if other == label:
                of_patients.setdefault(image.stored.patient, (image, titles))
        chosen = dict([*of_patients.items()][:rows])
        shown = [image.pictures for image, _ in chosen.values()]
        span = max(each["truth"].high - each["truth"].low for each in shown)
        largest = span * error_window(shown) / 100 or 1.0
        drawn: list[tuple[str, TitledPictures]] = [
            (patient, picture_row(image, titles, largest))
            for patient, (image, titles) in chosen.items()
        ]
        unit = {image.stored.units[2] for image, _ in chosen.values()} & {"HU"}
        figures[label] = draw_figure(drawn, " ".join([f"{largest:.3g}", *unit]))
    write_figures(folder, summary, figures, overwrite)


def _why_not_compared(systems: Sequence[System]) -> str:
    """Why the scores cannot be compared, or ""."""
    tests = [system.tests for system in systems]
    if len({frozenset(each) for each in tests}) > 1 or not all(tests[0]):
        folds = [dict(flat(run.recipe.dump())).get(FOLD) for one in systems for run in one.runs]
        return OTHER_IMAGES + (FOLDS if len({*folds}) > 1 else "")

    for images in tests[0]:
        found = unlike_inputs({one.name: one.tests[images].results for one in systems})
        if found:
            return OTHER_SCALES.format(found)
    return ""


def _training_images(records: Sequence[RunRecord]) -> str:
    """`27 T1 + 7 T2 of 10 patients` of each run; `unknown` where it did not record its split."""
    texts = []
    for record in records:
        counts, patients = record.images_of("train")
        images = " + ".join(f"{count} {name}" for name, count in counts.items())
        if patients:
            images += f" of {count_noun(patients, 'patient')}"
        texts.append(images or "unknown")
    return ", ".join(dict.fromkeys(texts))


def _summary(systems: Sequence[System]) -> pd.DataFrame:
    """The scores of each system, and of each baseline: of all systems once where these are equal."""
    rows: list[tuple[str, str, Mapping[str, Score]]] = []
    baselines = []
    for system in systems:
        for key, scores in system.results.metrics.items():
            label = system.runs[0].label(key)
            rows.append((label, system.name, scores))
            for rival in system.results.baselines:
                own = system.results.baseline(rival, key)
                known = {metric: own[metric] for metric in scores if metric in own}
                texts = str([score.text() for score in known.values()])
                baselines.append((label, baseline_words(rival), system.name, texts, known))
    heads = ["label", "rival", "system", "texts", "scores"]
    unlike = pd.DataFrame(baselines, columns=heads).drop_duplicates(["label", "rival", "texts"])
    for (label, rival), own in unlike.groupby(["label", "rival"], sort=False):
        for name, scores in zip(own.system, own.scores, strict=True):
            rows.append((label, f"{rival}, {name}" if len(own) > 1 else rival, scores))
    return summary_of(rows)


def _statistics(systems: Sequence[System]) -> Comparison:
    """The result of `gantk.compare_systems` for the metrics with a score of each patient."""
    tables = []
    about: dict[str, Score] = {}
    for system in systems:
        lines = system.lines[system.lines.system == MODEL]
        labels = lines.direction.map(system.runs[0].label)
        tables.append(lines.assign(system=system.name, direction=labels))
        for scores in system.results.metrics.values():
            about |= scores
    return compare_systems(
        pd.concat(tables),
        {metric: score.higher_is_better for metric, score in about.items()},
        {metric: score.unit for metric, score in about.items()},
    )


def _common_images(systems: Sequence[System]) -> Iterator[ComparedImage]:
    """Yield the test images that every system saved in one size, each with all outputs and scores."""
    by_system = [_stored_images(system) for system in systems]
    for same, (_, key, first) in by_system[0].items():
        found = [stored[same] for stored in by_system if same in stored]
        drawn = [pictures(record, image.stem) for record, _, image in found]
        # networks of other sizes are not drawn side by side
        sizes = {each["truth"].pixels.shape if each else () for each in drawn}
        if len(found) < len(systems) or len(sizes) > 1 or () in sizes:
            continue

        shown = {kind: drawn[0][kind] for kind in ("input", "truth")}
        scores = {}
        for place, (system, (record, key, image)) in enumerate(zip(systems, found, strict=True)):
            shown[f"output-{place}"] = drawn[place]["output"]
            lines = record.lines[(record.lines.system == MODEL) & (record.lines.direction == key)]
            own = lines[lines.image == image.image]
            seed = f", seed {record.recipe.train.seed}" if len(system.seeds) > 1 else ""
            score = zip(own.metric, own.value, strict=True)
            scores[system.name + seed] = next(score, ("", math.nan))
        yield same[0], ShownImage(first, shown, {}), scores


def _stored_images(
    system: System,
) -> dict[tuple[str, str, str, str], tuple[RunRecord, str, StoredImage]]:
    """(Direction, image, input, truth) -> an image that the system saved, the run that holds it, and
    its direction there.
    """
    return {
        (record.label(key), stored.image, stored.input, stored.truth): (record, key, stored)
        for record in system.runs
        for key, images in record.stored.items()
        for stored in images
    }


def _differences(named: Mapping[str, RunRecord]) -> list[tuple[str, list[str]]]:
    """(Recipe key, its value in each run) for the keys in which the runs differ."""
    recipes = [
        {key: json.dumps(value, ensure_ascii=False) for key, value in flat(record.recipe.dump())}
        for record in named.values()
    ]
    rows = []
    for key in dict.fromkeys(key for recipe in recipes for key in recipe):
        texts = [recipe.get(key, ABSENT) for recipe in recipes]
        if len(set(texts)) > 1:
            rows.append((key, texts))
    return rows
