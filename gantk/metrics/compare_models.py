"""Scores models on the same scans, on one scale of intensities: whole files, as `gantk translate` makes
them, of patients that none of the models was trained on.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from glob import glob
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gantk.data.dataset import layouts_in_words, source_and_records
from gantk.data.description import UNPAIRED_USES_HALF
from gantk.data.preparation import Pair, Record, patients_of
from gantk.data.recipe_data import with_test_data, without_training
from gantk.data.sources.pairing import complete_pairs
from gantk.data.spread import spread, spread_over_owners
from gantk.errors import UserError, count_noun, join_first
from gantk.files import sha256_of
from gantk.formats.files import natural, read, write
from gantk.formats.image import Image, in_channels
from gantk.guest import Say
from gantk.inference.case import Case, image_of
from gantk.inference.frame import Frame, TranslateOptions
from gantk.inference.load import load_model
from gantk.inference.model import Model
from gantk.inference.notes import Checks, misfit_sentence
from gantk.inference.scales import Scales
from gantk.method import OTHER
from gantk.metrics.baselines import IntensityMap
from gantk.metrics.compare_folders import (
    PAIR_METRICS,
    FilePair,
    fit_line,
    metric_of_files,
    score_files,
)
from gantk.metrics.comparing import (
    Comparison,
    SystemTest,
    compare_systems,
)
from gantk.metrics.names import BASELINES, FOREGROUND, join_words, name_systems, short_metric_name
from gantk.metrics.pair_scores import foreground
from gantk.metrics.references import GRAY_VALUES, in_hounsfield
from gantk.metrics.samples import alarm_of_contrast
from gantk.metrics.summary import with_label
from gantk.metrics.table import TEXTS
from gantk.prepare.grid import resample_onto
from gantk.progress import track
from gantk.runs.folder import FOLD, recipe_without
from gantk.runs.models import is_among, trained_on
from gantk.runs.results import NO_VALUE, Score, number_text
from gantk.terminal import TextTable

PlacedScores = dict[tuple[str, str, str], Score]  # by direction, metric and system
# by direction, then patient and image, of some: the middle plane (C, H, W) of TRUTH and of each system
Pictures = dict[str, dict[tuple[str, str], dict[str, np.ndarray]]]
ONE_SCALE = (
    "of whole files, as gantk translate makes them; HU as they are, other gray values, whose scales"
    " differ between models, by one line for each model to the mean and spread of the true ones"
)
# baselines, which any model must beat: they are scored too
INPUT = BASELINES["identity"][0]
MAP = BASELINES["intensity_map"][0]
TRUTH = "truth"  # the real images among the pictures of systems
MAX_SHOWN_IMAGES = 4
OF_TESTS = ("best", "ahead by", "p, corrected")
MAX_BASELINE_IMAGES = 64  # pairs to which an intensity map is fitted
Translations = Iterator[tuple[Pair, Callable[[], Image]]]  # with the image of each pair


@dataclass(frozen=True)
class ModelComparison(Comparison):
    """The comparison of models, with the scores of single images."""

    scores: pd.DataFrame  # columns of `gantk.metrics.table`; `system` is the model
    left_out: dict[str, list[str]]  # model -> the patients that it was trained or validated on
    means: PlacedScores
    pictures: Pictures

    def dump(self) -> dict:
        """The content of the JSON file."""
        return {
            "sentences": self.sentences,
            "tests": [test.dump() for test in self.tests],
            "scores": self.scores[[*TEXTS, "value"]].drop(columns="region").to_dict("records"),
            "left_out": self.left_out,
        }


def compare_models(
    models: Iterable[str | os.PathLike[str]],
    data: str | Path,
    *,
    metrics: Iterable[str] = PAIR_METRICS,
    layout: str = "",
    device: str | None = None,
    say: Say = print,
) -> ModelComparison:
    """Score models and baselines on the same scans, on one scale, and test each pair of models
    patient by patient: in whole images, the foreground, and lesions where there are masks.

    Example:

        gantk.compare_models(["runs/mine", "t1t2"], "SCANS").sentences

    Args:
        models: what `gantk.load` takes, or patterns such as "runs/cv*"; the first is a run or a packed
            model, whose recipe says how scans are read. Folds of one recipe are one system: each
            translates the patients that it has not seen.
        data: a file or folder with both images of each patient, such as the one that a model was
            trained on: its training patients are left out.
        metrics: names of metrics that compare an image with its truth.
        layout: the line that says whose each file of `data` is, as in `gantk.run`.
        device: as in `gantk.run`.
        say: called with each line of output.

    Returns:
        The comparison: `sentences`, `tests` with the gain, its 95 % interval and p-values, `scores`,
        a pandas DataFrame of single images, and who was `left_out`.

    Raises:
        UserError: the models share no direction, or there is nobody whom none of them was trained on.
    """
    parts = [metric_of_files(name) for name in metrics]
    loaded = {
        name: load_model(name, device, say)
        for model in models
        for name in _paths_of(os.fspath(model))
    }
    first = next(iter(loaded.values()))
    groups = _folds_together(loaded)
    if first.run is None or len(groups) < 2:
        allowed = "two models or more, of which the first is a run or a packed model; folds of one recipe are one"
        raise UserError("these models cannot be compared", where="RUN", allowed=allowed)
    table = without_training(with_test_data(first.run.recipe(), data, layout))
    source, records = source_and_records(table, type(first.method))
    if read_by := layouts_in_words(source):
        say(f"layout   {read_by}")
    pairs = _whole_pairs(records)
    if not pairs:
        raise UserError(
            f"'{data}' has no registered pairs",
            where="--data",
            remedy="score sets of images, one run at a time: gantk eval RUN --data PATH --metrics kid",
        )
    if len({model.method.paired for model in loaded.values() if model.run}) > 1:
        say(with_label("note", UNPAIRED_USES_HALF))
    hash_of = cache(sha256_of)  # several models may ask for one file
    systems = [
        ComparedModels(name, models, pairs, hash_of)
        for name, models in zip(name_systems(groups), groups, strict=True)
    ]
    for system in systems:
        system.tell(say)
    known = set().union(*(system.left_out for system in systems))
    pairs = [pair for pair in pairs if _patient(pair) not in known]
    if not pairs:
        raise UserError(
            f"'{data}' has no pair of a patient on whom none of the models was trained",
            where="--data",
            remedy="name scans of other patients",
        )
    whose = count_noun(patients_of(pair["a"] for pair in pairs), "patient")
    say(f"data     tested: {count_noun(pairs, 'pair')} of {whose}")
    table, scores, pictures, warnings = _score_systems(
        systems, _shared_directions(loaded), pairs, parts
    )
    for system in systems:
        if misfits := misfit_sentence(system.checks):
            warnings.append(f"{system.name}: {misfits}")
    higher = {metric: score.higher_is_better for (_, metric, _), score in scores.items()}
    units = {place[:2]: score.unit for place, score in scores.items()}
    of_models = table[table.system.isin(system.name for system in systems)]
    compared = compare_systems(of_models, higher, units)
    _say_tests(compared, scores, say)
    for warning in [*warnings, *_behind_baselines(scores)]:
        say(with_label("warning", warning))
    left_out = {system.name: system.left_out for system in systems}
    return ModelComparison(compared.sentences, compared.tests, table, left_out, scores, pictures)


def _paths_of(model: str) -> list[str]:
    """The paths that a pattern matches, in order; any other name of a model as it is."""
    return [model] if os.path.exists(model) else sorted(glob(model), key=natural) or [model]


class ComparedModels:
    """A model; or the folds of a recipe, of which each translates the patients that it has not seen."""

    def __init__(
        self,
        name: str,
        models: Mapping[str, Model],
        pairs: Sequence[Pair],
        hash_of: Callable[[Path], str],  # the SHA-256 of a file
    ):
        self.name = name
        self.folders = [*models]
        self.models = [*models.values()]
        self.seen = [_patients_seen(model, pairs, hash_of) for model in self.models]
        # those whom every model has seen
        self.left_out = sorted(set.intersection(*self.seen), key=natural)
        self.checks: Checks = {}  # of what `translate` has translated

    def tell(self, say: Say) -> None:
        run = self.models[0].run
        size = run.environment.size if run else ""
        of_runs = (
            f", {len(self.models)} runs of one recipe, each for the patients that it has not seen"
        )
        if self.folders != [self.name]:
            say(
                with_label(
                    "model",
                    f"{self.name}: {join_words(self.folders)}{size}{of_runs if len(self.models) > 1 else ''}",
                )
            )
        if self.left_out:
            who = f"{count_noun(self.left_out, 'patient')} of training and validation"
            what = f"{who} of {self.name}, by names or files: {join_first(self.left_out)}"
            say(with_label("left out", what))

    def translate(
        self, pairs: Sequence[Pair], to: str, frame: Frame, scratch: Path
    ) -> Translations:
        """Translate the source of each pair, onto the grid of its truth; results lie in `scratch`."""
        jobs = [
            (model, pair)
            for model, seen in zip(self.models, self.seen, strict=True)
            for pair in pairs
            if _patient(pair) not in seen
        ]
        what = f"translating {frame.source} -> {frame.target} by {self.name}"
        for number, (model, pair) in enumerate(track(jobs, what, "scan")):
            source = pair[OTHER[to]]
            image = Case.of_record(model, source, frame.target, self.checks).image
            label = source.label if model.classes() else None
            (made,) = model(image, frame.target, TranslateOptions(label=label))
            path = scratch / f"{number}{'.nii' if made.dims == 3 else '.tif'}"
            write(path, replace(resample_onto(made, image_of(pair[to])), dtype=None))
            yield pair, partial(read, path)


def _folds_together(models: Mapping[str, Model]) -> list[dict[str, Model]]:
    """The models by system: runs of one recipe that differ in their fold are one."""
    groups: dict[str, dict[str, Model]] = {}
    for name, model in models.items():
        key = name
        if model.run and not model.packed and model.recipe.data.split.folds:
            key = recipe_without(model.run.recipe().tables, FOLD)
        groups.setdefault(key, {})[name] = model
    return [*groups.values()]


class UnchangedInput:
    """The system that translates nothing."""

    name = INPUT

    def translate(
        self, pairs: Sequence[Pair], to: str, frame: Frame, scratch: Path
    ) -> Translations:
        """The source of each pair, on the grid of its truth."""
        for pair in pairs:
            yield pair, partial(_on_grid, pair, OTHER[to], to)


class FittedMap:
    """The best intensity map on the scale of a model's training images, fitted to the pairs of other
    patients, or of one patient to other pairs.
    """

    name = MAP

    def __init__(self, model: Model):
        self.model = model

    def translate(
        self, pairs: Sequence[Pair], to: str, frame: Frame, scratch: Path
    ) -> Translations:
        """The mapped source of each pair, on the grid of its truth."""
        fits: dict[str, IntensityMap] = {}
        for pair in pairs:
            others = [other for other in pairs if _patient(other) != _patient(pair)]
            key = _patient(pair) if others else pair["a"].key
            if key not in fits:
                others = others or [other for other in pairs if other is not pair]
                fits[key] = IntensityMap(
                    (self._scaled(other, OTHER[to], to), self._scaled(other, to, to))
                    for other in spread(others, MAX_BASELINE_IMAGES)
                )
            yield pair, partial(self._mapped, fits[key], pair, to)

    def _scaled(self, pair: Pair, letter: str, to: str) -> Tensor:
        return _on_training_scale(pair, letter, to, self.model)

    def _mapped(self, fit: IntensityMap, pair: Pair, to: str) -> Image:
        pixels = fit(self._scaled(pair, OTHER[to], to)[None])[0].numpy()
        return replace(image_of(pair[to]), pixels=pixels)


def _score_systems(
    systems: Sequence[ComparedModels],
    directions: Mapping[str, Frame],
    pairs: Sequence[Pair],
    parts: Sequence[Any],
) -> tuple[pd.DataFrame, PlacedScores, Pictures, list[str]]:
    """The table of scores; the score of each direction, metric and system; pictures; and warnings."""
    first = systems[0].models[0]
    regions = first.recipe.evaluate.regions
    warnings: list[str] = []
    tables = []
    scores: PlacedScores = {}
    owners = [_patient(pair) for pair in pairs]
    shown = spread_over_owners(pairs, owners, MAX_SHOWN_IMAGES)
    baselines: list[Any] = [UnchangedInput()]
    if len(pairs) > 1 and all(len(mapping.lines) == 1 for mapping in first.intensity.values()):
        baselines.append(FittedMap(first))
    pictures: Pictures = {}
    for to, frame in directions.items():
        title = f"{frame.source} -> {frame.target}"
        pictures[title] = {(_patient(pair), pair["a"].key): {} for pair in shown}
        truths = [pair[to] for pair in pairs]
        unit = "HU" if in_hounsfield(frame.target, truths, [first.intensity[to]]) else GRAY_VALUES
        for system in [*systems, *baselines]:
            with TemporaryDirectory() as scratch:
                made = [
                    FilePair(
                        pair["a"].key,
                        _patient(pair),
                        partial(_with_truth, image, pair[to]),
                        partial(_regions, pair, to, first),
                    )
                    for pair, image in system.translate(pairs, to, frame, Path(scratch))
                ]
                line = fit_line(made, match=unit != "HU" or system in baselines)
                lines, of_system, warning = score_files(
                    made, line, parts, first.runtime.device, title, unit, regions
                )
                tables.append(_mean_of_models(lines).assign(system=system.name))
                for file in made:
                    own = pictures[title].get((file.patient, file.name))
                    if own is not None and system.name not in own:
                        image, truth = file.read()
                        scale = line if system.name != INPUT else np.asarray
                        own |= {TRUTH: truth.middle_plane, system.name: scale(image.middle_plane)}
                if system in systems and (
                    alarm := _alarm_of_contrast(pictures[title], system.name)
                ):
                    warnings.append(f"{title}, {system.name}: {alarm}")
                scores |= {(title, name, system.name): of_system[name] for name in of_system}
                warnings += [warning] * bool(warning)
    return pd.concat(tables, ignore_index=True), scores, pictures, [*dict.fromkeys(warnings)]


def _alarm_of_contrast(shown: Mapping[Any, Mapping[str, np.ndarray]], system: str) -> str:
    """A warning if a system's images have the contrast of the truth inverted; else ""."""
    images, truths = (
        torch.cat([torch.tensor(each[name]).flatten() for each in shown.values()])
        for name in (system, TRUTH)
    )
    return alarm_of_contrast(images, truths)


