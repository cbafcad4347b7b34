"""Scores models on the same scans, on one scale of intensities: whole files, as `gantk translate` makes
them, of patients that none of the models was trained on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, partial
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gantk.catalog.contrasts import contrast_names
from gantk.data.check.findings import hollow_masks
from gantk.data.check.pairs import measure_pairs, pairs_that_do_not_fit
from gantk.data.check.windows import other_windows
from gantk.data.dataset import layouts_in_words, masks_in_words, source_and_records
from gantk.data.description import NO_COMPARISON
from gantk.data.intensity import AIR_SHARE, IntensityMapping, Percentile, usual_scale
from gantk.data.preparation import Pair, Record, patients_of
from gantk.data.recipe_data import with_test_data, without_training
from gantk.data.sources.pairing import complete_pairs
from gantk.data.spread import spread, spread_over_owners
from gantk.errors import UserError, argument, count_noun, join_first
from gantk.files import sha256_of
from gantk.formats.files import natural
from gantk.formats.image import Image, in_channels
from gantk.guest import Say
from gantk.inference.case import Case, image_of
from gantk.inference.frame import Frame, TranslateOptions
from gantk.inference.load import load_model
from gantk.inference.model import Model
from gantk.inference.notes import Checks, misfit_sentence
from gantk.inference.pipeline import Pipeline
from gantk.inference.scales import Scales
from gantk.method import OTHER
from gantk.metrics.baselines import MAX_BASELINE_IMAGES, IntensityMap, load_trained
from gantk.metrics.compare_folders import (
    PAIR_METRICS,
    FilePair,
    FileScorer,
    ScaleFit,
    are_of_file_pairs,
    gray_range,
    metric_of_files,
)
from gantk.metrics.comparing import Comparison, add_tests, compare_systems
from gantk.metrics.names import (
    BASELINES,
    WITH_MASKS,
    baseline_words,
    join_words,
    metric_words,
    name_systems,
    short_metric_name,
    split_region,
)
from gantk.metrics.pair_scores import add_scores, foreground
from gantk.metrics.references import image_with_mask, in_hounsfield, of_all_scans
from gantk.metrics.rows import result_sentence, result_tone
from gantk.metrics.summary import summary_lines, with_label
from gantk.metrics.table import MODEL, TEXTS
from gantk.plugin.loader import registry
from gantk.prepare.grid import resample_onto
from gantk.prepare.module import middle_slice
from gantk.progress import track
from gantk.recipe.load import Settings
from gantk.recipe.tables import DataTable
from gantk.runs.folder import FOLD, recipe_without
from gantk.runs.models import doubt_about_people, is_among, trained_on
from gantk.runs.results import (
    Results,
    SplitSummary,
    number_text,
)
from gantk.terminal import TextTable

# by direction and image, of some: the middle plane (C, H, W) of LESION_MASK, if there is one, of TRUTH
# and of each system
Pictures = dict[str, dict[str, dict[str, np.ndarray]]]
ONE_SCALE = "whole files at their own size (gantk report scores images at the network's size). {}"
RELEASED_AGAIN = (
    "who was in its training is told by names and files alone; public sets release patients again under"
    " other names"
)
OF_SETS = (
    "score sets of images, one run at a time: gantk eval RUN --data PATH --metrics kid; of a paired packed"
    " model, gantk translate MODEL PATH OUT, then gantk eval --pred OUT --truth REAL --metrics kid. Runs"
    " that were tested on the same images: gantk report RUN OTHER"
)
# baselines, which any model must beat: they are scored too
INPUT = "identity"
MAP = "intensity_map"
TRUTH = "truth"  # the real images among the pictures of systems
LESION_MASK = "lesion mask"  # 1 inside, among these pictures
RESERVED = {INPUT, MAP, TRUTH, LESION_MASK}  # no names of systems
MAX_SHOWN_IMAGES = 4
OF_ONE_SCORE = (
    "p is corrected for all {} tests, that of the first score of a direction for these alone; --json and"
    " --figures have the other scores"
)
Translations = Iterator[tuple[Pair, np.ndarray]]  # of the source of each pair, as it is scored
Maker = Callable[[Sequence[Pair], "ScoredScale"], Translations]


@dataclass(frozen=True)
class ModelComparison(Comparison):
    """The comparison of models, with the scores of single images."""

    scores: pd.DataFrame  # columns of `gantk.metrics.table`; `system` is the model
    # model -> the patients that it was trained or validated on, and those of data.leave_out
    left_out: dict[str, list[str]]
    results: dict[str, Results]  # by model, as those of a run, with directions in words
    pictures: Pictures
    scale: str  # the gray values in which images are scored, in words

    def dump(self) -> dict:
        """The content of the JSON file."""
        return {
            "sentences": self.sentences,
            "results": {name: own.dump() for name, own in self.results.items()},
            "tests": [test.dump() for test in self.tests],
            "scores": self.scores[[*TEXTS, "value"]].replace({np.nan: None}).to_dict("records"),
            "left_out": self.left_out,
        }


def compare_models(
    models: Iterable[str | os.PathLike[str]] | Mapping[str, Model],
    data: str | Path,
    *,
    metrics: Iterable[str] = PAIR_METRICS,
    to: str | None = None,
    set: Settings = (),
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
            translates the patients that it has not seen. Or models by name, as `load_models` returns.
        data: a file or folder with both images of each patient, such as the one that a model was
            trained on: its training patients are left out.
        metrics: names of metrics that compare an image with its truth.
        to: the domain that is made, as in `gantk.translate`. Default: each that all models make.
        set: how `data` is read, such as {"data.source.mask": "seg"}.
        layout: the line that says whose each file of `data` is, as in `gantk.run`.
        device: as in `gantk.run`.
        say: called with each line of output.

    Returns:
        The comparison: `sentences`, of a single model its result beside baselines; `tests` with the
        gain, its 95 % interval and p-values; `scores`, a pandas DataFrame of single images; and who was
        `left_out`.

    Raises:
        UserError: the models share no direction, or there is nobody whom none of them was trained on.
    """
    metrics = [*metrics]
    parts = [metric_of_files(name) for name in metrics]
    if not are_of_file_pairs(metrics):
        raise UserError(
            "models are compared by metrics of pairs, not of sets",
            where="--metrics",
            remedy=OF_SETS,
        )
    loaded = models if isinstance(models, Mapping) else load_models(models, device, say)
    first = next(iter(loaded.values()))
    if first.run is None:
        raise UserError(
            "these models cannot be compared",
            where="RUN",
            allowed="models of which the first is a run or a packed model",
        )
    directions = _shared_directions(loaded, to)
    table = without_training(with_test_data(first.run.recipe(), data, set, layout))
    all_pairs, not_used = _read_pairs(table, type(first.method), say)
    if not all_pairs:
        raise UserError(f"'{data}' has no registered pairs", where="--data", remedy=OF_SETS)
    see_all = {
        each.method.paired or each.recipe.data.unpair is False
        for each in loaded.values()
        if each.run
    }
    if len(see_all) > 1:
        say(with_label("note", NO_COMPARISON))
    systems = _systems_of(loaded, all_pairs)
    for system in systems:
        system.tell(say)
    pairs = _tested_pairs(systems, all_pairs, data, first.recipe.data.domains, say)

    scored = [
        _score_direction(systems, pairs, *each, parts, all_pairs) for each in directions.items()
    ]
    table = pd.concat([one.table for one in scored], ignore_index=True)
    warnings = [*dict.fromkeys(one.scorer.warning for one in scored if one.scorer.warning)]
    results = {}
    steps = first.recipe.evaluate.regression
    for system in systems:
        results[system.name] = _beside_baselines(system, scored, pairs, steps)
        if misfits := misfit_sentence(system.checks):
            warnings.append(f"{system.name}: {misfits}")
    higher: dict[str, bool | None] = {}
    units = {}
    for one in scored:
        for metric, score in one.scorer.about().items():
            higher[metric] = score.higher_is_better
            units[one.title, metric] = score.unit
    compared = compare_systems(table[table.system.isin([*results])], higher, units)
    in_unit: dict[str, list[str]] = {}  # gray values -> the domains that are scored in them
    for one, frame in zip(scored, directions.values(), strict=True):
        in_unit.setdefault(one.about, []).append(frame.target)
    scale = " ".join(f"{join_words(targets)}: {unit}." for unit, targets in in_unit.items())
    say(with_label("scale", ONE_SCALE.format(scale)))
    if len(systems) > 1:
        sentences = _say_compared(compared, results, say)
    else:
        (result,) = results.values()
        sentences = [result_sentence(result)]
        for line in summary_lines(result, said=systems[0].doubts):
            say(line)
    for warning in warnings:
        say(with_label("warning", warning))
    left_out = {system.name: system.left_out + not_used for system in systems}
    pictures = {one.title: one.pictures for one in scored}
    return ModelComparison(sentences, compared.tests, table, left_out, results, pictures, scale)


