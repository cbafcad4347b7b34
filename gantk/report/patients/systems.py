"""What a comparison compares: runs; folds of one recipe, whose test patients count together; and
trainings with several seeds, whose scores of a patient are averaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from gantk.metrics.comparing import add_tests
from gantk.metrics.intervals import estimate
from gantk.metrics.rows import result_sentence
from gantk.metrics.table import MODEL
from gantk.metrics.verdict import pair_verdict
from gantk.report.run_record import RunRecord
from gantk.runs.folder import flat
from gantk.runs.results import Results, Score

FOLD = "data.split.fold"
SEED = "train.seed"
ByLabel = Mapping[str, Mapping[str, Score]]  # direction in words -> metric


@dataclass(frozen=True)
class System:
    """A run; or all folds of one recipe, as if one run had tested all patients; or trainings of either
    with several seeds, as if one run had the mean of their scores of each patient.
    """

    name: str
    place: int  # of its first run among all runs
    runs: list[RunRecord]

    @property
    def is_pooled(self) -> bool:
        return len(self.runs) > 1

    @cached_property
    def tests(self) -> dict[frozenset, RunRecord]:
        """The run that was scored on each set of test images, by their files or names."""
        found = {}
        for run in self.runs:
            found[run.files_of("test")] = run
        return found

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({_seed(run) for run in self.runs})

    @cached_property
    def results(self) -> Results:
        """The scores; of several runs those over all patients, without whole files, which are not
        stored of each patient.
        """
        return _pooled(self.runs, len(self.seeds)) if self.is_pooled else self.runs[0].results

    @cached_property
    def lines(self) -> pd.DataFrame:
        """The scores of each patient, of metrics with a score for each."""
        lines = _lines_of(self.runs)
        own = lines[lines.system == MODEL]
        return own.assign(system=self.name, direction=own.direction.map(self._labels))

    @property
    def _labels(self) -> dict[str, str]:
        return {key: self.runs[0].label(key) for key in self.results.metrics}

    @property
    def metrics(self) -> ByLabel:
        """The scores by direction in words."""
        return {label: self.results.metrics[key] for key, label in self._labels.items()}

    def baselines(self, label: str) -> Iterator[tuple[str, dict[str, Score]]]:
        """Yield each baseline's name and scores of a direction."""
        for key, own in self._labels.items():
            if own == label:
                for name in self.results.baselines:
                    yield name, self.results.baseline(name, key)

    @property
    def sentence(self) -> str:
        """The result in words; of several runs also what they are."""
        leaks = any(run.leak for run in self.runs)
        result = result_sentence(self.results, unseen=not leaks)
        if not self.is_pooled:
            return f"{self.name}: {result}"

        together = f"{self.name}, {self._parts}, together"
        if not self.results.metrics:
            return f"{together}: no score that all have of each patient."
        said = [result or "no baseline was measured of each patient."]
        if len(self.seeds) > 1:
            said += [f"{label}: {self._by_seed(label)}." for label in self.metrics]
        return f"{together}: {' '.join(said)}"

    def title_of(self, run: RunRecord) -> str:
        """The name of an image that one of its runs made: `a to b, seed 1`."""
        return f"{self.name}, seed {_seed(run)}" if len(self.seeds) > 1 else self.name

    @property
    def _parts(self) -> str:
        """`3 of 5 folds of one recipe`, `2 seeds of one recipe`."""
        parts = []
        folds = self.runs[0].recipe.data.split.folds
        if folds:
            parts.append(f"{len(self.runs) // len(self.seeds)} of {folds} folds")
        if len(self.seeds) > 1:
            parts.append(f"{len(self.seeds)} seeds")
        return f"{' with '.join(parts)} of one recipe"

    def _by_seed(self, label: str) -> str:
        """`24.10 dB to 25.32 dB by seed`: the lowest and the highest mean over the patients."""
        metric = next(iter(self.metrics[label]))
        means = []
        for seed in self.seeds:
            of_seed = System("", 0, [run for run in self.runs if _seed(run) == seed])
            means.append(of_seed.metrics[label][metric])
        means.sort(key=lambda score: score.value or 0.0)
        return f"{means[0].text()} to {means[-1].text()} by seed"


def systems_of(named: Mapping[str, RunRecord]) -> list[System]:
    """The runs as systems. Scored runs whose recipes differ in the fold alone are one system, if no
    patient is tested by two of them; so are those of several seeds, if all have the same tests.
    """
    groups: dict[tuple[str, ...], dict[str, RunRecord]] = {}
    for name, run in named.items():
        groups.setdefault(_recipe_of(run) or (name,), {})[name] = run

    places = [*named]
    systems = []
    for repeated in groups.values():
        by_seed: dict[int, dict[str, RunRecord]] = {}
        for name, run in repeated.items():
            by_seed.setdefault(_seed(run), {})[name] = run
        apart = [system for folds in by_seed.values() for system in _folds_together(folds, places)]
        have_same_tests = len({frozenset(system.tests) for system in apart}) == 1
        is_one = have_same_tests and len(apart) == len(by_seed)  # each seed's folds are one system
        systems += [_system(repeated, places)] if is_one else apart
    return sorted(systems, key=lambda system: system.place)