def _mean_of_models(lines: pd.DataFrame) -> pd.DataFrame:
    """The mean score of each image over the models that translated it."""
    how = {"value": "mean", "corrected": "mean", "finite": "all"}
    return lines.groupby(TEXTS, sort=False, as_index=False).agg(how)


def _say_tests(compared: Comparison, scores: PlacedScores, say: Say) -> None:
    """Say who leads, and a table of all scores with their tests."""
    say(with_label("scale", ONE_SCALE))
    for sentence in compared.sentences:
        say(with_label("result", sentence))
    systems = [*dict.fromkeys(system for *_, system in scores)]
    tests: dict[tuple, list[SystemTest]] = defaultdict(list)
    for test in compared.tests:
        tests[test.place].append(test.leader_first())
    places = dict.fromkeys(place[:2] for place in scores)
    rows = [_cells(place, tests[place], systems, scores) for place in places]
    repeated = [row[0] == above[0] for above, row in pairwise(rows)]
    rows[1:] = [
        ("", *row[1:]) if same else row for same, row in zip(repeated, rows[1:], strict=True)
    ]
    say(TextTable(("direction", "score", *systems, *OF_TESTS), rows))
    for note in _of_air(systems, scores):
        say(with_label("note", note))


def _whole_pairs(records: Sequence[Record]) -> list[Pair]:
    """The registered pairs of whole images, each once, whichever slices are its records."""
    pairs: dict[str, Pair] = {}
    for pair in complete_pairs(records).values():
        truth = pair["b"]
        if not any(record.missing for record in pair.values()):
            pairs.setdefault((truth.file and truth.scan_key) or truth.key, pair)
    return [*pairs.values()]


