"""Writes a page that compares runs, with folds and seeds of one recipe as one: scores, tests, the
same test images, and differences of their recipes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from gantk.report.figures import TitledPictures, captioned_row, write_figures
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
ONE_SEED = (
    "The tests are over patients, not over trainings: a training with another seed gives other scores."
    " Train each recipe with several (`--set train.seed=1`); those of one recipe count as one here."
)
# keys of [data] that decide the pixels and the units in which the networks' images are scored
SCALES = ("dims", "size", "fit", "channels", "plane", "spacing", "intensity")
ABSENT = "–"  # a key that a run's recipe does not have
# of a key that earlier versions had: false changed nothing
UNUSED = {"false", ABSENT}
# direction in words, the image with all pictures, and each system's scores of it
ComparedImage = tuple[str, ShownImage, dict[str, dict[str, float]]]


def write_report(
    *runs: str | Path,
    out: str | Path | None = None,
    figures: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Write the report of a run again, or a page that compares several runs.

    Example:

        gantk.write_report("runs/first", "runs/second", out="comparison.html")

    Args:
        runs: one run folder, or several.
        out: the path of the comparison. Default: comparison.html in the current folder.
        figures: a folder for the page's test images as PNG, one for each direction, and its scores as
            scores.csv and scores.tex.
        overwrite: whether to replace files that gantk did not write, or that were changed since.
        say: called with each line of output, such as why scores cannot be compared.

    Returns:
        The path of the page.

    Raises:
        UserError: a folder is not a run, or a run is named twice.
    """
    if len(runs) == 1 and out is None:
        if figures is not None:
            record = RunRecord(runs[0])
            images = [
                (shown.label, case, shown.titles)
                for shown in shown_patients(record)
                for case in shown.cases
            ]
            _write_figures(figures, run_summary(record), images, overwrite)
        return write_one(runs[0])

    folders = [Path(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < max(len(folders), 1):
        raise UserError(
            "a run is named twice" if runs else "no run is named",
            where="report",
            remedy="name each once",
        )

    path = Path(expect_file(out or "comparison.html", "--out", overwrite=overwrite))
    names = [folder.resolve().name for folder in folders]
    named = {
        name if names.count(name) == 1 else str(folder): RunRecord(folder)
        for name, folder in zip(names, folders, strict=True)
    }
    systems = systems_of(named)
    differences = _differences(named)
    reason = _why_not_compared(systems, differences)
    statistics = Comparison([], []) if reason else _statistics(systems)
    answers = [reason]
    if not reason:
        said = [one for one in systems if one.is_pooled or result_tone(one.results) == "bad"]
        answers = [*statistics.sentences, *(system.sentence for system in said)]
    caution = _caution(systems)
    for answer in answers:
        say(with_label("warning" if reason else "result", answer.replace(ARROW, " -> ")))
    if caution:
        say(with_label("note", caution))

    summary = _summary(systems)
    common = [*_common_images(systems)]
    if figures is not None:
        titled = []
        for label, image, of_runs in common:
            titles = {"input": "Input", "truth": "Real"}
            titles |= {f"output-{place}": name for place, name in enumerate(of_runs)}
            titled.append((label, image, titles))
        _write_figures(figures, summary, titled, overwrite)
    records = [*named.values()]
    page = render(
        "compare.html.j2",
        folders=[HERE],
        styles=("page.css", "patients.css"),
        scripts=("patients.js",),
        title=f"{len(named)} runs {'compared' if len(systems) > 1 else 'together'}",
        systems=systems,
        answers=answers,
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
        differences=differences,
    )
    return write_output(path, page.encode("utf-8", "backslashreplace"), private=True)


def _write_figures(
    folder: str | Path,
    summary: pd.DataFrame,
    images: Sequence[tuple[str, ShownImage, Mapping[str, str]]],
    overwrite: bool,
) -> None:
    """Write scores and test images, each with its direction and the titles of its pictures."""
    window = error_window([image.pictures for _, image, _ in images])
    rows: dict[str, list[TitledPictures]] = {}
    for label, image, titles in images:
        truth = image.pictures["truth"]
        brightest = (truth.high - truth.low) * window / 100 or 1.0
        rows.setdefault(label, []).append(captioned_row(image, titles, brightest))
    write_figures(folder, summary, rows, overwrite)


def _why_not_compared(
    systems: Sequence[System], differences: Sequence[tuple[str, list[str]]]
) -> str:
    """Why the scores cannot be compared, or ""."""
    tests = [system.tests for system in systems]
    if len({frozenset(each) for each in tests}) > 1 or not all(tests[0]):
        has_folds = any(key == FOLD for key, _ in differences)
        return OTHER_IMAGES + (FOLDS if has_folds else "")

    scales = {
        key: values
        for key, values in differences
        if key.startswith("data.") and key.split(".")[1] in SCALES and {*values} != UNUSED
    }
    unlike = filter(
        None,
        (
            unlike_inputs({one.name: one.tests[images].results for one in systems})
            for images in tests[0]
        ),
    )
    if scales:
        # `data.size: [96, 96], [64, 64]`
        listed = "; ".join(f"{key}: {', '.join(values)}" for key, values in scales.items())
        other = f"units or sizes ({listed})"
        equal = f"equal values of {' and '.join(scales)}"
    elif found := next(unlike, ""):
        other = (
            f"gray values, as the unchanged input shows ({found}; data.intensity was fitted to other"
            " training images)"
        )
        equal = 'data.intensity.per = "volume"'
    else:
        return ""

    return (
        f"The runs score images of the networks in other {other}, so differences of these scores say"
        " nothing about the models. To make them comparable, translate the same scans by each"
        " (`gantk translate RUN SCANS OUT`) and score each OUT by"
        f" `gantk eval --pred OUT --truth TRUE --match`, or train with {equal}."
    )


def _caution(systems: Sequence[System]) -> str:
    """Sentences: that the systems were trained on other images or for other numbers of steps; and that
    each was trained once.
    """
    if len(systems) < 2:
        return ""

    unlike = []
    images = {frozenset(run.files_of("train") for run in system.runs) for system in systems}
    if len(images) > 1:
        texts = [f"{system.name}: {_training_images(system.runs)}" for system in systems]
        unlike.append(f"on the same images ({'; '.join(texts)})")

    steps = {
        system.name: ", ".join(
            f"{n:,}" for n in sorted({run.log.last_step or 0 for run in system.runs})
        )
        for system in systems
    }
    if len({*steps.values()}) > 1:
        texts = [f"{name}: {count}" for name, count in steps.items()]
        unlike.append(f"for the same number of steps ({'; '.join(texts)})")

    sentences = []
    if unlike:
        sentences.append(f"The runs were not trained {' and not '.join(unlike)}.")
    if any(len(system.seeds) == 1 for system in systems):
        sentences.append(ONE_SEED)
    return " ".join(sentences)


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
    """The scores of each system, and of each baseline whose scores differ."""
    rows: list[tuple[str, str, Mapping[str, Score]]] = []
    # (direction, baseline) -> system -> scores that no other system has
    baselines: dict[tuple[str, str], dict[str, Mapping[str, Score]]] = {}
    for system in systems:
        for key, scores in system.results.metrics.items():
            label = system.runs[0].label(key)
            rows.append((label, system.name, scores))
            for rival in system.results.baselines:
                own = system.results.baseline(rival, key)
                known = {metric: own[metric] for metric in scores if metric in own}
                by_system = baselines.setdefault((label, baseline_words(rival)), {})
                if known and known not in by_system.values():
                    by_system[system.name] = known
    for (label, rival), by_system in baselines.items():
        for name, of_rival in by_system.items():
            rows.append((label, f"{rival}, {name}" if len(by_system) > 1 else rival, of_rival))
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
    for same, (_, first) in by_system[0].items():
        if not all(same in found for found in by_system):
            continue

        stored = [found[same] for found in by_system]
        drawn = [pictures(record, image.stem) for record, image in stored]
        # networks of other sizes are not drawn side by side
        if not all(drawn) or len({each["truth"].pixels.shape for each in drawn}) > 1:
            continue

        shown = {kind: drawn[0][kind] for kind in ("input", "truth")}
        scores = {}
        for place, (system, (record, image)) in enumerate(zip(systems, stored, strict=True)):
            shown[f"output-{place}"] = drawn[place]["output"]
            lines = record.lines[
                (record.lines.system == MODEL) & (record.lines.image == image.image)
            ]
            own = lines[lines.direction.map(record.label) == same[0]]
            seed = f", seed {record.recipe.train.seed}" if len(system.seeds) > 1 else ""
            scores[system.name + seed] = dict(zip(own.metric, own.value, strict=True))
        yield same[0], ShownImage(first, shown, {}), scores


def _stored_images(
    system: System,
) -> dict[tuple[str, str, str, str], tuple[RunRecord, StoredImage]]:
    """(Direction, image, input, truth) -> an image that the system saved, and the run that holds it."""
    return {
        (record.label(key), stored.image, stored.input, stored.truth): (record, stored)
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