def _folds_together(runs: Mapping[str, RunRecord], places: list[str]) -> list[System]:
    """Folds of one recipe as one system, if no patient is tested by two of them; else each run."""
    tested = [{one.subject for one in run.sets.test} for run in runs.values() if run.sets]
    are_folds = all(_has_folds(run) for run in runs.values())
    if are_folds and sum(map(len, tested)) == len(set().union(*tested)):
        return [_system(runs, places)]
    return [_system({name: run}, places) for name, run in runs.items()]


def _system(runs: Mapping[str, RunRecord], places: list[str]) -> System:
    first, *_, last = [*runs, *runs]
    title = first if len(runs) == 1 else f"{first} to {last}"
    return System(title, places.index(first), [*runs.values()])


def _recipe_of(run: RunRecord) -> tuple[str, ...]:
    """The recipe without its seed, and without the fold of known patients; () of a run that has no
    scores.
    """
    left_out = {SEED, FOLD} if _has_folds(run) else {SEED}
    values = {key: value for key, value in flat(run.recipe.dump()) if key not in left_out}
    return ("recipe", json.dumps(values)) if run.results.metrics else ()


def _has_folds(run: RunRecord) -> bool:
    return bool(run.recipe.data.split.folds and run.sets and run.sets.by == "patient")


def _seed(run: RunRecord) -> int:
    return run.recipe.train.seed


def _lines_of(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """A line for each patient and score, the mean over images, then over seeds: of the metrics that
    every run has alike, and of each of its patients.
    """
    lines = pd.concat([run.lines.assign(run=number) for number, run in enumerate(runs)])
    known = lines[(lines.patient != "") & ~lines.direction.str.endswith("_post")]
    score = ["direction", "metric", "system", "patient"]
    of_runs = known.groupby([*score, "run"], sort=False, as_index=False)["value"].mean()
    complete = []
    for (direction, metric), own in of_runs.groupby(["direction", "metric"], sort=False):
        scores = _scores_in(runs, direction, metric)
        alike = len({(each.definition, each.unit, each.higher_is_better) for each in scores}) == 1
        count = own[own.system == MODEL]["value"].count()
        if alike and count and count == sum(each.n or 0 for each in scores):
            complete.append(own)
    if not complete:
        return of_runs[:0].assign(finite=True)
    means = pd.concat(complete).groupby(score, sort=False, as_index=False)["value"].mean()
    return means.assign(finite=True)


def _scores_in(runs: Sequence[RunRecord], direction: str, metric: str) -> list[Score]:
    """A score of each run."""
    return [run.results.metrics.get(direction, {}).get(metric, Score()) for run in runs]


def _pooled(runs: Sequence[RunRecord], seeds: int) -> Results:
    """The results of several runs, as if one run had tested the patients of all."""
    first = runs[0].results
    results = Results(domains=first.domains, split=first.split)
    for direction, of_direction in _lines_of(runs).groupby("direction", sort=False):
        systems = {name: own for name, own in of_direction.groupby("system", sort=False)}
        model = systems.pop(MODEL)
        count = model.groupby("metric").size()
        rivals = {
            name: own for name, own in systems.items() if own.groupby("metric").size().equals(count)
        }
        like = {metric: _scores_in(runs, direction, metric) for metric in model.metric.unique()}
        results.metrics[direction] = _means(model, like, seeds)
        for name, own in rivals.items():
            results.baselines.setdefault(name, {})[direction] = _means(own, like, seeds)
        higher = {metric: scores[0].higher_is_better for metric, scores in like.items()}
        results.verdict[direction] = {**pair_verdict(model, rivals, higher)}

    add_tests(results)
    return results


def _means(
    lines: pd.DataFrame, like: Mapping[str, Sequence[Score]], seeds: int
) -> dict[str, Score]:
    """The means over patients, of the kind and on as many images as the scores of each run, each
    image scored once a seed.
    """
    found = {}
    for metric, own in lines.groupby("metric", sort=False):
        first = like[metric][0]
        found[metric] = estimate(
            own.value,
            own.patient.to_list(),
            unit=first.unit,
            definition=first.definition,
            higher_is_better=first.higher_is_better,
            images=sum(each.images or 0 for each in like[metric]) // seeds,
        )
    return found