def _patient(pair: Pair) -> str:
    """The patient of a pair, or its image where this is not known."""
    return pair["a"].subject or pair["a"].key


def _patients_seen(model: Model, pairs: Sequence[Pair], hash_of: Callable[[Path], str]) -> set[str]:
    """The patients whom a model was trained on, or validated on."""
    is_seen: Callable[[str, Path | None], object] = model.run_trained_on
    if model.run:
        known = trained_on(model.run.path, model.packed, validation=True)
        is_seen = partial(is_among, known, hash_of=hash_of)
    return {
        _patient(pair)
        for pair in pairs
        for record in pair.values()
        if is_seen(record.subject, record.path)
    }


def _shared_directions(models: Mapping[str, Model]) -> dict[str, Frame]:
    """The directions of the first model that all others have, by the letter of their target; UserError
    without any.
    """
    first, *others = models.values()
    shared = dict(first.frames)
    for model in others:
        for to, frame in first.frames.items():
            try:
                model.letter_of(frame.source, frame.target)
            except UserError:
                shared.pop(to, None)
    if not shared:
        remedy = "name models of the same two domains"
        raise UserError("the models share no direction", where="RUN", remedy=remedy)
    return shared


def _with_truth(read_image: Callable[[], Image], truth: Record) -> tuple[Image, Image]:
    """An image on the grid of its truth, and this truth."""
    real = image_of(truth)
    return replace(real, pixels=read_image().pixels), real