def load_models(
    models: Iterable[str | os.PathLike[str]], device: str | None = None, say: Say = print
) -> dict[str, Model]:
    """Models by their names or paths, of a pattern each that it matches, in order; see `gantk.load`."""
    names: list[str] = []
    for each in models:
        model = os.fspath(each)
        found = [] if os.path.exists(model) else sorted(glob(model), key=natural)
        names += found or [model]
    return {name: load_model(name, device, say) for name in names}


def makes_single_images(model: Model) -> bool:
    """Whether a model makes images of one contrast from those of another one."""
    domains = [name for frame in model.frames.values() for name in (frame.source, frame.target)]
    return bool(domains) and all(len(contrast_names(domain)) == 1 for domain in domains)


def whole_files(run: Path, data: str | Path, device: str) -> Results | None:
    """The scores of whole files of patients whom a run was not trained on; None where it makes several
    contrasts, or there are none.
    """
    models = load_models([run], device)
    if not all(map(makes_single_images, models.values())):
        return None
    (model,) = models.values()
    asked = [str(part.name) for part in model.recipe.evaluate.metrics or ()]
    metrics = [name for name in asked if are_of_file_pairs([name])]
    try:
        compared = compare_models(
            models, data, metrics=metrics or PAIR_METRICS, say=lambda line: None
        )
    except UserError:  # as where nobody is left to test
        return None
    (results,) = compared.results.values()
    return results


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
        self.owner = "patient" if _are_known(pairs) else "image"
        self.checks: Checks = {}  # of what `translate` has translated
        doubts = (doubt_about_people(x.run.path, x.packed) for x in self.models if x.run)
        self.doubts = [*dict.fromkeys(filter(None, doubts))]

    def tell(self, say: Say) -> None:
        if self.folders != [self.name]:
            run = self.models[0].run
            text = f"{self.name}: {join_words(self.folders)}{run.environment.size if run else ''}"
            if len(self.models) > 1:
                text += f", {len(self.models)} runs of one recipe, each for the patients that it has not seen"
            say(with_label("model", text))
        if any(model.packed for model in self.models):
            say(with_label("note", f"{self.name}: {RELEASED_AGAIN}"))
        for doubt in self.doubts:
            say(with_label("warning", f"{self.name}: {doubt}"))
        if self.left_out:
            who = f"{count_noun(self.left_out, self.owner)} used in training or validation of {self.name}"
            if self.owner == "image":
                who += ", or left out there as neighbours of held-out ones"
            say(with_label("left out", f"{who} (same name or file): {join_first(self.left_out)}"))

    def translate(self, pairs: Sequence[Pair], scale: ScoredScale) -> Translations:
        """Yield the translated source of each pair, on the grid and the scale of its truth."""
        to, frame = scale.to, scale.frame
        jobs = [
            (model, pair)
            for model, seen in zip(self.models, self.seen, strict=True)
            for pair in pairs
            if _patient(pair) not in seen
        ]
        what = f"translating {frame.source} -> {frame.target} by {self.name}"
        for model, pair in track(jobs, what, "scan"):
            source = pair[OTHER[to]]
            image = Case.of_record(model, source, frame.target, self.checks).image
            label = source.label if model.classes() else None
            (made,) = model(image, frame.target, TranslateOptions(label=label))
            pipeline = model.pipelines[model.domain(frame.target)]
            _, in_units = pipeline.in_training_units(image)
            made = replace(made, pixels=in_units(made.pixels))
            yield pair, scale.of_model(made, pair, pipeline)

    def trained_baseline(self, name: str) -> ComparedModels | None:
        """A baseline that all these models' runs have trained, each for the same patients as its model."""
        trained = [_trained_baseline(model, name) for model in self.models]
        if None in trained:
            return None
        made = copy(self)
        made.name = baseline_words(name)
        made.models = [model for model in trained if model]
        made.checks = {}
        return made


