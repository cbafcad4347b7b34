"""Writes a page that compares runs, with folds and seeds of one recipe as one: scores, curves, the
same test images, and differences of their recipes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gantk.errors import UserError, count_noun
from gantk.files import expect_file, write_output
from gantk.metrics.comparing import Comparison, SystemTest, compare_systems
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
# its direction in words, the image with all pictures, and each system's scores of it
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
            _write_figures_of_run(RunRecord(runs[0]), figures, overwrite)
        return write_one(runs[0])

    folders = [Path(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < max(len(folders), 1):
        raise UserError(
            "a run is named twice" if runs else "no run is named",
            where="report",
            remedy="name each once",
        )

    path = Path(expect_file(out or "comparison.html", "--out", overwrite=overwrite))
    shown = comparison([RunRecord(folder) for folder in folders])
    for answer in shown.answers:
        label = "warning" if shown.reason else "result"
        say(with_label(label, answer.replace(ARROW, " -> ")))
    if shown.caution:
        say(with_label("note", shown.caution))
    if figures is not None:
        _write_figures_of_comparison(shown, figures, overwrite)
    page = render(
        "compare.html.j2",
        folders=[HERE],
        styles=("page.css", "patients.css"),
        scripts=("patients.js",),
        grids=[*grids(shown.summary)],
        places={system.name: system.place for system in shown.systems},
        **vars(shown),
    )
    return write_output(path, page.encode("utf-8", "backslashreplace"), private=True)


def _write_figures_of_run(record: RunRecord, folder: str | Path, overwrite: bool) -> None:
    """Write the scores and the stored test images of a run, see `write_figures`."""
    directions = shown_patients(record)
    window = error_window([case.pictures for shown in directions for case in shown.cases])
    rows: dict[str, list[TitledPictures]] = {}
    for shown in directions:
        for case in shown.cases:
            error = _largest_error(case, window)
            rows.setdefault(shown.label, []).append(captioned_row(case, shown.titles, error))
    write_figures(folder, run_summary(record), rows, overwrite)


def _write_figures_of_comparison(
    shown: ComparisonPage, folder: str | Path, overwrite: bool
) -> None:
    """Write the scores and the common test images of several runs, see `write_figures`."""
    rows: dict[str, list[TitledPictures]] = {}
    for label, case, of_runs in shown.cases:
        titles = {"input": "Input", "truth": "Real"}
        titles |= {f"output-{place}": name for place, name in enumerate(of_runs)}
        error = _largest_error(case, shown.error_window)
        rows.setdefault(label, []).append(captioned_row(case, titles, error))
    write_figures(folder, shown.summary, rows, overwrite)


def _largest_error(case: ShownImage, window: int) -> float:
    """The brightest error of a picture, where it is `window` % of the truth's range."""
    truth = case.pictures["truth"]
    return (truth.high - truth.low) * window / 100 or 1.0


@dataclass(frozen=True)
class ComparisonPage:
    """What the page that compares runs shows."""

    title: str
    systems: list[System]
    answers: list[str]  # the first sentences: which run is better, or the reason
    reason: str  # why the scores cannot be compared, or ""
    runs: list[tuple[str, RunRecord, str]]  # name and verdict
    trained_on: dict[str, str]  # the training images by run
    caution: str  # how the trainings limit what the scores say, see `_caution`
    oriented: bool
    summary: pd.DataFrame  # of all scores, see gantk.report.scores
    tests: list[SystemTest]
    cases: list[ComparedImage]
    error_window: int
    differences: list[tuple[str, list[str]]]  # recipe key, its value in each run