def _on_grid(pair: Pair, letter: str, to: str) -> Image:
    """An image of a pair on the grid of the one of domain `to`, with its channels."""
    real = image_of(pair[to])
    image = resample_onto(image_of(pair[letter]), real)
    return replace(image, pixels=in_channels(image.pixels, real.channels))


def _on_training_scale(pair: Pair, letter: str, to: str, model: Model) -> Tensor:
    """An image (C, *spatial) of a pair, on the grid of the one of domain `to`, as a model's training
    images are mapped.
    """
    pixels = _on_grid(pair, letter, to).pixels
    mapping = model.intensity[letter]
    own = Scales(model.frames[to], mapping, mapping).own_scale(pixels)
    return torch.from_numpy(own.forward(pixels))


def _regions(pair: Pair, to: str, model: Model) -> dict[str, Any]:
    """Foreground (1, 1, *spatial) by the intensities of a model's training, and lesions, if there is a
    mask, on the grid of the truth.
    """
    seen = [
        (_on_training_scale(pair, letter, to, model)[None], mapping.tissue)
        for letter, mapping in model.intensity.items()
        if len(mapping.lines) == 1  # an image of one contrast
    ]
    found = {"foreground": foreground(*seen)} if seen else {}
    record = pair[to] if pair[to].mask else pair[OTHER[to]]
    if record.mask:
        mask = read(record.mask_files[0]) if record.mask_files else Image(record.mask())
        mask = resample_onto(mask, image_of(pair[to]), order=0)
        found["masks"] = torch.from_numpy(mask.pixels > 0).any(0)[None, None].float()
    return found