def _systems_of(models: Mapping[str, Model], pairs: Sequence[Pair]) -> list[ComparedModels]:
    """The models by system: runs of one recipe that differ in their fold are one."""
    groups: dict[str, dict[str, Model]] = {}
    for name, model in models.items():
        key = name
        if model.run and not model.packed and model.recipe.data.split.folds:
            key = recipe_without(model.run.recipe().tables, FOLD)
        groups.setdefault(key, {})[name] = model
    names = name_systems([*groups.values()])
    hash_of = cache(sha256_of)  # several models may ask for one file
    reserved = RESERVED.union(registry()["baseline"])
    return [
        ComparedModels(f"model {name}" if name in reserved else name, models, pairs, hash_of)
        for name, models in zip(names, groups.values(), strict=True)
    ]


def _tested_pairs(
    systems: Sequence[ComparedModels],
    pairs: Sequence[Pair],
    data: str | Path,
    domains: Sequence[str],
    say: Say,
) -> list[Pair]:
    """The pairs of patients whom each system can be tested on, and what is said of them; UserError where
    there are none.
    """
    known = frozenset().union(*(system.left_out for system in systems))
    tested = [pair for pair in pairs if _patient(pair) not in known]
    if not tested:
        raise UserError(
            f"'{data}' has no pair of a patient on whom none of the models was trained",
            where="--data",
            remedy="name scans of other patients; `gantk eval RUN` scores what a run held out",
        )
    patients = patients_of(pair["a"] for pair in tested)
    whose = count_noun(patients, "patient") if _are_known(tested) else "unknown patients"
    say(f"data     tested: {count_noun(tested, 'pair')} of {whose}")
    records = [record for pair in pairs for record in pair.values()]
    problems = [*pairs_that_do_not_fit(measure_pairs(records), patients)]
    windows = other_windows(records, dict(zip("ab", domains, strict=True)))
    problems += [each for each in windows if patients.intersection(each.files)]
    problems += hollow_masks(record for pair in tested for record in pair.values())
    for problem in problems:
        say(
            with_label(
                "warning", f"{problem.what}. See gantk data check, with the settings of this run"
            )
        )
    return tested


