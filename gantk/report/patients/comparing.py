"""Writes a page that compares runs, with folds and seeds of one recipe as one: scores, tests, the
same test images, and differences of their recipes.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

import pandas as pd

from gantk.data.description import NO_COMPARISON
from gantk.errors import UserError, count_noun
from gantk.files import expect_file, make_folder, write_output
from gantk.guest import Say
from gantk.metrics.compare_models import (
    INPUT,
    LESION_MASK,
    MAX_SHOWN_IMAGES,
    TRUTH,
    ModelComparison,
)
from gantk.metrics.comparing import Comparison, SystemTest, compare_systems
from gantk.metrics.names import join_words, title_of
from gantk.metrics.rows import patients_are_known, sets_sentence, unlike_inputs
from gantk.metrics.summary import remarks, with_label
from gantk.metrics.table import MODEL, owners
from gantk.progress import Work
from gantk.report.build import draw_losses, render, shows_left_and_right
from gantk.report.build import write_report as write_one
from gantk.report.figures import DPI, LESION, WIDTH_MM, draw_figure
from gantk.report.patients.section import (
    OF_WINDOW,
    Rows,
    ShownImage,
    how_kept,
    label_patients,
    number_names,
    pictures,
    rows_of,
    shown_patients,
    titles_of,
)
from gantk.report.patients.systems import System, systems_of
from gantk.report.run_record import RunRecord
from gantk.report.scores import (
    differences,
    differences_latex,
    grids,
    summarise_systems,
    summary_csv,
    summary_latex,
    verdict_tests,
)
from gantk.report.words import ARROW
from gantk.runs.folder import flat
from gantk.runs.results import Results, ScoresByMetric
from gantk.terminal import warn

OTHER_IMAGES = (
    "These runs were not scored on the same test images, so their scores cannot be compared. Give the"
    " trainings one split: `--data FILE`, a table of the images with a column split. Folds of one recipe"
    " count as one: give all of them, and the same folds of another recipe."
)
OTHER_SCALES = (
    "The runs score images of the networks on other sizes or gray values, as the unchanged input shows ({}),"
    " so differences of these scores say nothing about the models. Train with equal data.size, data.fit and"
    ' data.intensity, and with data.intensity.per = "volume". Registered pairs are compared on one scale by'
    " `gantk eval RUN OTHER --data SCANS`."
)
OTHER_SCORES = (
    "These runs have no score in common, so they cannot be compared: scores of sets need one feature network"
    " too. Score all by the same metrics: `gantk eval RUN --metrics kid`."
)
ONE_SEED = (
    "The tests are over patients, not over trainings: a training with another seed gives other scores."
    " Train each recipe with several (`--set train.seed=1`); those of one recipe count as one here."
)
NO_TEST = (
    "No test compares the runs: a score of sets has one value for a run, and none for a patient. A small"
    " difference says nothing about the methods."
)
AT_NETWORK_SIZE = (
    "Each run's own report judges whole files. This compares images at the size of the networks, because a"
    " run keeps the scores of single patients at this size alone. To change this, run"
    " `gantk eval RUN OTHER --data SCANS`."
)
HOW_TO_SAVE = "A run that translates saves some when it is scored: `gantk eval RUN`."
SCALE_OF_MODELS = "Scores and pictures of whole files, not to be compared with scores of images at the network's size."
RIGHT_IS_LEFT = " The patient's right is on the left."
NOT_IN_NAMES = r"[^\w.-]+"
ABSENT = "–"  # a key that a run's recipe does not have


@Work("drawing the page")
def write_report(
    *runs: str | Path,
    out: str | Path | None = None,
    figures: str | Path | None = None,
    rows: int = 4,
    overwrite: bool = False,
    say: Say = print,
) -> Path:
    """Write the report of a run again, or a page that compares several runs.

    Example:

        gantk.write_report("runs/first", "runs/second", out="comparison.html")

    Args:
        runs: one run folder, or several.
        out: the path of the comparison. Default: comparison.html in the current folder.
        figures: a folder for the page's test images as PNG and PDF, one for each direction, at most
            180 mm wide at 300 dpi, scores and their differences as CSV and LaTeX, and the losses of each run as SVG.
        rows: how many patients a figure shows; of fewer patients, further images.
        overwrite: whether to replace files that gantk did not write, or that were changed since.
        say: called with each line of output, such as the result in a sentence.

    Returns:
        The path of the page.

    Raises:
        UserError: a folder is not a run, or a run is named twice.
    """
    named = _records_of(runs)
    systems = systems_of(named)
    of_sets = dict.fromkeys(filter(None, (sets_sentence(one.results) for one in systems)))
    if len(runs) == 1 and out is None:
        for said in of_sets:
            say(with_label("result", said))
        _say_result(systems[0], say)
        if figures is not None:
            (record,) = named.values()
            patients = shown_patients(record)
            images = {found.label: found.cases for found in patients if found.cases}
            of_runs = _about_runs(named, [*named], [])
            results = {"model": record.results}
            if whole := record.results.whole_files:
                results = {"model, whole files": whole, "model, network's size": record.results}
            _write_figures(figures, [*named], results, images, of_runs, rows, overwrite, say)
        return write_one(runs[0])

    path = Path(expect_file(out or "comparison.html", "--out", overwrite=overwrite))
    of_size = ""
    for run in named.values():
        if run.results.whole_files:
            of_size = AT_NETWORK_SIZE
            run.results.whole_files = None
    reason = _why_not_compared(systems)
    compared = Comparison([], []) if reason else _compare(systems)
    answers = [reason] if reason else [*compared.sentences, *of_sets]
    seeds = [len({run.recipe.train.seed for run in system.runs}) for system in systems]
    halved = {system.is_halved for system in systems}
    unequal = NO_COMPARISON if len(halved) > 1 else ""
    of_seeds = ONE_SEED if compared.tests and min(seeds) == 1 < len(seeds) else ""
    cautions = [*filter(None, [unequal, of_size, of_seeds])]
    if of_sets and not reason:
        cautions += [NO_TEST, *_remarks(systems)]
    for answer in answers:
        say(with_label("warning" if reason else "result", answer.replace(ARROW, " -> ")))
    for system in systems:
        _say_result(system, say)
        if system.folders != [system.name]:
            say(with_label("runs", f"{system.name}: {', '.join(system.folders)}"))
    for caution in cautions:
        say(with_label("note", caution))
    results = {one.name: one.results for one in systems}
    summary = summarise_systems(results)
    common = _common_images(systems)
    if figures is not None:
        of_runs = _about_runs(named, [*results], [reason or unequal, of_size], compared.tests)
        _write_figures(figures, [*results], results, common, of_runs, rows, overwrite, say)
    page = render(
        "compare.html.j2",
        scripts=(),
        systems=systems,
        answers=answers,
        reason=reason,
        cautions=cautions,
        unequal=unequal,
        runs=named,
        oriented=all(map(shows_left_and_right, named.values())),
        grids=[*grids(summary)],
        baselines=summary.attrs["baselines"],
        tests=compared.tests,
        of_sets=bool(of_sets),
        how_to_save=HOW_TO_SAVE,
        shown={label: rows_of(images) for label, images in common.items()},
        differences=_differences(systems),
    )
    return write_output(path, page.encode("utf-8", "backslashreplace"), private=True)


def _remarks(systems: Sequence[System]) -> Iterator[str]:
    """Yield `T1 -> T2 and T2 -> T1: text`, each remark on scores once; the name of a system first, where
    others have it not.
    """
    about: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for system in systems:
        for key in system.results.metrics:
            for _, text in remarks(system.results, key):
                names, titles = about.setdefault(text, ({}, {}))
                names[system.name] = None
                titles[title_of(key, system.results.domains)] = None
    for text, (names, titles) in about.items():
        whose = "" if len(names) == len(systems) else f"{join_words([*names])}, "
        yield f"{whose}{join_words([*titles])}: {text}."


def _say_result(system: System, say: Say) -> None:
    """Say the result of a system in sentences."""
    for text, tone in system.sentences:
        say(with_label("warning" if tone == "bad" else "result", text))


def _records_of(runs: Sequence[str | Path]) -> dict[str, RunRecord]:
    """The runs by the names of their folders, or by their paths where two have one name; UserError
    for one that is named twice.
    """
    folders = [Path(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < max(len(folders), 1):
        raise UserError(
            "a run is named twice" if runs else "no run is named",
            where="report",
            remedy="name each once",
        )
    names = [folder.resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else str(folder): RunRecord(folder)
        for name, folder in zip(names, folders, strict=True)
    }


@dataclass(frozen=True)
class AboutFigures:
    """What stands in figures and beside them."""

    labels: Mapping[str, str]  # patient -> what figures show in place of the name
    choice: str  # how their images were chosen, and their sides, in sentences
    caution: str  # beside all scores
    losses: Mapping[str, str] = field(default_factory=dict)  # of runs, as SVG
    tests: Sequence[SystemTest] = ()  # of systems


def _about_runs(
    runs: Mapping[str, RunRecord],
    names: Sequence[str],
    cautions: Sequence[str],
    tests: Sequence[SystemTest] = (),
) -> AboutFigures:
    """`cautions`: why the scores of these systems cannot be compared, or do not compare methods; and
    at which size they compare images.
    """
    said = filter(None, [*cautions, *(line for run in runs.values() for line in run.consequences)])
    # without what a user, and no reader of the paper, can change
    shown = [f"{line.partition('. To change this')[0].rstrip('.')}." for line in said]
    oriented = all(map(shows_left_and_right, runs.values()))
    return AboutFigures(
        label_patients(*runs.values()),
        f"the first of each patient that {join_words(names)} saved, in the order of {names[0]}, then"
        f" further ones. {how_kept(*runs.values())}{RIGHT_IS_LEFT if oriented else ''}",
        " ".join(dict.fromkeys(shown)).strip(),
        {name: draw_losses(run) for name, run in runs.items() if run.log.losses},
        tests,
    )


def write_model_figures(
    found: ModelComparison, folder: str | Path, *, overwrite: bool = False, say: Say = print
) -> None:
    """Write scores and figures of models that were compared on scans, as `write_report` does of runs."""
    models = [*found.left_out]
    patients = dict(zip(found.scores.image, owners(found.scores), strict=True))
    labels = number_names({*patients.values()}, patients_are_known(found.results[models[0]]))
    outputs = {f"output {name}": name for name in models}
    images = {}
    for direction, of_images in found.pictures.items():
        label = direction.replace(" -> ", ARROW)
        titles = titles_of(label, outputs)
        kinds = dict(zip((INPUT, TRUTH, *models), titles, strict=True)) | {LESION_MASK: LESION}
        units = {score.unit for score in found.results[models[0]].metrics[direction].values()}
        # without a unit, errors are percents from black to white, as those of files are
        unit = "HU" if "HU" in units else "file's"
        images[label] = [
            ShownImage(
                labels[patients[image]],
                {kind: shown[name] for name, kind in kinds.items() if name in shown},
                titles,
                unit,
            )
            for image, shown in of_images.items()
        ]
    choice = f"patients at even distances in the list of names, and of each the middle image. {found.scale}"
    about = AboutFigures(labels, choice, SCALE_OF_MODELS, tests=found.tests)
    _write_figures(folder, models, found.results, images, about, MAX_SHOWN_IMAGES, overwrite, say)


def _write_figures(
    folder: str | Path,
    names: Sequence[str],
    results: Mapping[str, Results],
    images: Mapping[str, Sequence[ShownImage]],
    about: AboutFigures,
    rows: int,
    overwrite: bool,
    say: Say,
) -> None:
    """Write scores.csv, scores.tex, losses as SVG, and so many images of each direction as PNG and PDF,
    with a caption.
    """
    contents = {}
    summary = summarise_systems(results)
    if not summary.empty:
        contents["scores.csv"] = summary_csv(summary, about.caution).encode()
        contents["scores.tex"] = summary_latex(summary, about.caution).encode()
    tests = [*about.tests]
    for name, own in results.items():
        tests += verdict_tests(own, name)
    if tests:
        found = differences(tests)
        csv = found.drop(columns="text").to_csv(index=False, lineterminator="\n")
        contents["differences.csv"] = csv.encode()
        contents["differences.tex"] = differences_latex(found).encode()
    for name, drawn in about.losses.items():
        contents[f"losses_{re.sub(NOT_IN_NAMES, '_', name)}.svg"] = drawn.encode()
    for label, of_direction in images.items():
        shown = rows_of(_first_of_patients(of_direction, rows))
        cases = [(case.label, pictures) for case, pictures in shown.cases]
        figure = draw_figure(cases, shown.largest.removesuffix(f" {OF_WINDOW}"))
        stem = re.sub(NOT_IN_NAMES, "_", label.replace(ARROW, "_to_"))
        for kind in ("png", "pdf"):
            file = io.BytesIO()
            figure.save(file, kind, dpi=(DPI, DPI), quality=95)
            contents[f"{stem}.{kind}"] = file.getvalue()
        contents[f"{stem}.txt"] = _caption(label, names, shown, about).encode()
    if images:
        key = pd.Series(about.labels, name="in figures")
        contents["names.csv"] = key.to_csv(index_label="name").encode()
    else:
        common = " in common, which need one split and one data.size" if len(names) > 1 else ""
        reason = f"no figure is drawn: {join_words(names)} saved no test images{common}"
        if not contents:
            raise UserError(reason, where="--figures", remedy=HOW_TO_SAVE)
        warn(f"{reason}. {HOW_TO_SAVE}")

    made = make_folder(Path(folder), private=True)
    for name in contents:  # all are written or none
        expect_file(made / name, "--figures", overwrite=overwrite)
    for name, content in contents.items():
        write_output(made / name, content, private=True)
    if images:
        say(
            f"figures  {folder}: PNG and PDF, at most {WIDTH_MM} mm wide at {DPI} dpi; captions as texts;"
            " losses of runs as SVG. Figures have numbers in place of names; names.csv has both, keep it to yourself"
        )


def _first_of_patients(images: Sequence[ShownImage], count: int) -> Iterator[ShownImage]:
    """Yield so many images, the first of each patient before further ones, which are numbered."""
    seen: Counter[str] = Counter()
    numbered = []
    for image in images:
        seen[image.label] += 1
        numbered.append((seen[image.label], image))
    for number, image in sorted(numbered, key=itemgetter(0))[:count]:
        yield replace(image, label=f"{image.label}, image {number}") if number > 1 else image


def _caption(label: str, names: Sequence[str], shown: Rows, about: AboutFigures) -> str:
    """Direction, systems, scale of the errors, choice of the images, and windows of a figure."""
    windows = [f"{case.label} ({case.windows})" for case, _ in shown.cases]
    return (
        f"{label.replace(ARROW, ' -> ')} by {join_words(names)}. {shown.scale} Images: {about.choice} Gray"
        " window, from black to white, of the input and of the other images:"
        f" {'; '.join(windows)}. {about.caution}".rstrip()
        + "\n"
    )


def _why_not_compared(systems: Sequence[System]) -> str:
    """Why the scores cannot be compared, or ""."""
    scored = [
        {(key, name) for key, scores in system.results.metrics.items() for name in scores}
        for system in systems
    ]
    if len({system.test_images for system in systems}) > 1 or not systems[0].test_images:
        return OTHER_IMAGES
    if all(scored) and not set.intersection(*scored):
        return OTHER_SCORES
    found = unlike_inputs({system.name: system.results for system in systems})
    return OTHER_SCALES.format(found) if found else ""


def _compare(systems: Sequence[System]) -> Comparison:
    """The result of `gantk.compare_systems` for the metrics with a score of each patient."""
    tables = []
    about: ScoresByMetric = {}
    for system in systems:
        lines = system.lines[system.lines.system == MODEL]
        labels = lines.direction.map(system.runs[0].label)
        of_patients = lines.drop(columns="image")  # which has a score of each seed
        tables.append(of_patients.assign(system=system.name, direction=labels))
        for scores in system.results.metrics.values():
            about |= scores
    higher = {metric: score.higher_is_better for metric, score in about.items()}
    units = {metric: score.unit for metric, score in about.items()}
    return compare_systems(pd.concat(tables), higher, units)


def _common_images(systems: Sequence[System]) -> dict[str, list[ShownImage]]:
    """By direction in words the test images that every system saved in one size, with all outputs."""
    kinds = {f"output {system.name}": system.name for system in systems}
    saved = [system.saved_images for system in systems]
    labels = label_patients(*(run for system in systems for run in system.runs))
    common = defaultdict(list)
    for same, (_, stored) in saved[0].items():
        if not all(same in images for images in saved):
            continue
        drawn = [pictures(*images[same]) for images in saved]
        if not all(drawn) or len({each["output"].shape for each in drawn}) > 1:
            continue  # one lacks its files, or networks have other sizes
        shown = {kind: pixels for kind, pixels in drawn[0].items() if kind != "output"}
        shown |= dict(zip(kinds, (each["output"] for each in drawn), strict=True))
        label = same[0]
        titles = titles_of(label, kinds)
        image = ShownImage(labels[stored.patient], shown, titles, stored.units[1], stored)
        common[label].append(image)
    return common


def _differences(systems: Sequence[System]) -> pd.DataFrame:
    """A row for each recipe key in which the systems differ, with the values of each one's runs, after
    the images that they were trained on, where these differ.
    """
    texts = {}
    for system in systems:
        of_runs = []
        for run in system.runs:
            images, patients = run.images_of("train")
            counts = ", ".join(f"{domain} {count}" for domain, count in images.items())
            about = {"training images": f"{counts}; {count_noun(patients, 'patient')}"}
            for key, value in flat({**run.recipe.dump(), "summary": "", "paper": {}}):
                about[key] = json.dumps(value, ensure_ascii=False)
            of_runs.append(about)
        runs = pd.DataFrame(of_runs).fillna(ABSENT)
        texts[system.name] = runs.agg(lambda values: " / ".join(values.unique())).to_dict()
    table = pd.DataFrame(texts).fillna(ABSENT)
    return table[table.nunique(axis=1) > 1]