def _cells(
    place: tuple[str, str],
    tests: Sequence[SystemTest],
    systems: Sequence[str],
    scores: PlacedScores,
) -> tuple[str, ...]:
    """The row of a score: the systems' values, and the test of the best against the next one."""
    of_systems = [scores[*place, system] for system in systems]
    unit = of_systems[0].unit
    direction, metric = place
    name = ", ".join(filter(None, (short_metric_name(metric), unit)))
    values = [number_text(score.value, score.decimals) for score in of_systems]
    best = _best(place, systems, scores)
    leads = [test for test in tests if test.one == best]
    if not leads:  # it is the input, or nothing can be tested
        return direction, name, *values, best, NO_VALUE, NO_VALUE
    test = min(leads, key=attrgetter("gain"))
    gain = Score(value=test.gain, ci95=test.ci95, unit=unit)
    by = f"{number_text(gain.value, gain.decimals)} {gain.interval()}".rstrip()
    return direction, name, *values, best, by, f"{test.corrected_p:.2g}"


def _best(place: tuple[str, str], systems: Sequence[str], scores: PlacedScores) -> str:
    """The system with the best value; NO_VALUE where none is better than all others."""
    of_systems = {system: scores[*place, system] for system in systems}
    for system, score in of_systems.items():
        if all(
            score.is_better_than(rival) for other, rival in of_systems.items() if other != system
        ):
            return system
    return NO_VALUE


def _of_air(systems: Sequence[str], scores: PlacedScores) -> Iterator[str]:
    """Yield a note where another system is best in the foreground than in the whole image."""
    for direction, metric in dict.fromkeys(place[:2] for place in scores):
        inside = direction, metric + FOREGROUND
        if (*inside, INPUT) not in scores:
            continue
        best, in_foreground = (
            _best(place, systems, scores) for place in ((direction, metric), inside)
        )
        if NO_VALUE not in (best, in_foreground) and best != in_foreground:
            yield (
                f"{direction}: by {short_metric_name(metric)} {best} is best in the whole image, where air"
                f" counts too, {in_foreground} in the foreground"
            )


def _behind_baselines(scores: PlacedScores) -> Iterator[str]:
    """Yield a warning for each model that is no better than a baseline in a score of a direction."""
    behind: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    names: dict[str, None] = {}
    for (direction, metric, system), score in scores.items():
        if score.higher_is_better is None or system in (INPUT, MAP):
            continue
        names[short_metric_name(metric)] = None
        for name in (INPUT, MAP):
            rival = scores.get((direction, metric, name))
            if rival and not score.is_better_than(rival):
                behind[direction, name, system].append(short_metric_name(metric))
    systems: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (direction, name, system), lost in behind.items():
        where = "any score" if len(lost) == len(names) else join_words(lost)
        systems[direction, name, where].append(system)
    for (direction, name, where), own in systems.items():
        verb = "is" if len(own) == 1 else "are"
        yield f"{direction}: {join_words(own)} {verb} not better than {name} in {where}"