class ScoredScale:
    """The gray values in which images of a direction are scored, whichever models are compared:
    Hounsfield units and labels as they are, others from -1 to 1 by the usual scale of recipes, see
    `gantk.data.intensity.usual_scale`.
    """

    def __init__(self, first: Model, to: str, pairs: Sequence[Pair]):
        self.to = to
        pipeline = first.pipelines[to]
        self.frame = pipeline.frame
        sources, truths = ([pair[letter] for pair in pairs] for letter in (OTHER[to], to))
        self.unit = _unit_of(self.frame.target, pipeline.target, truths)
        unit_of_sources = _unit_of(self.frame.source, pipeline.source, sources)
        self.mapping = {
            to: pipeline.target if self.unit else _usual_scale_of(truths),
            OTHER[to]: pipeline.source if unit_of_sources else _usual_scale_of(sources),
        }

    def truth(self, pair: Pair) -> Image:
        """The true image of a pair, as it is scored."""
        real = image_of(pair[self.to])
        return real if self.unit else replace(real, pixels=self._to_network(real.pixels, real))

    def of_model(self, made: Image, pair: Pair, pipeline: Pipeline) -> np.ndarray:
        """An image of a model, in its training units, as it is scored, on the grid of the truth: black
        and white, by the rule of the model, become those of the truth.
        """
        real = image_of(pair[self.to])
        pixels = resample_onto(made, real).pixels
        if self.unit:
            return pixels
        target = pipeline.target
        if self.mapping[self.to].per == "volume":
            own = target.for_scan(target.measure(real.pixels))
        else:
            own = Scales(pipeline.frame, target, target).own_scale(real.pixels)
        return self._to_network(own.inverse(of_all_scans(target).forward(pixels)), real)

    def of_network(self, seen: np.ndarray) -> np.ndarray:
        """An image from black at -1 to white at 1, as it is scored."""
        return self.mapping[self.to].inverse(seen) if self.unit else seen

    def network_input(self, pair: Pair, letter: str) -> np.ndarray:
        """An image (C, *spatial) of a pair from -1 to 1, on the grid of the truth."""
        real = image_of(pair[self.to])
        image = resample_onto(image_of(pair[letter]), real)
        seen = self.mapping[letter].of(image.pixels).forward(image.pixels)
        return in_channels(seen, real.channels)

    def _to_network(self, gray: np.ndarray, real: Image) -> np.ndarray:
        """Convert gray values of a true image to network intensities."""
        return self.mapping[self.to].of(real.pixels).forward(gray)