def comparison(records: list[RunRecord]) -> ComparisonPage:
    """Compare runs, with folds and seeds of one recipe as one system."""
    names = [record.path.resolve().name for record in records]
    named = {}
    for name, record in zip(names, records, strict=True):
        named[name if names.count(name) == 1 else str(record.path)] = record

    systems = systems_of(named)
    cases = list(_cases(systems))
    differences = _differences(named)
    reason = _why_not_compared(systems, differences)
    statistics = Comparison([], []) if reason else _statistics(systems)
    said = [
        system.sentence
        for system in systems
        if system.is_pooled or result_tone(system.results) == "bad"
    ]
    return ComparisonPage(
        title=f"{len(named)} runs {'compared' if len(systems) > 1 else 'together'}",
        systems=systems,
        answers=[reason] if reason else [*statistics.sentences, *said],
        reason=reason,
        runs=[(name, record, summarise(record)["sentence"]) for name, record in named.items()],
        trained_on={name: _training_images([record]) for name, record in named.items()},
        caution=_caution(systems),
        oriented=all(shows_left_and_right(record) for record in records),
        summary=_summary(systems),
        tests=statistics.tests,
        cases=cases,
        error_window=error_window([case.pictures for _, case, _ in cases]),
        differences=differences,
    )


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
    unlike = ""
    for images in tests[0]:
        unlike = unlike or unlike_inputs({one.name: one.tests[images].results for one in systems})
    if scales:
        # `data.size: [96, 96], [64, 64]`
        listed = "; ".join(f"{key}: {', '.join(values)}" for key, values in scales.items())
        other = f"units or sizes ({listed})"
        equal = f"equal values of {' and '.join(scales)}"
    elif unlike:
        other = (
            f"gray values, as the unchanged input shows ({unlike}; data.intensity was fitted to other"
            " training images)"
        )
        equal = 'data.intensity.per = "volume"'
    else:
        return ""

    reason = (
        f"The runs score images of the networks in other {other}, so differences of these scores say"
        " nothing about the models. To make them comparable, translate the same scans by each"
        " (`gantk translate RUN SCANS OUT`) and score each OUT by"
        f" `gantk eval --pred OUT --truth TRUE --match`, or train with {equal}."
    )
    return reason


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

    steps = [{run.log.last_step or 0 for run in system.runs} for system in systems]
    if any(own != steps[0] for own in steps):
        texts = []
        for system, own in zip(systems, steps, strict=True):
            texts.append(f"{system.name}: {', '.join(f'{count:,}' for count in sorted(own))}")
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
    rows = [(label, one.name, own) for one in systems for label, own in one.metrics.items()]
    # (direction, baseline) -> system -> scores that no other system has
    baselines: dict[tuple[str, str], dict[str, Mapping[str, Score]]] = {}
    for system in systems:
        for label, scores in system.metrics.items():
            for rival, own in system.baselines(label):
                of_rival = {metric: own[metric] for metric in scores if metric in own}
                by_system = baselines.setdefault((label, baseline_words(rival)), {})
                if of_rival and of_rival not in by_system.values():
                    by_system[system.name] = of_rival
    for (label, rival), by_system in baselines.items():
        for name, scores in by_system.items():
            rows.append((label, f"{rival}, {name}" if len(by_system) > 1 else rival, scores))
    return summary_of(rows, "")


def _statistics(systems: Sequence[System]) -> Comparison:
    """The result of `gantk.compare_systems` for the metrics with a score of each patient."""
    about = {
        metric: score
        for system in systems
        for scores in system.metrics.values()
        for metric, score in scores.items()
    }
    return compare_systems(
        pd.concat([system.lines for system in systems]),
        {metric: score.higher_is_better for metric, score in about.items()},
        {metric: score.unit for metric, score in about.items()},
    )


def _cases(systems: Sequence[System]) -> Iterator[ComparedImage]:
    """Yield the test images that every system saved in one size, each with all outputs and scores."""
    by_system = [_cases_of(system) for system in systems]
    for same, (_, first) in by_system[0].items():
        if not all(same in found for found in by_system):
            continue

        stored = [found[same] for found in by_system]
        drawn = [pictures(record, case.stem) for record, case in stored]
        if any("output" not in each or "truth" not in each for each in drawn):
            continue
        if len({each["truth"].pixels.shape for each in drawn}) > 1:  # networks of other sizes
            continue

        shown = {"input": drawn[0]["input"], "truth": drawn[0]["truth"]}
        for place, each in enumerate(drawn):
            shown[f"output-{place}"] = each["output"]

        scores = {
            system.title_of(run): _scores_of_image(run, same[0], same[1])
            for system, (run, _) in zip(systems, stored, strict=True)
        }
        yield same[0], ShownImage(first, shown, {}), scores


def _scores_of_image(run: RunRecord, label: str, image: str) -> dict[str, float]:
    """The scores of a run's image by metric."""
    lines = run.lines[(run.lines.system == MODEL) & (run.lines.image == image)]
    own = lines[lines.direction.map(run.label) == label]
    return dict(zip(own.metric, own.value, strict=True))


def _cases_of(system: System) -> dict[tuple[str, str, str, str], tuple[RunRecord, StoredImage]]:
    """(Direction, image, input, truth) -> a case that the system saved, and the run that holds it."""
    found = {}
    for record in system.runs:
        for key, images in record.stored.items():
            for stored in images:
                found[record.label(key), stored.image, stored.input, stored.truth] = record, stored
    return found


def _differences(named: dict[str, RunRecord]) -> list[tuple[str, list[str]]]:
    """(Recipe key, its value in each run) for the keys in which the runs differ."""
    recipes = []
    for record in named.values():
        values = flat(record.recipe.dump())
        recipes.append({key: json.dumps(value, ensure_ascii=False) for key, value in values})

    rows = []
    for key in dict.fromkeys(key for recipe in recipes for key in recipe):
        texts = [recipe.get(key, ABSENT) for recipe in recipes]
        if len(set(texts)) > 1:
            rows.append((key, texts))

    return rows