def _unit_of(domain: str, learnt: IntensityMapping, records: Sequence[Record]) -> str:
    """The unit of images that are scored as they are; "" of those without any."""
    if in_hounsfield(domain, records, [learnt]):
        return "HU"
    return "labels" if learnt.nearest else ""


def _usual_scale_of(records: Sequence[Record]) -> Percentile:
    """The usual scale of these images, each a whole scan or all of them pictures of one scale."""
    chosen = [image_of(record) for record in spread(records, MAX_BASELINE_IMAGES)]
    one_each = len(patients_of(records)) == len(records)
    are_whole = all(image.dims == 3 or (image.has_units and one_each) for image in chosen)
    mapping = Percentile(**usual_scale(are_whole))
    mapping.fit([image.pixels for image in chosen])
    return mapping


def _unchanged_input(pairs: Sequence[Pair], scale: ScoredScale) -> Translations:
    """Yield the source of each pair, on the grid of its truth."""
    for pair in pairs:
        yield pair, scale.of_network(scale.network_input(pair, OTHER[scale.to]))


def _mapped_input(pairs: Sequence[Pair], scale: ScoredScale, known: Sequence[Pair]) -> Translations:
    """Yield the source of each pair by the best intensity map of network intensities, fitted to the
    `known` pairs of other patients, also of those whom a model was trained on; or of one patient to
    other pairs.
    """
    is_one = len({*map(_patient, known)}) == 1

    def owner_of(pair: Pair) -> str:
        return pair["a"].key if is_one else _patient(pair)

    def inputs_of(pair: Pair) -> tuple[Tensor, Tensor]:
        source, target = (scale.network_input(pair, each) for each in (OTHER[scale.to], scale.to))
        return torch.from_numpy(source), torch.from_numpy(target)

    maps = {}
    for owner in {*map(owner_of, pairs)}:
        chosen = spread([pair for pair in known if owner_of(pair) != owner], MAX_BASELINE_IMAGES)
        maps[owner] = IntensityMap(map(inputs_of, chosen))
    for pair in pairs:
        source, _ = inputs_of(pair)
        yield pair, scale.of_network(maps[owner_of(pair)](source[None])[0].numpy())


@dataclass(frozen=True)
class ScoredDirection:
    """The scores of all systems, and of the baselines, on one direction."""

    title: str  # T1 -> T2
    about: str  # the gray values in which its images are scored
    table: pd.DataFrame  # columns of `gantk.metrics.table`
    scorer: FileScorer
    pictures: dict[str, dict[str, np.ndarray]]  # as of Pictures


def _score_direction(
    systems: Sequence[ComparedModels],
    pairs: Sequence[Pair],
    to: str,
    frame: Frame,
    parts: Sequence[Any],
    known: Sequence[Pair],
) -> ScoredDirection:
    """Score the images of domain `to` that systems and baselines make of the sources of pairs; `known`
    pairs are also of patients who are not tested.
    """
    first = systems[0].models[0]
    title = f"{frame.source} -> {frame.target}"
    scale = ScoredScale(first, to, known)
    regions = first.recipe.evaluate.regions
    gray = gray_range(map(scale.truth, pairs))
    if not scale.unit:
        gray = replace(gray, black=-1.0, span=2.0, warning="")
    scorer = FileScorer(gray, parts, first.runtime.device, scale.unit or None, regions)
    shown = spread_over_owners(pairs, [*map(_patient, pairs)], MAX_SHOWN_IMAGES)
    pictures: dict[str, dict[str, np.ndarray]] = {}
    for pair in shown:
        mask = _lesion_mask(pair, to)
        pictures[pair["a"].key] = {LESION_MASK: mask.middle_plane} if mask else {}
    tables = []
    for name, make in _makers_of(systems, known).items():
        with TemporaryDirectory() as scratch:
            made = _write_translations(make(pairs, scale), scale, Path(scratch))
            lines = scorer.score(made, ScaleFit(), title)
            tables.append(_mean_of_models(lines).assign(system=name))
            for file in made:
                if file.name in pictures:
                    output, truth = (each.middle_plane for each in file.read())
                    pictures[file.name] |= {TRUTH: truth, name: output}
    about = f"in {scale.unit}, PSNR and SSIM by the range {scorer.range}"
    if not scale.unit:
        which = "each true scan" if scale.mapping[to].per == "volume" else "all true images"
        about = f"white is the 99.9th percentile of {which}"
    return ScoredDirection(title, about, pd.concat(tables), scorer, pictures)


def _makers_of(systems: Sequence[ComparedModels], known: Sequence[Pair]) -> dict[str, Maker]:
    """What makes the images that are scored: the systems, and the baselines of the first one."""
    makers: dict[str, Maker] = {system.name: system.translate for system in systems}
    makers[INPUT] = _unchanged_input
    mappings = systems[0].models[0].intensity.values()
    if len(known) > 1 and all(len(mapping.lines) == 1 for mapping in mappings):
        makers[MAP] = partial(_mapped_input, known=known)
    for name in registry()["baseline"]:
        if trained := systems[0].trained_baseline(name):
            makers[name] = trained.translate
    return makers


def _write_translations(
    translations: Translations, scale: ScoredScale, folder: Path
) -> list[FilePair]:
    """Keep translations, each on the grid of its truth, as files of floats."""
    made = []
    for number, (pair, pixels) in enumerate(translations):
        path = folder / f"{number}.npy"
        np.save(path, pixels)
        both = partial(_with_truth, path, pair, scale)
        about = partial(_regions, pair, scale)
        made.append(FilePair(pair["a"].key, pair["a"].subject, both, about))
    return made


def _mean_of_models(lines: pd.DataFrame) -> pd.DataFrame:
    """The mean score of each image over the models that translated it."""
    how = {"value": "mean", "corrected": "mean", "finite": "all"}
    return lines.groupby(TEXTS, sort=False, as_index=False).agg(how)


def _say_compared(compared: Comparison, results: Mapping[str, Results], say: Say) -> list[str]:
    """Say who leads, a table of all scores, the tests of the first score and of its regions, and the
    result of each model beside the baselines; returns who leads, or where nothing is tested these
    results.
    """
    for sentence in compared.sentences:
        say(with_label("result", sentence))
    first = next(iter(results.values()))
    say(_table_of_scores(results, first))
    if MAP in first.baselines:
        say(with_label("note", ": ".join(BASELINES[MAP])))
    tests = [
        (
            test.label,
            short_metric_name(test.score),
            test.one,
            test.other,
            test.text,
            f"{test.corrected_p:.2g}",
        )
        for test in compared.tests
        if split_region(test.score)[0] == next(iter(first.metrics[test.label]))
    ]
    if tests:
        heads = ("direction", "score", "model", "against", "better by", "p, corrected")
        say(TextTable(heads, tests))
        say(with_label("note", OF_ONE_SCORE.format(len(compared.tests))))
    scored = {metric for metrics in first.metrics.values() for metric in metrics}
    for metric in scored.intersection(WITH_MASKS):
        say(with_label("note", ": ".join(metric_words(metric))))
    sentences = []
    for name, own in results.items():
        sentences.append(f"{name}: {result_sentence(own)}")
        label = "warning" if result_tone(own) == "bad" else "result"
        say(with_label(label, sentences[-1]))
    return compared.sentences or sentences


def _table_of_scores(results: Mapping[str, Results], first: Results) -> TextTable:
    """All scores of the models and of the baselines, which are those of the `first` one."""
    systems = [*(own.metrics for own in results.values()), *first.baselines.values()]
    rows = []
    for direction, metrics in first.metrics.items():
        for metric, about in metrics.items():
            of_systems = [scores[direction][metric].in_percent for scores in systems]
            values = [number_text(score.value, score.decimals) for score in of_systems]
            # fewer than of the first score, as where lesions are not seen
            n = f"n = {about.n}" if about.n != next(iter(metrics.values())).n else ""
            unit = about.in_percent.unit
            name = ", ".join(filter(None, (short_metric_name(metric), unit, n)))
            rows.append((direction, name, *values))
    titles = [*results, *map(baseline_words, first.baselines)]
    return TextTable(("direction", "score", *titles), rows)


def _read_pairs(table: DataTable, method: type, say: Say) -> tuple[list[Pair], list[str]]:
    """The registered pairs of whole images, and the patients of data.leave_out, who are named instead."""
    source, records = source_and_records(table.model_copy(update={"leave_out": ()}), method)
    if read_by := layouts_in_words(source):
        say(f"layout   {read_by}")
    if masks := masks_in_words(source, records):
        say(with_label("masks", masks))
    not_used = sorted(patients_of(records) & {*table.leave_out}, key=natural)
    for patient in not_used:
        say(with_label("left out", f"{patient}: data.leave_out of the recipe"))
    return _whole_pairs([each for each in records if each.subject not in not_used]), not_used


def _whole_pairs(records: Sequence[Record]) -> list[Pair]:
    """The registered pairs of whole images, each once, whichever slices are its records."""
    pairs: dict[str, Pair] = {}
    for pair in complete_pairs(records).values():
        truth = pair["b"]
        if not any(record.missing for record in pair.values()):
            pairs.setdefault((truth.file and truth.scan_key) or truth.key, pair)
    return [*pairs.values()]


def _are_known(pairs: Iterable[Pair]) -> bool:
    """Whether the patient of each pair is known."""
    return all(pair["a"].subject for pair in pairs)


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


def _shared_directions(models: Mapping[str, Model], target: str | None) -> dict[str, Frame]:
    """The directions of the first model that all others have, or of these the one to the domain
    `target`, by the letter of their target; UserError without any, which names those of each.
    """
    first, *others = models.values()
    asked = first.frames
    if target is not None:
        letter = first.domain(target)
        asked = {letter: asked[letter]}
    shared = dict(asked)
    for model in others:
        for to, frame in asked.items():
            try:
                model.letter_of(frame.source, frame.target)
            except UserError:
                shared.pop(to, None)
    if not shared:
        found = [f"'{name}' makes {_directions_in_words(model)}" for name, model in models.items()]
        alone = [f"gantk eval {argument(name)} --data SCANS" for name in models]
        raise UserError(
            f"the models share no direction: {'; '.join(found)}",
            where="RUN",
            remedy=f"score each alone: {join_words(alone)}",
        )
    return shared


def _directions_in_words(model: Model) -> str:
    """`T1 -> T2 and T2 -> T1`, or `each of T1, T2 and FLAIR from the others`."""
    return join_words(
        [
            f"each of {join_words(frame.targets)} from the others"
            if frame.completes
            else f"{frame.source} -> {frame.target}"
            for frame in model.frames.values()
        ]
    )


def _with_truth(path: Path, pair: Pair, scale: ScoredScale) -> tuple[Image, Image]:
    """An image on the grid of its truth, and this truth."""
    real = scale.truth(pair)
    return replace(real, pixels=np.load(path)), real


def _regions(pair: Pair, scale: ScoredScale) -> dict[str, Any]:
    """Foreground (1, 1, *spatial), and lesions, if there is a mask, on the grid of the truth."""
    seen = [
        (torch.from_numpy(scale.network_input(pair, letter))[None], scale.mapping[letter].tissue)
        for letter, record in pair.items()
        if not record.others  # an image of one contrast
    ]
    found = {"foreground": foreground(*seen)} if seen else {}
    if mask := _lesion_mask(pair, scale.to):
        found["masks"] = torch.from_numpy(mask.pixels)[None].float()
    return found


def _lesion_mask(pair: Pair, to: str) -> Image | None:
    """The lesions (1, *spatial) of a pair, on the grid of the truth; None without a mask."""
    record = image_with_mask(pair, to)
    if not record.mask:
        return None
    mask = Image(record.mask())
    if record.file:  # the whole volume of which the record may be a slice
        mask = record.file.reader.lesions(record.file.row.mask)
    mask = resample_onto(mask, image_of(pair[to]), order=0)
    return replace(mask, pixels=mask.pixels.max(0, keepdims=True) > 0)


def _beside_baselines(
    system: ComparedModels, scored: Sequence[ScoredDirection], pairs: Sequence[Pair], steps: int
) -> Results:
    """The scores of a system beside the baselines, with verdicts, as those of a run; `steps` of the
    trained ones.
    """
    unknown = not _are_known(pairs)
    # who was in a packed model's training is known by files alone
    by = "known files" if any(model.packed for model in system.models) else "patient"
    split = SplitSummary(by=by, unknown_patients=unknown, consequences=system.doubts)
    results = Results(split=split, baseline_steps=steps)
    baselines = {INPUT, MAP}.union(registry()["baseline"])
    for one in scored:
        lines = one.table[one.table.system.isin(baselines | {system.name})]
        lines = lines.assign(system=lines.system.replace(system.name, MODEL))
        lines = lines.sort_values("image", kind="stable")  # in one order, for the tests
        add_scores(results, lines, one.scorer.about(f"{AIR_SHARE:.0%}"))
        for directions in (results.metrics, *results.baselines.values()):
            directions[one.title].update(one.scorer.too_small)
    add_tests(results)
    return results


def _trained_baseline(model: Model, name: str) -> Model | None:
    """A model that makes what the trained baseline of a run makes; None where the run keeps none."""
    if model.run is None:
        return None
    geometry = model.method.geometry
    neighbours = model.recipe.data.neighbours

    def blank(letter: str) -> Tensor:
        images = torch.zeros(1, geometry.channels[letter], *geometry.size)
        return middle_slice(images, neighbours)[0]

    made = {}
    for to in model.frames:
        both = blank(OTHER[to]), blank(to)
        baseline = load_trained(model.run.path, name, to, both, geometry.range, model.runtime)
        if baseline is None:
            return None
        made[to] = baseline
    method = copy(model.method)
    vars(method)["translate"] = lambda images, to: made[to](middle_slice(images, neighbours))
    recipe = model.recipe.model_copy(update={"post": []})
    return replace(model, recipe=recipe, method=method, _known={})
